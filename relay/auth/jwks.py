"""Key sets that an issuer publishes (RFC 7517): reading one, and deciding when to fetch it again.

Not here: HTTP (`net.jwks_fetch`) and files (the caller's `read`). The one rule: a bad answer never takes a good key
away; the old keys stay until a set with at least one usable key replaces them.
"""

from __future__ import annotations

import base64
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from jwt import PyJWTError
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from relay.auth.keys import ED25519_NAMES, MIN_SECRET_BYTES, RSA_ALGORITHMS, KeySet, VerificationKey
from relay.config import schema
from relay.errors import ConfigError, ConfigProblem

MAX_KEYS: Final = 100
EC_ALGORITHMS: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class KeyDocument:
    """What was read from a JWK set: the keys, and how many were passed over for which reason."""

    keys: KeySet
    skipped: Mapping[str, int] = field(default_factory=dict)


class _SkipError(Exception):
    """This key is not for us; the text is the reason's one word."""


def parse_jwks(data: bytes, *, max_bytes: int, secrets: bool = False) -> KeyDocument:
    """Read a JWK set. `secrets` lets it hold symmetric keys (`oct`): for a file of the operator's, never for a URL.

    Passed over and counted: keys for another use (`use`, `key_ops`), of an unknown type, curve or algorithm, weak or
    broken ones, and private keys, whose publication makes them worthless. A key without `alg` gets the one its type
    implies: RS256 for RSA, ES256, ES384 or ES512 by the curve, EdDSA for Ed25519. Raises ValueError when nothing usable
    is left.
    """
    if len(data) > max_bytes:
        raise ValueError(f"the key set has {len(data)} bytes; at most {max_bytes} are read")
    try:
        document = json.loads(data.decode())
    except (ValueError, RecursionError):
        raise ValueError("the key set is not JSON") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("the key set is not an object with a list of keys (RFC 7517 section 5)")
    if len(entries) > MAX_KEYS:
        raise ValueError(f"the key set has {len(entries)} keys; at most {MAX_KEYS} are read")
    keys: list[VerificationKey] = []
    skipped: Counter[str] = Counter()
    for entry in entries:
        try:
            keys.append(_parse_key(entry, secrets))
        except _SkipError as why:
            skipped[str(why)] += 1
    if not keys:
        counted = ", ".join(f"{count} {why}" for why, count in sorted(skipped.items())) or "it is empty"
        raise ValueError(f"the key set has no usable key ({counted})")
    return KeyDocument(KeySet(keys), dict(skipped))


def _parse_key(jwk: object, secrets: bool) -> VerificationKey:
    if not isinstance(jwk, dict):
        raise _SkipError("malformed")
    if jwk.get("use", "sig") != "sig":
        raise _SkipError("use")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise _SkipError("key_ops")
    kid, algorithm = jwk.get("kid", ""), jwk.get("alg")
    if not isinstance(kid, str) or not isinstance(algorithm, str | None):
        raise _SkipError("malformed")
    try:
        implied, allowed, key = _parse_material(jwk, secrets)
        if algorithm is None:
            algorithm = implied
        if algorithm not in allowed:
            raise _SkipError("alg")
        return VerificationKey.make(kid, algorithm, key)
    except ValueError:
        raise _SkipError("weak") from None


def _parse_material(jwk: dict[str, Any], secrets: bool) -> tuple[str | None, frozenset[str], object]:
    """(algorithm implied, algorithms allowed, key). Only public members reach the library."""
    kty, crv = jwk.get("kty"), jwk.get("crv")
    if kty == "oct":
        if not secrets:
            raise _SkipError("oct")  # a secret that a URL tells is none
        return None, frozenset(MIN_SECRET_BYTES), _base64url(jwk, "k")
    if "d" in jwk:
        raise _SkipError("private")
    try:
        if kty == "RSA":
            return "RS256", RSA_ALGORITHMS, RSAAlgorithm.from_jwk(_public(jwk, "n", "e"))
        if kty == "EC" and isinstance(crv, str) and crv in EC_ALGORITHMS:
            implied = EC_ALGORITHMS[crv]
            return implied, frozenset({implied}), ECAlgorithm.from_jwk(_public(jwk, "x", "y"))
        if kty == "OKP" and crv == "Ed25519":
            return "EdDSA", ED25519_NAMES, OKPAlgorithm.from_jwk(_public(jwk, "x"))
    except (PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
        raise _SkipError("malformed") from None
    raise _SkipError("crv" if kty in ("EC", "OKP") else "kty")  # a tuple: `kty` may be anything


def _public(jwk: dict[str, Any], *members: str) -> dict[str, Any]:
    for name in members:
        _base64url(jwk, name)
    return {"kty": jwk["kty"], "crv": jwk.get("crv"), **{name: jwk[name] for name in members}}


def _base64url(jwk: dict[str, Any], name: str) -> bytes:
    text = jwk.get(name)
    if not isinstance(text, str) or not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        raise _SkipError("malformed")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def keys_from_config(auth: schema.Trusted, read: Callable[[str], bytes], table: str = "auth") -> KeySet:
    """All keys known at start: those of `keys` and of the file `jwks.file`. `read` gives a file's bytes, `table` is
    the config table that they stand in.

    Raises ConfigError with every problem found; a configuration that names no key at all is one.
    """
    problems: list[ConfigProblem] = []
    keys: list[VerificationKey] = []
    for index, key in enumerate(auth.keys):
        try:
            keys.append(VerificationKey.from_config(key, read, f"{table}.keys[{index}]"))
        except ConfigError as error:
            problems += error.problems
    if auth.jwks.file:
        try:
            keys += parse_jwks(read(auth.jwks.file), max_bytes=auth.jwks.max_bytes, secrets=True).keys.keys
        except OSError as error:
            what = f"cannot read {auth.jwks.file}: {error.strerror or error}"
            problems.append(ConfigProblem("configuration", f"{table}.jwks.file", what))
        except ValueError as error:
            problems.append(ConfigProblem("configuration", f"{table}.jwks.file", str(error)))
    if auth.jwks.url and not auth.jwks.url.lower().startswith("https://"):
        problems.append(ConfigProblem("configuration", f"{table}.jwks.url", "keys are fetched over https only"))
    if not problems and not keys and not auth.jwks.url:
        problems.append(ConfigProblem("configuration", f"{table}.keys", "there is no key to verify tokens with"))
    if problems:
        raise ConfigError(problems)
    return KeySet(keys)


@dataclass(frozen=True, slots=True)
class JwksStatistics:
    """What a metrics page wants to know. `fetched_at` is None before the first success."""

    keys: int
    fetching: bool
    fetches: int
    failures: int
    failures_in_a_row: int
    fetched_at: float | None
    last_error: str


class JwksCache:
    """The keys of one URL, and when to fetch them. No I/O: `now` is any clock in seconds that never goes back.

    The driver calls `due`, then `begin`, then `succeed` or `fail`. Between the beginnings of two fetches there is at
    least `cooldown`; after failures up to `refresh`, doubling, with jitter. `keys` is one object until keys change.
    """

    def __init__(
        self, settings: schema.JWKS, base: KeySet | None = None, *, jitter: Callable[[], float] = random.random
    ) -> None:
        """`base` are keys that are always there. `jitter` gives numbers in [0, 1)."""
        self._url = settings.url
        self._base = base or KeySet()
        self._fetched = KeySet()
        self._jitter = jitter
        # A pause of at least a second, whatever the settings say: without it, zeros would make a loop that never rests.
        self._cooldown = max(settings.cooldown, 1.0)
        self._refresh = max(settings.refresh, self._cooldown)
        self._due = self._began = -math.inf
        self._running = False
        self._fetches = 0
        self._failures = 0
        self._failures_in_a_row = 0
        self._fetched_at: float | None = None
        self._last_error = ""
        self.keys = self._base

    def due(self, now: float) -> float:
        """Seconds until the next fetch should begin; 0.0: now."""
        return max(0.0, self._due - now)

    def knows(self, kid: str | None) -> bool:
        """Whether a key of that kid is here; for None: whether any key was fetched."""
        return self._fetched_at is not None if kid is None else self.keys.knows(kid)

    def ask_early(self, now: float) -> bool:
        """A token names a key that is not here. True: a fetch is running or due now, so waiting for it makes sense.

        False within the cooldown, for whose end a fetch is then planned, and while fetches fail: the back-off stands,
        so that a flood of made-up kids cannot press on an issuer in trouble.
        """
        if self._running or self.due(now) == 0.0:
            return True
        if self._failures_in_a_row:
            return False
        self._due = min(self._due, self._began + self._cooldown)
        return self.due(now) == 0.0

    def begin(self, now: float) -> None:
        """A fetch begins."""
        self._began = now
        self._running = True
        self._fetches += 1

    def succeed(self, document: KeyDocument, now: float) -> bool:
        """A fetch brought a usable set. True when the keys are others than before."""
        self._running = False
        self._failures_in_a_row = 0
        self._fetched_at = now
        self._last_error = ""
        # Up to a tenth early, so that many relays do not ask an issuer in step.
        self._plan(self._refresh * (1.0 - 0.1 * self._jitter()))
        if document.keys == self._fetched:
            return False
        self._fetched = document.keys
        self.keys = self._base + self._fetched
        return True

    def fail(self, why: str) -> None:
        """A fetch brought nothing usable; the keys stay. `why` must not quote what was received."""
        self._running = False
        self._failures += 1
        self._failures_in_a_row += 1
        self._last_error = why
        pause = self._cooldown * 2.0 ** min(self._failures_in_a_row - 1, 30)
        self._plan(min(pause * (1.0 + 0.5 * self._jitter()), self._refresh))

    def inherit(self, previous: JwksCache) -> None:
        """Start with the keys that `previous` fetched from the same URL: a reload must not shut out those they verify.

        A fetch stays due at once. Keys of another URL are not taken over.
        """
        if previous._url == self._url:
            self._fetched = previous._fetched
            self._fetched_at = previous._fetched_at
            self.keys = self._base + self._fetched

    def statistics(self) -> JwksStatistics:
        return JwksStatistics(
            keys=len(self._fetched),
            fetching=self._running,
            fetches=self._fetches,
            failures=self._failures,
            failures_in_a_row=self._failures_in_a_row,
            fetched_at=self._fetched_at,
            last_error=self._last_error,
        )

    def _plan(self, pause: float) -> None:
        self._due = self._began + max(pause, self._cooldown)
