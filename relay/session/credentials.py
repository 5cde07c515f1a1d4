"""How long a session's token holds: the notice before its end, the grace after it, what then becomes of the session,
and its renewal on the live connection.

Not here: what is checked about a token (auth/tokens), what a grant allows (asked where it is needed, of
`connection.identity`). The one rule: a claim is about the wall clock, a timer runs on the monotonic one; so what a
timer does is look at the wall clock again.

A session has one token, the newest it was given, whatever its further sockets were opened with.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from relay.auth.refusals import UnknownKey
from relay.auth.tokens import Identity
from relay.errors import CloseCode, CloseReason, Refused, Rejected
from relay.limits.buckets import Bucket, Rate
from relay.protocols.base import Auth, Join, RequestId
from relay.rooms.room import Rights
from relay.session import joining

if TYPE_CHECKING:
    from relay.session.connection import Connection
    from relay.session.services import KeyFetch
    from relay.session.timers import Timer

BAD_TOKENS: Final = Rate(1.0, 32.0)
"""Tokens that are no good, of one session: each costs us a signature. A client that means well has none at all."""
RENEWING: Final = "auth"  # the queue of renewals that wait for keys: no channel, so nothing else waits behind them


class Credentials:
    """Of one connection, from its start on. `read_only`: the token is over, and what is left is to listen."""

    __slots__ = ("_bad", "_connection", "_notice_at", "_timer", "read_only")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._timer: Timer | None = None
        self._notice_at = math.inf  # Unix time at which the client is told to renew; inf: it was told, or need not be
        self._bad: Bucket | None = None
        self.read_only = False

    def start(self) -> None:
        """The connection's token is new: from now on its end is watched."""
        services = self._connection.services
        expires, now = self._connection.identity.expires, services.wall()
        notice = services.config.auth.expiring_notice
        self._notice_at = expires - min(notice, max(0.0, expires - now) / 4) if notice else math.inf
        self._ring_at(min(self._notice_at, self._over()), now)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def look(self) -> None:
        """Does what is due by the wall clock, and rings again when there is more; in between, and when the wall clock
        was set, anybody may ask for a look.
        """
        self.stop()
        connection = self._connection
        if connection.closing is not None:
            return
        services = connection.services
        auth, now, over = services.config.auth, services.wall(), self._over()
        if now < over:
            if self.read_only:  # the wall clock was set back, and it is what a claim is about
                self._listen_only(False)
            if self._notice_at <= now:
                self._notice_at = math.inf
                connection.answer(connection.protocol.expiring(max(0.0, connection.identity.expires - now)))
            self._ring_at(min(self._notice_at, over), now)
            return
        listens = auth.on_expiry == "read_only"
        end = over + (auth.read_only_for or math.inf) if listens else over
        if now >= end:
            services.counters.tokens["expired"] += 1
            setting = "auth.read_only_for" if listens else None
            connection.close(CloseReason(CloseCode.UNAUTHORIZED, "the token has expired", setting))
            return
        if not self.read_only:
            self._listen_only(True)
        self._ring_at(end, now)

    def end_if_revoked(self, now: float) -> bool:
        """Closes the session if its token is revoked. `now` is Unix time."""
        connection = self._connection
        if connection.closing is not None:
            return False
        try:
            connection.services.check_revoked(connection.identity, now)
        except Rejected as rejected:
            connection.services.counters.tokens["revoked"] += 1
            connection.close(CloseReason(CloseCode.UNAUTHORIZED, rejected.reason, rejected.setting))
            return True
        return False

    def check(self) -> None:
        """Raises Refused where the token is over and does for listening only."""
        if self.read_only:
            raise self.lapsed()

    @staticmethod
    def lapsed() -> Refused:
        """What a client that may only listen is told when it does more."""
        why = "the token has expired: until it is renewed you may only listen"
        return Refused("unauthorized", why, setting="auth.on_expiry")

    def may_publish(self, room: str) -> bool:
        """What a membership is to know; decided at its begin, and again when the token changes."""
        return not self.read_only and self._connection.identity.grants.may_publish(room)

    def _over(self) -> float:
        """Unix time from which on the token is good for nothing but listening, if for that."""
        auth, identity = self._connection.services.config.auth, self._connection.identity
        return identity.expires + auth.issuers.get(identity.trusted, auth).leeway + auth.grace

    def _ring_at(self, when: float, now: float) -> None:
        self.stop()
        if when < math.inf:
            services = self._connection.services
            self._timer = services.timers.at(services.monotonic() + max(0.0, when - now), self.look)

    def _listen_only(self, only: bool) -> None:
        connection = self._connection
        self.read_only = only
        for room in connection.rooms.values():
            rights = Rights(self.may_publish(room.name), room.rights(connection).may_see)
            connection.hub.set_rights(connection, room, rights)
        if only:
            connection.services.counters.tokens["read_only"] += 1
            connection.answer(connection.protocol.error(None, self.lapsed()))

    # Renewal.

    def renew(self, command: Auth) -> None:
        """A new token on the live connection: same subject and issuer, new grants and expiry. Raises Refused."""
        services = self._connection.services
        if self._bad is not None and (wait := self._bad.take(services.monotonic(), 0.0)):
            raise Refused("rate_limited", "too many tokens that are no good", retry_after=wait)
        try:
            identity = services.verify(command.token)
        except UnknownKey as unknown:
            fetch = services.key_fetch(unknown.issuer)
            if fetch is None:
                raise self._no_good(unknown) from None
            self._connection.later("", RENEWING, partial(self._renew_later, command, unknown, fetch))
        except Rejected as rejected:
            raise self._no_good(rejected) from None
        else:
            self._take(identity, command.id)

    async def _renew_later(self, command: Auth, unknown: UnknownKey, fetch: KeyFetch) -> None:
        """The issuer has a new key, perhaps; as at the handshake, it is fetched and waited for."""
        connection = self._connection
        services = connection.services
        found = False
        with trio.move_on_after(services.config.timeouts.auth):
            found = await fetch(unknown.kid)
        if connection.closing is not None:
            return
        try:
            if not found:
                raise unknown
            self._take(services.verify(command.token), command.id)
        except Rejected as rejected:
            connection.refuse(command.id, self._no_good(rejected))
        except Refused as refused:
            connection.refuse(command.id, refused)

    def _take(self, identity: Identity, request: RequestId) -> None:
        connection = self._connection
        before = connection.identity
        if identity.subject != before.subject:
            raise self._not_yours("the token is for another subject")
        if (identity.tenant, identity.trusted, identity.issuer) != (before.tenant, before.trusted, before.issuer):
            raise self._not_yours("the token is from another issuer than that of the session")
        if identity.bound_to != before.bound_to:
            raise self._not_yours("the token is bound to another client certificate, or to none")
        connection.identity = identity
        self.read_only = False
        self._bad = None
        self.start()
        connection.services.counters.tokens["renewed"] += 1
        joining.regrant(connection)
        for room in identity.grants.join_at_start:
            if room not in before.grants.join_at_start and connection.closing is None:
                self._enter(room)
        connection.ok(request, {"expires": identity.expires})

    def _enter(self, room: str) -> None:
        """A room that the new token puts the session into, and the one before did not."""
        connection = self._connection
        if room in connection.rooms:
            return
        try:
            joining.join(connection, Join(room, announce=True), at_start=True)
        except Refused as refused:
            connection.join_refused(room, refused)

    def _no_good(self, rejected: Rejected) -> Refused:
        self._note_bad()
        self._connection.services.bad_token(self._connection.address, rejected.code)
        return Refused("unauthorized", f"{rejected.code}: {rejected.reason}", setting=rejected.setting)

    def _not_yours(self, why: str) -> Refused:
        self._note_bad()
        return Refused("forbidden", why)

    def _note_bad(self) -> None:
        services = self._connection.services
        services.counters.tokens["refused"] += 1
        if self._bad is None:
            self._bad = Bucket(BAD_TOKENS)
        self._bad.take(services.monotonic())
