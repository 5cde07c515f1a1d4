"""What is to happen later: one heap for rare deadlines, one wheel for the heartbeats of all connections. Pure; the
caller brings `now`.

Not here: the task that waits (server). The one rule: nothing per connection runs while the connection is quiet.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Final, Protocol


class Timer:
    """A deadline that can be called off; calling it off lets go of what it would have done."""

    __slots__ = ("_timers", "action", "when")

    def __init__(self, when: float, action: Callable[[], None], timers: Timers) -> None:
        self.when = when
        self.action: Callable[[], None] | None = action
        self._timers = timers

    def cancel(self) -> None:
        if self.action is not None:
            self.action = None
            self._timers.called_off()


class Timers:
    """Deadlines in order. `changed` is called when the next one comes earlier than before."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = count()
        self._off = 0
        self.changed: Callable[[], None] = lambda: None

    def at(self, when: float, action: Callable[[], None]) -> Timer:
        """Calls `action` once `when` (monotonic seconds) has come."""
        timer = Timer(when, action, self)
        first = not self._heap or when < self._heap[0][0]
        heapq.heappush(self._heap, (when, next(self._count), timer))
        if first:
            self.changed()
        return timer

    def called_off(self) -> None:
        """One more entry that nobody waits for; when they are most of the heap, it is made anew, so memory follows
        use.
        """
        self._off += 1
        if self._off > 64 and self._off * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].action is not None]
            heapq.heapify(self._heap)
            self._off = 0

    def next(self) -> float | None:
        """When something is due; called-off deadlines are forgotten on the way."""
        while self._heap and self._heap[0][2].action is None:
            heapq.heappop(self._heap)
            self._off -= 1
        return self._heap[0][0] if self._heap else None

    def run(self, now: float) -> None:
        """Does all that is due."""
        while self._heap and self._heap[0][0] <= now:
            timer = heapq.heappop(self._heap)[2]
            action, timer.action = timer.action, None
            if action is None:
                self._off -= 1
            else:
                action()

    def __len__(self) -> int:
        return len(self._heap)


class Beating(Protocol):
    """A connection, as the wheel sees it."""

    slot: int

    def beat(self, now: float) -> None:
        """Once a period: ask a silent client whether it is there."""

    def check(self, now: float) -> None:
        """A while after each beat: has it answered?"""


class Wheel:
    """Gives every connection one beat in each period, and one check `timeout` seconds after it, spread evenly over
    slots.

    A period of 0 switches it off. A timeout longer than the period is cut to just under it. A slot is a second; of a
    period of more than an hour more than that.
    """

    STEP: Final = 1.0
    MOST: Final = 3600

    def __init__(self, period: float, timeout: float) -> None:
        count = max(2, round(min(period / self.STEP, self.MOST))) if period else 0
        self.slots: Final[list[set[Beating]]] = [set() for _ in range(count)]
        self.period: Final = period
        self.step: Final = period / count if count else 0.0
        self._lag = min(count - 1, max(1, round(timeout / self.step))) if count else 0
        self._at = 0

    def add(self, one: Beating) -> None:
        """Puts a connection into the slot that was just served, so its first beat comes a whole period from now."""
        if self.slots:
            one.slot = (self._at - 1) % len(self.slots)
            self.slots[one.slot].add(one)

    def remove(self, one: Beating) -> None:
        if self.slots:
            self.slots[one.slot].discard(one)

    def turn(self, now: float) -> None:
        """Serves the next slot, and checks the one that was served `timeout` ago."""
        count = len(self.slots)
        for one in list(self.slots[(self._at - self._lag) % count]):
            one.check(now)
        for one in list(self.slots[self._at]):
            one.beat(now)
        self._at = (self._at + 1) % count
