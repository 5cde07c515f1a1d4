"""One table of what clients and the server say, as values and as JSON; msgpack is made from the values.

Used for decoding and for encoding, in both formats, so that no test has its own idea of the wire.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec

from relay.errors import CloseCode, CloseReason, Refused
from relay.model import Kind, Message, Payload
from relay.protocols.base import (
    Ack,
    Auth,
    Call,
    Command,
    Hello,
    History,
    Join,
    Leave,
    Ping,
    Position,
    Presence,
    Publish,
    Resume,
    WireProtocol,
)
from relay.protocols.relay_v1 import RelayV1Json, RelayV1Msgpack


@dataclass(frozen=True)
class Format:
    """One of the two codecs of relay.v1."""

    protocol: WireProtocol
    opcode: int
    kind: Kind

    def encode(self, value: Any) -> bytes:
        return msgspec.json.encode(value) if self.kind is Kind.JSON else msgspec.msgpack.encode(value)

    def decode(self, data: bytes) -> Any:
        return json.loads(data) if self.kind is Kind.JSON else msgspec.msgpack.decode(data)

    def payload(self, value: Any) -> Payload:
        return Payload(self.kind, self.encode(value))

    def said(self, frame: bytes | None) -> Any:
        """What a whole unmasked frame says."""
        assert frame is not None
        assert frame[0] == 0x80 | self.opcode
        size, head = frame[1], 2
        if size == 126:
            size, head = int.from_bytes(frame[2:4], "big"), 4
        elif size == 127:
            size, head = int.from_bytes(frame[2:10], "big"), 10
        assert len(frame) == head + size
        return self.decode(frame[head:])

    def __str__(self) -> str:
        return self.kind.name.lower()


JSON = Format(RelayV1Json(), 1, Kind.JSON)
MSGPACK = Format(RelayV1Msgpack(), 2, Kind.MSGPACK)
FORMATS = [JSON, MSGPACK]


def commands(form: Format) -> list[tuple[dict[str, Any], Command]]:
    data = form.payload
    deep = {"a": [1, 2.5, None, True, {"b": "ü🚂"}]}
    return [
        ({"t": "join", "room": "r"}, Join("r")),
        ({"t": "join", "room": "r", "id": 1, "last": 5, "members": True}, Join("r", 1, None, 5, True)),
        (
            {"t": "join", "room": "r", "id": "x", "since": {"epoch": "e", "offset": 9}},
            Join("r", "x", Position("e", 9)),
        ),
        ({"t": "join", "room": "r", "since": None, "id": None}, Join("r")),
        ({"t": "leave", "room": "r", "id": 0}, Leave("r", 0)),
        ({"t": "publish", "room": "r", "data": deep}, Publish("r", data(deep))),
        ({"t": "publish", "room": "r", "data": None}, Publish("r", data(None))),
        ({"t": "publish", "room": "r", "data": ""}, Publish("r", data(""))),
        (
            {"t": "publish", "room": "r", "data": 1, "id": 2, "channel": "c", "key": "k", "to": "bob", "echo": True},
            Publish("r", data(1), 2, "c", "k", "bob", True),
        ),
        ({"t": "call", "room": "r", "method": "m"}, Call("r", "m")),
        (
            {"t": "call", "room": "r", "method": "m", "data": deep, "id": 3, "timeout": 0.5},
            Call("r", "m", data(deep), 3, 0.5),
        ),
        ({"t": "call", "room": "r", "method": "m", "data": None}, Call("r", "m", data(None))),
        ({"t": "presence", "room": "r", "id": 4}, Presence("r", 4)),
        ({"t": "history", "room": "r", "id": 5, "last": 3}, History("r", 5, None, 3)),
        ({"t": "history", "room": "r", "since": {"epoch": "e", "offset": 0}}, History("r", None, Position("e", 0))),
        ({"t": "auth", "token": "a.b.c", "id": 6}, Auth("a.b.c", 6)),
        ({"t": "ack", "room": "r", "offset": 3}, Ack("r", 3)),
        ({"t": "resume", "id": 8}, Resume({}, 8)),
        ({"t": "resume", "rooms": {"r": {"epoch": "e", "offset": 2}}}, Resume({"r": Position("e", 2)})),
        (
            {"t": "publish", "room": "r", "data": 1, "id": 2, "to": "bob", "confirm": 2.5},
            Publish("r", data(1), 2, to="bob", confirm=2.5),
        ),
        ({"t": "ping"}, Ping()),
        ({"t": "ping", "id": "π"}, Ping("π")),
    ]


def answers(form: Format) -> list[tuple[dict[str, Any], bytes | None]]:
    say = form.protocol
    plain = Message("r", Payload(Kind.TEXT, b"hi"), "ann", offset=3, at=5.5)
    full = Message("r", form.payload({"n": 1}), "ann", "urgent", "k", "bob", True, 7, 8.25)
    refused = Refused("rate_limited", "slowly", retry_after=1.23456, setting="limits.x")
    wire_plain = {"t": "message", "room": "r", "data": "hi", "from": "ann", "offset": 3, "at": 5.5}
    return [
        (
            {
                "t": "hello", "session": "s", "subject": "ann", "expires": 9.5, "channels": ["default"],
                "limits": {"message_bytes": 10}, "heartbeat": 25.0, "version": "1",
            },
            say.hello(Hello("s", "ann", 9.5, ["default"], {"message_bytes": 10}, 25.0, "1")),
        ),
        ({"t": "ok", "id": 1}, say.ok(1, {})),
        ({"t": "ok", "id": "x", "offset": 4}, say.ok("x", {"offset": 4})),
        ({"t": "ok", "id": 1, "data": [1]}, say.ok(1, {"data": Payload(Kind.JSON, b"[1]")})),
        (
            {"t": "ok", "id": 0, "messages": [wire_plain], "recovered": True},
            say.ok(0, {"messages": [plain], "recovered": True}),
        ),
        ({"t": "error", "id": None, "code": "internal", "message": "oh"}, say.error(None, Refused("internal", "oh"))),
        (
            {
                "t": "error", "id": 2, "code": "rate_limited", "message": "slowly", "retry_after": 1.235,
                "limit": "limits.x",
            },
            say.error(2, refused),
        ),
        ({"t": "pong"}, say.pong(None)),
        ({"t": "pong", "id": 0}, say.pong(0)),
        ({"t": "joined", "room": "r", "subject": "ü"}, say.joined("r", "ü")),
        ({"t": "left", "room": "r", "subject": "ann"}, say.left("r", "ann")),
        (
            {"t": "joined", "room": "r", "subject": "bob", "claims": {"name": "Bob"}},
            say.joined("r", "bob", {"name": "Bob"}),
        ),
        ({"t": "count", "room": "r", "count": 201, "events": False}, say.counted("r", 201, False)),
        ({"t": "confirm", "room": "r", "offset": 3}, say.confirm("r", 3)),
        (
            {"t": "gap", "room": "r", "from": 3, "to": 9, "reason": "channels.bulk.capacity"},
            say.gap("r", 3, 9, "channels.bulk.capacity"),
        ),
        ({"t": "expiring", "in": 30.1}, say.expiring(30.12)),
        (
            {"t": "bye", "code": 1001, "reason": "drain", "reconnect": {"after": 2.0, "jitter": 1.0}},
            say.bye(CloseReason(CloseCode.GOING_AWAY, "drain", None, 2.0, 1.0)),
        ),
        (
            {"t": "bye", "code": 4208, "reason": "full", "reconnect": None, "limit": "channels.x.capacity"},
            say.bye(CloseReason(CloseCode.TOO_SLOW, "full", "channels.x.capacity")),
        ),
        (wire_plain, say.message(plain)),
        (
            {
                "t": "message", "room": "r", "data": {"n": 1}, "from": "ann", "offset": 7, "channel": "urgent",
                "key": "k", "to": "bob", "at": 8.25,
            },
            say.message(full),
        ),
        (
            {"t": "message", "room": "r", "data": None, "at": 1.5},
            say.message(Message("r", Payload(Kind.JSON, b"null"), at=1.5)),
        ),
    ]  # fmt: skip
