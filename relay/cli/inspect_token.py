"""What there is to say about one token: header and claims as they stand, who signed it, what it allows.

Not here: deciding; the same code (auth/tokens) decides here and at the handshake. The one rule: what stands in a token
is shown with its control characters made visible, because anybody may have written it.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import trio

from relay.auth.grants import CompiledGrants, grants_of_settings
from relay.auth.keys import KeySet, VerificationKey
from relay.auth.refusals import UnknownKey
from relay.auth.revocation import Revocations
from relay.auth.tokens import Identity, Verifier
from relay.config import LoadedConfig
from relay.config.schema import Issuer, Trusted, issuers_of, table_of
from relay.errors import Rejected
from relay.front.revoking import read_at_start
from relay.front.state import Rules
from relay.net.jwks_fetch import JwksFetcher
from relay.ops.logs import visible

TIMES: Final = ("exp", "nbf", "iat")


@dataclass(slots=True)
class Explained:
    """`refused` in words, None: accepted. `grants` as the token, or the configuration, gives them."""

    lines: list[str] = field(default_factory=list)
    refused: str | None = None
    grants: dict[str, list[str]] | None = None


def explain(loaded: LoadedConfig, token: str, rooms: Iterable[str] = ()) -> Explained:
    """Looks at a token as the relay with this configuration would; fetches keys if it must. Raises ConfigError."""
    found = Explained()
    header, claims = _parts(token)
    _show(found, "header", header)
    _show(found, "claims", claims)
    revocations = Revocations(loaded.config.auth.max_revocations)
    read_at_start(loaded, revocations, time.time())
    rules = Rules(loaded, revocations)
    try:
        identity = _verify(rules, token)
    except Rejected as rejected:
        setting = f" [{rejected.setting}]" if rejected.setting else ""
        found.refused = f"{rejected.code}: {rejected.reason}{setting}"
        return found
    table = table_of(identity.trusted)
    auth = issuers_of(loaded.config.auth)[identity.trusted]
    if identity.trusted:
        found.lines.append(f"issuer     {identity.trusted}  [{table}]")
    if identity.tenant:
        found.lines.append(f"tenant     {identity.tenant}")
    found.lines.append(f"signed by  {_signer(rules, auth, identity, token)}")
    claim = claims.get(auth.claims.grants) if claims else None
    origin = f"claim {auth.claims.grants}" if claim is not None else f"{table}.default_grants"
    found.grants = claim if isinstance(claim, dict) else grants_of_settings(auth.default_grants)
    found.lines += [f"subject    {visible(identity.subject)}", f"may        (by {origin})"]
    for name in ("join", "publish", "presence", "history", "call", "channels", "join_at_start"):
        texts = found.grants.get(name)
        if texts is not None:
            found.lines.append(f"  {name:<14} {visible(', '.join(texts)) or 'nothing'}")
    if isinstance(auth, Issuer) and auth.room_prefix:
        found.lines.append(f"  nothing but in rooms {auth.room_prefix}*  [{table}.room_prefix]")
    found.lines += [_in_room(identity.grants, room) for room in rooms]
    return found


def _verify(rules: Rules, token: str) -> Identity:
    try:
        return rules.verify(token)
    except UnknownKey as unknown:
        fetcher = rules.fetchers.get(unknown.issuer)
        if fetcher is None:
            raise
        trio.run(_fetch, fetcher, unknown.kid)
        return rules.verify(token)


async def _fetch(fetcher: JwksFetcher, kid: str | None) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetcher.keep_fresh)
        await fetcher.wait_for_kid(kid)
        nursery.cancel_scope.cancel()


def _signer(rules: Rules, auth: Trusted, identity: Identity, token: str) -> str:
    """The key of a token that was accepted: tried one by one, because a verifier does not say."""
    for key in rules.issuers.verifiers[identity.trusted].keys:
        try:
            Verifier(KeySet([key]), auth, identity.trusted).verify(token, time.time())
        except Rejected:
            continue
        return _named(key)
    return "a key that has gone meanwhile"


def _named(key: VerificationKey) -> str:
    return f"the {key.algorithm} key" + (f" {key.kid}" if key.kid else " without a kid")


def _in_room(grants: CompiledGrants, room: str) -> str:
    asked = {
        "join": grants.may_join,
        "publish": grants.may_publish,
        "presence": grants.may_see,
        "history": grants.may_read_history,
        "call": grants.may_call,
    }
    allowed = [name for name, may in asked.items() if may(room)]
    return f"in {visible(room)}: {', '.join(allowed) or 'nothing'}"


def _parts(token: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Header and claims, not verified; None for what cannot be read."""
    pieces = token.split(".")
    return _decoded(pieces[0]), _decoded(pieces[1]) if len(pieces) > 1 else None


def _decoded(piece: str) -> dict[str, Any] | None:
    try:
        found = json.loads(base64.urlsafe_b64decode(piece.encode("ascii") + b"=" * (-len(piece) % 4)))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _show(found: Explained, title: str, part: dict[str, Any] | None) -> None:
    if part is None:
        found.lines.append(f"{title:<10} not readable")
        return
    found.lines.append(title)
    for name, value in part.items():
        text = visible(json.dumps(value, ensure_ascii=False))
        found.lines.append(f"  {visible(str(name)):<14} {text[:500]}{_when(name, value)}")


def _when(name: str, value: object) -> str:
    """A time in words, for those claims that are one."""
    if name not in TIMES or isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    try:
        moment = datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return "  (no time of this world)"
    away = value - time.time()
    return f"  ({moment:%Y-%m-%d %H:%M:%S} UTC, {_span(abs(away))} {'from now' if away > 0 else 'ago'})"


def _span(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
