"""The engine's two paths agree: with the fast path on and off, in one read or in any number, the same events.

The frames are made here by hand, right and wrong in every way RFC 6455 section 5 knows.
"""

from __future__ import annotations

import struct

import pytest

from relay.errors import CloseCode
from tests.conformance.streams import (
    BAD_TEXT,
    BINARY,
    CLOSE,
    CONT,
    FRAGMENTS,
    LIMIT,
    MASK,
    PING,
    PONG,
    PROTOCOL,
    TEXT,
    UTF8,
    Event,
    Frame,
    Recorder,
    close,
    everywhere,
    failure,
    run,
    wire,
)

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
