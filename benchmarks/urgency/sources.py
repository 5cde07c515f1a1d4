"""The publishers, each a process of its own on the server's side of the link: of bulk, of urgent messages, of state.

    python -m benchmarks.urgency.sources urgent|bulk|state JSON

Not here: the measured client (reader). The one rule: they may fill the server, never the link; they share nothing, so
that the urgent one is never late because of the other.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.urgency.board import Board, Field, Phase
from benchmarks.urgency.dialects import RelayV1, decode, publication, stamped, urgent_payload
from benchmarks.urgency.wire import TEXT, Ended, Socket

PATIENCE: Final = 30.0  # seconds until a server must answer


class Source(msgspec.Struct):
    """What a publisher is told. Sizes in bytes, `every` in seconds; `window`: bulk in flight; `keys`: of state."""

    port: int
    path: str
    authority: str
    board: str
    token: str = ""
    relay: bool = False
    every: float = 0.05
    size: int = 65536
    total: int = 0
    window: int = 0
    keys: int = 0


def open_socket(source: Source) -> Socket:
    """Tries until the server is up. Raises Ended."""
    deadline = time.monotonic() + PATIENCE
    subprotocol = "relay.v1.msgpack" if source.relay else ""
    while True:
        try:
            authority = Path(source.authority)
            address = ("127.0.0.1", source.port)
            socket = Socket(address, source.path, authority, token=source.token, subprotocol=subprotocol)
            break
        except Ended:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    if source.relay:
        RelayV1(joins=False).begin(socket)
    socket.poll()
    return socket


def listen(socket: Socket) -> None:
    """Takes what has come. Raises Ended if that is a refusal."""
    while (got := socket.receive()) is not None:
        for _, payload in got[1]:
            said = decode(payload) if payload[:1] > b"\x7f" else {}
            if said.get("t") in ("error", "bye"):
                raise Ended(str(said))


def send_urgent(source: Source) -> None:
    """One message every `every` seconds, from now until the phase of draining."""
    board = Board(Path(source.board))
    socket = open_socket(source)
    board.wait(lambda: board.phase >= Phase.IDLE, PATIENCE)
    number = 0
    due = time.monotonic()
    while board.phase < Phase.DRAIN:
        payload = urgent_payload(number)
        socket.send(publication(payload, "urgent") if source.relay else payload)
        number += 1
        board.set(Field.URGENT_SENT, number)
        due = max(due + source.every, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
        listen(socket)


def send_bulk(source: Source) -> None:
    """`total` bytes, at most `window` of them not yet with the client. A peer makes them itself when it is told to."""
    board = Board(Path(source.board))
    socket = open_socket(source)
    board.wait(lambda: board.phase >= Phase.BULK, PATIENCE + 30)
    if not source.relay:
        socket.send(f"{source.total} {source.size}".encode(), TEXT)
        board.set(Field.BULK_SENT, source.total)
        board.wait(lambda: board.phase >= Phase.DRAIN, 600)
        return
    payload = b"B" + os.urandom(source.size - 1)
    message = publication(payload, "bulk")
    sent = 0
    while sent < source.total and board.phase < Phase.DRAIN:
        if sent + source.size - board.get(Field.RECEIVED) > source.window:
            time.sleep(0.005)
        else:
            socket.send(message)
            sent += source.size
            board.set(Field.BULK_SENT, sent)
        listen(socket)
    board.wait(lambda: board.phase >= Phase.DRAIN, 600)


def send_state(source: Source) -> None:
    """A new value of every key, every `every` seconds."""
    board = Board(Path(source.board))
    socket = open_socket(source)
    board.wait(lambda: board.phase >= Phase.BULK, PATIENCE)
    rounds = 0
    due = time.monotonic()
    while board.phase < Phase.DRAIN:
        socket.send_many([publication(stamped(key), "state", f"k{key}") for key in range(source.keys)])
        rounds += 1
        board.set(Field.URGENT_SENT, rounds)
        due += source.every
        time.sleep(max(0.0, due - time.monotonic()))
        listen(socket)


SEND: Final = {"urgent": send_urgent, "bulk": send_bulk, "state": send_state}


def main() -> None:
    kind, told = sys.argv[1:]
    source = msgspec.json.decode(told, type=Source)
    try:
        SEND[kind](source)
    except Ended as why:
        if Board(Path(source.board)).phase < Phase.DRAIN:
            sys.exit(f"the {kind} publisher: {why}")


if __name__ == "__main__":
    main()
