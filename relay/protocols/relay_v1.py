"""`relay.v1`: one message is one object, as JSON in a text frame or as msgpack in a binary frame. docs/protocol.md has
the tables.

Not here: what a command does. The one rule: `data` is passed through unread (msgspec.Raw), so the cost of a message
does not depend on how complicated it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgspec

from relay.errors import CloseCode, CloseReason, Refused
from relay.model import Kind, Message, Payload
from relay.protocols import relay_v1_words as words
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
    Presence,
    ProtocolError,
    Publish,
    RequestId,
    Resume,
    Resync,
)
from relay.protocols.frames import BINARY, TEXT, frame
from relay.protocols.parts import CANCEL, FIRST, LAST, Part, Parts, encode_part

Raw: TypeAlias = msgspec.Raw
_Publish: TypeAlias = words.Publish  # looked up for each message
_Message: TypeAlias = words.Message

OPTIONAL: Final = words.OPTIONAL


def _checked(kind: Kind, payload: bytes) -> bytes:
    """The payload of a message in parts: as whole messages, what goes into text frames is UTF-8 (RFC 6455 section
    8.1). Raises UnicodeDecodeError, DecodeError.
    """
    if kind in (Kind.TEXT, Kind.JSON):
        payload.decode()
    if kind == Kind.JSON:
        return bytes(msgspec.json.decode(payload, type=Raw))
    if kind == Kind.MSGPACK:
        return bytes(msgspec.msgpack.decode(payload, type=Raw))
    return payload


Codec = TypeVar("Codec", msgspec.json.Encoder, msgspec.msgpack.Encoder)


class _RelayV1(ABC, Generic[Codec]):
    """What both codecs share. Subclasses say how to encode, and how a payload looks in their format."""

    name: str
    subprotocol: str
    bare: Final = False
    _opcode: int
    _wrong_opcode: str
    _kind: Kind
    _encoder: Codec
    _decode: Any
    _decode_id: Any
    _decode_parted: Any

    _as_sent: Callable[[Message], _Message]

    def __init__(self, *, takes_parts: bool = True, fields: Collection[str] | None = None) -> None:
        """`takes_parts` False is for clients that cannot join parts: they get large messages whole. `fields`: which of
        OPTIONAL a client wants to have with a message; None: all.
        """
        self.takes_parts: Final = takes_parts
        self._left_out = [how for name, how in OPTIONAL.items() if fields is not None and name not in fields]
        self._as_sent = self._brief if self._left_out else self._full

    @abstractmethod
    def _payload(self, payload: Payload) -> bytes:
        """A payload in this format."""

    def decode(self, opcode: int, payload: bytes, home: str) -> Command:
        if opcode != self._opcode:
            raise ProtocolError(CloseReason(CloseCode.UNSUPPORTED_DATA, self._wrong_opcode))
        try:
            command: words.AnyIn = self._decode(payload)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise self._not_understood(payload, error) from None
        if type(command) is _Publish:
            return Publish(
                command.room,
                Payload(self._kind, bytes(command.data)),
                command.id,
                command.channel,
                command.key,
                command.to,
                command.echo,
                command.ttl,
                command.once,
                command.confirm,
            )
        return self._rarer(command)

    def opening(self, opcode: int, payload: bytes) -> Auth | Ping:
        command = self.decode(opcode, payload, "")
        if isinstance(command, Auth | Ping):
            return command
        raise Refused("unauthorized", "the first message must be `auth`, with the token")

    def announced(self, envelope: bytes) -> Publish:
        return self._parted(envelope, lambda kind: b"")

    def parted(self, envelope: bytes, payload: bytes) -> Command:
        return self._parted(envelope, lambda kind: _checked(kind, payload))

    def _parted(self, envelope: bytes, payload: Callable[[Kind], bytes]) -> Publish:
        try:
            command: words.Parted = self._decode_parted(envelope)
            kind = Kind[command.kind.upper()]
            data = Payload(kind, payload(kind))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            refused = self._not_understood(b"", error)
            refused.request = self.request_in(envelope)
            raise refused from None
        return Publish(
            command.room,
            data,
            command.id,
            command.channel,
            command.key,
            command.to,
            command.echo,
            command.ttl,
            command.once,
            command.confirm,
        )

    def _rarer(self, command: words.AnyIn) -> Command:
        match command:
            case words.Join():
                return Join(command.room, command.id, command.since, command.last, command.members, delta=command.delta)
            case words.Leave():
                return Leave(command.room, command.id)
            case words.Call():
                data = bytes(command.data)
                payload = Payload(self._kind, data) if data else None
                return Call(command.room, command.method, payload, command.id, command.timeout)
            case words.Presence():
                return Presence(command.room, command.id)
            case words.History():
                return History(command.room, command.id, command.since, command.last, command.before)
            case words.Ack():
                return Ack(command.room, command.offset, command.id)
            case words.Resume():
                return Resume(command.rooms, command.id)
            case words.Resync():
                return Resync(command.room, command.id, command.key)
            case words.Auth():
                return Auth(command.token, command.id)
            case words.Ping():
                return Ping(command.id)
        raise AssertionError(command)

    def _not_understood(self, payload: bytes, error: Exception) -> Refused:
        nested = isinstance(error, RecursionError)
        what = "nested too deeply" if nested else str(error) or "not understood"
        refused = Refused("unknown_type" if "Invalid value" in what and "$.t" in what else "bad_request", what)
        if not nested:
            refused.request = self.request_in(payload)
        return refused

    def request_in(self, envelope: bytes) -> RequestId:
        try:
            found: RequestId = self._decode_id(envelope).id
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return None
        return found

    def _frame(self, answer: Any) -> bytes:
        return frame(self._opcode, self._encoder.encode(answer))

    def _full(self, message: Message) -> _Message:
        return _Message(
            message.room,
            Raw(self._payload(message.data)),
            message.sender,
            message.offset,
            message.channel,
            message.key,
            message.to,
            message.at,
        )

    def _brief(self, message: Message) -> _Message:
        sent = self._full(message)
        for name, nothing in self._left_out:
            setattr(sent, name, nothing)
        return sent

    @property
    def patches(self) -> bool:
        """Whoever does without offset or key cannot know what a patch is for."""
        return not {"offset", "key"} & {name for name, _ in self._left_out}

    def patch(self, message: Message, base: Message, patch: Payload) -> bytes | None:
        if not (self._says(base.data) and self._says(message.data)):
            return None
        sent = words.Patch(
            message.room, Raw(self._payload(patch)), base.offset, message.key, message.offset, message.sender,
            message.channel, message.at,
        )  # fmt: skip
        for name, nothing in self._left_out:
            if hasattr(sent, name):
                setattr(sent, name, nothing)
        return frame(self._opcode, self._encoder.encode(sent))

    def _says(self, document: Payload) -> bool:
        """Whether this format can say a JSON document just as it is."""
        return True

    def message(self, message: Message) -> bytes:
        return frame(self._opcode, self._encoder.encode(self._as_sent(message)))

    def parts(self, message: Message) -> Parts | None:
        if not self.takes_parts:
            return None
        data = message.data
        kind, payload = data.kind, data.raw
        if kind == Kind.MSGPACK and self._kind == Kind.JSON:
            kind, payload = Kind.JSON, data.as_json()
        elif kind == Kind.JSON and self._kind == Kind.MSGPACK:
            kind, payload = Kind.MSGPACK, data.as_msgpack()
        head = words.PartedMessage(
            message.room,
            kind.name.lower(),
            message.sender,
            message.offset,
            message.channel,
            message.key,
            message.to,
            message.at,
        )
        for name, nothing in self._left_out:
            setattr(head, name, nothing)
        envelope = self._encoder.encode(head)
        size = len(payload)
        if len(envelope) > 0xFFFF or size > 0xFFFFFFFF:  # more than a part's header can say
            return None

        def cut(stream: int, position: int, length: int) -> bytes:
            end = position + length
            flags = (FIRST if not position else 0) | (LAST if end == size else 0)
            first = b"" if position else envelope
            return frame(BINARY, encode_part(Part(flags, stream, position, size, first, payload[position:end])))

        def cancel(stream: int, position: int) -> bytes:
            return frame(BINARY, encode_part(Part(CANCEL, stream, position, size, b"", b"")))

        return Parts(size, len(envelope), cut, cancel)

    def hello(self, hello: Hello) -> bytes:
        said = {"t": "hello", **msgspec.structs.asdict(hello)}
        if hello.resume is None:
            del said["resume"], said["resumed"]
        return self._frame(said)

    def ok(self, request: RequestId, result: dict[str, Any]) -> bytes | None:
        if request is None:
            return None
        answer: dict[str, Any] = {"t": "ok", "id": request, **result}
        if isinstance(data := result.get("data"), Payload):
            answer["data"] = Raw(self._payload(data))
        if "messages" in result:
            answer["messages"] = [self._as_sent(message) for message in result["messages"]]
        return self._frame(answer)

    def error(self, request: RequestId, refused: Refused) -> bytes:
        answer: dict[str, Any] = {"t": "error", "id": request, "code": refused.code, "message": refused.message}
        if refused.retry_after is not None:
            answer["retry_after"] = round(refused.retry_after, 3)
        if refused.setting is not None:
            answer["limit"] = refused.setting
        return self._frame(answer)

    def pong(self, request: RequestId) -> bytes:
        return self._frame({"t": "pong"} if request is None else {"t": "pong", "id": request})

    def joined(self, room: str, subject: str, claims: Mapping[str, Any] | None = None) -> bytes:
        told = {"t": "joined", "room": room, "subject": subject}
        return self._frame({**told, "claims": claims} if claims else told)

    def counted(self, room: str, count: int, events: bool) -> bytes:
        return self._frame({"t": "count", "room": room, "count": count, "events": events})

    def left(self, room: str, subject: str, reason: str = "") -> bytes:
        answer = {"t": "left", "room": room, "subject": subject}
        return self._frame({**answer, "reason": reason} if reason else answer)

    def confirm(self, room: str, offset: int) -> bytes:
        return self._frame({"t": "confirm", "room": room, "offset": offset})

    def renamed(self, room: str, name: str) -> bytes:
        return self._frame({"t": "renamed", "room": room, "to": name})

    def gap(self, room: str, first: int, last: int, reason: str) -> bytes:
        return self._frame({"t": "gap", "room": room, "from": first, "to": last, "reason": reason})

    def expiring(self, seconds: float) -> bytes:
        return self._frame({"t": "expiring", "in": round(seconds, 1)})

    def bye(self, reason: CloseReason) -> bytes:
        again = None
        if reason.reconnect_after is not None:
            again = {"after": reason.reconnect_after, "jitter": reason.reconnect_jitter}
        answer = {"t": "bye", "code": int(reason.code), "reason": reason.reason, "reconnect": again}
        if reason.setting is not None:
            answer["limit"] = reason.setting
        return self._frame(answer)


class RelayV1Json(_RelayV1[msgspec.json.Encoder]):
    """`relay.v1.json`, text frames."""

    name = "relay.v1.json"
    subprotocol = "relay.v1.json"
    _opcode = TEXT
    _wrong_opcode = "relay.v1.json takes text messages only"
    _kind = Kind.JSON
    _encoder = msgspec.json.Encoder()
    _decode = staticmethod(msgspec.json.Decoder(words.AnyIn).decode)
    _decode_id = staticmethod(msgspec.json.Decoder(words.OnlyId).decode)
    _decode_parted = staticmethod(msgspec.json.Decoder(words.Parted).decode)

    def _payload(self, payload: Payload) -> bytes:
        return payload.as_json()


class RelayV1Msgpack(_RelayV1[msgspec.msgpack.Encoder]):
    """`relay.v1.msgpack`, binary frames."""

    name = "relay.v1.msgpack"
    subprotocol = "relay.v1.msgpack"
    _opcode = BINARY
    _wrong_opcode = "relay.v1.msgpack takes binary messages only"
    _kind = Kind.MSGPACK
    _encoder = msgspec.msgpack.Encoder()
    _decode = staticmethod(msgspec.msgpack.Decoder(words.AnyIn).decode)
    _decode_id = staticmethod(msgspec.msgpack.Decoder(words.OnlyId).decode)
    _decode_parted = staticmethod(msgspec.msgpack.Decoder(words.Parted).decode)

    def _payload(self, payload: Payload) -> bytes:
        return payload.as_msgpack()

    def _says(self, document: Payload) -> bool:
        return document.sayable_in_msgpack()
