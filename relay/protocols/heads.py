"""What a frame of ours says it is: the room and the offset of a message that was encoded before.

Needed once in a session's life at most, when its socket is lost and something waits unsent: that is read again which
history can bring, so that it is not kept twice. Not here: what becomes of it (session/resume). The one rule: what
cannot be told is `("", 0)`, and nothing is raised.
"""

from __future__ import annotations

import zlib
from typing import Final

import msgspec

from relay.protocols.deflated import TAIL
from relay.protocols.frames import BINARY, RSV1, TEXT, opened
from relay.protocols.parts import Parts, decode_part, is_part

NOTHING: Final = ("", 0)
_DATA: Final = (TEXT, BINARY)


class _Head(msgspec.Struct):
    t: str = ""
    room: str = ""
    offset: int = 0


_decode_json: Final = msgspec.json.Decoder(_Head).decode
_decode_msgpack: Final = msgspec.msgpack.Decoder(_Head).decode


def is_lasting(whole: bytes, *, text: bool) -> bool:
    """Whether a frame means something on another socket too. A ping, a pong and a hello are of their socket alone."""
    return opened(whole)[0] & ~RSV1 in _DATA and _head(whole, text=text).t != "hello"


def place_of(whole: bytes, *, text: bool) -> tuple[str, int]:
    """(room, offset) of a message's frame. `text`: the format is JSON, also of the envelopes of parts."""
    head = _head(whole, text=text)
    return (head.room, head.offset) if head.t == "message" else NOTHING


def _head(whole: bytes, *, text: bool) -> _Head:
    try:
        opcode, payload = opened(whole)
        if opcode & RSV1:
            payload = zlib.decompressobj(-zlib.MAX_WBITS).decompress(payload + TAIL)
        if opcode & ~RSV1 == BINARY and is_part(payload):
            payload = decode_part(payload).envelope
        return (_decode_json if text else _decode_msgpack)(payload)
    except Exception:  # whatever it is, it is kept as it is
        return _Head()


def place_of_parts(parts: Parts, *, text: bool) -> tuple[str, int]:
    """The same for a message that leaves in parts."""
    return place_of(parts.cut(0, 0, 0), text=text)
