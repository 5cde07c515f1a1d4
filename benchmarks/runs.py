"""Running a load against servers in turn, round after round, and making figures of what the load generator measured.

Not here: which loads (loads), how servers start (servers). The one rule: servers take turns, so that a noisy minute
hits all of them; CPU time of the server's process is what is compared, because wall-clock rates mislead on a
busy machine.

The table figure of a server is the median of the 100 ms slices of its quietest round: noise only ever adds CPU time.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from benchmarks.servers import Running, Server, ServerFailed, Stage, running

if TYPE_CHECKING:
    from benchmarks.loads import Load

SPARE: Final = 60.0  # seconds a run may take longer than planned, connecting included


class RunFailed(Exception):
    """A run that gave no result; the text says why."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: measured, before that under load, and before that at rest."""

    measured: float
    warm: float
    settle: float


@dataclass(frozen=True, slots=True)
class Run:
    """What one run measured. CPU in µs per delivery or handshake, latency in ms, `waited`: how long server and
    generator together waited for a core, as a share of the time (0: a quiet machine); `raw` is all that loadgen said.
    """

    round: int
    cpu: float
    waited: float
    p50: float
    p99: float
    per_second: float
    lost: int
    kb_per_connection: float
    connect_us: float
    raw: dict[str, Any]

    @classmethod
    def of(cls, number: int, raw: dict[str, Any]) -> Run:
        slices = raw.get("sl") or []
        return cls(
            round=number,
            cpu=median(one[0] for one in slices) if slices else raw.get("cpu_us", 0.0),
            waited=median(one[1] for one in slices) if slices else 0.0,
            p50=raw.get("p50_ms", 0.0),
            p99=raw.get("p99_ms", 0.0),
            per_second=raw.get("deliv_per_s", raw.get("per_s", 0.0)),
            lost=raw.get("lost", 0) + raw.get("dead", 0) + raw.get("failed", 0),
            kb_per_connection=raw.get("kb_per_conn", 0.0),
            connect_us=raw.get("conn_cpu_us", 0.0),
            raw=raw,
        )


@dataclass(slots=True)
class Summary:
    """All runs of one server under one load."""

    server: Server
    runs: list[Run] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def quietest(self) -> Run:
        return min(self.runs, key=lambda run: run.cpu)

    @property
    def lost(self) -> int:
        return sum(run.lost for run in self.runs)

    @property
    def kb_per_connection(self) -> float:
        return self.median_of(lambda run: run.kb_per_connection)

    def median_of(self, value: Callable[[Run], float]) -> float:
        return median(map(value, self.runs))

    def ratios_to(self, other: Summary) -> list[float] | None:
        """CPU per delivery here over there: of the quietest rounds, and the median over the rounds both have."""
        theirs = {run.round: run.cpu for run in other.runs}
        side_by_side = [run.cpu / theirs[run.round] for run in self.runs if theirs.get(run.round)]
        if not side_by_side or not other.quietest.cpu:
            return None
        return [self.quietest.cpu / other.quietest.cpu, median(side_by_side)]


def measure(
    load: Load, servers: Sequence[Server], stage: Stage, *, rounds: int, pace: Pace, tell: Callable[[str], None]
) -> dict[str, Summary]:
    """`rounds` rounds of one load; `tell` hears of each run. A server that fails once is left out from then on."""
    summaries = {server.name: Summary(server) for server in servers}
    for number in range(1, rounds + 1):
        for summary in summaries.values():
            if summary.failures:
                continue
            try:
                with running(summary.server, stage) as started:
                    run = Run.of(number, _generate(load, started, stage, pace))
            except (RunFailed, ServerFailed) as failure:
                summary.failures.append(str(failure))
                tell(f"{load.name} {number}/{rounds} {summary.server.name}: FAILED: {failure}")
                continue
            summary.runs.append(run)
            tell(f"{load.name} {number}/{rounds} {summary.server.name}: {_in_short(load, run)}")
    return summaries


def _generate(load: Load, started: Running, stage: Stage, pace: Pace) -> dict[str, Any]:
    """One run of the load generator, its JSON line decoded. Raises RunFailed."""
    paths = started.server.paths
    subscribe, publish = (paths.echo, paths.echo) if load.echo else (paths.subscribe, paths.publish)
    command = [
        "taskset", "-c", str(stage.load_core), str(stage.tools.loadgen),
        "--port", str(started.port), "--pid", str(started.pid), "--sub", subscribe, "--pub", publish,
        "--dur", str(pace.measured), "--warm", str(pace.warm), "--settle", str(pace.settle), *load.arguments,
    ]  # fmt: skip
    if started.server.token:
        command += ["--hdr", f"Authorization: Bearer {stage.token}"]
    limit = pace.measured + pace.warm + pace.settle + SPARE
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise RunFailed(f"the load generator did not end within {limit:g} s\n{started.end_of_log()}") from None
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise RunFailed(f"no result: {done.stderr.strip()[-500:]}\n{started.end_of_log()}")
    try:
        found: dict[str, Any] = json.loads(lines[-1])
    except ValueError:  # nothing was delivered, so loadgen divided by zero
        raise RunFailed(f"nothing was delivered\n{started.end_of_log()}") from None
    return found


def _in_short(load: Load, run: Run) -> str:
    if load.idle:
        return f"{run.kb_per_connection:.1f} KB per connection, {run.connect_us:.0f} µs to connect"
    if load.handshakes:
        return f"{run.cpu:.0f} µs per handshake, p99 {run.p99:.1f} ms, failed {run.lost}"
    return f"{run.cpu:.2f} µs per delivery, p99 {run.p99:.1f} ms, lost {run.lost}, waited {run.waited:.0%}"
