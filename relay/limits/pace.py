"""How fast one connection sends: its messages and its bytes, against their rates. Pure; the caller brings `now`.

Not here: what is done about it. The one rule: a step is never more than the burst, so counting in steps changes nothing
but its cost: who keeps to the rate is never found ahead of it.
"""

from __future__ import annotations

from typing import Final

from relay.limits.buckets import Bucket, Rate

MESSAGES_STEP: Final = 16
BYTES_STEP: Final = 4096


class Pace:
    """Add what was read to `messages` and `bytes`; when either has reached its step, ask `ahead`."""

    __slots__ = ("_bytes", "_messages", "bytes", "bytes_step", "messages", "messages_step")

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


def _step(most: int, rate: Rate) -> int:
    return max(1, min(most, int(rate.burst))) if rate.per_second else most
