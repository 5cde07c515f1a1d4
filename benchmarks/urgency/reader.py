"""The measured client: on the other side of the link, over wss, it notes when each urgent message came.

    python -m benchmarks.urgency.reader JSON

Not here: judging the numbers (figures). The one rule: a message's time is that of the read that completed it.
"""

from __future__ import annotations

import gc
import selectors
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.urgency.board import Board, Field, Phase
from benchmarks.urgency.dialects import V1, Bare, Dialect, RelayV1, SocketIO, sent_at
from benchmarks.urgency.link import SERVER_ADDRESS
from benchmarks.urgency.wire import Ended, Socket

PATIENCE: Final = 30.0
AFTER: Final = 1.5  # seconds of silence after which nothing is waited for any more, while draining


class Task(msgspec.Struct):
    """What the reader is told."""

    port: int
    path: str
    authority: str
    board: str
    dialect: str  # bare, relay.v1, socket.io
    second_socket: bool = False
    token: str = ""
    give_up: float = 60.0  # seconds of draining


class Record(msgspec.Struct):
    """What it has seen. Times are of one monotonic clock; `urgent` holds (sent, received)."""

    urgent: list[tuple[float, float]] = msgspec.field(default_factory=list)
    bulk: list[tuple[float, int]] = msgspec.field(default_factory=list)  # (received, bytes so far)
    whole: int = 0  # bytes of bulk in whole messages
    parts: int = 0
    ended: str = ""


def run(task: Task) -> Record:
    """From connecting to the end of draining."""
    board = Board(Path(task.board))
    record = Record()
    with selectors.DefaultSelector() as selector:
        try:
            for socket, dialect in _connect(task):
                socket.poll()
                selector.register(socket, selectors.EVENT_READ, (socket, dialect))
                _note(record, board, dialect, socket.early(), time.monotonic())
            gc.disable()
            board.set(Field.READER_READY, 1)
            _read(task, record, board, selector)
        except Ended as why:
            record.ended = str(why)
        record.parts = sum(key.data[1].parts for key in selector.get_map().values())
    return record


def _connect(task: Task) -> list[tuple[Socket, Dialect]]:
    """Tries until the server is up. Raises Ended."""
    deadline = time.monotonic() + PATIENCE
    dialect: Dialect = {"bare": Bare, "relay.v1": RelayV1, "socket.io": SocketIO}[task.dialect]()
    while True:
        try:
            first = _open(task, task.path)
            break
        except Ended:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    dialect.begin(first)
    opened = [(first, dialect)]
    if task.second_socket:
        assert isinstance(dialect, RelayV1)
        second, urgent = _open(task, f"{task.path}?session={dialect.session}&channels=urgent"), RelayV1(joins=False)
        opened.append((second, urgent))
    return opened


def _open(task: Task, path: str) -> Socket:
    subprotocol = V1 if task.dialect == "relay.v1" else ""
    address = (SERVER_ADDRESS, task.port)
    return Socket(address, path, Path(task.authority), token=task.token, subprotocol=subprotocol)


def _read(task: Task, record: Record, board: Board, selector: selectors.BaseSelector) -> None:
    heard = time.monotonic()
    draining: float | None = None
    while True:
        for key, _ in selector.select(0.1):
            socket, dialect = key.data
            while (got := socket.receive()) is not None:
                heard, messages = got
                _note(record, board, dialect, messages, heard)
        if board.phase >= Phase.DRAIN:
            now = time.monotonic()
            draining = draining or now
            complete = len(record.urgent) >= board.get(Field.URGENT_SENT)
            if complete or now - max(heard, draining) > AFTER or now - draining > task.give_up:
                return


def _note(record: Record, board: Board, dialect: Dialect, messages: Iterable[tuple[int, bytes]], now: float) -> None:
    for payload in dialect.payloads(messages):
        sent = sent_at(payload)
        if sent is not None:
            record.urgent.append((sent, now))
        else:
            record.whole += len(payload)
    so_far = record.whole + dialect.held
    if so_far > (record.bulk[-1][1] if record.bulk else 0):
        record.bulk.append((now, so_far))
        board.set(Field.RECEIVED, so_far)


def main() -> None:
    task = msgspec.json.decode(sys.argv[1], type=Task)
    sys.stdout.buffer.write(msgspec.json.encode(run(task)))


if __name__ == "__main__":
    main()
