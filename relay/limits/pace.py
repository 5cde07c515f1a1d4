"""How fast one connection sends, and is sent: messages and bytes against their rates. Pure; the caller brings `now`.

Not here: what is done about it. The one rule: a step is never more than the burst, so counting in steps changes nothing
but its cost: who keeps to the rate is never found ahead of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from relay.limits.buckets import Bucket, Rate
from relay.limits.quotas import Bound, Over

MESSAGES_STEP: Final = 16
BYTES_STEP: Final = 4096


class Pace:
    """Add what was read to `messages` and `bytes`; when either has reached its step, ask `ahead`."""

    __slots__ = ("_bytes", "_messages", "bytes", "bytes_step", "messages", "messages_step")

    shared: Over | None = None
    """Which quota it was that `ahead` told of last, if it was one that others spend too."""

    def __init__(self, message_rate: Rate, byte_rate: Rate) -> None:
        self._messages = Bucket(message_rate)
        self._bytes = Bucket(byte_rate)
        self.messages = 0
        self.bytes = 0
        self.messages_step = _step(MESSAGES_STEP, message_rate)
        self.bytes_step = _step(BYTES_STEP, byte_rate)

    def ahead(self, now: float) -> tuple[float, str]:
        """Seconds the connection is ahead of the rate it exceeds more, and that rate's config key; 0.0: of none."""
        by_messages = self._messages.take(now, self.messages)
        by_bytes = self._bytes.take(now, self.bytes)
        self.messages = self.bytes = 0
        if by_bytes > by_messages:
            return by_bytes, "limits.bytes_per_second"
        return by_messages, "limits.messages_per_second"


class QuotaPace(Pace):
    """The same where quotas say so too: `bounds` are those that slow down."""

    __slots__ = ("_bounds", "shared")

    def __init__(self, message_rate: Rate, byte_rate: Rate, bounds: Sequence[Bound]) -> None:
        super().__init__(message_rate, byte_rate)
        self._bounds = bounds
        self.shared = None
        for rule, _ in bounds:
            if rule.by_bytes:
                self.bytes_step = _step(self.bytes_step, rule.rate)
            else:
                self.messages_step = _step(self.messages_step, rule.rate)

    def ahead(self, now: float) -> tuple[float, str]:
        messages, size = self.messages, self.bytes
        worst, setting = super().ahead(now)
        self.shared = None
        for rule, bucket in self._bounds:
            seconds = bucket.take(now, size if rule.by_bytes else messages)
            if seconds > worst:
                worst, setting = seconds, rule.setting
                self.shared = Over(rule, seconds)
        return worst, setting


class Shape:
    """How fast one connection is written to. `bounds` are those of what is sent that slow down."""

    __slots__ = ("_bounds", "_counted", "step")

    def __init__(self, bounds: Sequence[Bound]) -> None:
        self._bounds = bounds
        self._counted = 0
        self.step: Final = int(min(rule.rate.burst for rule, _ in bounds))
        """Bytes to write at most before asking again."""

    def ahead(self, sent: int, now: float) -> Over | None:
        """`sent` bytes have been written in all. The rule that they exceed most, and how long to write no more."""
        size, self._counted = sent - self._counted, sent
        worst: Over | None = None
        for rule, bucket in self._bounds:
            seconds = bucket.take(now, size)
            if seconds and (worst is None or seconds > worst.seconds):
                worst = Over(rule, seconds)
        return worst


def _step(most: int, rate: Rate) -> int:
    return max(1, min(most, int(rate.burst))) if rate.per_second else most
