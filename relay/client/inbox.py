"""Events that came and are not read yet, bounded in number.

Not here: where they come from (session). The one rule: whoever does not read loses the oldest and learns it by a
`Gap`; progress takes one place for each message, because only how far it is now matters.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

from relay.client.events import Bye, Event, Gap, Message, Progress, Renamed

STAYING: Final = 16  # events that are passed over when the oldest is dropped


class Inbox:
    """Holds up to `size` events."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._events: deque[Event | int] = deque()  # a number stands for the progress of that stream
        self._progress: dict[int, Progress] = {}
        self._lost: dict[str, Gap] = {}  # by room: messages dropped here, told before the next event
        self._readers = trio.lowlevel.ParkingLot()
        self._ended = False

    def put(self, event: Event) -> None:
        if isinstance(event, Progress):
            known = event.stream in self._progress
            self._progress[event.stream] = event
            if known:
                return
        self._events.append(event.stream if isinstance(event, Progress) else event)
        if len(self._events) > self._size:
            self._drop(self._oldest())
        self._readers.unpark()

    def _oldest(self) -> Event | int:
        """Taken out; but what the program must not miss (a room's new name, a farewell) stays while there is other."""
        kept: list[Event | int] = []
        while len(kept) < STAYING and len(self._events) > 1 and isinstance(self._events[0], Renamed | Bye):
            kept.append(self._events.popleft())
        oldest = self._events.popleft()
        self._events.extendleft(reversed(kept))
        return oldest

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._readers.unpark_all()

    async def get(self) -> Event | None:
        """The next event; None once all that came is read."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._lost:
                return self._lost.pop(next(iter(self._lost)))
            if self._events:
                event = self._events.popleft()
                return self._progress.pop(event) if isinstance(event, int) else event
            if self._ended:
                return None
            await self._readers.park()

    def _drop(self, event: Event | int) -> None:
        if isinstance(event, int):
            del self._progress[event]
        elif isinstance(event, Message | Gap):
            first, last = (event.offset, event.offset) if isinstance(event, Message) else (event.first, event.last)
            before = self._lost.get(event.room)
            if before is not None:
                first, last = min(first, before.first), max(last, before.last)
            self._lost[event.room] = Gap(event.room, first, last, "client_buffer")
