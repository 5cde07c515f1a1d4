"""Payloads and messages: each kind as a value, as text, and as what the others want."""

from __future__ import annotations

import base64
import json

import pytest

from relay.model import Kind, Message, Payload


@pytest.mark.parametrize(
    ("data", "kind", "raw"),
    [
        ("hü", Kind.TEXT, "hü".encode()),
        ("", Kind.TEXT, b""),
        (b"\xff", Kind.BINARY, b"\xff"),
        (bytearray(b"ab"), Kind.BINARY, b"ab"),
        (memoryview(b"ab"), Kind.BINARY, b"ab"),
        ({"a": [1, None]}, Kind.JSON, b'{"a":[1,null]}'),
        (None, Kind.JSON, b"null"),
        (True, Kind.JSON, b"true"),
        (1.5, Kind.JSON, b"1.5"),
    ],
    ids=repr,
)
def test_what_a_plugin_says_becomes_a_payload(data: object, kind: Kind, raw: bytes) -> None:
    payload = Payload.of(data)
    assert (payload.kind, payload.raw) == (kind, raw)
    assert type(payload.raw) is bytes


def test_a_payload_stays_the_payload_it_is() -> None:
    payload = Payload(Kind.MSGPACK, b"\x01")
    assert Payload.of(payload) is payload


@pytest.mark.parametrize("data", [object(), {1j}, {("a",): object()}, [object()]])
def test_what_json_cannot_express_is_a_type_error(data: object) -> None:
    with pytest.raises(TypeError):
        Payload.of(data)


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        (Payload(Kind.TEXT, "hü".encode()), "hü"),
        (Payload(Kind.BINARY, b"\xff"), b"\xff"),
        (Payload(Kind.JSON, b'{"a":1}'), {"a": 1}),
        (Payload(Kind.MSGPACK, b"\x81\xa1a\xc4\x01\xff"), {"a": b"\xff"}),
    ],
    ids=repr,
)
def test_the_value_is_what_python_sees(payload: Payload, value: object) -> None:
    assert payload.value() == value


@pytest.mark.parametrize("payload", [Payload(Kind.JSON, b"{"), Payload(Kind.MSGPACK, b"\xc1")], ids=repr)
def test_a_document_that_is_broken_inside_is_a_value_error_when_it_is_read(payload: Payload) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever msgspec makes of it
        payload.value()


def test_text_of_a_document_is_its_json_and_of_a_string_the_string() -> None:
    assert Payload(Kind.JSON, b'{"a": 1}').text() == '{"a": 1}'
    assert Payload(Kind.JSON, b'"\\u00fc"').text() == "ü"
    assert Payload(Kind.MSGPACK, b"\x81\xa1a\x01").text() == '{"a":1}'
    with pytest.raises(UnicodeDecodeError):
        Payload(Kind.BINARY, b"\xff").text()


@pytest.mark.parametrize("payload", [Payload(Kind.BINARY, b"\xff\x00"), Payload(Kind.MSGPACK, b"\xc4\x02\xff\x00")])
def test_binary_in_json_is_base64(payload: Payload) -> None:
    assert base64.b64decode(json.loads(payload.as_json())) == b"\xff\x00"


def test_what_json_cannot_say_of_msgpack_is_base64_of_all_of_it() -> None:
    raw = b"\xd4\x05\x00"  # an extension type
    assert base64.b64decode(json.loads(Payload(Kind.MSGPACK, raw).as_json())) == raw


@pytest.mark.parametrize("raw", [b"\xa3ab\xff", b"\x81\xa1a\xa3ab\xff", b"\x81\xa3ab\xff\x01"])
def test_a_msgpack_string_that_is_not_utf_8_breaks_nobody_elses_format(raw: bytes) -> None:
    payload = Payload(Kind.MSGPACK, raw)
    assert base64.b64decode(json.loads(payload.as_json())) == raw
    assert payload.plain() == (Kind.BINARY, raw)
    assert payload.as_msgpack() == raw, "who speaks msgpack gets what was sent"


def test_an_integer_that_msgpack_cannot_hold_becomes_its_json_text() -> None:
    assert Payload(Kind.MSGPACK, Payload(Kind.JSON, b"36893488147419103232").as_msgpack()).value() == str(2**65)


def test_payloads_are_equal_by_kind_and_bytes_and_can_be_kept_in_sets() -> None:
    one, same, other = Payload(Kind.TEXT, b"a"), Payload(Kind.TEXT, b"a"), Payload(Kind.BINARY, b"a")
    assert one == same
    assert one != other
    assert one != "a"  # type: ignore[comparison-overlap]
    assert len({one, same, other}) == 2
    assert len(one) == 1


def test_what_may_end_up_in_a_log_does_not_hold_the_content() -> None:
    message = Message("room", Payload(Kind.TEXT, b"the secret"), "ann", offset=3)
    assert "secret" not in repr(message)
    assert "10 B" in repr(message)
    assert "room#3" in repr(message)
