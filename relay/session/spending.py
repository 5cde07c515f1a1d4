"""What one connection takes of the quotas that are about it, and what happens to it at their bounds.

Not here: the arithmetic (limits/quotas), and where it is asked: `requests` for joins and calls, `metered` for messages,
the link for what is slowed down. The one rule: a connection that no quota is about has no such thing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from relay.auth.grants import PatternSet, compile_patterns
from relay.config.quotas import Quota
from relay.errors import CloseCode, CloseReason, ConfigError, ConfigProblem, Refused
from relay.limits.addresses import UNIX, address_key
from relay.limits.buckets import Bucket
from relay.limits.pace import Pace, QuotaPace, Shape
from relay.limits.quotas import Bound, Over, Quotas, Rule, take
from relay.model import Message
from relay.protocols.names import check_room_name
from relay.session.wire import Hold

if TYPE_CHECKING:
    from relay.session.connection import Connection
    from relay.session.timers import Timer

ROOMS_KNOWN: Final = 256
"""Rooms of which it is remembered which quotas are about them; then all are forgotten, and looked up again."""

THINGS: Final = {
    "messages_in": "messages", "bytes_in": "bytes", "messages_out": "messages", "bytes_out": "bytes", "joins": "joins",
    "calls": "calls",
}  # fmt: skip
WHOSE: Final = {
    "connection": "of this connection", "subject": "of yours", "address": "from your address", "room": "in this room",
    "plugin": "for this plugin", "tenant": "for everybody here",
}  # fmt: skip


def compile_quotas(tables: Mapping[str, Quota], tenant: str = "") -> Quotas:
    """The quotas that hold in a tenant. Raises ConfigError for patterns that are none."""
    rules, problems = [], []
    for name, table in tables.items():
        rooms = None
        if table.rooms:
            for index, text in enumerate(table.rooms):
                try:
                    compile_patterns([text])
                except ValueError as error:
                    key = f"quotas.{name}.rooms[{index}]"
                    problems.append(ConfigProblem("configuration", key, str(error)))
            if not problems:
                rooms = PatternSet(compile_patterns(table.rooms)).matches
        if not table.tenants or tenant in table.tenants:
            rules.append(Rule(name, table, rooms))
    if problems:
        raise ConfigError(problems)
    return Quotas(rules)


def spend(connection: Connection, counts: str, room: str, *, at_start: bool = False) -> None:
    """Counts a join or a call. Raises Refused("rate_limited").

    What a connection joins at its start is not held against itself: its token or its address says so, once.
    """
    spending = connection.spending
    quotas = connection.services.quotas if spending is None else spending.quotas
    rules: tuple[Rule, ...] = getattr(quotas, counts)
    if at_start:
        rules = tuple(rule for rule in rules if rule.per != "connection")
    if not rules:
        return
    if spending is None:
        spending = connection.spending = Spending(connection)
    spending.spend(spending.asked(rules, room), 0)


class Spending:
    """Of one connection, with all its sockets; made when a quota is first about it."""

    __slots__ = ("_anywhere", "_connection", "_delivered", "_held", "_published", "_timer", "quotas")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.quotas: Quotas = connection.services.quotas
        self._held: dict[tuple[str, str], Bound] = {}
        self._anywhere: dict[tuple[Rule, ...], tuple[Bound, ...]] = {}  # of rules that are about every room alike
        self._published: dict[str, tuple[Bound, ...]] = {}
        self._delivered: dict[str, tuple[Bound, ...]] = {}
        self._timer: Timer | None = None

    @property
    def holds(self) -> bool:
        """Its sockets are not read just now, and one more would not be either."""
        return self._timer is not None

    def bounds(self, rules: tuple[Rule, ...], room: str = "") -> tuple[Bound, ...]:
        """The buckets to take from for what happens in a room."""
        plugin = self._plugin(room) if room else ""
        now = self._connection.services.monotonic()
        if self._connection.address == UNIX:  # that is nobody's in particular
            rules = tuple(rule for rule in rules if rule.per != "address")
        return tuple(self._bound(rule, room, plugin, now) for rule in rules if rule.is_about(room, plugin))

    def asked(self, rules: tuple[Rule, ...], room: str) -> tuple[Bound, ...]:
        """`bounds`, looked up once where they are the same for every room."""
        bounds = self._anywhere.get(rules)
        if bounds is None:
            bounds = self.bounds(rules, room)
            if not any(rule.scoped for rule in rules):
                self._anywhere[rules] = bounds
        return bounds

    def spend(self, bounds: tuple[Bound, ...], size: int) -> None:
        """Takes from them. Raises Refused("rate_limited"); what was taken too fast is slowed down."""
        over = take(bounds, size, self._connection.services.monotonic())
        if over is not None:
            self._exceeded(over)

    def published(self, room: str, size: int) -> None:
        """A message of `size` bytes for a room. Raises Refused("rate_limited")."""
        bounds = self._published.get(room)
        if bounds is None:
            connection = self._connection
            if room not in connection.hub.rooms:
                # Names that cannot be a room's, or that nobody serves, get no bucket: they will be refused anyway.
                longest = connection.services.config.limits.room_name_bytes
                if check_room_name(room, longest) or connection.hub.router(room) is None:
                    return
            self._make_room(self._published)
            bounds = self._published[room] = self.bounds(self.quotas.published, room)
        if bounds:
            self.spend(bounds, size)

    def delivered(self, message: Message) -> str:
        """A message that is about to wait for this client. Returns the setting that forbids it, or ""."""
        room = message.room
        bounds = self._delivered.get(room)
        if bounds is None:
            self._make_room(self._delivered)
            bounds = self._delivered[room] = self.bounds(self.quotas.delivered, room)
        services = self._connection.services
        over = take(bounds, len(message.data), services.monotonic()) if bounds else None
        if over is None:
            return ""
        closes = over.rule.at_limit == "close"
        services.counters.quotas[over.rule.name, "closed" if closes else "dropped"] += 1
        if closes:
            # Not now: whoever puts may be walking through the members of a room, which closing changes.
            services.timers.at(services.monotonic(), lambda: self._close(over))
        return over.rule.setting

    def pace(self) -> Pace:
        """What a socket's reading is counted against."""
        services = self._connection.services
        bounds = self.bounds(self.quotas.paced)
        return QuotaPace(services.message_rate, services.byte_rate, bounds)

    def shape(self) -> Shape | None:
        """What a socket's writing is counted against."""
        bounds = self.bounds(self.quotas.shaped)
        return Shape(bounds) if bounds else None

    def renew(self) -> None:
        """Other quotas are in force. What is declared as before goes on as before; the rest begins anew."""
        services = self._connection.services
        held, self._held = self._held, {}
        self.quotas = services.quotas
        self._anywhere.clear()
        self._published.clear()
        self._delivered.clear()
        rules = {rule.name: rule for rule in self.quotas.rules}
        now = services.monotonic()
        for (name, key), (rule, bucket) in held.items():
            same = rules.get(name)
            if same is not None and same.table == rule.table:
                self._held[name, key] = same, bucket
            else:
                rule.buckets.let_go(key, bucket, now)

    def end(self) -> None:
        """The connection is gone; what it has spent of shared buckets is not."""
        if self._timer is not None:
            self._timer.cancel()
        now = self._connection.services.monotonic()
        for (_, key), (rule, bucket) in self._held.items():
            rule.buckets.let_go(key, bucket, now)
        self._held.clear()

    def _plugin(self, room: str) -> str:
        hub = self._connection.hub
        found = hub.rooms.get(room)
        if found is not None:
            return found.rule.plugin
        owner = hub.router(room)
        return "" if owner is None else owner[0].plugin

    def _bound(self, rule: Rule, room: str, plugin: str, now: float) -> Bound:
        connection = self._connection
        match rule.per:
            case "subject":
                key = connection.subject
            case "address":
                key = address_key(connection.address, connection.services.config.limits.ipv6_prefix)
            case "room":
                key = room
            case "plugin":
                key = plugin
            case _:
                key = ""
        bound = self._held.get((rule.name, key))
        if bound is None:
            own = rule.per == "connection"
            bound = rule, Bucket(rule.rate) if own else rule.buckets.hold(key, now)
            self._held[rule.name, key] = bound
        return bound

    def _make_room(self, table: dict[str, tuple[Bound, ...]]) -> None:
        """Who publishes in ever new rooms makes the relay remember a bounded number of them."""
        if len(table) < ROOMS_KNOWN:
            return
        self._published.clear()
        self._delivered.clear()
        now = self._connection.services.monotonic()
        for (name, key), (rule, bucket) in list(self._held.items()):
            if rule.per == "room":
                rule.buckets.let_go(key, bucket, now)
                del self._held[name, key]

    # At the bound.

    def _exceeded(self, over: Over) -> None:
        connection, rule = self._connection, over.rule
        counters = connection.services.counters
        if rule.slows:
            self._put_off(over)
            return
        if rule.at_limit == "close":
            counters.quotas[rule.name, "closed"] += 1
            self._close(over)
        else:
            counters.quotas[rule.name, "refused"] += 1
        retry_after = over.seconds if over.seconds < math.inf else None
        raise Refused("rate_limited", _too_many(rule), retry_after=retry_after, setting=rule.setting)

    def _put_off(self, over: Over) -> None:
        """All sockets are read no further until what was taken is paid for.

        Who alone spends a bucket and owes far too much is closed, as with the other rates; of a shared one nobody knows
        whose fault it is.
        """
        connection, services = self._connection, self._connection.services
        if connection.closing is not None:
            return
        if over.rule.per == "connection" and over.seconds > services.config.limits.slow_down:
            services.counters.quotas[over.rule.name, "closed"] += 1
            self._close(over)
            return
        services.counters.quotas[over.rule.name, "slowed"] += 1
        services.counters.slowed += 1
        connection.note("throttled", "rate_limited", over.rule.setting, "not read for a while: ahead of a quota")
        if self._timer is not None:
            self._timer.cancel()
        self._hold(held=True)
        self._timer = services.timers.at(services.monotonic() + over.seconds, self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        if self._connection.closing is None:
            self._hold(held=False)

    def _hold(self, *, held: bool) -> None:
        for wire in (self._connection.wire, *(leg.wire for leg in self._connection.legs)):
            wire.hold(Hold.QUOTA, held)

    def _close(self, over: Over) -> None:
        wait = over.seconds if over.seconds < math.inf else None
        self._connection.close(CloseReason(CloseCode.TOO_MANY, _too_many(over.rule), over.rule.setting, wait))


def _too_many(rule: Rule) -> str:
    return f"too many {THINGS[rule.counts]} {WHOSE[rule.per]}"
