"""Several sockets, one session: a junction stands where the session's outbox stood, and sends each channel to its
socket.

The other cure for head-of-line blocking: packet loss on one socket does not hold up the other. Not here: sessions. The
one rule: those who put see an outbox whose lanes are all closed to the short ways, so they come to `put`; an outbox
without a junction pays nothing for this.
"""

from __future__ import annotations

from relay.delivery.outbox import Outbox
from relay.delivery.parts import Sending
from relay.delivery.waiting import Waiting
from relay.model import Message
from relay.protocols.parts import Parts


class StandIn(Outbox):
    """An outbox in front of another one: all short ways look closed, so whoever puts comes to `put`. Nothing ever waits
    here.
    """

    __slots__ = ()
    tracks = False  # what passes may be held back, or leave by several sockets

    def __init__(self, behind: Outbox) -> None:
        super().__init__(behind.channels, behind.owner, behind.tick)
        self.waiting = -1
        self.touched = True
        closed = [Waiting(rule, self) for rule in behind.channels]
        for lane in closed:
            lane.plain = False
        self.lanes = list(closed)


class Junction(StandIn):
    """In front of the session's first outbox, `main`."""

    __slots__ = ("main", "routes")

    def __init__(self, main: Outbox) -> None:
        super().__init__(main)
        self.main = main
        self.routes: dict[int, Outbox] = {}

    def put(self, index: int, frame: bytes, message: Message | None = None) -> None:
        self.routes.get(index, self.main).put(index, frame, message)

    def put_parts(self, index: int, parts: Parts, message: Message | None) -> None:
        self.routes.get(index, self.main).put_parts(index, parts, message)

    def divert(self, index: int, target: Outbox) -> None:
        """From now on a channel leaves by `target`, and so does what waits in it already."""
        source = self.routes.get(index, self.main)
        self.routes[index] = target
        self._move(index, source, target)

    def restore(self, index: int, target: Outbox) -> None:
        """A channel leaves by the first socket again, if it left by `target`."""
        if self.routes.get(index) is target:
            del self.routes[index]
            self._move(index, target, self.main)

    def _move(self, index: int, source: Outbox, target: Outbox) -> None:
        """A message in parts that was begun is begun anew, under a new number: the other socket knows nothing of it."""
        for frame, message in source.take_out(index):
            if not isinstance(frame, Sending):
                target.put(index, frame, message)
            else:
                target.put_parts(index, frame.parts, message)
