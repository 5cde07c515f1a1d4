"""Quotas at work: which of them are about what somebody does, and taking from their buckets. Pure; the caller brings
`now`.

Not here: what a quota may say (config/quotas), and telling those who exceed one (session/spending). The one rule: what
is refused has taken nothing, from no bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, TypeAlias

from relay.config.quotas import Quota
from relay.limits.buckets import Bucket, Buckets, Rate

IN: Final = ("messages_in", "bytes_in")


class Rule:
    """One quota, compiled. `rooms` says whether a room is among those it is about; None: all are, and what is no room.

    `buckets` has those of everybody who shares one; a connection has its own.
    """

    __slots__ = (
        "at_limit", "buckets", "by_bytes", "counts", "name", "per", "plugins", "rate", "rooms", "scoped", "setting",
        "slows", "table",
    )  # fmt: skip

    def __init__(self, name: str, table: Quota, rooms: Callable[[str], bool] | None) -> None:
        self.name: Final = name
        self.setting: Final = f"quotas.{name}"
        self.table: Final = table
        self.counts: Final = table.counts
        self.per: Final = table.per
        self.at_limit: Final = table.at_limit
        self.slows: Final = table.at_limit == "slow"
        self.by_bytes: Final = table.counts in ("bytes_in", "bytes_out")
        self.rooms: Final = rooms
        self.plugins: Final = frozenset(table.plugins)
        self.scoped: Final = rooms is not None or bool(self.plugins) or table.per in ("room", "plugin")
        self.rate: Final = Rate(table.rate, table.burst)
        self.buckets = Buckets(self.rate)

    def is_about(self, room: str, plugin: str) -> bool:
        return (self.rooms is None or self.rooms(room)) and (not self.plugins or plugin in self.plugins)

    def __repr__(self) -> str:
        return f"<Rule {self.name}: {self.rate} {self.counts} per {self.per}>"


Bound: TypeAlias = tuple[Rule, Bucket]


class Over(NamedTuple):
    """A bound that is exceeded. Seconds: until what was asked for is there (infinity: never), or, where the rule slows,
    until what was taken is paid for.
    """

    rule: Rule
    seconds: float


def take(bounds: tuple[Bound, ...], size: int, now: float) -> Over | None:
    """Takes one message of `size` bytes from every bucket, or from none where one that does not slow has too little.

    Returns the bound that is exceeded most.
    """
    if len(bounds) == 1:  # nearly always, and then one look is enough
        rule, bucket = bounds[0]
        cost = size if rule.by_bytes else 1.0
        seconds = bucket.take(now, cost) if rule.slows else bucket.try_take(now, cost)
        return Over(rule, seconds) if seconds else None
    worst: Over | None = None
    for rule, bucket in bounds:
        if not rule.slows:
            wait = bucket.wait(now, size if rule.by_bytes else 1.0)
            if wait and (worst is None or wait > worst.seconds):
                worst = Over(rule, wait)
    if worst is not None:
        return worst
    for rule, bucket in bounds:
        ahead = bucket.take(now, size if rule.by_bytes else 1.0)
        if ahead and rule.slows and (worst is None or ahead > worst.seconds):
            worst = Over(rule, ahead)
    return worst


class Quotas:
    """All rules that hold in one tenant, by what has to be asked where. A tuple that is empty costs nothing."""

    __slots__ = (
        "calls", "delivered", "each", "early", "joins", "metered", "paced", "published", "rules", "shaped",
    )  # fmt: skip

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.rules: Final = tuple(rule for rule in rules if rule.rate.per_second)
        self.joins: Final = self._of("joins")
        self.calls: Final = self._of("calls")
        incoming = self._of(*IN)
        self.paced: Final = tuple(rule for rule in incoming if rule.slows and not rule.scoped)
        """Asked as what was read is counted, some messages at a time."""
        self.each: Final = tuple(rule for rule in incoming if not rule.slows and not rule.scoped)
        """Asked for each message, before anybody looks at it."""
        self.published: Final = tuple(rule for rule in incoming if rule.scoped)
        """Asked for each message that is published in a room."""
        outgoing = self._of("messages_out", "bytes_out")
        self.shaped: Final = tuple(rule for rule in outgoing if rule.slows)
        """Asked before more is written."""
        self.delivered: Final = tuple(rule for rule in outgoing if not rule.slows)
        """Asked for each message that is put into an outbox."""
        self.metered: Final = bool(self.each or self.published or self.delivered)
        self.early: Final = bool(self.paced or self.shaped)

    def _of(self, *counts: str) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.counts in counts)

    def inherit(self, old: Quotas) -> None:
        """What is declared as before goes on as before: a reload gives nobody a new burst."""
        before = {rule.name: rule for rule in old.rules}
        for rule in self.rules:
            if rule.name in before and before[rule.name].table == rule.table:
                rule.buckets = before[rule.name].buckets
