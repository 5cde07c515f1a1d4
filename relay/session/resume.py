"""Sessions that outlive their socket: the tickets by which their clients come back, and who of them has no socket.

A client that asked for it gets a ticket with its hello. When its socket is lost without a close, the session stays in
its rooms for a while, and whoever brings the ticket goes on with it: nobody asks for a token again, no plugin and no
member hears of it. Not here: what waits for a session without a socket (parked), sockets (net/link). The one rule:
there is nothing to store, none outlives the relay, and each ticket is good once.

The ticket is a MAC of the session's name and of how often it was resumed, under a key of this process. While the
session has no socket the one before the last is good too: the client may never have got the last one.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from relay.errors import CloseCode, CloseReason
from relay.session.parked import WINDOW, Parked

if TYPE_CHECKING:
    from relay.auth.tokens import Identity
    from relay.protocols.base import WireProtocol
    from relay.session.connection import Connection
    from relay.session.wire import Wire

NEVER: Final = -1  # times resumed, of a session whose client did not ask for a ticket
KEY_BYTES: Final = 32


class Resumption:
    """Of one relay: its tickets, and the sessions without a socket. `ended` is told of those that nobody came for."""

    def __init__(self) -> None:
        self._key: Final = secrets.token_bytes(KEY_BYTES)
        self.parked: Final[dict[str, Parked]] = {}
        self.off = False  # the relay is going away
        self.ended: Callable[[Connection, int, Any], None] = lambda connection, code, luggage: None

    # Tickets.

    def offer(self, connection: Connection) -> dict[str, Any] | None:
        """What a hello says about it; None: nothing."""
        window = connection.services.config.websocket.resume_window
        if connection.resumes == NEVER or not window:
            return None
        return {"ticket": self._ticket(connection), "window": window}

    def _ticket(self, connection: Connection, back: int = 0) -> str:
        said = f"{connection.session}.{connection.resumes - back}".encode()
        secret = base64.urlsafe_b64encode(hmac.digest(self._key, said, "sha256")).rstrip(b"=").decode()
        return f"{connection.session}.{secret}"

    def find(self, ticket: str, sessions: Mapping[str, Connection]) -> Connection | None:
        """The session that a ticket is for; None: there is none, or it is another's ticket, or an old one."""
        connection = sessions.get(ticket.partition(".")[0])
        if connection is None or connection.closing is not None or connection.resumes == NEVER:
            return None
        given = ticket.encode(errors="replace")
        right = hmac.compare_digest(self._ticket(connection).encode(), given)
        if not right and connection.parked is not None and connection.resumes:
            # The hello with the newer one may have been lost with its socket.
            right = hmac.compare_digest(self._ticket(connection, 1).encode(), given)
        return connection if right else None

    # Sessions without a socket.

    def park(self, connection: Connection, luggage: Any) -> bool:
        """The socket of a session is lost. False: so is the session. `luggage` is its socket's, for the next one."""
        settings = connection.services.config.websocket
        if connection.closing is not None or connection.resumes == NEVER or not settings.resume_window or self.off:
            return False
        parked = connection.parked
        if parked is None:
            if settings.resume_sessions and len(self.parked) >= settings.resume_sessions:
                return False
            parked = connection.parked = Parked(connection, self)
            self.parked[connection.session] = parked
            parked.take_over()
            connection.services.counters.resumes["waiting"] += 1
        parked.luggage = luggage
        parked.wait(settings.resume_window)
        return True

    def end_all(self, reason: CloseReason) -> None:
        """The relay is going away: nobody waits any more."""
        self.off = True
        for parked in list(self.parked.values()):
            if parked.waits:
                parked.connection.close(reason)


class Resuming:
    """What a link has for a connection until it has taken a session over, and where it comes too late to do so."""

    __slots__ = (
        "_address", "_times", "closing", "identity", "main", "messages", "protocol", "session", "subject", "wire",
    )  # fmt: skip

    def __init__(self, main: Connection, wire: Wire, address: str) -> None:
        self.main = main
        self.wire = wire
        self._address = address
        self.identity: Identity = main.identity
        self.subject = main.subject
        self.session = main.session
        self.protocol: WireProtocol = main.protocol
        self.messages = 0
        self.closing: CloseReason | None = None
        self._times = main.resumes

    def start(self, last: int = 0) -> None:
        """Takes the session over. Where its old socket still seems to live, that one is cut: who has the ticket knows
        better.
        """
        main = self.main
        if main.resumes == self._times:  # else another one was faster
            if main.closing is None and main.wire is not main.parked:
                main.wire.abort()
            if main.closing is None and main.parked is not None and main.parked.waits:
                main.address = self._address
                main.parked.attach(self.wire)
                return
        self.close(CloseReason(CloseCode.GOING_AWAY, "the session has ended meanwhile", WINDOW, 0.0, 1.0))

    def close(self, reason: CloseReason) -> None:
        if self.closing is None:
            self.closing = reason
            self.wire.close(reason, self.protocol.bye(reason))

    def message(self, opcode: int, payload: bytes) -> None:
        """Nobody listens to it."""

    def depart(self) -> None: ...
    def lost(self) -> None: ...
    def tell_drops(self) -> None: ...
    def park(self, luggage: Any) -> bool:
        return False

    def wait_for(self, reader: object) -> None: ...
    def waited_for(self, reader: object) -> None: ...
