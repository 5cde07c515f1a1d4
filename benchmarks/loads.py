"""The loads, who gets them, and the bars the relay has to clear under each.

Not here: running them (runs) or showing what came out (report). The one rule: a bar that compares has two estimates of
its ratio, and is cleared or missed only when both say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.runs import Summary

Summaries = Mapping[str, Summary]
"""By server name."""

RELAY: Final = "relay"
LIMIT: Final = "c"


@dataclass(frozen=True, slots=True)
class Bar:
    """What must hold: every value of `estimates` at most `limit`. None: a server it needs was not measured."""

    text: str
    limit: float
    estimates: Callable[[Summaries], list[float] | None]

    def verdict(self, summaries: Summaries) -> tuple[str, str]:
        """("cleared" | "missed" | "unclear" | "not measured", what was measured)."""
        values = self.estimates(summaries)
        if not values:
            return "not measured", ""
        said = " and ".join(dict.fromkeys(f"{value:.3g}" for value in values))
        cleared = {value <= self.limit for value in values}
        return ("unclear" if len(cleared) > 1 else "cleared" if True in cleared else "missed"), said


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load. `arguments` are loadgen's; with `echo`, clients go to the echo address."""

    name: str
    title: str
    servers: tuple[str, ...]
    arguments: tuple[str, ...]
    bars: tuple[Bar, ...]
    echo: bool = False
    idle: bool = False
    handshakes: bool = False

    def limit_server(self) -> str:
        """The C loop that ratios are taken against."""
        return LIMIT if LIMIT in self.servers else "c-batch"


def ratios(summaries: Summaries, other: str) -> list[float] | None:
    """CPU per delivery of the relay over another server's: of the quietest rounds, and the median over rounds that ran
    side by side.
    """
    relay, peer = summaries.get(RELAY), summaries.get(other)
    if relay is None or peer is None:
        return None
    return relay.ratios_to(peer)


def _at_most(times: float, other: str, title: str) -> Bar:
    return Bar(f"CPU per delivery ≤ {times:g} × {title}", times, lambda summaries: ratios(summaries, other))


def _of_relay(text: str, limit: float, values: Callable[[Summary], list[float]]) -> Bar:
    def estimates(summaries: Summaries) -> list[float] | None:
        relay = summaries.get(RELAY)
        return values(relay) if relay is not None and relay.runs else None

    return Bar(text, limit, estimates)


PYTHON_PEERS: Final = {
    "websockets": "websockets", "aiohttp": "aiohttp", "starlette": "Starlette on uvicorn", "picows": "picows on uvloop",
}  # fmt: skip


def _less_than(other: str, title: str) -> Bar:
    return Bar(f"CPU per handshake < {title}", 1.0, lambda summaries: ratios(summaries, other))


ALL: Final[Mapping[str, Load]] = {
    load.name: load
    for load in (
        Load(
            "fanout",
            "Fan-out: 1 publisher, 1,000 subscribers, 128 bytes, one message in flight",
            ("c", RELAY, "websockets", "picows"),
            ("--mode", "sat", "--window", "1", "--n", "1000"),
            (_at_most(1.25, "c", "the C loop"), _at_most(0.7, "websockets", "websockets' `broadcast()`")),
        ),
        Load(
            "open-loop",
            "Open loop: 4,000 messages a second to 100 subscribers, 400,000 deliveries a second",
            ("c-batch", RELAY, "websockets", "picows"),
            ("--mode", "rate", "--rate", "4000", "--n", "100"),
            (
                _of_relay("lost or later than 0.2 s after the end: none", 0, lambda relay: [float(relay.lost)]),
                _of_relay(
                    "p99 < 20 ms (best round, median of rounds)",
                    20,
                    lambda relay: [min(run.p99 for run in relay.runs), median(run.p99 for run in relay.runs)],
                ),
            ),
        ),
        Load(
            "ping-pong",
            "Ping-pong: 1,000 clients, 128 bytes, each sends again when its message has come back",
            ("c", RELAY, "websockets", "picows"),
            ("--mode", "echo", "--n", "1000"),
            (_at_most(1.8, "c", "the C loop"),),
            echo=True,
        ),
        Load(
            "idle",
            "Idle: 1,000 connections that say nothing",
            ("c", RELAY, "websockets", "picows"),
            ("--mode", "idle", "--n", "1000"),
            (_of_relay("memory per connection ≤ 28 KB", 28, lambda relay: [relay.kb_per_connection]),),
            idle=True,
        ),
        Load(
            "handshakes",
            "Handshakes: TCP, TLS 1.3, upgrade and close, 3,000 of them, 16 at a time",
            ("c", RELAY, *PYTHON_PEERS),
            ("--mode", "hs", "--count", "3000", "--conc", "16"),
            tuple(_less_than(name, title) for name, title in PYTHON_PEERS.items()),
            handshakes=True,
        ),
    )
}
