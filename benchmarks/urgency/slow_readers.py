"""Subscribers that never read: what they cost the others, and how much memory they hold.

    python -m benchmarks.urgency slow-readers

1,000 subscribers in a room, 50 of which have a small receive buffer and read nothing, against the same run without the
50. Not here: the load generator (C, see benchmarks/ctools). The one rule: the two kinds of run take turns.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from contextlib import ExitStack
from statistics import median
from typing import Any, Final

import msgspec

from benchmarks.ctools import Tools
from benchmarks.report import table
from benchmarks.urgency.contestants import Stage, relay_command
from benchmarks.urgency.measure import RunFailed, process
from benchmarks.urgency.trace import cpu_seconds, memory
from benchmarks.urgency.wire import Ended, Socket

READERS: Final = 950
STUCK: Final = 50
SIZE: Final = 1024
RATE: Final = 30  # messages a second
CAPACITY: Final = 131072  # bytes: full within the first seconds, so that the measured ones are under the policy
BUFFER: Final = 4096
BAR: Final = 1.1
ROOM: Final = "/rooms/chat:slow"
POLICIES: Final = ("drop_oldest", "close")


class Run(msgspec.Struct):
    """Delivery to those who read, ms; CPU as a share of a core; memory in bytes at its highest."""

    policy: str
    stuck: int
    p50: float
    p99: float
    lost: int
    cpu: float
    memory: int


def measure(stage: Stage, tools: Tools, rounds: int, seconds: float) -> list[Run]:
    """`rounds` times with and without, for each policy. Raises RunFailed."""
    return [
        _run(stage, tools, policy, stuck, seconds) for _ in range(rounds) for policy in POLICIES for stuck in (0, STUCK)
    ]


def lines(runs: list[Run]) -> str:
    """The table, of medians, and the bars: cleared or missed only if the quietest rounds and the pairs agree."""
    head = ("policy when full", "never read", "p50 ms", "p99 ms", "least p99 ms", "lost", "CPU", "memory MB")
    rows, bars = [], []
    for policy in POLICIES:
        without, with_them = ([run for run in runs if (run.policy, run.stuck) == (policy, n)] for n in (0, STUCK))
        rows += [_row(without), _row(with_them)]
        quietest = min(run.p99 for run in with_them) / min(run.p99 for run in without)
        paired = median(one.p99 / other.p99 for one, other in zip(with_them, without, strict=True))
        holds = {ratio <= BAR for ratio in (quietest, paired)}
        verdict = "unclear" if len(holds) > 1 else "cleared" if True in holds else "missed"
        bars.append(f"- `{policy}`: p99 of the others {quietest:.2f} and {paired:.2f} × without: **{verdict}**")
        each = (median(run.memory for run in with_them) - median(run.memory for run in without)) / STUCK
        bounded = "cleared" if each <= 2 * CAPACITY else "missed"  # what Python keeps around a message comes on top
        bars.append(f"- `{policy}`: {each / 1e3:.0f} KB held for each, capacity {CAPACITY / 1e3:.0f}: **{bounded}**")
    return "\n".join([table(head, rows), "", *bars])


def _row(runs: list[Run]) -> list[str]:
    return [
        f"`{runs[0].policy}`",
        str(runs[0].stuck),
        f"{median(run.p50 for run in runs):.1f}",
        f"{median(run.p99 for run in runs):.1f}",
        f"{min(run.p99 for run in runs):.1f}",
        str(sum(run.lost for run in runs)),
        f"{median(run.cpu for run in runs):.0%}",
        f"{median(run.memory for run in runs) / 1e6:.0f}",
    ]


def _run(stage: Stage, tools: Tools, policy: str, stuck: int, seconds: float) -> Run:
    port = _free_port()
    extra = f'channel = "ticker"\n[channels.ticker]\ncapacity = {CAPACITY}\noverflow = "{policy}"\n'
    with ExitStack() as held:
        server = held.enter_context(process(stage, "server", relay_command(stage, extra, port)))
        for _ in range(stuck or 1):
            one = _connect(stage, port)
            held.callback(one.close)
            if not stuck:  # it was only to see that the server is there
                one.close()
        command = [
            str(tools.loadgen), "--port", str(port), "--pid", str(server.pid), "--sub", ROOM, "--pub", ROOM,
            "--hdr", f"Authorization: Bearer {stage.token}", "--mode", "rate", "--rate", str(RATE), "--n", str(READERS),
            "--size", str(SIZE), "--warm", str(CAPACITY / SIZE / RATE + 2), "--settle", "0.5", "--dur", str(seconds),
        ]  # fmt: skip
        load = held.enter_context(process(stage, "loadgen", command, subprocess.PIPE))
        most, used, begun = 0, cpu_seconds(server.pid), time.monotonic()
        while load.poll() is None and time.monotonic() < begun + 90:
            most = max(most, memory(server.pid))
            time.sleep(0.25)
        cpu = (cpu_seconds(server.pid) - used) / (time.monotonic() - begun)
        said = _result(load, stage)
    return Run(policy, stuck, said["p50_ms"], said["p99_ms"], said["lost"] + said["dead"], cpu, most)


def _connect(stage: Stage, port: int) -> Socket:
    """A subscriber that will not read. Raises RunFailed."""
    deadline = time.monotonic() + 20
    while True:
        try:
            authority = stage.certificates.authority
            return Socket(("127.0.0.1", port), ROOM, authority, token=stage.token, receive_buffer=BUFFER)
        except Ended as why:
            if time.monotonic() > deadline:
                raise RunFailed(str(why)) from None
            time.sleep(0.1)


def _result(load: subprocess.Popen[bytes], stage: Stage) -> dict[str, Any]:
    assert load.stdout is not None
    output = load.stdout.read()
    try:
        said: dict[str, Any] = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        logs = (stage.folder / "loadgen.log").read_text() + (stage.folder / "server.log").read_text()
        raise RunFailed(f"no result from the load generator: {logs[-600:]}") from None
    return said


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
