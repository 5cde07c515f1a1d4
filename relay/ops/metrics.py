"""Metrics in Prometheus' text format, made from plain integers when somebody asks.

Not here: which there are (process_figures, tenant_figures), counting (counters.Counters) and serving (net/routes). The
one rule: a scrape reads what is there, takes no lock, and keeps nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from relay.counters import DELAYS, Counters
from relay.ops.entry import PREFIX, Entry, Gauges, Tenants
from relay.ops.process_figures import OF_PROCESS
from relay.ops.tenant_figures import OF_TENANTS
from relay.plugin.meters import Meter

TABLE: Final = (*OF_PROCESS, *OF_TENANTS)
"""Every metric there is; the docs are compared with it."""


class _Snapshot(Collector):
    """What prometheus_client asks for all metrics; made anew for each exposition, and registered nowhere."""

    def __init__(self, counters: Counters, gauges: Gauges, tenants: Tenants) -> None:
        self.counters = counters
        self.gauges = gauges
        self.tenants = tenants

    def collect(self) -> Iterator[Metric]:
        yield from self._families(OF_PROCESS, {})
        yield from self._families(OF_TENANTS, self.tenants)
        yield from _own_figures(self.gauges.meters)

    def _families(self, entries: Iterable[Entry], tenants: Tenants) -> Iterator[Metric]:
        for entry in entries:
            if entry.kind == "histogram":
                yield _delays(entry, self.counters, tenants)
            elif (family := entry.family(self.counters, self.gauges, tenants)) is not None:
                yield family


def _own_figures(meters: Iterable[tuple[str, Meter]]) -> Iterable[Metric]:
    """One family for each name, whichever plugins have it; what has the same labels is added up."""
    families: dict[tuple[str, str, tuple[str, ...]], dict[tuple[str, ...], float]] = {}
    helps: dict[str, str] = {}
    for plugin, meter in meters:
        sums = families.setdefault((meter.name, meter.kind, meter.labels), {})
        helps.setdefault(meter.name, meter.help)
        for labels, value in meter.values.items():
            sums[plugin, *labels] = sums.get((plugin, *labels), 0.0) + value
    for (name, kind, labels), sums in sorted(families.items()):
        make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        family = make(f"{PREFIX}plugin_{name}", helps[name], labels=("plugin", *labels))
        for place, value in sorted(sums.items()):
            family.add_metric(place, value)
        yield family


def _delays(entry: Entry, counters: Counters, tenants: Tenants) -> Metric:
    family = HistogramMetricFamily(entry.exposed, entry.help, labels=(*(["tenant"] if tenants else []), *entry.labels))
    bounds = [*map(str, DELAYS), "+Inf"]
    for tenant, (each, _) in tenants.items() if tenants else [("", (counters, None))]:
        for channel, delays in sorted(each.urgent_delays.items()):
            sums = map(float, itertools.accumulate(delays.buckets))
            labels = (tenant, channel) if tenants else (channel,)
            family.add_metric(labels, list(zip(bounds, sums, strict=True)), delays.total)
    return family


def exposition(
    counters: Counters, gauges: Gauges, *, accept: str = "", tenants: Tenants | None = None
) -> tuple[str, bytes]:
    """The answer to GET /metrics: (content type, body).

    `tenants`: of each what is its own, "" among them; None where there are none. `accept` is the request's Accept
    header: OpenMetrics if it is named there at all, else Prometheus' text format.
    """
    snapshot = _Snapshot(counters, gauges, tenants or {})
    if "application/openmetrics-text" in accept.lower():
        return openmetrics.CONTENT_TYPE_LATEST, openmetrics.generate_latest(snapshot)  # type: ignore[no-untyped-call]
    return CONTENT_TYPE_PLAIN_0_0_4, generate_latest(snapshot)
