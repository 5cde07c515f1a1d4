"""How long a session's token holds: the timer of its end, and its renewal on the live connection.

Not here: what is checked about a token (auth/tokens), what a grant allows (asked where it is needed, of
`connection.identity`). The one rule: a claim is about the wall clock, a timer runs on the monotonic one; so when a
timer rings, the wall clock is asked again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.errors import CloseCode, CloseReason, Refused, Rejected
from relay.protocols.base import Auth

if TYPE_CHECKING:
    from relay.session.connection import Connection
    from relay.session.timers import Timer


class Credentials:
    """Of one connection, from its start on."""

    __slots__ = ("_connection", "_timer")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._timer: Timer | None = None

    def watch(self) -> None:
        """Rings when the token ends, whatever was set before."""
        self.stop()
        connection = self._connection
        services = connection.services
        left = connection.identity.expires + services.config.auth.leeway - services.wall()
        self._timer = services.timers.at(services.monotonic() + max(0.0, left), self._ended)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def renew(self, command: Auth) -> None:
        """A new token on the live connection: same subject, new grants and expiry. Raises Refused."""
        connection = self._connection
        try:
            identity = connection.services.verify(command.token)
        except Rejected as rejected:
            raise Refused("unauthorized", f"{rejected.code}: {rejected.reason}", setting=rejected.setting) from None
        if identity.subject != connection.subject:
            raise Refused("forbidden", "the token is for another subject")
        connection.identity = identity
        self.watch()
        for membership in list(connection.hub.memberships(connection).values()):
            name = membership.room.name
            if identity.grants.may_join(name):
                membership.may_publish = identity.grants.may_publish(name)
            else:
                membership.room.kick(connection, "your new token does not grant this room")
        connection.ok(command.id, {"expires": identity.expires})

    def _ended(self) -> None:
        connection = self._connection
        services = connection.services
        if services.wall() < connection.identity.expires + services.config.auth.leeway:
            self.watch()  # the wall clock was set back, and it is what a claim is about
        else:
            connection.close(CloseReason(CloseCode.UNAUTHORIZED, "the token has expired"))
