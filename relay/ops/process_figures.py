"""The metrics of the whole process: they are the same whether there are tenants or not.

Not here: what a metric is (entry), those that each tenant has of its own (tenant_figures). The one rule: what happens
before it is known which tenant is meant belongs here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from relay import __version__
from relay.ops.entry import Entry, each, one, pairs
from relay.ops.memory import resident_bytes


def open_descriptors(folder: Path = Path("/proc/self/fd")) -> int | None:
    """File descriptors of this process, the one that lists them not counted; None where /proc does not tell."""
    try:
        return len(os.listdir(folder)) - 1
    except OSError:
        return None


OF_PROCESS: Final = (
    Entry("build_info", "gauge", "Always 1, with the version.", lambda c, g: [((__version__,), 1)], ("version",)),
    Entry("start_time_seconds", "gauge", "When the process started, Unix time.", lambda c, g: one(g.started_at)),
    Entry(
        "ready",
        "gauge",
        "1: takes new connections; 0: starting, draining or short of memory.",
        lambda c, g: one(g.ready),
    ),
    # Connections.
    Entry("tcp_connections_accepted", "counter", "TCP connections accepted.", lambda c, g: one(c.accepted)),
    Entry(
        "pending_handshakes",
        "gauge",
        "Connections not yet through TLS, request head and authentication.",
        lambda c, g: one(c.pending),
    ),
    Entry(
        "proxy_failures",
        "counter",
        "Connections of trusted proxies ended because of their PROXY header, by kind: malformed, timeout, eof.",
        lambda c, g: each(c.proxy_failures),
        ("kind",),
    ),
    Entry("tls_failures", "counter", "Failed TLS handshakes, by kind.", lambda c, g: each(c.tls_failures), ("kind",)),
    Entry(
        "http_requests",
        "counter",
        "HTTP requests answered, by status; WebSocket handshakes are not among them.",
        lambda c, g: each(c.http_requests),
        ("status",),
    ),
    Entry(
        "api_requests",
        "counter",
        "Requests of the API, by route and status.",
        lambda c, g: pairs(c.api_requests),
        ("route", "status"),
    ),
    Entry("guests", "gauge", "Clients accepted without a token, before they have sent it.", lambda c, g: one(g.guests)),
    Entry(
        "guests_ended",
        "counter",
        "Guests that are none any more, by what became of them: admitted, left, or the code of the refusal.",
        lambda c, g: each(c.guests),
        ("outcome",),
    ),
    Entry(
        "handshakes_rejected",
        "counter",
        "WebSocket handshakes refused, by code.",
        lambda c, g: each(c.rejected),
        ("code",),
    ),
    Entry(
        "addresses_waiting",
        "gauge",
        "Addresses that have to wait because of too many bad tokens.",
        lambda c, g: one(g.addresses_waiting),
    ),
    Entry(
        "compressed_connections",
        "gauge",
        "WebSocket connections now that agreed on compression.",
        lambda c, g: one(c.compressed),
    ),
    Entry(
        "deflate_contexts",
        "gauge",
        "Connections now that keep a compression context; websocket.deflate_contexts bounds them.",
        lambda c, g: one(c.contexts),
    ),
    # Traffic.
    Entry("revocations", "gauge", "Revocations in force.", lambda c, g: one(g.revocations)),
    # Plugins.
    Entry(
        "plugin_stalls",
        "counter",
        "Synchronous hooks that held the event loop beyond supervision.stall, by plugin.",
        lambda c, g: each(c.plugin_stalls),
        ("plugin",),
    ),
    # The process.
    Entry(
        "config_reloads",
        "counter",
        "Reloads of the configuration, by outcome: ok or failed.",
        lambda c, g: each(c.reloads),
        ("outcome",),
    ),
    Entry(
        "certificate_expiry_seconds",
        "gauge",
        "When a certificate ends, Unix time, by its file.",
        lambda c, g: each(g.certificate_expiry),
        ("certificate",),
    ),
    Entry(
        "event_loop_lag_seconds",
        "gauge",
        "Longest recent delay of the event loop.",
        lambda c, g: one(g.loop_lag),
    ),
    Entry(
        "log_lines_lost",
        "counter",
        "Log lines that could not be written.",
        lambda c, g: one(g.log_lines_lost),
    ),
    Entry("resident_memory_bytes", "gauge", "Memory of the process in RAM.", lambda c, g: one(resident_bytes())),
    Entry("open_descriptors", "gauge", "File descriptors of the process.", lambda c, g: one(open_descriptors())),
)
