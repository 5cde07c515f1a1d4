"""When what was put is sent: at the end of the turn in which it was put, once for each connection.

Not here: what waits (outbox), what a turn is (net/poller). The one rule: whoever puts for a connection first in a turn
puts it on the list; nobody is on it twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.delivery.outbox import Outbox


class Tick:
    """The connections that somebody put something for since the last flush; one object for the whole process.

    While a tick runs (`running`), its end flushes them. Put at any other time, `wake` sees to it.
    """

    __slots__ = ("alone", "clock", "running", "touched", "wake")

    def __init__(self, wake: Callable[[], None]) -> None:
        self.touched: list[Outbox] = []
        self.clock: Callable[[], float] = lambda: 0.0  # monotonic seconds; the poller's, once it has one
        self.running = False
        self.alone = False  # one connection was ready, and no other: what it says now need not wait for more
        self.wake = wake

    def flush(self) -> None:
        """One flush for each; what flushing itself touches (a drop to be told, a close) comes next."""
        self.running = True
        while self.touched:
            batch = self.touched[:]
            self.touched.clear()
            for outbox in batch:
                outbox.flush()
        self.running = False
