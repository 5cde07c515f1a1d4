"""The picture: a bar from p50 to p99 for each server, on a logarithmic scale, as SVG by hand.

Not here: numbers (report). The one rule: it is readable on light and on dark pages, without colour too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, log10
from typing import Final

LEFT: Final = 250
WIDTH: Final = 860
RIGHT: Final = 70
TOP: Final = 78
ROW: Final = 34
LEAST: Final = 1.0  # ms: what is less is drawn here

STYLE: Final = """\
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 16px; font-weight: 600 }
.small { font-size: 12px; fill: #57606a }
.grid { stroke: #d0d7de }
.ours { fill: #0969da }
.other { fill: #8c959f }
.p99 { opacity: .45 }
.ground { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 } .grid { stroke: #3d444d } .ground { fill: #0d1117 }
  .ours { fill: #4493f8 } .other { fill: #7d8590 }
}"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One server; delays in ms."""

    title: str
    p50: float
    p99: float
    ours: bool


def draw(bars: Sequence[Bar], link: str) -> str:
    """The whole file."""
    decades = max(1, ceil(log10(max([LEAST * 10, *(bar.p99 for bar in bars)]))))
    height = TOP + ROW * len(bars) + 44

    def x(delay: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * log10(max(delay, LEAST) / LEAST) / decades

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="t">',
        '<title id="t">Delay of urgent messages while bulk is sent to the same client</title>',
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height}"/>',
        '<text class="title" x="16" y="26">How late an urgent message is behind 64 MB of bulk</text>',
        f'<text class="small" x="16" y="46">beyond the idle link; {escape(link)}; full: p50, faint: to p99</text>',
    ]
    bottom = TOP + ROW * len(bars)
    for decade in range(decades + 1):
        at, label = x(10.0**decade), _time(10.0**decade)
        parts.append(f'<line class="grid" x1="{at:.1f}" y1="{TOP - 8}" x2="{at:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="small" x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    for number, bar in enumerate(bars):
        top, kind = TOP + ROW * number, "ours" if bar.ours else "other"
        middle, start = top + ROW / 2 - 4, x(LEAST)
        parts.append(f'<text x="{LEFT - 10}" y="{middle + 4:.0f}" text-anchor="end">{escape(bar.title)}</text>')
        for share, delay in (("p99", bar.p99), ("p50", bar.p50)):
            length = max(2.0, x(delay) - start)
            box = f'x="{start:.1f}" y="{top + 3}" width="{length:.1f}" height="{ROW - 14}" rx="2"'
            parts.append(f'<rect class="{kind} {share}" {box}/>')
        said = f"{_time(bar.p50)} / {_time(bar.p99)}"
        parts.append(f'<text class="small" x="{x(bar.p99) + 6:.1f}" y="{middle + 4:.0f}">{said}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _time(delay: float) -> str:
    """ms, in the unit one would say it in."""
    return f"{delay / 1000:.3g} s" if delay >= 1000 else f"{max(delay, 0):.3g} ms"
