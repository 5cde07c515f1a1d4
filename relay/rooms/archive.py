"""What is remembered of rooms that nobody is in just now, and the bound on what all rooms remember together.

A room is freed when its last member leaves; what it remembers sleeps here until somebody opens it again, so that a
client whose connection broke finds its place. Not here: one room's messages (history). The one rule: all of it costs at
most `capacity` bytes; the rooms that have slept longest are forgotten first, then the oldest messages of whoever adds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from relay.rooms.history import History
from relay.rooms.receipts import COST, Receipts

RECORD: Final = 1000  # bytes that a sleeping room costs beside its messages
SWEEP: Final = 512  # sleeping rooms looked at in one sweep


@dataclass(slots=True)
class Record:
    """What outlives a room's members: the name of its life, how far it is, its messages, its receipts."""

    epoch: str
    offset: int
    history: History | None
    receipts: Receipts | None

    @property
    def worth_keeping(self) -> bool:
        return bool(self.history) or bool(self.receipts)

    def expired(self, now: float) -> bool:
        """Nothing in it is young enough to be of use. `now` in Unix seconds."""
        if self.history is not None:
            self.history.forget(now)
        if self.receipts is not None:
            self.receipts.forget(now)
        return not self.worth_keeping


class Archive:
    """By room. `forgotten`, handed in, is told the name of each room that is remembered no longer."""

    def __init__(self, capacity: int = 1 << 62) -> None:
        self.capacity = capacity
        self.bytes = 0
        self.forgotten: Callable[[str], None] | None = None
        self._asleep: dict[str, Record] = {}  # those that fell asleep first come first
        self._round: list[str] = []  # whom the sweeps have still to look at

    def history(self, size: int, seconds: float, most_bytes: int) -> History:
        """A new one, paid for from here."""
        return History(size, seconds, most_bytes, self)

    def sleep(self, room: str, record: Record) -> None:
        """The room is empty. What is worth nothing is not kept."""
        if record.worth_keeping:
            self._asleep[room] = record
            self.bytes += self._cost(record)
            if self.bytes > self.capacity:
                self._shed()
        elif self.forgotten is not None:
            self.forgotten(room)

    def wake(self, room: str) -> Record | None:
        """What is remembered of a room that is opened; it is the room's again."""
        record = self._asleep.pop(room, None)
        if record is not None:
            self.bytes -= self._cost(record)
        return record

    def look(self, room: str) -> Record | None:
        """What is remembered of a room that nobody is in."""
        return self._asleep.get(room)

    def sweep(self, now: float) -> None:
        """Forgets some of what has expired. Called every few seconds; looks at a bounded number of rooms."""
        if not self._round:
            self._round = list(self._asleep)
        for room in self._round[-SWEEP:]:
            record = self._asleep.get(room)
            if record is not None:
                self.bytes -= self._cost(record)
                if record.expired(now):
                    del self._asleep[room]
                    self._gone(room, record)
                else:
                    self.bytes += self._cost(record)
        del self._round[-SWEEP:]

    def make_room(self, spender: History) -> None:
        self._shed()
        while self.bytes > self.capacity and len(spender):
            spender.drop_oldest()

    def _shed(self) -> None:
        while self.bytes > self.capacity and self._asleep:
            room = next(iter(self._asleep))
            record = self._asleep.pop(room)
            self.bytes -= self._cost(record)
            self._gone(room, record)

    def _gone(self, room: str, record: Record) -> None:
        if record.history is not None:
            record.history.clear()
        if self.forgotten is not None:
            self.forgotten(room)

    def _cost(self, record: Record) -> int:
        """Beside the messages, which are paid for as they come."""
        return RECORD + (COST * len(record.receipts) if record.receipts is not None else 0)

    def __len__(self) -> int:
        return len(self._asleep)
