"""An outbox with an owner that only keeps notes, and frames that say which one they are."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Mapping

from relay.config.schema import Channel
from relay.delivery.channels import Channels, Lane
from relay.delivery.outbox import Outbox
from relay.delivery.tick import Tick
from relay.model import Kind, Message, Payload

HEADER = struct.Struct(">II")
LEAST = HEADER.size
_numbers = itertools.count(1)


def table(**channels: Channel) -> dict[str, Channel]:
    """The two channels every table must have, and more."""
    return {"control": Channel(priority="strict", capacity=262144), "default": Channel(weight=8), **channels}


class AtEase:
    """Whoever owns an outbox in a test that is not about pressure: reads when it likes, and nothing may overflow."""

    outbox: Outbox

    def flush(self) -> None:
        self.outbox.touched = False

    def overflowed(self, lane: Lane, room: str) -> None:
        raise AssertionError(f"{lane.name} is full")

    def congested(self, lane: Lane) -> None: ...
    def relieved(self, lane: Lane) -> None: ...


class Box:
    """An outbox, its owner, and its tick."""

    def __init__(self, channels: Mapping[str, Channel], urgent_share: float = 0.8) -> None:
        self.channels = Channels(channels)
        self.woken = 0
        self.flushed = 0
        self.overflows: list[Lane] = []
        self.congestions: list[Lane] = []
        self.reliefs: list[Lane] = []
        self.tick = Tick(self._wake)
        self.outbox = Outbox(self.channels, self, self.tick, urgent_share)

    def _wake(self) -> None:
        self.woken += 1

    def flush(self) -> None:
        self.flushed += 1
        self.outbox.touched = False

    def overflowed(self, lane: Lane, room: str) -> None:
        self.overflows.append(lane)

    def congested(self, lane: Lane) -> None:
        self.congestions.append(lane)

    def relieved(self, lane: Lane) -> None:
        self.reliefs.append(lane)

    def put(self, channel: str, size: int = LEAST, message: Message | None = None) -> int:
        """Puts a frame of `size` bytes; returns its number."""
        made, number = numbered(size)
        self.outbox.put(self.channels.index(channel), made, message)
        return number

    def take(self, limit: int) -> list[int]:
        """The numbers of the frames that came; every one is whole."""
        return [number for number, _ in parse(self.outbox.take(limit))]

    def take_all(self, limit: int = 1 << 30) -> list[int]:
        taken: list[int] = []
        while more := self.take(limit):
            taken += more
        return taken


def numbered(size: int) -> tuple[bytes, int]:
    number = next(_numbers)
    return HEADER.pack(number, size) + bytes(size - LEAST), number


def payloads(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(opcode, payload) of each frame of a server, none of which may be cut (RFC 6455 section 5.2)."""
    while data:
        size, head = data[1] & 127, 2
        if size == 126:
            size, head = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, head = int.from_bytes(data[2:10], "big"), 10
        assert head + size <= len(data), "a frame was cut"
        yield data[0] & 15, data[head : head + size]
        data = data[head + size :]


def parse(data: bytes) -> list[tuple[int, int]]:
    """(number, size) of each frame in `data`; fails where one is not whole."""
    found, place = [], 0
    while place < len(data):
        number, size = HEADER.unpack_from(data, place)
        assert place + size <= len(data), "a frame was cut"
        found.append((number, size))
        place += size
    return found


def message(room: str = "r", offset: int = 1, key: str | None = None) -> Message:
    return Message(room, Payload(Kind.TEXT, b"x"), "ann", key=key, offset=offset)
