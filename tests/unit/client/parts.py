"""The relay's end of messages in parts, for the client's tests."""

from __future__ import annotations

from typing import Any

import msgspec
from wsproto.events import BytesMessage

from relay.protocols.parts import CANCEL, FIRST, LAST, Joiner, Part, decode_part, encode_part
from tests.unit.client.server import Peer


async def send_part(peer: Peer, part: Part) -> None:
    await peer.send(BytesMessage(data=encode_part(part)))


async def send_parts(peer: Peer, stream: int, payload: bytes, size: int, **words: Any) -> None:
    """A whole message, in parts of `size` bytes of payload."""
    for part in cut(peer, stream, payload, size, **words):
        await send_part(peer, part)


def cut(peer: Peer, stream: int, payload: bytes, size: int, **words: Any) -> list[Part]:
    head = {"t": "message", "room": "lobby", "kind": "binary", **words}
    envelope = (msgspec.msgpack if peer.binary else msgspec.json).encode(head)
    parts = []
    for place in range(0, max(len(payload), 1), size):
        data = payload[place : place + size]
        flags = (0 if place else FIRST) | (LAST if place + len(data) == len(payload) else 0)
        parts.append(Part(flags, stream, place, len(payload), b"" if place else envelope, data))
    return parts


def cancellation(stream: int) -> Part:
    return Part(CANCEL, stream, 0, 0, b"", b"")


class Listener:
    """Hears what a client says, whole messages and parts, and joins these."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.parts: list[Part] = []
        self._joiner = Joiner(1 << 26, 1 << 26, 100)

    async def hear(self) -> Part | dict[str, Any] | None:
        """The next message of the client; None when it closed."""
        raw = await self.peer.hear()
        if raw is None:
            return None
        if isinstance(raw, str):
            return msgspec.json.decode(raw, type=dict[str, Any])
        if bytes(raw[:1]) != b"\xc1":
            return msgspec.msgpack.decode(raw, type=dict[str, Any])
        part = decode_part(bytes(raw))
        self.parts.append(part)
        return part

    def words(self, envelope: bytes) -> dict[str, Any]:
        return (msgspec.msgpack if self.peer.binary else msgspec.json).decode(envelope, type=dict[str, Any])

    async def whole(self) -> Any:
        """The next message in parts: its envelope and payload; None when the client closed.

        Whole messages between the parts are passed over.
        """
        while (heard := await self.hear()) is not None:
            if isinstance(heard, Part) and (joined := self._joiner.add(heard, 0.0)) is not None:
                return self.words(joined[0]), joined[1]
        return None
