"""What the relay counts, as plain integers: an addition costs 40 ns, a metrics library's counter five to twenty times
that.

Not here: names and text of the metrics (ops/metrics reads this object when somebody asks). The one rule: labels come
from closed sets (codes, channels, plugin names), never from clients.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from typing import Final

DELAYS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Upper bounds of a delay histogram's buckets, seconds; one more bucket has the rest."""


class Delays:
    """A histogram of delays in seconds."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(DELAYS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.buckets[bisect_left(DELAYS, seconds)] += 1
        self.total += seconds


class Counters:
    """One object for the process. Everything only grows, but for the gauges."""

    __slots__ = (
        "accepted",
        "api_requests",
        "bytes_in",
        "bytes_out",
        "closed",
        "compressed",
        "connections",
        "contexts",
        "control_in",
        "dead",
        "deflate_after",
        "deflate_before",
        "dropped",
        "guests",
        "handshakes",
        "http_requests",
        "messages_in",
        "paused",
        "pending",
        "plugin_failures",
        "plugin_refusals",
        "plugin_stalls",
        "plugin_waits",
        "proxy_failures",
        "quotas",
        "refused",
        "rejected",
        "reloads",
        "resumes",
        "shed",
        "slowed",
        "tickets",
        "tls_failures",
        "tokens",
        "urgent_delays",
        "urgent_late",
        "writes",
    )  # fmt: skip

    def __init__(self) -> None:
        self.accepted = 0  # TCP connections
        self.pending = 0  # gauge: not yet through TLS, head and authentication
        self.proxy_failures: dict[str, int] = defaultdict(int)  # PROXY headers, by kind: malformed, timeout, eof
        self.tickets: dict[str, int] = defaultdict(int)  # by what became of them: issued, used, refused
        self.guests: dict[str, int] = defaultdict(int)  # by what became of them: admitted, left, or the code
        self.tls_failures: dict[str, int] = defaultdict(int)  # by kind: timeout, protocol, certificate, eof
        self.http_requests: dict[int, int] = defaultdict(int)  # by status, WebSocket refusals not included
        self.api_requests: dict[tuple[str, int], int] = defaultdict(int)  # by (route, status)
        self.handshakes = 0  # WebSocket handshakes answered with 101
        self.rejected: dict[str, int] = defaultdict(int)  # handshakes refused, by code
        self.connections = 0  # gauge: WebSocket connections now
        self.compressed = 0  # gauge: WebSocket connections that agreed on compression
        self.contexts = 0  # gauge: those of them that keep a context
        self.deflate_before = self.deflate_after = 0  # bytes of messages compressed, once for all who share the frame
        self.closed: dict[int, int] = defaultdict(int)  # WebSocket connections ended, by close code (1006: lost)
        self.dead = 0  # found dead by the heartbeat
        self.messages_in = 0
        self.control_in = 0  # control frames from clients
        self.bytes_in = 0
        self.bytes_out = 0
        self.writes = 0  # writes to sockets; messages per write tells how much coalescing there is
        self.paused = 0  # times a producer was not read because a reader could not keep up
        self.shed = 0  # connections ended because memory was short
        self.slowed = 0  # times reading from a connection was put off because of its rates
        self.quotas: dict[tuple[str, str], int] = defaultdict(int)  # bounds met, by (quota, what was done)
        self.refused: dict[str, int] = defaultdict(int)  # requests refused on live connections, by code
        self.dropped: dict[tuple[str, str, str], int] = defaultdict(int)  # messages, by (plugin, channel, reason)
        self.plugin_failures: dict[str, int] = defaultdict(int)
        self.plugin_refusals: dict[str, int] = defaultdict(int)
        self.plugin_stalls: dict[str, int] = defaultdict(int)
        self.plugin_waits: dict[str, int] = defaultdict(int)  # calls of slow hooks that waited for others of the plugin
        self.urgent_delays: dict[str, Delays] = defaultdict(
            Delays
        )  # what urgent messages waited for their turn, by channel
        self.urgent_late: dict[str, int] = defaultdict(int)  # those that waited longer than outbox.urgent_p99_ms
        self.tokens: dict[str, int] = defaultdict(
            int
        )  # of live sessions: renewed, refused, read_only, expired, revoked
        self.resumes: dict[str, int] = defaultdict(int)  # of sessions whose socket was lost, by what became of them
        self.reloads: dict[str, int] = defaultdict(int)  # by outcome: ok, failed
