"""Compressed messages through the engine: both paths agree with each other, with every split, and with what was sent.

RSV1 belongs on the first frame of a data message alone (RFC 7692 section 6), and limits hold for what was inflated.
"""

from __future__ import annotations

import itertools
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import CloseCode
from relay.limits.buckets import Rate
from relay.net.deflate import TAIL, Agreement
from relay.net.slow_path import EngineLimits
from relay.net.websocket import Engine
from tests.conformance.streams import (
    BAD_TEXT,
    BINARY,
    CONT,
    LIMIT,
    PING,
    PONG,
    PROTOCOL,
    TEXT,
    UTF8,
    Event,
    Frame,
    Recorder,
    close,
    failure,
    fed,
    wire,
)

BROKEN = (CloseCode.INVALID_PAYLOAD, None)
TOO_BIG = (CloseCode.TOO_BIG, "limits.message_bytes")


class Packer:
    """A client's compressor."""

    def __init__(self, *, context: bool) -> None:
        self.context = context
        self._stream = zlib.compressobj(6, zlib.DEFLATED, -15)

    def pack(self, data: bytes) -> bytes:
        if not self.context:
            self._stream = zlib.compressobj(6, zlib.DEFLATED, -15)
        return (self._stream.compress(data) + self._stream.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)

    def message(self, opcode: int, data: bytes, places: list[int] | None = None) -> list[Frame]:
        """The frames of a compressed message, fragmented at those places of its compressed bytes."""
        packed = self.pack(data)
        edges = [0, *sorted(min(place, len(packed)) for place in places or []), len(packed)]
        pieces = [packed[start:stop] for start, stop in itertools.pairwise(edges)]
        return [
            Frame(CONT if number else opcode, piece, fin=number == len(pieces) - 1, rsv=0 if number else 4)
            for number, piece in enumerate(pieces)
        ]


class Deflating(Recorder):
    """A sink whose engine inflates."""

    def __init__(self, *, fast: bool, limit: int = LIMIT, context: bool = False, control: Rate | None = None) -> None:
        super().__init__(fast=fast, limit=limit, fragments=8, control=control or Rate(0.0))
        agreement = Agreement("", 15, False, 15, context)
        self.engine = Engine(self, EngineLimits(limit, 8, control or Rate(0.0), fast), agreement)
        self.engine.message = self.message
        self.more = 0

    def inflated(self, more: int) -> None:
        self.more += more


def run(
    data: bytes, *, fast: bool = True, cuts: tuple[int, ...] = (), limit: int = LIMIT, context: bool = False
) -> list[Event]:
    return fed(Deflating(fast=fast, limit=limit, context=context), data, cuts)


def everywhere(data: bytes, *, limit: int = LIMIT, context: bool = False) -> list[Event]:
    whole = run(data, limit=limit, context=context)
    for fast in (True, False):
        assert run(data, fast=fast, limit=limit, context=context) == whole
        bytewise = tuple(range(len(data)))
        assert run(data, fast=fast, cuts=bytewise, limit=limit, context=context) == whole
    return whole


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 1000])
@pytest.mark.parametrize("places", [[], [0], [1], [3, 5], [0, 0, 9999]])
def test_a_compressed_message_is_heard_as_it_was(opcode: int, size: int, places: list[int]) -> None:
    text = (b"relay " * 200)[:size]
    assert everywhere(wire(*Packer(context=False).message(opcode, text, places))) == [("message", opcode, text)]


def test_large_messages_take_every_form_of_length_when_they_are_inflated() -> None:
    for size in (65535, 65536, 200_000):
        text = b"x" * size
        for fast in (True, False):
            data = wire(*Packer(context=False).message(TEXT, text, [20]))
            assert run(data, fast=fast, limit=1 << 20) == [("message", TEXT, text)]


def test_compressed_and_plain_messages_mix_and_control_frames_pass_between_fragments() -> None:
    packer = Packer(context=True)
    first, *rest = packer.message(TEXT, b"compressed " * 9, [4, 8])
    data = wire(
        Frame(TEXT, b"plain"), first, Frame(PING, b"p"), rest[0], Frame(PONG), rest[1],
        Frame(BINARY, b"pl", fin=False), Frame(CONT, b"ain"), *packer.message(TEXT, b"compressed " * 9), close(1000),
    )  # fmt: skip
    assert everywhere(data, context=True) == [
        ("message", TEXT, b"plain"), ("ping", b"p"), ("pong", b""), ("message", TEXT, b"compressed " * 9),
        ("message", BINARY, b"plain"), ("message", TEXT, b"compressed " * 9), ("closed", 1000, ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "frames",
    [
        [Frame(PING, b"x", rsv=4)],
        [Frame(PONG, b"", rsv=4)],
        [Frame(8, b"\x03\xe8", rsv=4)],
        [Frame(TEXT, b"\x00", rsv=6)],
        [Frame(TEXT, b"\x00", rsv=2)],
        [Frame(TEXT, b"\x00", rsv=5)],
        [Frame(CONT, b"\x00", rsv=4)],
        [Frame(TEXT, b"a", fin=False), Frame(CONT, b"\x00", rsv=4)],
        [Frame(TEXT, b"\x00", rsv=4, fin=False), Frame(CONT, b"\x00", rsv=4)],
        [Frame(TEXT, b"\x00", rsv=4, fin=False), Frame(TEXT, b"\x00", rsv=4)],
        [Frame(TEXT, b"\x00", rsv=4, fin=False), Frame(TEXT, b"x")],
        [Frame(3, b"\x00", rsv=4)],
        [Frame(TEXT, b"\x00", rsv=4, masked=False)],
    ],
)
def test_rsv1_stands_on_the_first_frame_of_a_data_message_alone(frames: list[Frame]) -> None:
    events = everywhere(wire(Frame(TEXT, b"before"), *frames, Frame(TEXT, b"after")))
    assert events[0] == ("message", TEXT, b"before")
    assert failure(events) == PROTOCOL
    assert len(events) == 2


@pytest.mark.parametrize("bad", BAD_TEXT)
@pytest.mark.parametrize("places", [[], [1], [2, 3]])
def test_text_must_be_utf8_when_it_is_inflated(bad: bytes, places: list[int]) -> None:
    packer = Packer(context=False)
    assert failure(everywhere(wire(*packer.message(TEXT, b"a" * 40 + bad, places)))) == UTF8
    assert everywhere(wire(*packer.message(BINARY, bad, places))) == [("message", BINARY, bad)]


def test_bad_text_is_found_in_the_fragment_that_has_it() -> None:
    for fast in (True, False):
        stream = zlib.compressobj(6, zlib.DEFLATED, -15)
        packed = stream.compress(b"good \xff") + stream.flush(zlib.Z_SYNC_FLUSH)
        recorder = Deflating(fast=fast)
        recorder.feed(bytes(Frame(TEXT, packed, rsv=4, fin=False)))
        assert failure(recorder.events) == UTF8


def test_the_limit_is_that_of_the_inflated_message() -> None:
    packer = Packer(context=False)
    noise = b"".join(zlib.crc32(number.to_bytes(2, "big")).to_bytes(4, "big") for number in range(LIMIT // 4))
    for text in (b"a" * LIMIT, noise):
        for places in ([], [1], [3, 4, 5]):
            assert everywhere(wire(*packer.message(BINARY, text, places))) == [("message", BINARY, text)]
            assert failure(everywhere(wire(*packer.message(BINARY, text + b"a", places)))) == TOO_BIG


def test_a_compressed_message_cannot_be_endless_on_the_wire_either() -> None:
    empty = b"\x00\x00\x00\xff\xff" * 1000  # inflates to nothing
    assert failure(everywhere(wire(Frame(BINARY, empty, rsv=4, fin=False), Frame(CONT, empty)))) == TOO_BIG
    header = bytes(Frame(BINARY, bytes(100_000), rsv=4))[:20]
    assert failure(run(header)) == TOO_BIG, "before its payload has come"


def test_fragments_are_counted_as_those_of_any_message() -> None:
    frames = [Frame(TEXT, b"", rsv=4, fin=False), *[Frame(CONT, b"", fin=False)] * 8]
    assert failure(everywhere(wire(*frames))) == (CloseCode.TOO_BIG, "limits.fragments")


@pytest.mark.parametrize("bad", [b"\xff\xff", b"garbage", b"\x00\x05\x00\x00\x00Hello"])
def test_what_is_not_deflate_is_1007(bad: bytes) -> None:
    assert failure(everywhere(wire(Frame(TEXT, bad, rsv=4), Frame(TEXT, b"after")))) == BROKEN


def test_what_was_inflated_is_told_so_that_rates_can_count_it() -> None:
    for fast in (True, False):
        recorder = Deflating(fast=fast)
        (frame,) = Packer(context=False).message(TEXT, b"a" * 1000)
        recorder.feed(bytes(frame))
        assert recorder.more == 1000 - len(frame.payload)


def test_without_an_agreement_rsv1_is_a_protocol_error() -> None:
    for fast in (True, False):
        recorder = Recorder(fast=fast)
        recorder.feed(wire(*Packer(context=False).message(TEXT, b"hello")))
        assert failure(recorder.events) == PROTOCOL


texts = st.text(max_size=60).map(lambda text: text.encode() * 3)
messages = st.lists(
    st.tuples(
        st.sampled_from([TEXT, BINARY]), st.one_of(texts, st.binary(max_size=300)), st.booleans(),
        st.lists(st.integers(0, 80), max_size=3),
    ),
    max_size=6,
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(said=messages, context=st.booleans(), cuts=st.lists(st.integers(0, 3000), max_size=6).map(tuple))
def test_both_paths_and_all_splits_hear_what_was_said(
    said: list[tuple[int, bytes, bool, list[int]]], context: bool, cuts: tuple[int, ...]
) -> None:
    packer = Packer(context=context)
    frames: list[Frame] = []
    for opcode, data, compressed, places in said:
        frames += packer.message(opcode, data, places) if compressed else [Frame(opcode, data)]
    stream = wire(*frames)
    expected = run(stream, fast=False, context=context)
    for fast in (True, False):
        assert run(stream, fast=fast, cuts=cuts, context=context) == expected
        assert run(stream, fast=fast, cuts=tuple(range(len(stream))), context=context) == expected
    bad = next((place for place, (opcode, data, *_) in enumerate(said) if opcode == TEXT and not utf8(data)), None)
    assert expected[: len(said) if bad is None else bad] == [
        ("message", opcode, data) for opcode, data, *_ in said[: len(said) if bad is None else bad]
    ]
    assert bad is None or failure(expected) == UTF8


def utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@settings(deadline=None, max_examples=200)
@given(
    frames=st.lists(
        st.builds(
            Frame, opcode=st.sampled_from([CONT, TEXT, BINARY, PING, 8]), payload=st.binary(max_size=60),
            fin=st.booleans(), rsv=st.sampled_from([0, 4, 4, 6]),
        ),
        max_size=8,
    ),
    fast=st.booleans(), context=st.booleans(), cuts=st.lists(st.integers(0, 600), max_size=4).map(tuple),
)  # fmt: skip
def test_noise_ends_in_at_most_one_failure_and_is_the_same_however_it_is_cut(
    frames: list[Frame], fast: bool, context: bool, cuts: tuple[int, ...]
) -> None:
    data = wire(*frames)
    events = run(data, fast=fast, context=context)
    assert run(data, fast=not fast, cuts=cuts, context=context) == events
    assert sum(event[0] in ("failed", "closed") for event in events) <= 1
