"""A compressed frame for all who share it: what it holds, when there is none, and that it is made once."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from relay.counters import Counters
from relay.model import Kind, Message, Payload
from relay.protocols.base import WireProtocol
from relay.protocols.deflated import WHOLE_UP_TO, Compressor, Deflated
from relay.protocols.frames import FIN, RSV1, opened
from relay.protocols.plain import Plain
from relay.protocols.relay_v1 import RelayV1Json, RelayV1Msgpack

FORMATS: list[WireProtocol] = [Plain(), RelayV1Json(), RelayV1Msgpack(), RelayV1Json(takes_parts=False)]
LONG = b'{"player":"ann","x":1.5,"y":2.5},' * 40


def make(inner: WireProtocol, *, bits: int = 12, least: int = 64) -> Deflated:
    return Deflated(inner, Compressor(bits, 1, Counters()), least)


def message(data: bytes = LONG) -> Message:
    return Message("r", Payload(Kind.TEXT, data), "ann", offset=7, at=1.5)


def inflated(frame: bytes, bits: int = 12) -> bytes:
    """The payload, as another implementation reads it."""
    opcode, payload = opened(frame)
    assert frame[0] & FIN
    theirs = PerMessageDeflate(True, True, bits, 15)
    return bytes(theirs.decode(Frame(Opcode(opcode & 15), payload, rsv1=bool(opcode & RSV1))).data)


@pytest.mark.parametrize("inner", FORMATS)
@pytest.mark.parametrize("bits", range(9, 16))
def test_what_is_inflated_is_what_would_have_been_sent(inner: WireProtocol, bits: int) -> None:
    deflated = make(inner, bits=bits)
    plain = inner.message(message())
    for _ in range(3):
        frame = deflated.message(message())
        assert frame[0] == plain[0] | RSV1
        assert len(frame) < len(plain) // 3
        assert inflated(frame, bits) == opened(plain)[1]


@settings(deadline=None, max_examples=150)
@given(texts=st.lists(st.text(max_size=400), max_size=6), bits=st.integers(9, 15))
def test_each_frame_can_be_inflated_without_any_other(texts: list[str], bits: int) -> None:
    deflated = make(Plain(), bits=bits, least=1)
    frames = [deflated.message(message(text.encode())) for text in texts]
    for text, frame in reversed(list(zip(texts, frames, strict=True))):
        assert inflated(frame, bits) == text.encode()


def test_short_messages_and_those_that_become_longer_go_as_they_are() -> None:
    deflated = make(Plain(), least=64)
    noise = bytes(zlib.crc32(bytes([number])) & 255 for number in range(200))
    for data in (b"", b"x" * 63, noise):
        assert deflated.message(message(data)) == Plain().message(message(data))
    assert deflated.message(message(b"x" * 64))[0] & RSV1


def test_what_is_said_to_one_client_is_as_it_was_unless_it_is_long() -> None:
    inner = RelayV1Json()
    deflated = make(inner)
    assert deflated.joined("r", "ann") == inner.joined("r", "ann")
    assert deflated.pong(1) == inner.pong(1)
    assert deflated.ok(1, {"offset": 3}) == inner.ok(1, {"offset": 3})
    assert deflated.ok(None, {"offset": 3}) is None
    history: dict[str, Any] = {"messages": [message(), message()]}
    frame, plain = deflated.ok(1, history), inner.ok(1, history)
    assert frame is not None
    assert plain is not None
    assert len(frame) < len(plain) // 3
    assert inflated(frame) == opened(plain)[1]
    assert deflated.decode(1, b'{"t":"ping","id":3}', "") == inner.decode(1, b'{"t":"ping","id":3}', "")
    assert (deflated.name, deflated.subprotocol) == (inner.name, inner.subprotocol)


def test_a_large_message_that_fits_into_one_part_compressed_needs_no_parts() -> None:
    deflated = make(RelayV1Json())
    large = message(LONG * 30)
    assert len(large.data) > 16384
    assert deflated.parts(large) is None
    frame = deflated.message(large)
    assert len(frame) <= 16384
    assert msgspec.json.decode(inflated(frame))["data"] == large.data.text()
    assert inflated(deflated.message(message())) == opened(RelayV1Json().message(message()))[1], "and no other's"


def test_parts_go_as_they_are_where_compressing_would_take_long_or_does_not_help() -> None:
    deflated = make(RelayV1Json())
    noise = b"".join(zlib.crc32(number.to_bytes(4, "big")).to_bytes(4, "big") for number in range(10000))
    for data in (bytes(WHOLE_UP_TO + 1), noise):
        large = Message("r", Payload(Kind.BINARY, data))
        parts, plain = deflated.parts(large), RelayV1Json().parts(large)
        assert parts is not None
        assert plain is not None
        assert parts.cut(3, 0, 1000) == plain.cut(3, 0, 1000)


def test_bytes_before_and_after_are_counted_once() -> None:
    counters = Counters()
    deflated = Deflated(Plain(), Compressor(12, 1, counters), 64)
    frame = deflated.message(message())
    deflated.message(message(b"short"))
    assert (counters.deflate_before, counters.deflate_after) == (len(LONG), len(opened(frame)[1]))
