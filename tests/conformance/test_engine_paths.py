"""The engine's two paths agree: with the fast path on and off, in one read or in any number, the same events.

The frames are made here by hand, right and wrong in every way RFC 6455 section 5 knows; for streams that are right,
wsproto's own connection says what must come out.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.speedups import apply_mask
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from relay.errors import CloseCode, CloseReason
from relay.limits.buckets import Rate
from relay.net.masking import unmask, xor_mask
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
    recorder = Recorder(fast=fast, limit=limit, fragments=fragments)
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


# What is right.


@pytest.mark.parametrize("size", [0, 1, 3, 4, 125, 126, 127, 65535, 65536, 70000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_whole_messages_of_every_length_encoding(opcode: int, size: int) -> None:
    payload = (b"relay" * (size // 5 + 1))[:size]
    for fast in (True, False):
        data = wire(Frame(opcode, payload))
        expected: list[Event] = [("message", opcode, payload)]
        assert run(data, fast=fast, limit=70000) == expected
        assert run(data, fast=fast, limit=70000, cuts=tuple(range(min(size, 20)))) == expected
        assert run(data * 3, fast=fast, limit=70000, cuts=(size, size + 7, 2 * size)) == expected * 3


def test_fragments_become_one_message_and_controls_between_them_are_heard_at_once() -> None:
    data = wire(
        Frame(TEXT, "grü".encode()[:3], fin=False),
        Frame(PING, b"p"),
        Frame(CONT, "grü".encode()[3:], fin=False),
        Frame(PONG, b"q"),
        Frame(CONT, b"n"),
        Frame(BINARY, b"\xff\x00", fin=False),
        Frame(CONT, b""),
    )
    assert everywhere(data) == [
        ("ping", b"p"), ("pong", b"q"), ("message", TEXT, "grün".encode()), ("message", BINARY, b"\xff\x00"),
    ]  # fmt: skip


def test_many_frames_in_one_read_are_many_messages() -> None:
    recorder = Recorder(fast=True)
    recorder.feed(wire(*(Frame(TEXT, str(number).encode()) for number in range(500))))
    assert recorder.counted == 500
    assert [event[2] for event in recorder.events] == [str(number).encode() for number in range(500)]


def test_a_fragmented_message_may_begin_and_end_empty() -> None:
    data = wire(Frame(TEXT, fin=False), Frame(CONT, b"x", fin=False), Frame(CONT))
    assert everywhere(data) == [("message", TEXT, b"x")]


# Sizes.


@pytest.mark.parametrize("character", ["a", "é", "水", "🚂"])
@pytest.mark.parametrize("over", [-1, 0, 1])
def test_the_size_limit_is_exact_and_counts_bytes(character: str, over: int) -> None:
    size = LIMIT + over
    unit = character.encode()
    payload = b"a" * (size % len(unit)) + unit * (size // len(unit))
    assert len(payload) == size
    expected = (CloseCode.TOO_BIG, "limits.message_bytes")
    half = len(payload) // 2  # in the middle of a character, sometimes
    for data in (
        wire(Frame(TEXT, payload)),
        wire(Frame(TEXT, payload[:half], fin=False), Frame(CONT, payload[half:])),
        wire(Frame(TEXT, fin=False), Frame(CONT, payload[:7], fin=False), Frame(CONT, payload[7:])),
    ):
        events = everywhere(data)
        assert failure(events) == expected if over > 0 else events == [("message", TEXT, payload)]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [LIMIT + 1, 70_000, 1 << 40, (1 << 63) - 1])
def test_too_large_is_said_at_the_header_before_anything_is_kept(opcode: int, size: int) -> None:
    short = size < 65536
    head = bytes([0x80 | opcode]) + (struct.pack("!BH", 254, size) if short else struct.pack("!BQ", 255, size)) + MASK
    for fast in (True, False):
        assert failure(run(head, fast=fast)) == (CloseCode.TOO_BIG, "limits.message_bytes")


def test_the_sizes_of_one_message_do_not_count_against_the_next() -> None:
    half = Frame(BINARY, bytes(LIMIT), fin=False), Frame(CONT)
    assert len(everywhere(wire(*half, *half, Frame(BINARY, bytes(LIMIT))))) == 3


def test_fragments_beyond_the_limit_are_told_at_the_header_of_the_one_too_large() -> None:
    data = wire(Frame(BINARY, bytes(600), fin=False)) + bytes(Frame(CONT, bytes(401)))[:8]
    assert failure(everywhere(data)) == (CloseCode.TOO_BIG, "limits.message_bytes")


@pytest.mark.parametrize("payload", [b"", b"x"])
def test_fragments_are_capped_also_empty_ones(payload: bytes) -> None:
    most = [Frame(TEXT, payload, fin=False), *[Frame(CONT, payload, fin=False)] * (FRAGMENTS - 2), Frame(CONT, payload)]
    assert everywhere(wire(*most, *most)) == [("message", TEXT, payload * FRAGMENTS)] * 2
    more = [Frame(TEXT, payload, fin=False), *[Frame(CONT, payload, fin=False)] * FRAGMENTS]
    assert failure(everywhere(wire(*more))) == (CloseCode.TOO_BIG, "limits.fragments")


# Text.

BAD_TEXT = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe6\xb0", b"ok\xf0\x9f\x9a", b"\x80"]


@pytest.mark.parametrize("bad", BAD_TEXT)
def test_text_that_is_not_utf8_is_1007(bad: bytes) -> None:
    assert failure(everywhere(wire(Frame(TEXT, b"a" * 10 + bad)))) == UTF8
    assert failure(everywhere(wire(Frame(TEXT, b"a" * 200 + bad)))) == UTF8
    cut = len(bad) // 2
    assert failure(everywhere(wire(Frame(TEXT, b"a" + bad[:cut], fin=False), Frame(CONT, bad[cut:])))) == UTF8
    assert failure(everywhere(wire(Frame(TEXT, bad, fin=False), Frame(CONT)))) == UTF8


@pytest.mark.parametrize("bad", BAD_TEXT)
def test_the_same_bytes_are_a_fine_binary_message(bad: bytes) -> None:
    assert everywhere(wire(Frame(BINARY, bad))) == [("message", BINARY, bad)]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("step", [1, 3, 4, 100, 16384])
def test_bad_text_is_found_as_it_arrives_not_when_a_long_message_is_whole(fast: bool, fin: bool, step: int) -> None:
    data = bytes(Frame(TEXT, "é".encode() * 20_000 + b"\xff" + b"a" * 60_000, fin=fin))
    recorder = Recorder(fast=fast, limit=1 << 20)
    place = 0
    while not recorder.events:
        recorder.feed(data[place : place + step])
        place += step
    assert failure(recorder.events) == UTF8
    assert place <= 14 + 40_001 + step


def test_a_character_may_be_split_over_reads_and_fragments_anywhere() -> None:
    text = "aé水🚂".encode() * 20
    for cut in range(len(text)):
        data = wire(Frame(TEXT, text[:cut], fin=False), Frame(CONT, text[cut:]))
        assert run(data) == [("message", TEXT, text)]
        assert run(wire(Frame(TEXT, text)), cuts=(cut + 8,)) == [("message", TEXT, text)]


# Headers that are wrong.


@pytest.mark.parametrize(
    "frame",
    [
        *(Frame(opcode, b"x", rsv=rsv) for opcode in (TEXT, BINARY, PING, CLOSE) for rsv in range(1, 8)),
        *(Frame(opcode, b"x", fin=fin) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15) for fin in (True, False)),
        *(Frame(opcode, b"xy", masked=False) for opcode in (TEXT, BINARY, PING, PONG, CLOSE)),
        *(Frame(opcode, b"", masked=False) for opcode in (TEXT, BINARY, PING, PONG, CLOSE)),
        *(Frame(opcode, bytes(size), form=2) for opcode in (TEXT, BINARY) for size in (0, 1, 125)),
        *(Frame(opcode, bytes(size), form=8) for opcode in (TEXT, BINARY) for size in (0, 125, 126, 999)),
        *(Frame(opcode, b"x", fin=False) for opcode in (PING, PONG, CLOSE)),
        *(Frame(opcode, bytes(126)) for opcode in (PING, PONG, CLOSE)),
        *(Frame(opcode, bytes(5), form=form) for opcode in (PING, PONG, CLOSE) for form in (2, 8)),
        Frame(CONT, b"x"),
        Frame(CONT, b"x", fin=False),
    ],
    ids=repr,
)
def test_a_wrong_header_is_1002_and_nothing_behind_it_is_heard(frame: Frame) -> None:
    before, after = Frame(TEXT, b"before"), Frame(TEXT, b"after")
    events = everywhere(wire(before, frame, after))
    assert events[0] == ("message", TEXT, b"before")
    assert failure(events) == PROTOCOL
    assert len(events) == 2
    assert failure(everywhere(bytes(frame))) == PROTOCOL, "also as the last thing that comes"


def test_a_length_with_its_highest_bit_set_is_a_protocol_error() -> None:
    for fast in (True, False):
        assert failure(run(b"\x82\xff" + b"\xff" * 8 + MASK, fast=fast)) == PROTOCOL


@pytest.mark.parametrize("second", [Frame(TEXT, b"x"), Frame(BINARY, b"x"), Frame(TEXT, b"x", fin=False)])
def test_a_new_message_inside_another_is_a_protocol_error(second: Frame) -> None:
    assert failure(everywhere(wire(Frame(TEXT, b"a", fin=False), second))) == PROTOCOL


def test_a_continuation_after_the_last_fragment_is_a_protocol_error() -> None:
    data = wire(Frame(TEXT, b"a", fin=False), Frame(CONT, b"b"), Frame(CONT, b"c"))
    events = everywhere(data)
    assert events[0] == ("message", TEXT, b"ab")
    assert failure(events) == PROTOCOL


# Control frames.


def test_control_frames_have_a_budget_that_time_fills_again() -> None:
    for fast in (True, False):
        recorder = Recorder(fast=fast)
        for _ in range(4):
            recorder.feed(bytes(Frame(PING, b"x")), now=10.0)
        recorder.feed(bytes(Frame(PONG)), now=11.0)
        assert len(recorder.events) == 5
        recorder.feed(bytes(Frame(PING)), now=11.0)
        assert failure(recorder.events) == (CloseCode.POLICY, "limits.control_frames")


def test_data_frames_cost_nothing_of_the_control_budget() -> None:
    assert len(run(wire(*[Frame(TEXT, b"x")] * 50))) == 50


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4401, 4999]
)
def test_a_close_frame_gives_its_code_and_reason(code: int) -> None:
    assert everywhere(wire(close(code, "schön".encode()))) == [("closed", code, "schön")]


def test_a_close_frame_without_a_code_is_1005() -> None:
    assert everywhere(wire(Frame(CLOSE))) == [("closed", 1005, "")]


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_a_close_code_that_may_not_be_sent_is_a_protocol_error(code: int) -> None:
    assert failure(everywhere(wire(close(code)))) == PROTOCOL


def test_a_close_frame_of_one_byte_is_a_protocol_error() -> None:
    assert failure(everywhere(wire(Frame(CLOSE, b"\x03")))) == PROTOCOL


def test_a_close_reason_that_is_not_utf8_is_1007() -> None:
    assert failure(everywhere(wire(close(1000, b"\xff")))) == UTF8


@pytest.mark.parametrize("end", [close(1000), Frame(TEXT, b"\xff"), Frame(7), Frame(TEXT, b"x", masked=False)])
@pytest.mark.parametrize("more", [Frame(TEXT, b"late"), Frame(PING), close(1001), Frame(BINARY, bytes(200))])
def test_nothing_is_heard_after_the_end(end: Frame, more: Frame) -> None:
    for fast in (True, False):
        recorder = Recorder(fast=fast)
        recorder.feed(wire(end, more, more))
        recorder.feed(bytes(more))
        recorder.feed(bytes(more)[:3])
        recorder.feed(bytes(more)[3:])
        assert len(recorder.events) == 1


@pytest.mark.parametrize("fast", [True, False])
def test_who_is_told_may_stop_the_engine_in_the_middle_of_a_read(fast: bool) -> None:
    recorder = Recorder(fast=fast)
    heard: list[bytes] = []

    def stop_at_two(opcode: int, payload: bytes) -> None:
        heard.append(payload)
        if payload == b"two":
            recorder.engine.stop()

    recorder.engine.message = stop_at_two
    recorder.engine.feed(wire(Frame(TEXT, b"one"), Frame(TEXT, b"two"), Frame(TEXT, b"three")), 0.0)
    recorder.engine.feed(wire(Frame(TEXT, b"four")), 0.0)
    assert heard == [b"one", b"two"]


# Anything at all.

masks = st.binary(min_size=4, max_size=4)
texts = st.text(max_size=60).map(str.encode)
payloads = st.one_of(texts, st.binary(max_size=140), st.integers(0, LIMIT + 2).map(bytes), st.sampled_from(BAD_TEXT))
codes = st.one_of(st.sampled_from([1000, 1001, 1005, 1006, 1015, 3000, 4401, 4999, 5000]), st.integers(0, 65535))
close_payloads = st.one_of(
    st.builds(lambda code, reason: code.to_bytes(2, "big") + reason[:120], codes, st.one_of(texts, st.binary())),
    st.binary(max_size=3),
)
right = st.one_of(
    st.builds(Frame, st.sampled_from([TEXT, BINARY]), payloads, mask=masks),
    st.builds(Frame, st.sampled_from([TEXT, BINARY]), payloads, fin=st.just(False), mask=masks),
    st.builds(Frame, st.just(CONT), payloads, fin=st.booleans(), mask=masks),
    st.builds(Frame, st.sampled_from([PING, PONG]), st.binary(max_size=125), mask=masks),
)
wrong = st.one_of(
    st.builds(Frame, st.just(CLOSE), close_payloads, mask=masks),
    st.builds(
        Frame,
        opcode=st.integers(0, 15),
        payload=st.one_of(payloads, close_payloads),
        fin=st.booleans(),
        rsv=st.sampled_from([0, 0, 0, 1, 4, 7]),
        masked=st.sampled_from([True, True, True, False]),
        form=st.sampled_from([0, 0, 2, 8]),
        mask=masks,
    ),
)
streams = st.lists(st.one_of(right, right, right, wrong), max_size=12).map(lambda frames: wire(*frames))


@settings(deadline=None, max_examples=300)
@given(data=streams, cuts=st.lists(st.integers(0, 5000), max_size=8).map(tuple), drop=st.integers(0, 20))
@example(data=wire(Frame(TEXT, b"", masked=False)), cuts=(1,), drop=0)
@example(data=wire(Frame(TEXT, b"", masked=False, form=2)), cuts=(3,), drop=0)
def test_both_paths_and_all_splits_have_the_same_events(data: bytes, cuts: tuple[int, ...], drop: int) -> None:
    data = data[: len(data) - drop] if drop < len(data) else data
    expected = run(data, fast=False)
    assert run(data, fast=True) == expected
    assert run(data, fast=True, cuts=cuts) == expected
    assert run(data, fast=False, cuts=cuts) == expected
    if len(data) < 400:
        assert run(data, fast=True, cuts=tuple(range(len(data)))) == expected
        assert run(data, fast=False, cuts=tuple(range(len(data)))) == expected


@settings(deadline=None, max_examples=150)
@given(
    messages=st.lists(
        st.one_of(
            st.tuples(st.just(TEXT), texts, st.lists(st.integers(0, 60), max_size=3)),
            st.tuples(st.just(BINARY), st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=3)),
            st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125), st.just([])),
        ),
        max_size=8,
    ),
    end=st.one_of(st.none(), st.tuples(st.sampled_from([1000, 1001, 3000, 4999]), texts)),
    mask=masks,
    cuts=st.lists(st.integers(0, 5000), max_size=6).map(tuple),
)
def test_for_streams_that_are_right_wsproto_hears_the_same(
    messages: list[tuple[int, bytes, list[int]]], end: tuple[int, bytes] | None, mask: bytes, cuts: tuple[int, ...]
) -> None:
    frames: list[Frame] = []
    for opcode, payload, places in messages:
        edges = [0, *sorted(min(place, len(payload)) for place in places), len(payload)]
        pieces = [payload[start:stop] for start, stop in itertools.pairwise(edges)]
        for number, piece in enumerate(pieces):
            frames.append(Frame(CONT if number else opcode, piece, fin=number == len(pieces) - 1, mask=mask))
    if end is not None:
        reason = end[1][:123].decode(errors="ignore").encode()
        frames.append(close(end[0], reason))
    data = wire(*frames)
    expected = oracle(data)
    for fast in (True, False):
        recorder = Recorder(fast=fast, control=Rate(0.0))
        places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
        for start, stop in itertools.pairwise(places):
            recorder.feed(data[start:stop])
        assert recorder.events == expected


def oracle(data: bytes) -> list[Event]:
    connection = Connection(ConnectionType.SERVER)
    connection.receive_data(data)
    events: list[Event] = []
    parts: list[bytes] = []
    for event in connection.events():
        if isinstance(event, TextMessage | BytesMessage):
            text = isinstance(event, TextMessage)
            parts.append(event.data.encode() if isinstance(event.data, str) else bytes(event.data))
            if event.message_finished:
                events.append(("message", TEXT if text else BINARY, b"".join(parts)))
                parts.clear()
        elif isinstance(event, Ping):
            events.append(("ping", bytes(event.payload)))
        elif isinstance(event, Pong):
            events.append(("pong", bytes(event.payload)))
        elif isinstance(event, CloseConnection):
            events.append(("closed", int(event.code), event.reason or ""))
    return events


@settings(deadline=None, max_examples=300)
@given(reads=st.lists(st.one_of(st.binary(max_size=60), streams), max_size=10), fast=st.booleans())
def test_whatever_comes_the_sink_is_told_and_nothing_is_raised(reads: list[bytes], fast: bool) -> None:
    recorder = Recorder(fast=fast)
    for data in reads:
        recorder.feed(data)
    ends = [event[0] for event in recorder.events if event[0] in ("closed", "failed")]
    assert len(ends) <= 1
    if ends:
        assert recorder.events[-1][0] in ("closed", "failed")
        assert recorder.engine.stopped


# Masks.


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=300), mask=masks)
def test_the_mask_in_python_is_the_mask_in_c(data: bytes, mask: bytes) -> None:
    expected = bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))
    assert xor_mask(data, mask) == apply_mask(data, mask) == unmask(data, mask) == expected
    assert xor_mask(xor_mask(data, mask), mask) == data


@pytest.mark.parametrize("masking", [xor_mask, apply_mask])
def test_the_engine_reads_the_same_with_either(masking: object) -> None:
    recorder = Recorder(fast=True)
    recorder.engine.unmask = masking  # type: ignore[assignment]
    text = "aé水🚂".encode() * 30
    data = wire(Frame(TEXT, text), Frame(BINARY, b""), Frame(TEXT, b"x"))
    for start in range(0, len(data), 5):
        recorder.feed(data[start : start + 5])
    assert recorder.events == [("message", TEXT, text), ("message", BINARY, b""), ("message", TEXT, b"x")]
