"""A rate and a burst, by the generic cell rate algorithm: one float per bucket, no timer, no queue.

Not here: what is limited and what happens at the limit. The one rule: time only ever comes from the caller, as `now` in
seconds of a clock that never goes back.

The float is the time at which all that was taken is paid for at the steady rate (ITU-T I.371, the "theoretical arrival
time"). A caller conforms while that lies ahead of `now` by no more than the burst is worth.
"""

from __future__ import annotations

import math
from typing import Final

# What rounding may cost: a caller that waits as long as it was told is let through.
_SLACK: Final = 1e-6


class Rate:
    """Units per second and the burst, shared by all buckets of one kind. A rate of 0 is unlimited.

    A burst of 0 is the units of one second, at least one.
    """

    __slots__ = ("burst", "interval", "per_second", "tolerance")

    def __init__(self, per_second: float, burst: float = 0.0) -> None:
        """Raises ValueError for what is negative, infinite or NaN."""
        if not (0.0 <= per_second < math.inf and 0.0 <= burst < math.inf):
            raise ValueError(f"not a rate: {per_second} a second, burst {burst}")
        self.per_second: Final = per_second
        self.burst: Final = burst or max(1.0, per_second)
        self.interval: Final = 1.0 / per_second if per_second else 0.0
        self.tolerance: Final = self.burst * self.interval

    def __repr__(self) -> str:
        return f"Rate({self.per_second:g}, {self.burst:g})"


class Bucket:
    """What one caller has taken of a rate. It starts with the whole burst to spend."""

    __slots__ = ("_paid_at", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._paid_at = -math.inf

    def take(self, now: float, cost: float = 1.0) -> float:
        """Take `cost` units, whatever is left. Returns the seconds it is now ahead of the rate; 0.0: it conforms.

        For slowing down: who waits that long before it takes again keeps to the rate.
        """
        rate = self.rate
        paid_at = self._paid_at
        self._paid_at = paid_at = (paid_at if paid_at > now else now) + cost * rate.interval
        ahead = paid_at - now - rate.tolerance
        return ahead if ahead > _SLACK else 0.0

    def try_take(self, now: float, cost: float = 1.0) -> float:
        """Take `cost` units if they are there. Returns 0.0 when taken, else the seconds until they will be there.

        What costs more than the burst is never there: infinity.
        """
        rate = self.rate
        paid_at = self._paid_at
        paid_at = (paid_at if paid_at > now else now) + cost * rate.interval
        ahead = paid_at - now - rate.tolerance
        if ahead <= _SLACK:
            self._paid_at = paid_at
            return 0.0
        return ahead if cost <= rate.burst else math.inf

    def is_full(self, now: float) -> bool:
        """Whether the whole burst is there again: such a bucket is as good as a new one, and may be forgotten."""
        return self._paid_at <= now
