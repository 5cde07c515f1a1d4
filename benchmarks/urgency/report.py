"""What came out: tables in Markdown, JSON, and the blocks and the picture of docs/urgency.md.

Not here: measuring. The one rule: a figure never stands without the machine and the day it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.ctools import ROOT
from benchmarks.report import RESULTS, environment, write_page
from benchmarks.report import table as markdown
from benchmarks.urgency import plot
from benchmarks.urgency.contestants import CONTESTANTS
from benchmarks.urgency.link import Profile
from benchmarks.urgency.measure import Result

PAGE: Final = ROOT / "docs" / "urgency.md"
PICTURE: Final = ROOT / "docs" / "urgency.svg"
ALTERNATIVE: Final = "A bar for each server from the median to the 99th percentile of the delay of urgent messages"
HEAD: Final = (
    "server",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "most ms",
    "bulk Mbit/s",
    "of the link",
    "CPU",
    "idle p99 ms",
    "samples",
)


def in_short(result: Result) -> str:
    """A line for the terminal, and where the delay came from."""
    if result.failed:
        return f"{result.server}: FAILED: {result.failed}"
    return (
        f"{result.server}: p50 {result.p50:.1f}, p90 {result.p90:.1f}, p99 {result.p99:.1f}, most {result.most:.1f} ms "
        f"beyond {result.idle_p50:.1f} ms idle (p99 {result.idle_p99:.1f}); bulk {result.bulk_mbit:.2f} Mbit/s "
        f"= {result.bulk_share:.1%}; CPU {result.cpu:.0%}, {result.memory_mb:.0f} MB; {result.samples} samples, "
        f"{result.missing} missing, {result.parts} parts\n    {result.where}"
    )


def table(results: Sequence[Result]) -> str:
    """Delays in ms beyond the idle link's median, that of the idle link itself included: how noisy the machine was."""
    return markdown(HEAD, [_row(result) for result in results])


def _row(result: Result) -> list[str]:
    title = CONTESTANTS[result.server].title
    if result.failed:
        return [title, "failed", *[""] * (len(HEAD) - 2)]
    delays = (result.p50, result.p90, result.p99, result.most)
    return [
        title,
        *(f"{delay:,.0f}" if delay >= 100 else f"{delay:.1f}" for delay in delays),
        f"{result.bulk_mbit:.1f}",
        f"{result.bulk_share:.0%}",
        f"{result.cpu:.0%}",
        f"{result.idle_p99 - result.idle_p50:.1f}",
        str(result.samples),
    ]


def save(found: Mapping[Profile, Sequence[Result]], options: Mapping[str, Any]) -> Path:
    """Everything, each sample included."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"urgency-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    links = {profile.name: {"link": profile.title, "results": results} for profile, results in found.items()}
    everything = {
        "environment": environment(),
        "options": {name: str(value) for name, value in options.items()},
        "links": links,
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(everything), indent=1) + b"\n")
    return path


def caption() -> str:
    about = environment()
    machine = f"{about['cpu']}; {about['system']}, CPython {about['python']}, OpenSSL {about['openssl']}"
    return f"{about['date']}, {about['commit']}; {machine}."


def write_block(name: str, text: str) -> None:
    """One block of the page. Raises ValueError without its marks."""
    write_page({name: f"{caption()}\n\n{text}"}, PAGE)


def write_docs(found: Mapping[Profile, Sequence[Result]]) -> None:
    """A block for each link that was measured; the picture is of the first. Raises ValueError without the marks."""
    for profile, results in found.items():
        write_block(profile.name, table(results))
    first, results = next(iter(found.items()))
    bars = [
        plot.Bar(CONTESTANTS[one.server].title.replace("`", ""), one.p50, one.p99, ours="relay" in one.server)
        for one in results
        if not one.failed
    ]
    PICTURE.write_text(plot.draw(bars, first.title))
    write_page({"picture": f"![{ALTERNATIVE}]({PICTURE.name})"}, PAGE)
