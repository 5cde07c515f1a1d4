"""What durable rooms have said and the disk has not: the queue between them, and what happens when it is written.

A message of a durable room gets its number at once and is heard once it is on disk: so nobody hears, and nobody is
told of, what a crash could take back. Not here: the disk (store). The one rule: what is taken out is settled in the
order it came in, all of it or none; a number that came to nothing is given again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from relay.errors import Refused
from relay.model import Message

if TYPE_CHECKING:
    from relay.rooms.room import Peer, Room

log = logging.getLogger("relay")

ENTRY: Final = 300  # bytes that an entry counts beside its data


@dataclass(slots=True, frozen=True)
class Written:
    """A message of a room, which was called `name` then. `skip` will not hear it."""

    name: str
    room: Room
    message: Message
    skip: Peer | None


@dataclass(slots=True, frozen=True)
class Receipted:
    """A publish with a key was answered with `offset`."""

    name: str
    room: Room
    subject: str
    key: str
    offset: int
    at: float


@dataclass(slots=True, frozen=True)
class Forgotten:
    """All of a room is forgotten."""

    name: str


@dataclass(slots=True, frozen=True)
class Renamed:
    """All of a room has another name from here on."""

    old: str
    new: str


@dataclass(slots=True, frozen=True)
class Trimmed:
    """What a room remembers begins behind `floor`; its epoch and offsets stay."""

    name: str
    epoch: str
    offset: int
    floor: int


@dataclass(slots=True, frozen=True)
class Afterwards:
    """What is to be done once all before it is written, or cannot be."""

    done: Callable[[], None]
    failed: Callable[[Refused], None]


Entry: TypeAlias = Written | Receipted | Forgotten | Renamed | Trimmed | Afterwards


class Journal:
    """`wake`, handed in, tells the store that there is something to write. `space`: whose rooms these are."""

    def __init__(self, most_bytes: int, space: str = "") -> None:
        self.most_bytes: Final = most_bytes
        self.space: Final = space
        self.wake: Callable[[], None] = lambda: None
        self.bytes = 0
        self.failures = 0
        self._entries: list[Entry] = []

    def append(self, room: Room, message: Message, skip: Peer | None) -> None:
        """Numbers a message and queues it. Raises Refused("unavailable") when the disk does not keep up."""
        if self.bytes + len(message.data.raw) > self.most_bytes:
            why = "the disk does not keep up with what is published"
            raise Refused("unavailable", why, retry_after=1.0, setting="history.queue_bytes")
        room.numbered = message.offset = room.numbered + 1
        room.holds += 1
        self.bytes += len(message.data.raw) + ENTRY
        self._put(Written(room.name, room, message, skip))

    def receipt(self, room: Room, subject: str, key: str, offset: int, at: float) -> None:
        self._put(Receipted(room.name, room, subject, key, offset, at))

    def forget(self, name: str) -> None:
        """A room is forgotten: what the disk has of it too."""
        self._put(Forgotten(name))

    def rename(self, old: str, new: str) -> None:
        self._put(Renamed(old, new))

    def trim(self, name: str, epoch: str, offset: int, floor: int) -> None:
        """What is up to `floor` is not remembered any more."""
        self._put(Trimmed(name, epoch, offset, floor))

    def afterwards(self, done: Callable[[], None], failed: Callable[[Refused], None]) -> None:
        """Calls one of the two when all that was queued before has been written, or could not be."""
        if self._entries:
            self._put(Afterwards(done, failed))
        else:
            self._unsettled_or(done, failed)

    def _unsettled_or(self, done: Callable[[], None], failed: Callable[[Refused], None]) -> None:
        if self.bytes:  # taken, and being written just now
            self._put(Afterwards(done, failed))
        else:
            done()

    def _put(self, entry: Entry) -> None:
        self._entries.append(entry)
        self.wake()

    def take(self) -> list[Entry]:
        """All that is queued. Each batch must be settled before the next is taken."""
        entries, self._entries = self._entries, []
        return entries

    def settle(self, entries: list[Entry], problem: str | None) -> None:
        """The batch is on disk; or, with a `problem`, it is not, and neither is what was queued behind it.

        Then everybody who waits is refused, and the numbers are given again.
        """
        if problem is not None:
            self.failures += 1
            entries = entries + self.take()
            # In memory these have happened: they are written with what comes next.
            self._entries = [entry for entry in entries if isinstance(entry, Renamed | Trimmed)]
        for entry in entries:
            try:
                self._settle(entry, problem)
            except Exception:
                log.exception("bug after a message was written")

    def _settle(self, entry: Entry, problem: str | None) -> None:
        if isinstance(entry, Written):
            room = entry.room
            self.bytes -= len(entry.message.data.raw) + ENTRY
            try:
                if problem is None:
                    room.hub.written(room, entry.message, entry.skip)
                else:
                    room.numbered = room.offset
            finally:
                room.holds -= 1
                room.hub.free_if_empty(room)
        elif isinstance(entry, Afterwards):
            if problem is None:
                entry.done()
            else:
                entry.failed(Refused("unavailable", problem, retry_after=1.0, setting="history.file"))

    def __len__(self) -> int:
        return len(self._entries)
