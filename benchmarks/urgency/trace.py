"""Looking at a server from outside while it runs: its CPU time and memory, and what TCP says of the slow connection.

Not here: what clients saw (reader). The one rule: looking must cost next to nothing: four times a second.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from benchmarks.urgency.link import CLIENT_ADDRESS, Link

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_UNITS: Final = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}


class Tcp(msgspec.Struct):
    """One look at the sender's side: ms, segments, bytes, bit/s. `queued` is what lies in the socket, sent or not."""

    control: str
    rtt: float
    min_rtt: float
    cwnd: int
    mss: int
    unacked: int
    notsent: int
    queued: int
    delivery: float
    pacing: float
    lost: int

    @property
    def in_flight(self) -> int:
        return self.unacked * self.mss


def look_at_tcp(link: Link, port: int) -> list[Tcp]:
    """The server's connections to the measured client, that with most in flight first."""
    command = ["ss", "-tinH", "state", "established", "sport", "=", f":{port}", "dst", CLIENT_ADDRESS]
    done = subprocess.run(link.at_server(command), capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    found = [_parse(first, second) for first, second in zip(lines[::2], lines[1::2], strict=False)]
    return sorted(found, key=lambda one: -one.queued)


def _parse(first: str, second: str) -> Tcp:
    def number(pattern: str) -> float:
        found = re.search(pattern, second)
        return float(found[1]) if found else 0.0

    def rate(name: str) -> float:
        found = re.search(rf"\b{name} ([\d.]+)([KMG]?)bps", second)
        return float(found[1]) * _UNITS[found[2]] if found else 0.0

    return Tcp(
        control=second.split(maxsplit=1)[0] if second.split() else "",
        rtt=number(r"\brtt:([\d.]+)"),
        min_rtt=number(r"\bminrtt:([\d.]+)"),
        cwnd=int(number(r"\bcwnd:(\d+)")),
        mss=int(number(r"\bmss:(\d+)")),
        unacked=int(number(r"\bunacked:(\d+)")),
        notsent=int(number(r"\bnotsent:(\d+)")),
        queued=int(first.split()[1]),
        delivery=rate("delivery_rate"),
        pacing=rate("pacing_rate"),
        lost=int(number(r"\bretrans:\d+/(\d+)")),
    )


def in_words(looks: list[Tcp], rate: float) -> str:
    """Where delay came from, as medians: what the network and the kernel's unsent bytes add at `rate` Mbit/s."""
    busy = [one for one in looks if one.in_flight or one.notsent]
    if not busy:
        return "no look at TCP"
    last = looks[-1]
    in_flight, unsent = median(one.in_flight for one in busy), median(one.notsent for one in busy)
    return (
        f"{last.control}: rtt {median(one.rtt for one in busy):.0f} (least {last.min_rtt:.0f}, most "
        f"{max(one.rtt for one in busy):.0f}) ms, in flight {in_flight / 1e3:.0f} KB, not sent {unsent / 1e3:.1f} KB = "
        f"{unsent * 8 / rate / 1e3:.0f} ms, cwnd {median(one.cwnd for one in busy):.0f}, delivery "
        f"{median(one.delivery for one in busy) / 1e6:.1f} Mbit/s, "
        f"pacing {median(one.pacing for one in busy) / 1e6:.1f}, retransmitted {last.lost}"
    )


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory(pid: int) -> int:
    """Resident bytes."""
    found = re.search(r"^VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
