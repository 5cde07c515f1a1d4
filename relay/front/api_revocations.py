"""The API's routes for revocations: make one, list them, take one back.

Not here: what a revocation does (front/revoking, auth/revocation). The one rule: what was asked for is in force when
the answer is sent, and the answer says whether a restart will remember it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from relay.auth.revocation import FULL_SETTING, Conditions, Revocation, RevocationsFull
from relay.errors import Rejected
from relay.front.api import Api, Asked
from relay.front.revoking import Outcome, Revoking

MOST: Final = 1000  # entries in one answer
USUAL: Final = 100
TEXTS: Final = ("jti", "subject", "issuer", "tenant")
CONDITIONS: Final = (*TEXTS, "issued_before")


class Revoke(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"lasting": "for"}):
    """Body of a new revocation: its conditions, and how long it holds, `for` so many seconds or `until` a time."""

    jti: str | None = None
    subject: str | None = None
    issuer: str | None = None
    tenant: str | None = None
    issued_before: float | None = None
    lasting: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    until: float | None = None

    def as_entry(self, now: float) -> Revocation:
        """Raises Rejected(400)."""
        if self.lasting is not None and self.until is not None:
            raise Rejected(400, "bad_request", "give `for` or `until`, not both")
        entry = Revocation(
            jti=self.jti,
            subject=self.subject,
            issuer=self.issuer,
            tenant=self.tenant,
            issued_before=self.issued_before,
            until=self.until if self.lasting is None else now + self.lasting,
        )
        if problem := entry.problem():
            raise Rejected(400, "bad_request", problem)
        if entry.end <= now:
            raise Rejected(400, "bad_request", "until is over already")
        return entry


class RevocationRoutes:
    def __init__(self, revoking: Revoking) -> None:
        self._revoking = revoking

    def add_to(self, api: Api) -> None:
        api.add("POST", "/revocations", self.revoke, body=Revoke)
        api.add("GET", "/revocations", self.revocations, query=(*TEXTS, "limit"))
        api.add("DELETE", "/revocations", self.undo, query=CONDITIONS)

    async def revoke(self, asked: Asked) -> Any:
        entry = asked.decoded(Revoke).as_entry(self._revoking.wall())
        try:
            outcome = await self._revoking.add(entry)
        except RevocationsFull as full:
            raise Rejected(507, "too_many_revocations", str(full), setting=FULL_SETTING) from None
        return {"revoked": outcome.entry, "closed": outcome.closed, **_kept(outcome)}

    def revocations(self, asked: Asked) -> Any:
        """Those in force that have just these conditions, or all; what never ends comes last."""
        wanted = {name: value for name, value in asked.query.items() if name != "limit"}
        held = self._revoking.revocations
        found = [one for one in held if all(getattr(one, name) == value for name, value in wanted.items())]
        found.sort(key=lambda one: one.end)
        limit = asked.number("limit", USUAL, most=MOST)
        return {
            "revocations": found[:limit],
            "count": len(found),
            "truncated": len(found) > limit,
            "most": held.capacity,
        }

    async def undo(self, asked: Asked) -> Any:
        """The one with exactly these conditions."""
        outcome = await self._revoking.undo(_conditions(asked))
        if outcome is None:
            raise Rejected(404, "no_such_revocation", "there is none with exactly these conditions")
        return {"undone": outcome.entry, **_kept(outcome)}


def _kept(outcome: Outcome) -> dict[str, Any]:
    """Whether the file knows, too; and if not, why."""
    return {"kept": outcome.kept, **({} if outcome.kept else {"problem": outcome.problem})}


def _conditions(asked: Asked) -> Conditions:
    """Raises Rejected(400)."""
    texts = [asked.query.get(name) for name in TEXTS]
    text = asked.query.get("issued_before")
    try:
        entry = Revocation(
            jti=texts[0], subject=texts[1], issuer=texts[2], tenant=texts[3],
            issued_before=None if text is None else float(text),
        )  # fmt: skip
    except ValueError:
        raise Rejected(400, "bad_request", "issued_before is not a time in Unix seconds") from None
    if problem := entry.problem():
        raise Rejected(400, "bad_request", problem)
    return entry.conditions
