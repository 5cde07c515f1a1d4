"""What the relay and a plugin's process say to each other: frames of msgpack, each a list that begins with its kind.

Not here: what is done about it. Pure. The one rule: neither side believes that the other is well: a frame has a bound,
and what cannot be read ends the process, not the relay.

    relay to plugin     init, open, empty, member, joined, filter_joined, gone, decisions, ask, ping
    plugin to relay     ready, broken, answer, refused, failed, say, tell, kick, close, publish, meter, log, pong
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from relay.decisions import Decision
from relay.model import Kind, Message, Payload

LARGEST: Final = 1 << 26  # bytes of one frame
_HEAD: Final = 4

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder()


class Broken(Exception):
    """The other side sent what is no frame."""


def frame(*words: Any) -> bytes:
    """Raises TypeError for what msgpack cannot express, ValueError for what is too large."""
    body = _encoder.encode(words)
    if len(body) > LARGEST:
        raise ValueError(f"more than {LARGEST} bytes at once cannot be handed to another process")
    return len(body).to_bytes(_HEAD, "big") + body


class Frames:
    """Bytes in, frames out, however the bytes are cut."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[list[Any]]:
        """All frames that are whole now. Raises Broken."""
        rest = self._rest
        rest += data
        found: list[list[Any]] = []
        position = 0
        while len(rest) - position >= _HEAD:
            size = int.from_bytes(rest[position : position + _HEAD], "big")
            if size > LARGEST:
                raise Broken(f"a frame of {size} bytes")
            end = position + _HEAD + size
            if len(rest) < end:
                break
            found.append(_words(bytes(rest[position + _HEAD : end])))
            position = end
        del rest[:position]
        return found


def _words(body: bytes) -> list[Any]:
    try:
        words = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise Broken(str(error)) from None
    if not (isinstance(words, list) and words and isinstance(words[0], str)):
        raise Broken("a frame that is no list of words")
    return words


def packed(payload: Payload | None) -> list[Any] | None:
    return None if payload is None else [int(payload.kind), payload.raw]


def unpacked(said: list[Any] | None) -> Payload | None:
    """Raises Broken."""
    if said is None:
        return None
    try:
        return Payload(Kind(said[0]), said[1])
    except (ValueError, IndexError, TypeError):
        raise Broken("a payload that is none") from None


def packed_message(message: Message) -> list[Any]:
    data = message.data
    return [
        message.room, int(data.kind), data.raw, message.sender, message.channel, message.key, message.to,
        message.echo, message.offset, message.at,
    ]  # fmt: skip


def unpacked_message(said: list[Any]) -> Message:
    """Raises Broken."""
    try:
        room, kind, raw, sender, channel, key, to, echo, offset, at = said
        return Message(room, Payload(Kind(kind), raw), sender, channel, key, to, echo, offset, at)
    except (ValueError, TypeError):
        raise Broken("a message that is none") from None


def packed_decision(decision: Decision) -> list[Any]:
    return [getattr(decision, name) for name in Decision.__slots__]


def unpacked_decision(said: list[Any]) -> Decision:
    decision = Decision.__new__(Decision)
    for name, value in zip(Decision.__slots__, said, strict=True):
        setattr(decision, name, value)
    return decision
