"""How often one address may fail to authenticate before it has to wait, longer each time.

Not here: what a failure is (the front decides). The one rule: an address that many share must not be shut out by a few
of them, so one success forgives all, and what fails while an address waits anyway makes nothing worse.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from relay.config import schema
from relay.errors import Rejected

MOST: Final = 65536
"""Addresses remembered at most; beyond it the older half is forgotten."""
_FEW: Final = 1024


class _Record:
    """Failures of one address. Times are those of the caller's clock, in seconds."""

    __slots__ = ("count", "since", "until")

    def __init__(self, since: float) -> None:
        self.count = 0
        self.since = since
        self.until = 0.0  # it waits until then


class Failures:
    """By address key. `auth_failures` failures within `auth_failures_window` seconds are free; each further one costs
    a wait, of `auth_backoff` seconds at first and twice as long each time. Quiet for a window, all is forgotten.
    The key "" is nobody's, and never waits.
    """

    def __init__(self, limits: schema.Limits) -> None:
        self._limits = limits
        self._records: dict[str, _Record] = {}
        self._prune_at = _FEW

    def check(self, key: str, now: float) -> None:
        """Raises Rejected 429 `too_many_failures`, with `retry_after`, while the address has to wait."""
        record = self._records.get(key) if self._records else None
        if record is not None and now < record.until:
            raise Rejected(
                429,
                "too_many_failures",
                "too many bad tokens came from your address",
                retry_after=record.until - now,
                setting="limits.auth_failures",
            )

    def failed(self, key: str, now: float) -> None:
        """One more failure. Those that were on their way when the wait began do not count."""
        limits = self._limits
        if not limits.auth_failures or not key:
            return
        record = self._records.pop(key, None)
        if record is None or self._forgiven(record, now):
            record = _Record(now)
        self._make_room(now)
        self._records[key] = record  # behind all others: the newest is forgotten last
        if now < record.until:
            return
        record.count += 1
        over = record.count - limits.auth_failures
        if over >= 0:
            wait = min(limits.auth_backoff * 2.0 ** min(over, 64), limits.auth_backoff_max)
            record.until = now + wait

    def succeeded(self, key: str) -> None:
        if self._records:
            self._records.pop(key, None)

    def adopt(self, limits: schema.Limits) -> None:
        """New limits; all is forgiven, because what failed may have been the old keys' fault."""
        self._limits = limits
        self._records.clear()

    def waiting(self, now: float) -> int:
        """Addresses that have to wait just now."""
        return sum(now < record.until for record in self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def _forgiven(self, record: _Record, now: float) -> bool:
        return now - max(record.since, record.until) > self._limits.auth_failures_window

    def _make_room(self, now: float) -> None:
        if len(self._records) < self._prune_at:
            return
        kept = {key: record for key, record in self._records.items() if not self._forgiven(record, now)}
        if len(kept) > MOST // 2:
            kept = dict(islice(kept.items(), len(kept) // 2, None))
        self._records = kept
        # Twice what had to stay: however many come, each entry is looked at a bounded number of times.
        self._prune_at = max(_FEW, 2 * len(kept))
