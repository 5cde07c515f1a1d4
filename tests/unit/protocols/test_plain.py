"""The plain mode: bytes as they came, and nothing of ours between them."""

from __future__ import annotations

from typing import Any

import pytest

from relay.errors import CloseCode, CloseReason, Refused
from relay.model import Kind, Message, Payload
from relay.protocols.base import Hello, Publish
from relay.protocols.plain import Plain

plain: Any = Plain()


def test_whatever_is_sent_is_published_in_the_room_of_the_address() -> None:
    assert plain.decode(1, b"hi", "home") == Publish("home", Payload(Kind.TEXT, b"hi"))
    assert plain.decode(2, b"\xff", "home") == Publish("home", Payload(Kind.BINARY, b"\xff"))


@pytest.mark.parametrize(
    ("payload", "frame"),
    [
        (Payload(Kind.TEXT, b"hi"), b"\x81\x02hi"),
        (Payload(Kind.BINARY, b"\xff"), b"\x82\x01\xff"),
        (Payload(Kind.JSON, b'"hi"'), b"\x81\x02hi"),
        (Payload(Kind.JSON, b'{"a": 1}'), b'\x81\x08{"a": 1}'),
        (Payload(Kind.MSGPACK, b"\xa2hi"), b"\x81\x02hi"),
        (Payload(Kind.MSGPACK, b"\xc4\x01\xff"), b"\x82\x01\xff"),
        (Payload(Kind.MSGPACK, b"\x81\xa1a\x01"), b'\x81\x07{"a":1}'),
        (Payload(Kind.MSGPACK, b"\xc1"), b"\x82\x01\xc1"),
        (Payload(Kind.TEXT, b""), b"\x81\x00"),
    ],
    ids=repr,
)
def test_a_message_is_its_payload_and_nothing_else(payload: Payload, frame: bytes) -> None:
    assert plain.message(Message("r", payload, "ann", "urgent", "key", offset=5, at=6.0)) == frame


def test_nothing_else_is_ever_said() -> None:
    assert plain.hello(Hello("s", "ann", None, [], {}, 1.0, "v")) is None
    assert plain.ok(1, {"offset": 1}) is None
    assert plain.error(1, Refused("internal")) is None
    assert plain.pong(1) is None
    assert plain.joined("r", "ann") is None
    assert plain.left("r", "ann") is None
    assert plain.gap("r", 1, 2, "why") is None
    assert plain.expiring(5.0) is None
    assert plain.bye(CloseReason(CloseCode.NORMAL, "")) is None
