"""What a metric is, and what it may look at: the shape of the lists of metrics.

Not here: which there are (process_figures, tenant_figures), the text that Prometheus gets (metrics), counting
(counters). The one rule: a label's values come from closed sets, never from clients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from relay.counters import Counters
from relay.plugin.meters import Meter

PREFIX: Final = "relay_"


@dataclass(slots=True, frozen=True, kw_only=True)
class Gauges:
    """What is not counted but looked at: handed in by whoever serves the metrics. None and empty: not shown.

    Times are Unix seconds, sizes bytes, `loop_lag` the longest recent delay of the event loop in seconds.
    """

    rooms: int | None = None
    members: int | None = None
    published: int | None = None
    delivered: int | None = None
    connections_by_protocol: Mapping[str, int] = field(default_factory=dict)
    remembered_bytes: int | None = None
    rooms_asleep: int | None = None
    journal_bytes: int | None = None
    journal_failures: int | None = None
    outbox_bytes: Mapping[str, int] = field(default_factory=dict)
    unsent_bytes: int | None = None
    unsent_bytes_most: int | None = None
    certificate_expiry: Mapping[str, float] = field(default_factory=dict)
    started_at: float | None = None
    loop_lag: float | None = None
    ready: bool | None = None
    log_lines_lost: int | None = None
    meters: Iterable[tuple[str, Meter]] = ()
    """Plugins' own figures, each with its plugin's name."""
    addresses_waiting: int | None = None
    short_of_memory: bool | None = None
    revocations: int | None = None
    guests: int | None = None


Values = Iterable[tuple[tuple[str, ...], float]]
Tenants = Mapping[str, tuple[Counters, Gauges]]


@dataclass(slots=True, frozen=True)
class Entry:
    """One metric: its name without the prefix (and, as Prometheus wants it, a counter's without `_total`)."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    read: Callable[[Counters, Gauges], Values]
    labels: tuple[str, ...] = ()

    @property
    def exposed(self) -> str:
        """The name one asks Prometheus for."""
        return PREFIX + self.name + ("_total" if self.kind == "counter" else "")

    def family(self, counters: Counters, gauges: Gauges, tenants: Tenants) -> Metric | None:
        """Its values, of all `tenants` where there are any, with the label `tenant` in front. None: it has none."""
        if not tenants:
            labels, values = self.labels, list(self.read(counters, gauges))
        else:
            labels = ("tenant", *self.labels)
            values = [
                ((tenant, *labels), value) for tenant, each in tenants.items() for labels, value in self.read(*each)
            ]
        if not values and not labels:
            return None
        make = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = make(PREFIX + self.name, self.help, labels=labels)
        for labels, value in values:
            family.add_metric(labels, value)
        return family


def one(value: float | None) -> Values:
    return () if value is None else (((), float(value)),)


def each(table: Mapping[str, float] | Mapping[int, int] | Mapping[str, int]) -> Values:
    return [((str(label),), value) for label, value in sorted(table.items())]


def pairs(table: Mapping[tuple[str, str], int] | Mapping[tuple[str, int], int]) -> Values:
    return [((first, str(second)), value) for (first, second), value in sorted(table.items())]


def sets(table: Mapping[tuple[str, str, str], int]) -> Values:
    return [(labels, value) for labels, value in sorted(table.items())]
