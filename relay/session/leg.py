"""One more socket of a session: some channels leave by it, and what comes by it is the session's.

Not here: the session itself (connection). The one rule: the first socket is the session; without it the others end,
and when another one ends, its channels are back on the first.
"""

from __future__ import annotations

from relay.auth.tokens import Identity
from relay.errors import CloseReason
from relay.session.connection import ENDED, Connection
from relay.session.wire import Hold, Wire


class Leg:
    """What a link has for a connection where it is not the session's first socket. `channels` are lanes' indexes."""

    __slots__ = (
        "_channels", "_readers", "closing", "identity", "main", "messages", "protocol", "session", "subject", "wire",
    )  # fmt: skip

    def __init__(self, main: Connection, wire: Wire, identity: Identity, channels: list[int]) -> None:
        self.main = main
        self._channels = channels
        self.wire = wire
        self.identity = identity
        self.subject = main.subject
        self.session = main.session
        self.protocol = main.protocol
        self.messages = 0  # they are counted where they are handled, in the session
        self._readers: set[object] = set()  # who cannot keep up with what comes by this socket
        self.closing: CloseReason | None = None

    def start(self, last: int = 0) -> None:
        """Moves the channels here. A later socket takes channels over from an earlier one."""
        if self.main.closing is not None:
            self.close(self.main.closing)
            return
        if self.main.parked is not None:
            self.close(ENDED)
            return
        for other in self.main.legs:
            other.give_up(self._channels)
        self.main.legs.append(self)
        if self.main.work is not None and self.main.work.full:
            self.wire.hold(Hold.WORK, True)
        if self.main.spending is not None and self.main.spending.holds:
            self.wire.hold(Hold.QUOTA, True)
        for index in self._channels:
            self.main.junction().divert(index, self.wire.outbox)

    def give_up(self, channels: list[int]) -> None:
        """Lets go of channels that another socket takes over."""
        for index in channels:
            if index in self._channels:
                self._channels.remove(index)

    def message(self, opcode: int, payload: bytes) -> None:
        """What comes by this socket."""
        if self.closing is None:
            self.main.message(opcode, payload)

    def close(self, reason: CloseReason) -> None:
        if self.closing is None:
            self.closing = reason = self.main.services.reason(reason)
            self.depart()
            self.wire.close(reason, None)

    def depart(self) -> None:
        """The channels go back to the session's first socket."""
        if self in self.main.legs:
            self.main.legs.remove(self)
            if self.main.closing is None:
                for index in self._channels:
                    self.main.junction().restore(index, self.wire.outbox)
                self.main.leave_junction()

    def park(self, luggage: object) -> bool:
        """Its session does not wait for it."""
        return False

    def lost(self) -> None:
        """The socket is gone."""
        self.depart()

    def tell_drops(self) -> None:
        """Drops are told on the session's first socket."""
        drops, self.wire.outbox.drops = self.wire.outbox.drops, None
        self.main.say_drops(drops)

    def wait_for(self, reader: object) -> None:
        """This socket is read no further until `reader` has caught up, or has gone."""
        self._readers.add(reader)
        if self.closing is None:
            self.wire.hold(Hold.READERS, True)

    def waited_for(self, reader: object) -> None:
        self._readers.discard(reader)
        if not self._readers and self.closing is None:
            self.wire.hold(Hold.READERS, False)
