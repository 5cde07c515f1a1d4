"""What came out: tables in Markdown, verdicts on the bars, the JSON file, and the blocks of docs/performance.md.

Not here: measuring. The one rule: a figure never stands without the machine, the day and the noise it was measured in.
"""

from __future__ import annotations

import json
import os
import platform
import re
import ssl
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from benchmarks.ctools import ROOT
from benchmarks.loads import RELAY, Load, Summaries
from benchmarks.runs import Summary

RESULTS: Final = ROOT / "benchmarks" / "results"
PAGE: Final = ROOT / "docs" / "performance.md"
NOISY: Final = 0.1  # share of the time spent waiting for a core, beyond which a table says so


def environment() -> dict[str, str]:
    """The machine and the versions a figure depends on."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "cpu": f"{_cpu()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION.removeprefix("OpenSSL ").split()[0],
        **{
            name: _version(name)
            for name in ("trio", "websockets", "aiohttp", "uvicorn", "starlette", "picows", "uvloop")
        },
    }


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _cpu() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column holds text, all others figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def caption(summaries: Summaries, about: dict[str, str], rounds: int) -> str:
    """One line: where, when, how often, how noisy."""
    share = max((one.median_of(lambda run: run.waited) for one in summaries.values() if one.runs), default=0.0)
    noise = f"; **noisy: processes waited for a core up to {share:.0%} of the time**" if share > NOISY else ""
    machine = f"{about['cpu']}; {about['system']}, CPython {about['python']}, OpenSSL {about['openssl']}"
    return (
        f"{about['date']}, {about['commit']}, {rounds} interleaved round{'s' if rounds > 1 else ''}; {machine}{noise}."
    )


def results(load: Load, summaries: Summaries) -> str:
    """The table of one load."""
    if load.idle:
        return table(
            ("server", "KB per connection", "CPU µs to connect", "failed"),
            [_idle_row(summary) for summary in summaries.values()],
        )
    if load.handshakes:
        return table(
            ("server", "CPU µs per handshake", "median of rounds", "× C loop", "the relay over it", "p50 ms", "p99 ms",
             "failed"),
            [_handshake_row(load, summary, summaries) for summary in summaries.values()],
        )  # fmt: skip
    head = (
        "server", "CPU µs per delivery", "median of rounds", "× C loop", "× C, side by side", "× websockets",
        "p50 ms", "p99 ms", "deliveries/s", "lost", "KB per connection",
    )  # fmt: skip
    return table(head, [_row(load, summary, summaries) for summary in summaries.values()])


def _row(load: Load, summary: Summary, summaries: Summaries) -> list[str]:
    if not summary.runs:
        return [summary.server.title, "failed", *[""] * 9]
    to_c = _ratios(summary, summaries.get(load.limit_server()))
    to_websockets = _ratios(summary, summaries.get("websockets"))
    return [
        summary.server.title,
        f"{summary.quietest.cpu:.2f}",
        f"{summary.median_of(lambda run: run.cpu):.2f}",
        to_c[0],
        to_c[1],
        to_websockets[0],
        f"{summary.median_of(lambda run: run.p50):.1f}",
        f"{summary.median_of(lambda run: run.p99):.1f}",
        f"{summary.median_of(lambda run: run.per_second):,.0f}",
        f"{summary.lost:,}",
        f"{summary.kb_per_connection:.1f}",
    ]


def _handshake_row(load: Load, summary: Summary, summaries: Summaries) -> list[str]:
    if not summary.runs:
        return [summary.server.title, "failed", *[""] * 6]
    relay = summaries.get(RELAY)
    over = relay.ratios_to(summary) if relay is not None and relay.runs and relay is not summary else None
    return [
        summary.server.title,
        f"{summary.quietest.cpu:.0f}",
        f"{summary.median_of(lambda run: run.cpu):.0f}",
        _ratios(summary, summaries.get(load.limit_server()))[0],
        f"{over[1]:.2f}" if over else "",
        f"{summary.median_of(lambda run: run.p50):.1f}",
        f"{summary.median_of(lambda run: run.p99):.1f}",
        f"{summary.lost:,}",
    ]


def _ratios(summary: Summary, other: Summary | None) -> tuple[str, str]:
    found = summary.ratios_to(other) if other is not None and other.runs else None
    return (f"{found[0]:.2f}", f"{found[1]:.2f}") if found else ("", "")


def _idle_row(summary: Summary) -> list[str]:
    if not summary.runs:
        return [summary.server.title, "failed", "", ""]
    connect = summary.median_of(lambda run: run.connect_us)
    return [summary.server.title, f"{summary.kb_per_connection:.1f}", f"{connect:.0f}", f"{summary.lost:,}"]


def bars(load: Load, summaries: Summaries) -> str:
    """Each bar with what was measured and whether it is cleared."""
    lines = []
    for bar in load.bars:
        verdict, measured = bar.verdict(summaries)
        lines.append(f"- {bar.text}: {f'{measured}, ' if measured else ''}**{verdict}**")
    failures = [
        f"- {one.server.title}: {one.failures[0].splitlines()[0]}" for one in summaries.values() if one.failures
    ]
    return "\n".join(lines + failures)


def block(load: Load, summaries: Summaries, about: dict[str, str], rounds: int) -> str:
    """All there is to say about one load."""
    parts = (caption(summaries, about, rounds), results(load, summaries), bars(load, summaries))
    return "\n\n".join(parts)


def save(found: dict[str, Summaries], about: dict[str, str], options: dict[str, Any]) -> Path:
    """Everything as JSON, slices included, for later comparison."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    loads = {
        name: {
            server: {"failures": summary.failures, "runs": [asdict(run) for run in summary.runs]}
            for server, summary in summaries.items()
        }
        for name, summaries in found.items()
    }
    path.write_text(json.dumps({"environment": about, "options": options, "loads": loads}, indent=1) + "\n")
    return path


def write_page(blocks: dict[str, str], page: Path = PAGE) -> None:
    """Replaces what stands between `<!-- measured: LOAD -->` and `<!-- end -->`. Raises ValueError without these."""
    text = page.read_text()
    for name, content in blocks.items():
        marks = re.compile(rf"(<!-- measured: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = marks.subn(partial(_refill, content), text)
        if count != 1:
            raise ValueError(f"{page.name} has {count} blocks for {name!r}, not one")
    page.write_text(text)


def _refill(content: str, found: re.Match[str]) -> str:
    return f"{found[1]}{content}\n{found[2]}"
