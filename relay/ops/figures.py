"""Every metric there is: its name, what it means, and where its value comes from.

Not here: the text that Prometheus gets (metrics), counting (counters). The one rule: TABLE is the only list of metrics;
the docs are compared with it, and a label's values come from closed sets, never from clients.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from relay import __version__
from relay.counters import Counters
from relay.ops.memory import resident_bytes
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

OF_PROCESS: Final = frozenset({
    "build_info", "start_time_seconds", "ready", "tcp_connections_accepted", "pending_handshakes", "proxy_failures",
    "tls_failures", "http_requests", "api_requests", "handshakes_rejected", "addresses_waiting", "plugin_stalls",
    "guests", "guests_ended", "config_reloads", "compressed_connections", "deflate_contexts", "revocations",
    "certificate_expiry_seconds", "event_loop_lag_seconds", "log_lines_lost", "resident_memory_bytes",
    "open_descriptors",
})  # fmt: skip
"""Metrics of the whole process; all others have a label `tenant` in front where there are tenants, so that their sum is
the same with and without."""


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
        if not tenants or self.name in OF_PROCESS:
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


def _one(value: float | None) -> Values:
    return () if value is None else (((), float(value)),)


def _each(table: Mapping[str, float] | Mapping[int, int] | Mapping[str, int]) -> Values:
    return [((str(label),), value) for label, value in sorted(table.items())]


def _pairs(table: Mapping[tuple[str, str], int] | Mapping[tuple[str, int], int]) -> Values:
    return [((first, str(second)), value) for (first, second), value in sorted(table.items())]


def _sets(table: Mapping[tuple[str, str, str], int]) -> Values:
    return [(labels, value) for labels, value in sorted(table.items())]


def open_descriptors(folder: Path = Path("/proc/self/fd")) -> int | None:
    """File descriptors of this process, the one that lists them not counted; None where /proc does not tell."""
    try:
        return len(os.listdir(folder)) - 1
    except OSError:
        return None


TABLE: Final = (
    Entry("build_info", "gauge", "Always 1, with the version.", lambda c, g: [((__version__,), 1)], ("version",)),
    Entry("start_time_seconds", "gauge", "When the process started, Unix time.", lambda c, g: _one(g.started_at)),
    Entry(
        "ready",
        "gauge",
        "1: takes new connections; 0: starting, draining or short of memory.",
        lambda c, g: _one(g.ready),
    ),
    # Connections.
    Entry("tcp_connections_accepted", "counter", "TCP connections accepted.", lambda c, g: _one(c.accepted)),
    Entry(
        "pending_handshakes",
        "gauge",
        "Connections not yet through TLS, request head and authentication.",
        lambda c, g: _one(c.pending),
    ),
    Entry(
        "proxy_failures",
        "counter",
        "Connections of trusted proxies ended because of their PROXY header, by kind: malformed, timeout, eof.",
        lambda c, g: _each(c.proxy_failures),
        ("kind",),
    ),
    Entry("tls_failures", "counter", "Failed TLS handshakes, by kind.", lambda c, g: _each(c.tls_failures), ("kind",)),
    Entry(
        "http_requests",
        "counter",
        "HTTP requests answered, by status; WebSocket handshakes are not among them.",
        lambda c, g: _each(c.http_requests),
        ("status",),
    ),
    Entry(
        "api_requests",
        "counter",
        "Requests of the API, by route and status.",
        lambda c, g: _pairs(c.api_requests),
        ("route", "status"),
    ),
    Entry(
        "tickets",
        "counter",
        "One-time tickets, by what became of them: issued, used, refused.",
        lambda c, g: _each(c.tickets),
        ("outcome",),
    ),
    Entry(
        "resumes",
        "counter",
        "Sessions whose socket was lost: waiting (each, at first), and what became of them: resumed, missed (nobody "
        "came), closed; unknown: tickets that were no good.",
        lambda c, g: _each(c.resumes),
        ("outcome",),
    ),
    Entry(
        "guests", "gauge", "Clients accepted without a token, before they have sent it.", lambda c, g: _one(g.guests)
    ),
    Entry(
        "guests_ended",
        "counter",
        "Guests that are none any more, by what became of them: admitted, left, or the code of the refusal.",
        lambda c, g: _each(c.guests),
        ("outcome",),
    ),
    Entry("handshakes", "counter", "WebSocket handshakes accepted.", lambda c, g: _one(c.handshakes)),
    Entry(
        "handshakes_rejected",
        "counter",
        "WebSocket handshakes refused, by code.",
        lambda c, g: _each(c.rejected),
        ("code",),
    ),
    Entry(
        "addresses_waiting",
        "gauge",
        "Addresses that have to wait because of too many bad tokens.",
        lambda c, g: _one(g.addresses_waiting),
    ),
    Entry("connections", "gauge", "WebSocket connections now.", lambda c, g: _one(c.connections)),
    Entry(
        "protocol_connections",
        "gauge",
        "WebSocket connections now, by protocol.",
        lambda c, g: _each(g.connections_by_protocol),
        ("protocol",),
    ),
    Entry(
        "compressed_connections",
        "gauge",
        "WebSocket connections now that agreed on compression.",
        lambda c, g: _one(c.compressed),
    ),
    Entry(
        "deflate_contexts",
        "gauge",
        "Connections now that keep a compression context; websocket.deflate_contexts bounds them.",
        lambda c, g: _one(c.contexts),
    ),
    Entry(
        "connections_closed",
        "counter",
        "WebSocket connections ended, by close code; 1006: lost without a close frame;"
        " 3000, 4000: any code of the client's own.",
        lambda c, g: _each(c.closed),
        ("code",),
    ),
    Entry("connections_dead", "counter", "Connections found dead by the heartbeat.", lambda c, g: _one(c.dead)),
    # Traffic.
    Entry("messages_received", "counter", "Messages from clients.", lambda c, g: _one(c.messages_in)),
    Entry("control_frames_received", "counter", "Control frames from clients.", lambda c, g: _one(c.control_in)),
    Entry("received_bytes", "counter", "Bytes from clients, without TLS.", lambda c, g: _one(c.bytes_in)),
    Entry("sent_bytes", "counter", "Bytes to clients, without TLS.", lambda c, g: _one(c.bytes_out)),
    Entry(
        "writes",
        "counter",
        "Writes to sockets; messages delivered per write tell how much is sent together.",
        lambda c, g: _one(c.writes),
    ),
    Entry(
        "deflate_input_bytes",
        "counter",
        "Bytes of messages before they were compressed; a frame that many share counts once.",
        lambda c, g: _one(c.deflate_before),
    ),
    Entry(
        "deflate_output_bytes",
        "counter",
        "The same after it.",
        lambda c, g: _one(c.deflate_after),
    ),
    Entry(
        "reads_put_off",
        "counter",
        "Times reading from a connection was put off because of its rates.",
        lambda c, g: _one(c.slowed),
    ),
    Entry(
        "publishers_paused",
        "counter",
        "Times a publisher was not read because a reader of a channel that pauses could not keep up.",
        lambda c, g: _one(c.paused),
    ),
    Entry(
        "urgent_delay_seconds",
        "histogram",
        "How long urgent messages waited for their turn, by channel.",
        lambda c, g: (),
        ("channel",),
    ),
    Entry(
        "urgent_late",
        "counter",
        "Urgent messages that waited longer than outbox.urgent_p99_ms for their turn, by channel.",
        lambda c, g: _each(c.urgent_late),
        ("channel",),
    ),
    Entry(
        "requests_refused",
        "counter",
        "Requests refused on live connections, by code.",
        lambda c, g: _each(c.refused),
        ("code",),
    ),
    Entry(
        "quota_limits",
        "counter",
        "Times a quota was at its limit, by its name and what was done: slowed, refused, dropped or closed.",
        lambda c, g: _pairs(c.quotas),
        ("quota", "action"),
    ),
    Entry(
        "messages_dropped",
        "counter",
        "Messages that a client did not get, by the plugin of their room, channel and reason.",
        lambda c, g: _sets(c.dropped),
        ("plugin", "channel", "reason"),
    ),
    Entry(
        "session_tokens",
        "counter",
        "What became of tokens on live sessions: renewed, refused, read_only, expired, revoked.",
        lambda c, g: _each(c.tokens),
        ("outcome",),
    ),
    Entry("revocations", "gauge", "Revocations in force.", lambda c, g: _one(g.revocations)),
    # Rooms.
    Entry("rooms", "gauge", "Open rooms on this node.", lambda c, g: _one(g.rooms)),
    Entry("memberships", "gauge", "Connections in rooms; one in two rooms counts twice.", lambda c, g: _one(g.members)),
    Entry("messages_published", "counter", "Messages published on this node.", lambda c, g: _one(g.published)),
    Entry(
        "messages_delivered",
        "counter",
        "Messages put into outboxes, one for each receiver.",
        lambda c, g: _one(g.delivered),
    ),
    Entry(
        "remembered_bytes",
        "gauge",
        "What rooms remember, in memory (at most history.memory_bytes).",
        lambda c, g: _one(g.remembered_bytes),
    ),
    Entry(
        "rooms_asleep",
        "gauge",
        "Rooms that nobody is in and that are remembered.",
        lambda c, g: _one(g.rooms_asleep),
    ),
    Entry(
        "disk_queue_bytes",
        "gauge",
        "What durable rooms have said and the disk has not yet.",
        lambda c, g: _one(g.journal_bytes),
    ),
    Entry(
        "disk_failures",
        "counter",
        "Times that messages of durable rooms could not be written.",
        lambda c, g: _one(g.journal_failures),
    ),
    Entry(
        "outbox_bytes",
        "gauge",
        "Bytes waiting for clients in this process, by channel.",
        lambda c, g: _each(g.outbox_bytes),
        ("channel",),
    ),
    Entry(
        "unsent_bytes",
        "gauge",
        "Bytes the kernel has taken for clients and not sent yet; beyond 1,000 connections estimated from 1,000.",
        lambda c, g: _one(g.unsent_bytes),
    ),
    Entry(
        "unsent_bytes_most",
        "gauge",
        "The most of them on one connection, of those looked at.",
        lambda c, g: _one(g.unsent_bytes_most),
    ),
    # Plugins.
    Entry(
        "plugin_failures",
        "counter",
        "Exceptions out of plugin hooks, by plugin.",
        lambda c, g: _each(c.plugin_failures),
        ("plugin",),
    ),
    Entry(
        "plugin_refusals",
        "counter",
        "Requests that plugins refused, by plugin.",
        lambda c, g: _each(c.plugin_refusals),
        ("plugin",),
    ),
    Entry(
        "plugin_stalls",
        "counter",
        "Synchronous hooks that held the event loop beyond supervision.stall, by plugin.",
        lambda c, g: _each(c.plugin_stalls),
        ("plugin",),
    ),
    # The process.
    Entry(
        "config_reloads",
        "counter",
        "Reloads of the configuration, by outcome: ok or failed.",
        lambda c, g: _each(c.reloads),
        ("outcome",),
    ),
    Entry(
        "certificate_expiry_seconds",
        "gauge",
        "When a certificate ends, Unix time, by its file.",
        lambda c, g: _each(g.certificate_expiry),
        ("certificate",),
    ),
    Entry(
        "event_loop_lag_seconds",
        "gauge",
        "Longest recent delay of the event loop.",
        lambda c, g: _one(g.loop_lag),
    ),
    Entry(
        "log_lines_lost",
        "counter",
        "Log lines that could not be written.",
        lambda c, g: _one(g.log_lines_lost),
    ),
    Entry("resident_memory_bytes", "gauge", "Memory of the process in RAM.", lambda c, g: _one(resident_bytes())),
    Entry(
        "short_of_memory",
        "gauge",
        "1: memory is above its mark, and nobody new comes in.",
        lambda c, g: _one(g.short_of_memory),
    ),
    Entry("connections_shed", "counter", "Connections ended because memory was short.", lambda c, g: _one(c.shed)),
    Entry("open_descriptors", "gauge", "File descriptors of the process.", lambda c, g: _one(open_descriptors())),
)
