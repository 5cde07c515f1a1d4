"""A rate and a burst, by the generic cell rate algorithm: one float per bucket, no timer, no queue. And many of them.

Not here: what is limited and what happens at the limit. The one rule: time only ever comes from the caller, as `now` in
seconds of a clock that never goes back.

The float is the time at which all that was taken is paid for at the steady rate (ITU-T I.371, the "theoretical arrival
time"). A caller conforms while that lies ahead of `now` by no more than the burst is worth.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import Final
from weakref import WeakValueDictionary

MOST: Final = 65536
"""Buckets of one rate kept for those who hold none, at most; beyond it the older half is forgotten: it is full again.
"""
_FEW: Final = 1024

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

    __slots__ = ("__weakref__", "_paid_at", "rate")

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

    def wait(self, now: float, cost: float = 1.0) -> float:
        """What `try_take` would return; nothing is taken."""
        rate = self.rate
        paid_at = self._paid_at
        ahead = (paid_at if paid_at > now else now) + cost * rate.interval - now - rate.tolerance
        if ahead <= _SLACK:
            return 0.0
        return ahead if cost <= rate.burst else math.inf

    def is_full(self, now: float) -> bool:
        """Whether the whole burst is there again: such a bucket is as good as a new one, and may be forgotten."""
        return self._paid_at <= now


class Buckets:
    """Buckets of one rate by key, in bounded memory.

    What is full again need not be kept, so the table is pruned as it grows; a flood of keys costs the older half of it.
    A bucket that somebody holds (`hold`) stays the one of its key all the while, kept or not: nobody has two.
    """

    __slots__ = ("_held", "_kept", "_prune_at", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate: Final = rate
        self._kept: dict[str, Bucket] = {}
        self._held: WeakValueDictionary[str, Bucket] = WeakValueDictionary()
        self._prune_at = _FEW

    def get(self, key: str, now: float) -> Bucket:
        """The bucket of a key, to be used at once."""
        bucket = self._kept.get(key)
        if bucket is None:
            bucket = self._held.get(key)
            if bucket is None:
                bucket = Bucket(self.rate)
            self._keep(key, bucket, now)
        return bucket

    def find(self, key: str) -> Bucket | None:
        """The bucket of a key, if one is kept: None is as good as a full one."""
        return self._kept.get(key)

    def hold(self, key: str, now: float) -> Bucket:
        """The bucket of a key, to be held; whoever holds it gives it to `let_go` in the end."""
        bucket = self.get(key, now)
        self._held[key] = bucket
        return bucket

    def let_go(self, key: str, bucket: Bucket, now: float) -> None:
        """What was spent is remembered: who leaves and comes back finds the bucket as it was."""
        if not bucket.is_full(now) and self._held.get(key) is bucket:
            self._keep(key, bucket, now)

    def prune(self, now: float) -> None:
        """Forget those that are full again. Done by itself as the table grows."""
        self._kept = {key: bucket for key, bucket in self._kept.items() if not bucket.is_full(now)}

    def __len__(self) -> int:
        """Buckets kept; what memory grows with, beside what is held."""
        return len(self._kept)

    def _keep(self, key: str, bucket: Bucket, now: float) -> None:
        if len(self._kept) >= self._prune_at:
            self.prune(now)
            if len(self._kept) > MOST // 2:
                self._kept = dict(islice(self._kept.items(), len(self._kept) // 2, None))  # the newer half
            # Twice what had to stay: however many come, each entry is looked at a bounded number of times.
            self._prune_at = max(_FEW, 2 * len(self._kept))
        self._kept[key] = bucket
