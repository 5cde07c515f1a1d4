"""Streams of frames made by hand, and an engine that is fed with them, on both paths and in any number of reads."""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass

from relay.errors import CloseCode, CloseReason
from relay.limits.buckets import Rate
from relay.net.masking import xor_mask
from relay.net.slow_path import EngineLimits
from relay.net.websocket import Engine

Event = tuple[object, ...]
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x11\x92\x07\xff"
LIMIT = 1000
FRAGMENTS = 5
BUDGET = Rate(1.0, 4)


class Recorder:
    """A sink that keeps what it is told."""

    def __init__(self, *, fast: bool, limit: int = LIMIT, fragments: int = FRAGMENTS, control: Rate = BUDGET) -> None:
        self.events: list[Event] = []
        self.engine = Engine(self, EngineLimits(limit, fragments, control, fast))
        self.engine.message = self.message
        self.counted = 0

    def feed(self, data: bytes, now: float = 100.0) -> list[Event]:
        self.counted += self.engine.feed(data, now)
        return self.events

    def message(self, opcode: int, payload: bytes) -> None:
        assert type(payload) is bytes
        if opcode == TEXT:
            payload.decode()
        self.events.append(("message", opcode, payload))

    def ping(self, payload: bytes) -> None:
        assert type(payload) is bytes
        self.events.append(("ping", payload))

    def several(self) -> None: ...

    def pong(self, payload: bytes) -> None:
        self.events.append(("pong", payload))

    def closed(self, code: int, reason: str) -> None:
        assert type(code) is int
        self.events.append(("closed", code, reason))

    def failed(self, reason: CloseReason) -> None:
        self.events.append(("failed", reason.code, reason.reason, reason.setting))


@dataclass(frozen=True)
class Frame:
    """A frame as it is on the wire; `form` 0 is the shortest length encoding, 2 and 8 force the longer ones."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0
    masked: bool = True
    form: int = 0
    mask: bytes = MASK

    def __bytes__(self) -> bytes:
        size, mask_bit = len(self.payload), 128 * self.masked
        if self.form == 8 or size > 65535:
            head = struct.pack("!BQ", mask_bit | 127, size)
        elif self.form == 2 or size > 125:
            head = struct.pack("!BH", mask_bit | 126, size)
        else:
            head = struct.pack("!B", mask_bit | size)
        body = self.mask + xor_mask(self.payload, self.mask) if self.masked else self.payload
        return bytes([128 * self.fin | self.rsv << 4 | self.opcode]) + head + body


def wire(*frames: Frame) -> bytes:
    return b"".join(map(bytes, frames))


def close(code: int, reason: bytes = b"") -> Frame:
    return Frame(CLOSE, code.to_bytes(2, "big") + reason)


def run(
    data: bytes, *, fast: bool = True, cuts: tuple[int, ...] = (), limit: int = LIMIT, fragments: int = FRAGMENTS
) -> list[Event]:
    """The events of a stream that is read in pieces, cut at those places; all control frames at one moment."""
    return fed(Recorder(fast=fast, limit=limit, fragments=fragments), data, cuts)


def fed(recorder: Recorder, data: bytes, cuts: tuple[int, ...]) -> list[Event]:
    """What it has recorded when it has read that in pieces."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, stop in itertools.pairwise(places):
        if start < stop:
            recorder.feed(data[start:stop])
    assert recorder.counted == sum(event[0] == "message" for event in recorder.events)
    return recorder.events


def run_held(data: bytes, *, fast: bool) -> list[Event]:
    """The events of a stream where each message puts the engine on hold, and it is let go when all has been read."""
    recorder = Recorder(fast=fast)
    engine, heard = recorder.engine, recorder.message

    def message(opcode: int, payload: bytes) -> None:
        heard(opcode, payload)
        engine.hold(True)

    engine.message = message
    recorder.feed(data[:-1])
    recorder.feed(data[-1:])
    assert sum(event[0] == "message" for event in recorder.events) <= 1
    while engine.waits:
        engine.hold(False)
        recorder.feed(b"")
    assert recorder.counted == sum(event[0] == "message" for event in recorder.events)
    return recorder.events


def everywhere(data: bytes) -> list[Event]:
    """The events, after seeing that both paths, whole and byte by byte, have the same."""
    whole = run(data)
    for fast in (True, False):
        assert run(data, fast=fast) == whole, f"fast={fast}, one read"
        assert run(data, fast=fast, cuts=tuple(range(len(data)))) == whole, f"fast={fast}, byte by byte"
        assert run_held(data, fast=fast) == whole, f"fast={fast}, on hold"
    return whole


def failure(events: list[Event]) -> tuple[object, object]:
    """Code and setting of the failure that a stream ends with."""
    assert events, "nothing was said"
    assert events[-1][0] == "failed", events
    return events[-1][1], events[-1][3]


PROTOCOL = (CloseCode.PROTOCOL_ERROR, None)
UTF8 = (CloseCode.INVALID_PAYLOAD, None)

BAD_TEXT = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe6\xb0", b"ok\xf0\x9f\x9a", b"\x80"]
