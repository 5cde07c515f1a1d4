"""The wire format of `relay.plugin.testing`: its frames are numbers of things said, so that tests compare values, not
bytes.

Not here: a client's commands; a member of a test calls methods. The one rule: a frame is as long as what it carries,
so that outboxes fill up and drop as they would.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from relay.errors import CloseCode, CloseReason, Refused
from relay.model import Message, Payload
from relay.protocols.base import Auth, Command, Hello, Ping, ProtocolError, Publish, RequestId


class Recorder:
    """A `WireProtocol`. What was said is looked up in the order in which the real outbox sent it."""

    name = "test"
    subprotocol: str | None = None
    bare = False
    takes_parts = False
    patches = False
    _header = struct.Struct(">II")

    def __init__(self) -> None:
        self._said: list[Message | tuple[str, str, str]] = []

    def read(self, frames: bytes) -> list[Message | tuple[str, str, str]]:
        """What was said in one or more whole frames."""
        found, place = [], 0
        while place < len(frames):
            number, size = self._header.unpack_from(frames, place)
            found.append(self._said[number])
            place += self._header.size + size
        return found

    def _say(self, said: Message | tuple[str, str, str], size: int) -> bytes:
        self._said.append(said)
        return self._header.pack(len(self._said) - 1, size) + bytes(size)

    def message(self, message: Message) -> bytes:
        return self._say(message, len(message.data))

    def patch(self, message: Message, base: Message, patch: Payload) -> bytes | None:
        return None

    def parts(self, message: Message) -> None:
        return None

    def announced(self, envelope: bytes) -> Publish:
        raise AssertionError("nobody sends parts to a test")

    def parted(self, envelope: bytes, payload: bytes) -> Command:
        raise AssertionError("nobody sends parts to a test")

    def request_in(self, envelope: bytes) -> None:
        return None

    def joined(self, room: str, subject: str, claims: Mapping[str, Any] | None = None) -> bytes | None:
        return self._say(("joined", room, subject), 0)

    def counted(self, room: str, count: int, events: bool) -> bytes | None:
        return self._say(("count", room, str(count)), 0)

    def left(self, room: str, subject: str, reason: str = "") -> bytes | None:
        return self._say(("left", room, subject), 0)

    # What a session says; there is none in a test of a plugin.

    def decode(self, opcode: int, payload: bytes, home: str) -> Command:
        raise ProtocolError(CloseReason(CloseCode.UNSUPPORTED_DATA, "a member of a test calls methods"))

    def opening(self, opcode: int, payload: bytes) -> Auth | Ping:
        raise ProtocolError(CloseReason(CloseCode.UNSUPPORTED_DATA, "a member of a test is no guest"))

    def hello(self, hello: Hello) -> bytes | None:
        return None

    def ok(self, request: RequestId, result: dict[str, Any]) -> bytes | None:
        return None

    def error(self, request: RequestId, refused: Refused) -> bytes | None:
        return None

    def pong(self, request: RequestId) -> bytes | None:
        return None

    def confirm(self, room: str, offset: int) -> bytes | None:
        return None

    def renamed(self, room: str, name: str) -> bytes | None:
        return self._say(("renamed", room, name), 0)

    def gap(self, room: str, first: int, last: int, reason: str) -> bytes | None:
        return None

    def expiring(self, seconds: float) -> bytes | None:
        return None

    def bye(self, reason: CloseReason) -> bytes | None:
        return None
