"""One-time tickets: a token is traded for a short word that opens one WebSocket, for addresses that end up in logs.

Not here: HTTP, and where a ticket is taken from (net/handshake). The one rule: a ticket is good once, whatever comes of
it, and only its hash is kept: who reads our memory cannot use it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from relay.auth.refusals import refuse
from relay.auth.tokens import Identity
from relay.config import schema
from relay.errors import Rejected

TICKET_BYTES: Final = 32


def new_ticket() -> str:
    return secrets.token_urlsafe(TICKET_BYTES)


@dataclass(slots=True, frozen=True)
class _Ticket:
    identity: Identity
    bound: str  # the network it was given to; "": it is good anywhere
    expires: float


class Tickets:
    """Those that were given out and not used. The caller brings `now`, monotonic seconds, and the settings in force."""

    def __init__(self, new: Callable[[], str] = new_ticket) -> None:
        self._new = new
        self._tickets: OrderedDict[bytes, _Ticket] = OrderedDict()  # the oldest first
        self._of_subject: dict[tuple[str, str], list[bytes]] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def issue(self, identity: Identity, bound: str, settings: schema.Tickets, now: float) -> str:
        """A ticket for somebody who was identified just now. Where a subject has too many, its oldest is void.

        Raises Rejected 503 `too_many_tickets` where others have them all.
        """
        self._forget_expired(now)
        who = identity.tenant, identity.subject
        own = self._of_subject.get(who, [])
        if len(own) >= settings.per_subject:
            self._remove(own[0])
        if len(self._tickets) >= settings.capacity:
            raise Rejected(
                503, "too_many_tickets", "as many tickets as may be are waiting to be used",
                retry_after=1.0, setting="auth.tickets.capacity",
            )  # fmt: skip
        text = self._new()
        digest = _digest(text)
        self._tickets[digest] = _Ticket(identity, bound, now + settings.lifetime)
        self._of_subject.setdefault(who, []).append(digest)
        return text

    def redeem(self, text: str, bound: str, now: float) -> Identity:
        """Whose ticket it is; after this it is void. `bound` is the network of whoever brings it.

        Raises Rejected 401: `ticket_unknown` (or used), `ticket_expired`, `ticket_elsewhere`. The identity may have
        expired since: that is for the caller to see.
        """
        digest = _digest(text)
        ticket = self._tickets.get(digest)
        if ticket is None:
            raise refuse("ticket_unknown")
        self._remove(digest)
        if now >= ticket.expires:
            raise refuse("ticket_expired")
        if ticket.bound and ticket.bound != bound:
            raise refuse("ticket_elsewhere")
        return ticket.identity

    def _forget_expired(self, now: float) -> None:
        while self._tickets:
            digest, ticket = next(iter(self._tickets.items()))
            if now < ticket.expires:
                return
            self._remove(digest)

    def _remove(self, digest: bytes) -> None:
        identity = self._tickets.pop(digest).identity
        who = identity.tenant, identity.subject
        own = self._of_subject[who]
        own.remove(digest)
        if not own:
            del self._of_subject[who]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
