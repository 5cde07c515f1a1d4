"""How late the event loop was: the longest of recent delays, for the metric.

Not here: what held it (plugin/watchdog names that in the log), and the task that measures (process/clocks). The one
rule: pure; the caller brings `now`.
"""

from __future__ import annotations

from typing import Final

WINDOW: Final = 10.0  # seconds; two of them are looked at, so that a scrape every 10 s misses nothing


class Lag:
    """Delays in seconds, `now` on a monotonic clock. `longest` looks back at least WINDOW seconds, at most two."""

    __slots__ = ("_before", "_begun", "_longest")

    def __init__(self) -> None:
        self._begun = 0.0
        self._longest = self._before = 0.0

    def add(self, late: float, now: float) -> None:
        """Something was done `late` seconds after it was due."""
        if now - self._begun >= WINDOW:
            self._before = self._longest if now - self._begun < 2 * WINDOW else 0.0
            self._longest, self._begun = 0.0, now
        self._longest = max(self._longest, late)

    @property
    def longest(self) -> float:
        return max(self._longest, self._before)
