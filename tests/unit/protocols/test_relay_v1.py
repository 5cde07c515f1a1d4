"""`relay.v1`: the table in both directions and both formats, and everything that is no such message."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.errors import CloseCode, Refused
from relay.model import Kind, Message, Payload
from relay.protocols.base import Ping, ProtocolError, Publish
from relay.protocols.parts import decode_part
from relay.protocols.relay_v1 import OPTIONAL
from tests.unit.protocols.table import FORMATS, JSON, MSGPACK, Format, answers, commands

both = pytest.mark.parametrize("form", FORMATS, ids=str)


@both
def test_every_command_of_the_table_is_understood(form: Format) -> None:
    for said, command in commands(form):
        assert form.protocol.decode(form.opcode, form.encode(said), "") == command, said


@both
def test_every_answer_of_the_table_looks_as_it_says(form: Format) -> None:
    for said, frame in answers(form):
        assert form.said(frame) == said


@both
def test_a_request_without_an_id_is_not_answered(form: Format) -> None:
    assert form.protocol.ok(None, {"offset": 1}) is None


def test_data_is_passed_on_as_it_came_not_parsed_and_written_anew() -> None:
    command = JSON.protocol.decode(1, b'{"t":"publish","room":"r","data": {"b" : 1.00, "a":[ ]} }', "")
    assert isinstance(command, Publish)
    assert command.data.raw == b'{"b" : 1.00, "a":[ ]}'


def test_what_one_format_says_the_other_hears() -> None:
    for sender, receiver in ((JSON, MSGPACK), (MSGPACK, JSON)):
        message = Message("r", sender.payload({"a": [1, "ü", None, 2.5]}), "ann", offset=1)
        assert receiver.said(receiver.protocol.message(message))["data"] == {"a": [1, "ü", None, 2.5]}


FULL = Message(
    "r", Payload(Kind.TEXT, b"hi"), "ann", channel="state", key="k", to="bob", offset=7, at=1.5
)  # fmt: skip


@both
@pytest.mark.parametrize("fields", [set(), {"key"}, {"offset", "from"}, set(OPTIONAL)], ids=str)
def test_a_client_is_told_of_a_message_what_it_wants_to_know(form: Format, fields: set[str]) -> None:
    protocol = type(form.protocol)(fields=frozenset(fields))
    said = form.said(protocol.message(FULL))
    assert set(said) == {"t", "room", "data"} | fields
    whole = form.said(form.protocol.message(FULL))
    assert said == {name: value for name, value in whole.items() if name in said}
    (remembered,) = form.said(protocol.ok(1, {"messages": [FULL]}))["messages"]
    assert remembered == said, "what a room remembers looks the same"


@both
def test_the_envelope_of_parts_has_the_wanted_fields_alone(form: Format) -> None:
    parts = type(form.protocol)(fields=frozenset({"key"})).parts(FULL)
    assert parts is not None
    frame = parts.cut(0, 0, 2)
    part = decode_part(frame[2:])
    assert set(form.decode(part.envelope)) == {"t", "room", "kind", "key"}


@both
def test_the_wrong_kind_of_websocket_message_ends_the_connection(form: Format) -> None:
    with pytest.raises(ProtocolError) as caught:
        form.protocol.decode(3 - form.opcode, form.encode({"t": "ping"}), "")
    assert caught.value.reason.code == CloseCode.UNSUPPORTED_DATA


# What is no message, and whether its id could still be read.

WRONG: list[tuple[Any, str, Any]] = [
    ({"t": "join"}, "bad_request", None),
    ({"t": "join", "id": 7}, "bad_request", 7),
    ({"t": "join", "room": 5, "id": 7}, "bad_request", 7),
    ({"t": "join", "room": None, "id": "seven"}, "bad_request", "seven"),
    ({"t": "join", "room": "r", "id": 7, "last": "many"}, "bad_request", 7),
    ({"t": "join", "room": "r", "id": 7, "last": 1.5}, "bad_request", 7),
    ({"t": "join", "room": "r", "id": 7, "since": {"epoch": "e"}}, "bad_request", 7),
    ({"t": "join", "room": "r", "id": 7, "since": 5}, "bad_request", 7),
    ({"t": "join", "room": "r", "id": 7, "rooom": "s"}, "bad_request", 7),
    ({"t": "publish", "room": "r", "id": 7}, "bad_request", 7),
    ({"t": "publish", "room": "r", "id": 7, "data": 1, "echo": "yes"}, "bad_request", 7),
    ({"t": "publish", "room": "r", "id": 7, "data": 1, "to": ["a"]}, "bad_request", 7),
    ({"t": "call", "room": "r", "method": "m", "id": 7, "timeout": -1}, "bad_request", 7),
    ({"t": "call", "room": "r", "method": "m", "id": 7, "timeout": "1"}, "bad_request", 7),
    ({"t": "call", "room": "r", "id": 7}, "bad_request", 7),
    ({"t": "auth", "id": 7}, "bad_request", 7),
    ({"t": "ping", "id": 7, "x": 1}, "bad_request", 7),
    ({"t": "shout", "id": 7}, "unknown_type", 7),
    ({"t": "", "id": 7}, "unknown_type", 7),
    ({"t": "hello", "id": 7}, "unknown_type", 7),
    ({"t": 1, "id": 7}, "bad_request", 7),
    ({"t": None, "id": 7}, "bad_request", 7),
    ({"room": "r", "id": 7}, "bad_request", 7),
    ({}, "bad_request", None),
    ({"t": "join", "room": "r", "id": 1.5}, "bad_request", None),
    ({"t": "join", "room": "r", "id": [1]}, "bad_request", None),
    ({"t": "join", "room": "r", "id": True}, "bad_request", None),
    ([], "bad_request", None),
    ([{"t": "ping"}], "bad_request", None),
    ("ping", "bad_request", None),
    (None, "bad_request", None),
    (5, "bad_request", None),
]


@both
@pytest.mark.parametrize(("said", "code", "request_id"), WRONG, ids=lambda value: str(value)[:60])
def test_what_is_no_message_is_refused_with_its_id(form: Format, said: Any, code: str, request_id: Any) -> None:
    with pytest.raises(Refused) as caught:
        form.protocol.decode(form.opcode, form.encode(said), "")
    assert (caught.value.code, caught.value.request) == (code, request_id)
    assert caught.value.message


DEEP = 100_000
BROKEN_JSON = [
    b"",
    b" ",
    b"{",
    b'{"t":"ping"',
    b'{"t":"ping"} x',
    b'{"t":"ping",}',
    b"{'t':'ping'}",
    b'{"t":"ping","id":NaN}',
    b'{"t":"call","room":"r","method":"m","timeout":NaN}',
    b'{"t":"call","room":"r","method":"m","timeout":Infinity}',
    b'{"t":"join","room":"r","last":1e400}',
    b'{"t":"join","room":"\\ud800"}',
    b'{"t":"join","room":"\\udc00\\ud800"}',
    b'{"t":"join","room":"\xff"}',
    b'{"t":"\xff"}',
    b'\xff{"t":"ping"}',
    b'{"t":"publish","room":"r","data":}',
    b'{"t":"publish","room":"r","data":nope}',
    b'{"t":"publish","room":"r","data":' + b"[" * DEEP,
    b'{"t":"publish","room":"r","data":' + b"[" * DEEP + b"]" * DEEP + b"}",
    b'{"t":"publish","room":"r","data":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    b"[" * DEEP,
    b'{"a":' * DEEP,
    b'{"t":' + b"[" * DEEP,
    b'{"id":' + b"[" * DEEP + b"]" * DEEP + b"}",
    b'{"x":' + b"[" * DEEP + b"]" * DEEP + b',"t":"ping"}',
    b"\xef\xbb\xbf" + b'{"t":"ping"}',
    b"null",
    b"\x00",
]


@pytest.mark.parametrize("data", BROKEN_JSON, ids=lambda data: repr(data[:40]))
def test_broken_json_is_refused_and_nothing_else_is_raised(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        JSON.protocol.decode(1, data, "")
    assert caught.value.code == "bad_request"


BROKEN_MSGPACK = [
    b"",
    b"\xc1",
    b"\x81",
    b"\x81\xa1t",
    b"\x81\xa1t\xa4ping\x00",
    b"\x91" * DEEP,
    b"\x83\xa1t\xa7publish\xa4room\xa1r\xa4data" + b"\x91" * DEEP + b"\xc0",
    b"\x82\xa1t\xa4ping\xa2id\xc4\x01x",
    b"\x82\xa1t\xa4join\xa4room\xa1\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\x82\xa1t\xa4join\xa4room\xdb\xff\xff\xff\xffx",
    b"\xc7\xff\x00",
]


@pytest.mark.parametrize("data", BROKEN_MSGPACK, ids=lambda data: repr(data[:40]))
def test_broken_msgpack_is_refused_and_nothing_else_is_raised(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        MSGPACK.protocol.decode(2, data, "")
    assert caught.value.code == "bad_request"


def test_of_a_key_said_twice_the_last_counts() -> None:
    assert JSON.protocol.decode(1, b'{"t":"ping","id":1,"id":2}', "") == Ping(2)


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**30])
def test_an_id_of_any_size_comes_back_as_it_was(number: int) -> None:
    command = JSON.protocol.decode(1, b'{"t":"ping","id":%d}' % number, "")
    assert command == Ping(number)
    assert JSON.said(JSON.protocol.pong(number))["id"] == number


def test_a_number_of_a_million_digits_is_refused_and_costs_little() -> None:
    with pytest.raises(Refused):
        JSON.protocol.decode(1, b'{"t":"ping","id":' + b"9" * 1_000_000 + b"}", "")


@pytest.mark.parametrize("timeout", [float("nan"), -0.5, float("-inf")])
def test_a_timeout_that_is_no_time_is_refused(timeout: float) -> None:
    said = {"t": "call", "room": "r", "method": "m", "timeout": timeout}
    with pytest.raises(Refused):
        MSGPACK.protocol.decode(2, MSGPACK.encode(said), "")


ALMOST_JSON = (
    rb'"\q"', b'"a\nb"', b'"a\x01b"', rb'"\u12"', rb'"\ud800"', b"01", b"1.", b"-", b".5", b"1e", b"+1", b"1e5e5",
    b"nul", b"[1,]", b'{"a":1,}', b"{1:2}", b"[1 2]", b'{"a" 1}', rb'{"\q":1}', b"0x10", b"NaN", b"Infinity", b"-0",
    b"1E400",
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(
    data=st.one_of(
        st.sampled_from(ALMOST_JSON), st.text('[]{}",:0123456789.eE+-\\untrlfase ', max_size=12).map(str.encode)
    )
)
def test_what_is_passed_on_as_json_is_json(data: bytes) -> None:
    """Else one client could make the parsers of all others in the room stumble."""
    try:
        command = JSON.protocol.decode(1, b'{"t":"publish","room":"r","data":' + data + b"}", "")
    except Refused:
        return
    assert isinstance(command, Publish)
    json.loads(command.data.raw)


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(max_size=10),
        st.sampled_from(["join", "publish", "call", "auth", "ping", "leave", "history", "presence"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)
envelopes = st.dictionaries(
    st.sampled_from(
        ["t", "room", "id", "data", "since", "last", "members", "method", "token", "timeout", "key", "to", "echo"]
    ),
    values,
    max_size=6,
)


def mutated(data: bytes) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda place, byte: data[: place % (len(data) + 1)] + byte + data[place % (len(data) + 1) :],
        st.integers(0, 200),
        st.binary(max_size=2),
    )


def understood(form: Format, data: bytes) -> None:
    try:
        command = form.protocol.decode(form.opcode, data, "")
    except Refused as refused:
        answer = form.said(form.protocol.error(refused.request, refused))
        assert answer["t"] == "error"
    else:
        assert form.said(form.protocol.error(command.id, Refused("internal")))["id"] == command.id


@settings(deadline=None, max_examples=200)
@given(envelope=envelopes)
def test_any_json_is_a_command_or_refused_and_either_can_be_answered(envelope: dict[str, Any]) -> None:
    understood(JSON, msgspec.json.encode(envelope))


@settings(deadline=None, max_examples=200)
@given(data=st.one_of(st.binary(max_size=80), envelopes.map(msgspec.json.encode).flatmap(mutated)))
def test_any_bytes_are_a_command_or_refused_in_both_formats(data: bytes) -> None:
    for form in FORMATS:
        understood(form, data)


# Payloads: whatever came, everybody gets something.


def kinds(data: bytes) -> list[Payload]:
    return [Payload(kind, data) for kind in Kind]


def encodable(value: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except OverflowError:
        return msgspec.json.encode(value)


@settings(deadline=None, max_examples=300)
@given(data=st.one_of(st.binary(max_size=60), values.map(encodable)))
@example(data=b"")
@example(data=b"[" * DEEP)
@example(data=b"\x91" * DEEP + b"\xc0")
@example(data=b'"\\ud800"')
@example(data=b"\xd6\xff\x00\x00\x00\x01")
@example(data=b"\xd4\x05\x00")
@example(data=b"\x81\x91\x01\x02")
@example(data=b"1" * 5000)
@example(data=b"1e999999")
@example(data=b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00")
def test_any_payload_can_be_given_in_any_format(data: bytes) -> None:
    for payload in kinds(data):
        as_json, as_msgpack, (kind, plain) = payload.as_json(), payload.as_msgpack(), payload.plain()
        assert isinstance(plain, bytes)
        if payload.kind is not Kind.JSON:
            msgspec.json.decode(as_json)
        if payload.kind is not Kind.MSGPACK:
            msgspec.msgpack.decode(as_msgpack)
        if kind is Kind.TEXT and payload.kind in (Kind.BINARY, Kind.MSGPACK):
            plain.decode()
        message = Message("r", payload)
        for form in FORMATS:
            assert form.protocol.message(message)[0] == 0x80 | form.opcode


documents = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=10),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)


@settings(deadline=None, max_examples=200)
@given(value=documents)
def test_documents_survive_the_way_from_json_to_msgpack_and_back(value: Any) -> None:
    packed = Payload(Kind.JSON, msgspec.json.encode(value)).as_msgpack()
    assert msgspec.msgpack.decode(packed) == value
    assert msgspec.json.decode(Payload(Kind.MSGPACK, packed).as_json()) == value


@settings(deadline=None, max_examples=100)
@given(text=st.text(max_size=60))
def test_text_survives_every_way(text: str) -> None:
    data = text.encode()
    for made in (
        Payload(Kind.TEXT, data),
        Payload(Kind.JSON, Payload(Kind.TEXT, data).as_json()),
        Payload(Kind.MSGPACK, Payload(Kind.TEXT, data).as_msgpack()),
    ):
        assert made.value() == text
        assert made.plain() == (Kind.TEXT, data)
        assert made.text() == text


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=60))
def test_binary_survives_the_way_over_msgpack(data: bytes) -> None:
    made = Payload(Kind.MSGPACK, Payload(Kind.BINARY, data).as_msgpack())
    assert made.value() == data
    assert made.plain() == (Kind.BINARY, data)
