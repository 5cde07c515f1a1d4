"""One connection from accept to the end of its request head: the TLS handshake and the head, as far as they go each
time its turn comes.

No task waits for it: the poller says that something has come, and what that costs is done when it is its turn
(reception). Not here: what becomes of it, deadlines, places. The one rule: a byte that completes nothing wakes nobody.
"""

from __future__ import annotations

import socket
from typing import Final, Protocol

from relay.errors import Rejected
from relay.front.doors import Visit
from relay.limits.pending import Place
from relay.net.head import HeadScanner, Plain, malformed, read_plain
from relay.net.transport import Lost, Transport, Wants

READS: Final = range(8)
"""Reads in one turn: a head may come a byte a record."""


class Host(Protocol):
    """Who has taken it in."""

    @property
    def head_limits(self) -> tuple[int, int]:
        """`limits.head_bytes` and `limits.head_fields`."""

    def begin(self, newcomer: Newcomer) -> Transport | None:
        """Its transport; None: it is gone already, and that is settled."""

    def insecure(self, newcomer: Newcomer, why: str) -> None:
        """TLS has failed; the alert is out."""

    def has_head(self, newcomer: Newcomer, plain: Plain | None) -> None:
        """The request head is there, in `received`. None: it needs a real parser."""

    def no_head(self, newcomer: Newcomer, why: Rejected | None) -> None:
        """What came is none, or, without a reason, nothing came at all."""

    def interrupted(self, newcomer: Newcomer) -> None:
        """Its place was needed for another one."""


class Queue(Protocol):
    """Where it waits."""

    def ready(self, newcomer: Newcomer, now: float) -> None:
        """Something has come; `proceed` is to be called when it is its turn."""

    def waits(self, newcomer: Newcomer, *, to_write: bool = False) -> None:
        """It is the client's turn again: to say something, or to read something."""

    def written(self, newcomer: Newcomer) -> None:
        """It need not be told any more that there is room."""

    def secured(self, newcomer: Newcomer, now: float) -> None:
        """The step of TLS is over; `proceed` is to be called once more: its request may be there already."""


class Newcomer:
    """A `Handler` of the poller. `refusal`: it will be told that it cannot come in, once there is TLS to tell it by.

    `late`: whose address counts will turn out by its head. `over`: it is no newcomer any more, whatever it is now.
    """

    __slots__ = (
        "_host", "_lobby", "_scanner", "fd", "late", "over", "place", "queued", "received", "refusal", "secured",
        "sock", "transport", "visit",
    )  # fmt: skip

    def __init__(
        self, host: Host, lobby: Queue, sock: socket.socket, place: Place, visit: Visit, refusal: Rejected | None, *,
        late: bool, tls: bool,
    ) -> None:  # fmt: skip
        self._host = host
        self._lobby = lobby
        self._scanner: HeadScanner | None = None
        self.sock = sock
        self.fd = sock.fileno()
        self.place = place
        self.visit = visit
        self.refusal = refusal
        self.late = late
        self.secured = not tls
        self.transport: Transport | None = None
        self.received: bytes | bytearray = b""
        self.queued = False
        self.over = False

    # What the poller tells.

    def readable(self, now: float) -> None:
        if not self.queued:
            self._lobby.ready(self, now)

    def writable(self, now: float) -> None:
        """There is room for the rest of the handshake's own bytes."""
        self._lobby.written(self)
        if not self.queued:
            self._lobby.ready(self, now)

    def hung_up(self) -> None:
        """Is not asked for: the end is read."""

    def flush(self) -> None:
        """Nobody puts anything for it."""

    # Its turn.

    def proceed(self, now: float) -> None:
        """Does what can be done. Raises Lost where the connection breaks after TLS."""
        host, lobby = self._host, self._lobby
        transport = self.transport
        if transport is None:
            transport = self.transport = host.begin(self)
            if transport is None:
                return
        if not self.secured:
            self._secure(transport, now)
            return
        for _ in READS:
            data = transport.receive()
            if data is None:
                lobby.waits(self)
                return
            if not data:
                host.no_head(self, malformed("the connection ended within the request head") if self.received else None)
                return
            if self._take(data):
                return
        lobby.ready(self, now)  # what is left is not told again

    def interrupt(self) -> None:
        self._host.interrupted(self)

    def _secure(self, transport: Transport, now: float) -> None:
        try:
            wants = transport.handshake()
        except Lost as lost:
            self._host.insecure(self, str(lost))
            return
        if wants is Wants.NOTHING:
            self._lobby.secured(self, now)
        else:
            self._lobby.waits(self, to_write=wants is Wants.WRITE)

    def _take(self, data: bytes) -> bool:
        """Whether the head is there, or will never be."""
        host, scanner = self._host, self._scanner
        if scanner is None:
            self.received = data
            plain = read_plain(data, *host.head_limits)
            if plain is not None:  # most come whole, and are like this
                host.has_head(self, plain)
                return True
            self.received = bytearray(data)
            scanner = self._scanner = HeadScanner(*host.head_limits)
        else:
            self.received += data
        try:
            end = scanner.advance(self.received)
        except Rejected as rejected:
            host.no_head(self, rejected)
            return True
        if end is None:
            return False
        host.has_head(self, read_plain(self.received, *host.head_limits))
        return True
