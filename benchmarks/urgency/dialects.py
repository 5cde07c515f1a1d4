"""What the measured messages look like, and how each server wraps them.

An urgent payload is "U", the moment it was sent (`time.monotonic`, one clock for the whole machine), a number, padding.
A bulk payload is "B" and noise. The one rule: a dialect hands out payloads as they were published, whole.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable
from typing import Any, Final, Protocol

import msgspec

from benchmarks.urgency.wire import TEXT, Ended, Socket
from relay.protocols.parts import Joiner, decode_part, is_part

URGENT_SIZE: Final = 100
ROOM: Final = "chat:bench"
V1: Final = "relay.v1.msgpack"
_URGENT: Final = struct.Struct(">cdI")
_LARGEST: Final = 1 << 30

encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder().decode


def stamped(number: int) -> bytes:
    """The head of an urgent payload, stamped with this moment: 13 bytes."""
    return _URGENT.pack(b"U", time.monotonic(), number)


def urgent_payload(number: int) -> bytes:
    return stamped(number).ljust(URGENT_SIZE, b".")


def sent_at(payload: bytes) -> float | None:
    """When an urgent payload was sent; None: it is bulk."""
    if payload[:1] != b"U":
        return None
    moment: float = _URGENT.unpack_from(payload)[1]
    return moment


def number_of(payload: bytes) -> int:
    """The number in an urgent payload."""
    number: int = _URGENT.unpack_from(payload)[2]
    return number


class Dialect(Protocol):
    """Turns WebSocket messages of one client into payloads."""

    parts: int

    @property
    def held(self) -> int:
        """Bytes of messages that are not whole yet."""

    def begin(self, socket: Socket) -> None:
        """Says what must be said before messages come. The socket still blocks. Raises Ended."""

    def payloads(self, messages: Iterable[tuple[int, bytes]]) -> list[bytes]:
        """Raises Ended when the server refused something."""
        ...


class Bare:
    """A message is a payload: the relay's plain mode, `websockets`, `ws`."""

    parts = 0
    held = 0

    def begin(self, socket: Socket) -> None:
        pass

    def payloads(self, messages: Iterable[tuple[int, bytes]]) -> list[bytes]:
        return [payload for _, payload in messages]


class RelayV1:
    """`relay.v1.msgpack`, messages whole or in parts. `session` is known after `begin`."""

    def __init__(self, *, joins: bool = True) -> None:
        self.parts = 0
        self.session = ""
        self._joins = joins
        self._joiner = Joiner(_LARGEST, _LARGEST, 1024)

    @property
    def held(self) -> int:
        return self._joiner.held

    def begin(self, socket: Socket) -> None:
        wanted = {"hello", "ok"} if self._joins else {"hello"}
        if self._joins:
            socket.send(encode({"t": "join", "room": ROOM, "id": 1}))
        messages = socket.early()
        while True:
            for _, payload in messages:
                said = decode(payload)
                wanted.discard(said["t"])
                self.session = said.get("session", self.session)
                if said["t"] in ("error", "bye"):
                    raise Ended(str(said))
            if not wanted:
                return
            got = socket.receive()
            messages = got[1] if got is not None else []

    def payloads(self, messages: Iterable[tuple[int, bytes]]) -> list[bytes]:
        found = []
        for _, payload in messages:
            if is_part(payload):
                self.parts += 1
                whole = self._joiner.add(decode_part(payload), time.monotonic())
                if whole is not None:
                    found.append(_whole(*whole))
            else:
                data = _data(decode(payload))
                if data is not None:
                    found.append(data)
        return found


def _whole(envelope: bytes, data: bytes) -> bytes:
    if decode(envelope).get("kind") == "msgpack":
        inner: bytes = decode(data)
        return inner
    return data


def _data(said: dict[str, Any]) -> bytes | None:
    if said["t"] in ("error", "bye", "gap"):
        raise Ended(str(said))
    if said["t"] != "message":
        return None
    data: bytes = said["data"]
    return data


class SocketIO:
    """Engine.IO 4 over WebSocket, Socket.IO 5: the events `bulk` and `urgent`, each with one binary attachment."""

    parts = 0
    held = 0

    def __init__(self) -> None:
        self._socket: Socket | None = None

    def begin(self, socket: Socket) -> None:
        self._socket = socket
        socket.send(b"40", TEXT)
        messages = socket.early()
        while not any(payload.startswith(b"40") for _, payload in messages):
            got = socket.receive()
            messages = got[1] if got is not None else []

    def payloads(self, messages: Iterable[tuple[int, bytes]]) -> list[bytes]:
        found = []
        for opcode, payload in messages:
            if opcode != TEXT:
                found.append(payload)
            elif payload == b"2" and self._socket is not None:  # a ping of Engine.IO
                self._socket.send(b"3", TEXT)
        return found


def publication(payload: bytes, channel: str, key: str | None = None) -> bytes:
    """A `publish` of relay.v1.msgpack, without an id: no answer but an error."""
    command = {"t": "publish", "room": ROOM, "data": payload, "channel": channel}
    return encode(command if key is None else command | {"key": key})
