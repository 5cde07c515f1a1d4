"""Messages in parts: the header, and joining what comes in any order and from anybody."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import Refused
from relay.model import Kind, Message, Payload
from relay.protocols.base import Publish
from relay.protocols.parts import (
    CANCEL,
    FIRST,
    HEADER,
    LAST,
    MAGIC,
    Joiner,
    Part,
    PartRefused,
    decode_part,
    encode_part,
    is_part,
)
from tests.unit.protocols.table import FORMATS, JSON, MSGPACK, Format

both = pytest.mark.parametrize("form", FORMATS, ids=str)


def part(stream: int = 1, position: int = 0, size: int = 6, data: bytes = b"abc", envelope: bytes = b"{}") -> Part:
    """A part whose flags are right for it."""
    flags = (FIRST if not position else 0) | (LAST if position + len(data) == size else 0)
    return Part(flags, stream, position, size, b"" if position else envelope, data)


def joiner(message_bytes: int = 1000, total_bytes: int = 2000, streams: int = 3) -> Joiner:
    return Joiner(message_bytes, total_bytes, streams)


def refusal(call: Any, *args: Any) -> tuple[str, str | None]:
    with pytest.raises(Refused) as caught:
        call(*args)
    return caught.value.code, caught.value.setting


# The header.


@settings(deadline=None, max_examples=100)
@given(
    stream=st.integers(0, 2**32 - 1),
    position=st.integers(0, 2**31),
    more=st.integers(0, 2**20),
    data=st.binary(max_size=50),
    envelope=st.binary(max_size=50),
)
def test_a_part_is_read_as_it_was_written(stream: int, position: int, more: int, data: bytes, envelope: bytes) -> None:
    made = part(stream, position, position + len(data) + more, data, envelope)
    payload = encode_part(made)
    assert is_part(payload)
    assert decode_part(payload) == made


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc1",
        b"\xc1" + bytes(HEADER.size - 2),
        HEADER.pack(MAGIC, 8, 0, 1, 0, 0),
        HEADER.pack(MAGIC, 0x80, 0, 1, 0, 0),
        HEADER.pack(MAGIC, FIRST, 5, 1, 0, 10) + b"four",
        HEADER.pack(MAGIC, 0, 2, 1, 3, 10) + b"{}x",
        HEADER.pack(MAGIC, FIRST | LAST, 0, 1, 0, 10) + b"too short",
        HEADER.pack(MAGIC, FIRST, 0, 1, 0, 3) + b"abc",
        HEADER.pack(MAGIC, FIRST, 0, 1, 0, 2) + b"abc",
        HEADER.pack(MAGIC, LAST, 0, 1, 2**32 - 1, 2**32 - 1) + b"abc",
    ],
)
def test_a_part_that_makes_no_sense_is_refused(payload: bytes) -> None:
    assert refusal(decode_part, payload)[0] == "bad_part"


@settings(deadline=None, max_examples=200)
@given(payload=st.binary(max_size=40))
def test_any_bytes_are_a_part_or_refused(payload: bytes) -> None:
    try:
        found = decode_part(b"\xc1" + payload)
    except Refused:
        return
    assert encode_part(found) == b"\xc1" + payload


@pytest.mark.parametrize("payload", [b"", b"{}", b"\x80", b"\xc0", b"\xc2"])
def test_what_is_no_part_is_told_by_its_first_byte(payload: bytes) -> None:
    assert not is_part(payload)


# Joining.


def test_parts_in_order_become_the_message() -> None:
    join = joiner()
    assert join.add(part(), 0.0) is None
    assert (len(join), join.held) == (1, 3)
    assert join.add(part(position=3, data=b"def"), 0.0) == (b"{}", b"abcdef")
    assert (len(join), join.held) == (0, 0)


def test_a_message_in_one_part_is_whole_at_once() -> None:
    assert joiner().add(part(size=3), 0.0) == (b"{}", b"abc")
    assert joiner().add(part(size=0, data=b""), 0.0) == (b"{}", b"")


def test_streams_do_not_mix() -> None:
    join = joiner()
    join.add(part(1), 0.0)
    join.add(part(2, data=b"uvw", envelope=b"{2}"), 0.0)
    assert join.add(part(1, 3, data=b"def"), 0.0) == (b"{}", b"abcdef")
    assert join.add(part(2, 3, data=b"xyz"), 0.0) == (b"{2}", b"uvwxyz")


@pytest.mark.parametrize(
    "second",
    [part(position=2, data=b"x"), part(position=4, data=b"ef"), part(), part(position=3, size=9, data=b"x")],
    ids=["overlap", "hole", "again", "other size"],
)
def test_a_part_that_does_not_fit_ends_its_stream(second: Part) -> None:
    join = joiner()
    join.add(part(), 0.0)
    assert refusal(join.add, second, 0.0)[0] == "bad_part"


def test_what_is_still_on_its_way_of_a_stream_that_was_refused_is_not_refused_again() -> None:
    join = joiner(message_bytes=10)
    assert refusal(join.add, part(size=11), 0.0)[0] == "too_large"
    assert join.add(part(position=3, size=11, data=b"def"), 0.0) is None
    assert join.add(part(position=6, size=11, data=b"ghijk"), 0.0) is None, "the last of it"
    assert refusal(join.add, part(position=3, data=b"def"), 0.0)[0] == "bad_part"
    assert (len(join), join.held) == (0, 0)


def test_the_number_of_a_stream_that_was_refused_may_be_used_again() -> None:
    join = joiner(message_bytes=10)
    assert refusal(join.add, part(size=11), 0.0)[0] == "too_large"
    join.add(part(), 0.0)
    assert join.add(part(position=3, data=b"def"), 0.0) == (b"{}", b"abcdef")


def test_a_refusal_carries_the_envelope_so_that_its_id_can_be_answered() -> None:
    join = joiner(message_bytes=10)
    with pytest.raises(PartRefused) as caught:
        join.add(part(size=11, envelope=b'{"id":5}'), 0.0)
    assert caught.value.envelope == b'{"id":5}'


def test_refused_streams_are_not_remembered_for_ever() -> None:
    join = joiner(message_bytes=10)
    for number in range(5000):
        refusal(join.add, part(number, size=11), 0.0)
    assert len(join._given_up) < 2000


def test_a_stream_must_begin_at_its_beginning() -> None:
    assert refusal(joiner().add, part(position=3, data=b"def"), 0.0)[0] == "bad_part"
    assert refusal(joiner().add, Part(FIRST, 1, 3, 9, b"{}", b"def"), 0.0)[0] == "bad_part"


def test_a_cancelled_stream_is_forgotten_and_its_number_free() -> None:
    join = joiner()
    join.add(part(), 0.0)
    cancel = Part(CANCEL, 1, 3, 6, b"", b"")
    assert join.add(cancel, 0.0) is None
    assert join.add(cancel, 0.0) is None
    assert (len(join), join.held) == (0, 0)
    join.add(part(), 0.0)


def test_all_that_is_kept_is_bounded() -> None:
    join = joiner(message_bytes=10, total_bytes=12, streams=2)
    assert refusal(join.add, part(size=11), 0.0) == ("too_large", "limits.parted_message_bytes")
    join.add(part(1, size=10, data=b"x" * 9), 0.0)
    join.add(part(2, size=10, data=b"x" * 3), 0.0)
    assert refusal(join.add, part(3), 0.0) == ("too_many_requests", "limits.parted_streams")
    assert refusal(join.add, part(2, 3, 10, b"x"), 0.0) == ("too_large", "limits.parted_bytes")
    assert (len(join), join.held) == (1, 9)


def test_what_gets_nowhere_is_given_up() -> None:
    join = joiner()
    join.add(part(1, size=9), 0.0)
    join.add(part(2, size=9), 0.0)
    join.add(part(1, 3, 9, b"def"), 5.0)
    assert join.expire(9.9, idle=10, total=100) == []
    assert join.expire(10.0, idle=10, total=100) == [(2, b"{}")]
    assert join.expire(14.9, idle=10, total=100) == []
    assert join.expire(14.9, idle=10, total=14) == [(1, b"{}")]
    assert (len(join), join.held) == (0, 0)


@settings(deadline=None, max_examples=200)
@given(
    parts=st.lists(
        st.builds(
            Part,
            st.integers(0, 7),
            st.integers(0, 3),
            st.integers(0, 12),
            st.integers(0, 15),
            st.sampled_from([b"", b"{}"]),
            st.binary(max_size=6),
        ),
        max_size=30,
    )
)
def test_whatever_is_added_nothing_but_refusals_and_messages_come_of_it(parts: list[Part]) -> None:
    join = joiner(message_bytes=12, total_bytes=20, streams=2)
    for one in parts:
        try:
            checked = decode_part(encode_part(one))
            whole = join.add(checked, 0.0)
        except Refused:
            continue
        assert whole is None or len(whole[1]) == checked.size
        assert 0 <= join.held <= 20
        assert len(join) <= 2
    join.expire(100.0, 1, 1)
    assert (len(join), join.held) == (0, 0)


# As the wire formats use them.


def payload_of(frame: bytes) -> bytes:
    """Of a binary frame."""
    assert frame[0] == 0x82
    return frame[4:] if frame[1] == 126 else frame[2:]


@both
@settings(deadline=None, max_examples=30)
@given(
    payload=st.sampled_from(
        [
            Payload(Kind.TEXT, "grün".encode() * 10),
            Payload(Kind.BINARY, b"\xff\x00" * 20),
            Payload(Kind.JSON, b'{"a": [1, 2, "\xc3\xbc"]}'),
            Payload(Kind.MSGPACK, b"\x81\xa1a\x93\x01\x02\xa2\xc3\xbc"),
        ]
    ),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5),
)
def test_what_the_server_cuts_a_client_can_join(form: Format, payload: Payload, sizes: list[int]) -> None:
    message = Message("r", payload, "ann", "bulk", "k", "bob", offset=3, at=5.5)
    parts = form.protocol.parts(message)
    assert parts is not None
    join, position, whole = joiner(), 0, None
    while position < parts.size:
        size = min(sizes[position % len(sizes)], parts.size - position)
        whole = join.add(decode_part(payload_of(parts.cut(7, position, size))), 0.0)
        position += size
    assert whole is not None
    envelope = form.decode(whole[0])
    kind = Kind[envelope.pop("kind").upper()]
    assert envelope == {
        "t": "message", "room": "r", "from": "ann", "offset": 3, "channel": "bulk", "key": "k", "to": "bob", "at": 5.5,
    }  # fmt: skip
    assert Payload(kind, whole[1]).value() == payload.value()


@both
def test_a_cancellation_is_understood(form: Format) -> None:
    parts = form.protocol.parts(Message("r", Payload(Kind.BINARY, bytes(100))))
    assert parts is not None
    join = joiner()
    join.add(decode_part(payload_of(parts.cut(7, 0, 10))), 0.0)
    assert join.add(decode_part(payload_of(parts.cancel(7, 10))), 0.0) is None
    assert len(join) == 0


@both
@pytest.mark.parametrize(
    ("kind", "payload"),
    [("text", "grün".encode()), ("binary", b"\xff"), ("json", b'{"a":1}'), ("msgpack", b"\x81\xa1a\x01")],
)
def test_a_client_may_publish_any_kind_in_parts(form: Format, kind: str, payload: bytes) -> None:
    envelope = {
        "t": "publish", "id": 5, "room": "r", "kind": kind, "channel": "c", "key": "k", "to": "b", "echo": True,
        "ttl": 2.5,
    }  # fmt: skip
    command = form.protocol.parted(form.encode(envelope), payload)
    assert command == Publish("r", Payload(Kind[kind.upper()], payload), 5, "c", "k", "b", True, 2.5)


@both
@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("text", b"\xff"),
        ("json", b"{"),
        ("json", b""),
        ("json", b"1 2"),
        ("json", b"[" * 100_000),
        ("msgpack", b""),
        ("msgpack", b"\xc1"),
        ("msgpack", b"\x01\x02"),
        ("msgpack", b"\x91" * 100_000),
        ("picture", b"x"),
    ],
    ids=lambda value: repr(value[:10]),
)
def test_a_payload_that_is_not_what_it_says_is_refused_with_the_id(form: Format, kind: str, payload: bytes) -> None:
    envelope = form.encode({"t": "publish", "id": 5, "room": "r", "kind": kind})
    with pytest.raises(Refused) as caught:
        form.protocol.parted(envelope, payload)
    assert (caught.value.code, caught.value.request) == ("bad_request", 5)


@both
@pytest.mark.parametrize("envelope", [b"", b"{", b"\xc1", b"[" * 100_000, b"\x91" * 100_000])
def test_an_envelope_that_is_none_is_refused(form: Format, envelope: bytes) -> None:
    with pytest.raises(Refused):
        form.protocol.parted(envelope, b"x")


@pytest.mark.parametrize("request_", [{"t": "publish", "room": "r"}, {"t": "join", "room": "r", "kind": "text"}])
def test_an_envelope_of_something_else_is_refused(request_: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        JSON.protocol.parted(JSON.encode(request_), b"x")


def test_an_envelope_too_long_for_a_part_means_the_message_goes_whole() -> None:
    message = Message("r", Payload(Kind.BINARY, bytes(20_000)), "ann", key="\x01" * 20_000)
    assert JSON.protocol.parts(message) is None, "each \\x01 is six bytes of JSON"
    assert MSGPACK.protocol.parts(message) is not None
