"""A lane that leads to another socket of the same session: what is put here waits there.

The other cure for head-of-line blocking: packet loss on one socket does not hold up the other. Not here: sessions. The
one rule: to those who put it looks like any lane, so the hot path does not know of it.
"""

from __future__ import annotations

from typing import Final

from relay.delivery.channels import Lane
from relay.delivery.outbox import Outbox
from relay.delivery.parts import Sending
from relay.delivery.waiting import Frame, Keeper, Waiting
from relay.model import Message


class Detour(Waiting):
    """Stands in an outbox for a lane that has moved to `other`. Nothing ever waits in it."""

    __slots__ = ("_other",)

    def __init__(self, lane: Lane, keeper: Keeper, other: Outbox) -> None:
        super().__init__(lane, keeper)
        self.plain = False  # so that everybody comes to `put`
        self._other: Final = other

    def put(self, frame: Frame, message: Message | None) -> bool:
        if isinstance(frame, Sending):
            if message is not None:
                self._other.put_parts(self.lane.index, frame.parts, message)
        else:
            self._other.put(self.lane.index, frame, message)
        return False  # nothing waits here


def divert(source: Outbox, target: Outbox, index: int) -> None:
    """From now on what is put into a lane of `source` waits in that lane of `target`, as does what waits already."""
    waiting = source.lanes[index]
    detour = Detour(source.channels.lanes[index], source, target)
    if waiting is not None and waiting.frames:
        for frame, message in waiting.contents():
            detour.put(frame, message)
        source.waiting &= ~waiting.bit
    source.lanes[index] = detour


def rejoin(source: Outbox, target: Outbox, index: int) -> None:
    """Ends it: what still waits in `target`'s lane goes back. A message in parts begins anew, under a new number."""
    source.lanes[index] = None
    waiting = target.lanes[index]
    if waiting is None:
        return
    for frame, message in waiting.contents():
        if isinstance(frame, Sending):
            if message is not None:
                source.put_parts(index, frame.parts, message)
        else:
            source.put(index, frame, message)
    target.lanes[index] = None
    target.waiting &= ~waiting.bit
