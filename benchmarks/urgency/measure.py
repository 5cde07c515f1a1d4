"""One run: a link, a server, two publishers, a client; first urgent messages alone, then with bulk before them.

Not here: who takes part (contestants), how it is shown (report). The one rule: every process that is started here is
ended here.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from benchmarks.ctools import ROOT
from benchmarks.urgency.board import Board, Field, Phase
from benchmarks.urgency.contestants import PORT, Contestant, Stage, environment
from benchmarks.urgency.link import Link, Profile, link
from benchmarks.urgency.reader import Record, Task
from benchmarks.urgency.sources import Source
from benchmarks.urgency.trace import Tcp, cpu_seconds, in_words, look_at_tcp, memory

LOOK: Final = 0.25  # seconds between two looks at the server
STOP: Final = 5.0
START: Final = 40.0
IN_FLIGHT: Final = 64 * 1024 * 1024


class RunFailed(Exception):
    """No result; the text says why."""


class Plan(msgspec.Struct, frozen=True):
    """Seconds of urgent messages alone, and of bulk; the seconds between two urgent messages; bytes of bulk."""

    idle: float
    seconds: float
    every: float = 0.05
    window: int = IN_FLIGHT


class Result(msgspec.Struct):
    """What one run measured. Delays in ms beyond the idle link's median `idle_p50`; CPU as a share of one core."""

    server: str
    profile: str
    samples: int = 0
    idle_p50: float = 0.0
    idle_p99: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    most: float = 0.0
    missing: int = 0  # urgent messages that never came
    bulk_mbit: float = 0.0
    bulk_share: float = 0.0  # of the link's rate
    parts: int = 0
    cpu: float = 0.0
    memory_mb: float = 0.0
    where: str = ""
    failed: str = ""
    delays: list[tuple[float, float]] = msgspec.field(default_factory=list)  # (seconds since bulk began, ms)
    tcp: list[Tcp] = msgspec.field(default_factory=list)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def run(contestant: Contestant, profile: Profile, plan: Plan, stage: Stage, congestion: str | None = None) -> Result:
    """One server over one link. Raises RunFailed, or Missing when there can be no link."""
    with link(profile, congestion) as up, ExitStack() as processes:
        return _Run(contestant, plan, stage, up, processes).go()


class _Run:
    def __init__(self, contestant: Contestant, plan: Plan, stage: Stage, up: Link, processes: ExitStack) -> None:
        self.contestant, self.plan, self.stage, self.link = contestant, plan, stage, up
        self.processes = processes
        path = stage.folder / "board"
        path.unlink(missing_ok=True)
        self.board = Board(path)
        self.looks: list[Tcp] = []
        self.memory = 0
        wanted = int(up.profile.rate * 1e6 / 8 * plan.seconds)
        self.total = max(1, wanted // contestant.size) * contestant.size

    def go(self) -> Result:
        contestant, board = self.contestant, self.board
        authority, shared = str(self.stage.certificates.authority), str(self._board_path)
        token = self.stage.token if contestant.relay else ""
        task = Task(PORT, contestant.path, authority, shared, contestant.dialect, contestant.second_socket, token)
        server = self._start("server", self.link.at_server(contestant.command(self.stage)))
        reader = self._start("reader", self.link.at_client(module("reader", task)), stdout=subprocess.PIPE)
        self._until(lambda: board.get(Field.READER_READY) > 0, START, "the client did not connect", reader)
        for kind, path in zip(("urgent", "bulk"), contestant.publish, strict=True):
            source = Source(
                PORT,
                path,
                authority,
                shared,
                token,
                contestant.relay,
                every=self.plan.every,
                size=contestant.size,
                total=self.total,
                window=self.plan.window,
            )
            self._start(kind, self.link.at_server(module("sources", kind, source)))
        board.set(Field.PHASE, Phase.IDLE)
        self._until(lambda: board.get(Field.URGENT_SENT) > 0, START, "no urgent message was sent", reader)
        time.sleep(self.plan.idle)
        before, begun = cpu_seconds(server.pid), time.monotonic()
        board.set(Field.PHASE, Phase.BULK)
        self._watch(server, reader, begun)
        used, took = cpu_seconds(server.pid) - before, time.monotonic() - begun
        board.set(Field.PHASE, Phase.DRAIN)
        output, _ = reader.communicate(timeout=120)
        record = msgspec.json.decode(output, type=Record)
        result = self._judge(record, begun)
        result.cpu, result.memory_mb = used / took, self.memory / 1e6
        return result

    @property
    def _board_path(self) -> Path:
        return self.stage.folder / "board"

    def _watch(self, server: subprocess.Popen[bytes], reader: subprocess.Popen[bytes], begun: float) -> None:
        """Until all bulk has come, or far too much time has passed."""
        limit = begun + self.plan.seconds * 1.8 + 10
        while self.board.get(Field.RECEIVED) < self.total and time.monotonic() < limit:
            time.sleep(LOOK)
            if reader.poll() is not None or server.poll() is not None:
                return
            self.memory = max(self.memory, memory(server.pid))
            self.looks += look_at_tcp(self.link, PORT)[:1]

    def _judge(self, record: Record, begun: float) -> Result:
        contestant, rate = self.contestant, self.link.profile.rate
        result = Result(contestant.name, self.link.profile.name, parts=record.parts, tcp=self.looks)
        if record.ended or len(record.bulk) < 2:
            raise RunFailed(f"{record.ended or 'no bulk came'}\n{self._log()}")
        idle = [received - sent for sent, received in record.urgent if sent < begun]
        first, last = record.bulk[0], record.bulk[-1]
        loaded = [(sent, received - sent) for sent, received in record.urgent if first[0] <= sent <= last[0]]
        if not idle or not loaded:
            raise RunFailed(f"no urgent message came\n{self._log()}")
        floor = median(idle)
        beyond = [(delay - floor) * 1e3 for _, delay in loaded]
        moments = [round(sent - first[0], 3) for sent, _ in loaded]
        result.delays = list(zip(moments, (round(extra, 2) for extra in beyond), strict=True))
        result.samples = len(beyond)
        result.idle_p50, result.idle_p99 = floor * 1e3, percentile(idle, 0.99) * 1e3
        result.p50, result.p90, result.p99 = (percentile(beyond, share) for share in (0.5, 0.9, 0.99))
        result.most = max(beyond)
        result.missing = int(self.board.get(Field.URGENT_SENT)) - len(record.urgent)
        result.bulk_mbit = (last[1] - first[1]) * 8 / (last[0] - first[0]) / 1e6
        result.bulk_share = result.bulk_mbit / rate
        result.where = in_words(self.looks, rate)
        return result

    def _until(self, holds: Callable[[], bool], seconds: float, problem: str, reader: subprocess.Popen[bytes]) -> None:
        if not self.board.wait(lambda: holds() or reader.poll() is not None, seconds) or reader.poll() is not None:
            said = ""
            if reader.poll() is not None and reader.stdout is not None:
                said = msgspec.json.decode(reader.stdout.read() or b"{}", type=Record).ended
            raise RunFailed(f"{problem}: {said}\n{self._log()}")

    def _start(self, name: str, command: list[str], stdout: int | None = None) -> subprocess.Popen[bytes]:
        return self.processes.enter_context(process(self.stage, name, command, stdout))

    def _log(self) -> str:
        """The end of what everybody wrote."""
        logs = ((name, self.stage.folder / f"{name}.log") for name in ("server", "reader", "urgent", "bulk"))
        ends = [(name, log.read_text(errors="replace").strip()[-600:]) for name, log in logs if log.exists()]
        return "\n".join(f"{name}: {text}" for name, text in ends if text)


def module(name: str, *arguments: str | msgspec.Struct) -> list[str]:
    """The command that runs a module of this package; structs are passed as JSON."""
    said = [one if isinstance(one, str) else msgspec.json.encode(one).decode() for one in arguments]
    return [sys.executable, "-m", f"benchmarks.urgency.{name}", *said]


@contextmanager
def process(
    stage: Stage, name: str, command: list[str], stdout: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that logs into NAME.log, until the block is left. "server" runs the code of the stage."""
    serves = name == "server"
    with (stage.folder / f"{name}.log").open("wb") as output:
        started = subprocess.Popen(
            command,
            cwd=stage.folder if serves else ROOT,
            env=environment(stage.source) if serves else environment(),
            stdin=subprocess.DEVNULL,
            stdout=output if stdout is None else stdout,
            stderr=output,
        )
    try:
        yield started
    finally:
        if started.poll() is None:
            started.terminate()
        try:
            started.wait(STOP)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
        if started.stdout is not None:
            started.stdout.close()
