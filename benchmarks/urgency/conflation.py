"""Values that change faster than a slow link can carry: how old is what the client has of each key?

    python -m benchmarks.urgency conflation

A publisher gives 200 keys a new value 60 times a second each, in the channel `state` (overflow `latest`); the client is
behind 1 Mbit/s. Not here: the link, the processes. The one rule: age is looked at when nothing comes, too: every 10 ms.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from benchmarks.report import table
from benchmarks.urgency.board import Board, Field, Phase
from benchmarks.urgency.contestants import PORT, Stage, relay_command
from benchmarks.urgency.dialects import V1, Bare, Dialect, RelayV1, number_of, sent_at
from benchmarks.urgency.link import SERVER_ADDRESS, Profile, link
from benchmarks.urgency.measure import RunFailed, module, percentile, process
from benchmarks.urgency.sources import Source
from benchmarks.urgency.trace import cpu_seconds, memory
from benchmarks.urgency.wire import Ended, Socket

LINK: Final = Profile("1", 1, 20, 256)
KEYS: Final = 200
UPDATES: Final = 60
SETTLE: Final = 2.0  # seconds until all is in full swing
STEP: Final = 0.01
BAR: Final = 0.25  # seconds
CLIENTS: Final = {
    "relay.v1": ("/ws", V1),
    "relay.v1, `fields=key`": ("/ws?fields=key", V1),
    "plain": ("/rooms/chat:bench", ""),
}
ROOM: Final = 'channel = "state"'  # as a room of such values is configured: what need not be said is not said
GROWTH: Final = 4e6  # bytes of memory that are still flat


class Ages(msgspec.Struct):
    """Seconds: of every key at every look, as the oldest at each look, and of all."""

    oldest: list[float] = msgspec.field(default_factory=list)
    sample: list[float] = msgspec.field(default_factory=list)
    messages: int = 0
    ended: str = ""


class Result(msgspec.Struct):
    """`oldest`: the age of the oldest value the client held at any moment; memory in bytes, one look a second."""

    client: str
    p50: float
    p99: float
    oldest: float
    received: float
    published: float
    cpu: float
    memory: list[int]

    @property
    def flat(self) -> bool:
        return self.memory[-1] - self.memory[0] < GROWTH

    def row(self) -> tuple[str, ...]:
        return (
            self.client,
            f"{self.p50 * 1e3:.0f}",
            f"{self.p99 * 1e3:.0f}",
            f"{self.oldest * 1e3:.0f}",
            f"{self.published:,.0f}",
            f"{self.received:,.0f}",
            f"{self.cpu:.0%}",
            f"{self.memory[0] / 1e6:.1f} to {self.memory[-1] / 1e6:.1f}",
        )

    def bars(self) -> list[str]:
        age, flat = ("cleared" if holds else "missed" for holds in (self.oldest <= BAR, self.flat))
        return [
            f"- {self.client}: never older than {BAR * 1e3:.0f} ms: **{age}**",
            f"- {self.client}: memory is flat: **{flat}**",
        ]


HEAD: Final = (
    "client", "age p50 ms", "p99 ms", "oldest ms", "updates/s published", "updates/s received", "CPU", "memory MB",
)  # fmt: skip


def lines(results: Sequence[Result]) -> str:
    """The table, and the bars."""
    bars = [bar for result in results for bar in result.bars()]
    return "\n".join([table(HEAD, [result.row() for result in results]), "", *bars])


def measure(stage: Stage, client: str, seconds: float, congestion: str | None = None) -> Result:
    """`client`: a key of CLIENTS. Raises RunFailed, or Missing when there can be no link."""
    board_path, authority = str(stage.folder / "board"), str(stage.certificates.authority)
    Path(board_path).unlink(missing_ok=True)
    board = Board(Path(board_path))
    with link(LINK, congestion) as up, ExitStack() as processes:
        start = processes.enter_context
        server = start(process(stage, "server", up.at_server(relay_command(stage, ROOM))))
        task = Source(PORT, "/ws", authority, board_path, stage.token, relay=True, every=1 / UPDATES, keys=KEYS)
        reader = start(process(stage, "reader", up.at_client(module("conflation", client, task)), subprocess.PIPE))
        start(process(stage, "state", up.at_server(module("sources", "state", task))))
        if not board.wait(lambda: board.get(Field.READER_READY) > 0, 30):
            raise RunFailed("the client did not connect")
        board.set(Field.PHASE, Phase.BULK)
        time.sleep(SETTLE)
        used, rounds, begun = cpu_seconds(server.pid), board.get(Field.URGENT_SENT), time.monotonic()
        looks = [memory(server.pid)]
        while time.monotonic() < begun + seconds and reader.poll() is None:
            time.sleep(1)
            looks.append(memory(server.pid))
        took = time.monotonic() - begun
        published = (board.get(Field.URGENT_SENT) - rounds) * KEYS / took
        cpu = (cpu_seconds(server.pid) - used) / took
        board.set(Field.PHASE, Phase.DRAIN)
        output, _ = reader.communicate(timeout=20)
    ages = msgspec.json.decode(output, type=Ages)
    if ages.ended or not ages.oldest:
        raise RunFailed(ages.ended or "no value came")
    received = ages.messages / (len(ages.oldest) * STEP)
    return Result(
        client, median(ages.sample), percentile(ages.sample, 0.99), max(ages.oldest), received, published, cpu, looks
    )


def read(client: str, task: Source) -> Ages:
    """The client: the newest value of each key, and its age every STEP seconds."""
    ages, newest = Ages(), dict[int, float]()
    board = Board(Path(task.board))
    deadline = time.monotonic() + 30
    while True:
        try:
            address = (SERVER_ADDRESS, task.port)
            path, subprotocol = CLIENTS[client]
            socket = Socket(address, path, Path(task.authority), token=task.token, subprotocol=subprotocol)
            break
        except Ended as why:
            if time.monotonic() > deadline:
                return Ages(ended=str(why))
            time.sleep(0.1)
    try:
        dialect: Dialect = RelayV1() if subprotocol else Bare()
        dialect.begin(socket)
        socket.poll()
        board.set(Field.READER_READY, 1)
        board.wait(lambda: board.phase >= Phase.BULK, 30)
        look = time.monotonic() + SETTLE
        measured_from = look
        while board.phase < Phase.DRAIN:
            while (got := socket.receive()) is not None:
                payloads = dialect.payloads(got[1])
                ages.messages += len(payloads) if got[0] >= measured_from else 0
                for payload in payloads:
                    newest[number_of(payload)] = sent_at(payload) or 0.0
            now = time.monotonic()
            if now >= look:
                held = [now - moment for moment in newest.values()]
                ages.oldest.append(max(held) if len(held) == task.keys else float(task.keys))
                ages.sample += held[len(ages.oldest) % 20 :: 20]
                look += STEP
            time.sleep(max(0.0, min(STEP / 5, look - time.monotonic())))
    except Ended as why:
        if board.phase < Phase.DRAIN:
            ages.ended = str(why)
    return ages


def main() -> None:
    sys.stdout.buffer.write(msgspec.json.encode(read(sys.argv[1], msgspec.json.decode(sys.argv[2], type=Source))))


if __name__ == "__main__":
    main()
