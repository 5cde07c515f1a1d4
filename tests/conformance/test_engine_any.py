"""Whatever comes, the engine's two paths agree; for streams that are right, wsproto's own connection says what must
come out.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.speedups import apply_mask
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from relay.limits.buckets import Rate
from relay.net.masking import unmask, xor_mask
from tests.conformance.streams import (
    BAD_TEXT,
    BINARY,
    CLOSE,
    CONT,
    LIMIT,
    PING,
    PONG,
    TEXT,
    Event,
    Frame,
    Recorder,
    close,
    run,
    wire,
)

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
