"""What travels: a payload, and the message that carries it through a room.

Not here: how it looks on a wire (protocols) or where it goes (rooms). The one rule: a payload is passed on as it came;
it is parsed only when somebody asks for its value, and converted once per protocol, not once per receiver.
"""

from __future__ import annotations

import base64
import enum
from typing import Any, Final

import msgspec

_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()
_INEXPRESSIBLE: Final = (ValueError, TypeError, OverflowError, RecursionError)  # msgspec's DecodeError is a ValueError


class Kind(enum.IntEnum):
    """The form a payload came in. TEXT and BINARY are what plain clients send; the numbers are RFC 6455 opcodes."""

    TEXT = 1
    BINARY = 2
    JSON = 3
    MSGPACK = 4


class Payload(msgspec.Struct, frozen=True, gc=False):
    """Bytes of one kind, with the other forms made on demand.

    JSON and MSGPACK payloads are checked documents. A JSON string and a TEXT payload stand for each other, and so do
    msgpack's `bin` and BINARY; binary inside JSON is base64 text (RFC 4648 section 4).
    """

    kind: Kind
    raw: bytes

    @classmethod
    def of(cls, data: object) -> Payload:
        """A payload from what a plugin says: str becomes TEXT, bytes BINARY, anything else JSON.

        Raises TypeError for what JSON cannot express.
        """
        if isinstance(data, Payload):
            return data
        if isinstance(data, str):
            return cls(Kind.TEXT, data.encode())
        if isinstance(data, bytes | bytearray | memoryview):
            return cls(Kind.BINARY, bytes(data))
        return cls(Kind.JSON, _json.encode(data))

    def value(self) -> Any:
        """The payload as Python sees it: str for text, bytes for binary, else the decoded document.

        Raises ValueError for a document that was passed on unread and turns out to be broken inside.
        """
        if self.kind == Kind.JSON:
            return msgspec.json.decode(self.raw)
        if self.kind == Kind.MSGPACK:
            return msgspec.msgpack.decode(self.raw)
        return self.raw.decode() if self.kind == Kind.TEXT else self.raw

    def text(self) -> str:
        """The payload as text: a string as it is, a document as JSON. Raises UnicodeDecodeError for binary that is
        not text.
        """
        return self.plain()[1].decode()

    def as_json(self) -> bytes:
        """As a JSON document. Never fails: what JSON cannot say becomes base64 of the bytes as they came."""
        if self.kind == Kind.JSON:
            return self.raw
        if self.kind != Kind.BINARY:
            try:
                return _json.encode(self.value())
            except _INEXPRESSIBLE:
                pass
        return _json.encode(base64.b64encode(self.raw).decode())

    def as_msgpack(self) -> bytes:
        """As a msgpack document. Never fails: what msgpack cannot say (an integer beyond 64 bits) becomes its JSON
        text.
        """
        if self.kind == Kind.MSGPACK:
            return self.raw
        try:
            return _msgpack.encode(self.value())
        except _INEXPRESSIBLE:
            return _msgpack.encode(self.raw.decode(errors="replace"))

    def sayable_in_msgpack(self) -> bool:
        """Whether msgpack can say it; else `as_msgpack` is a text that stands for it."""
        try:
            _msgpack.encode(self.value())
        except _INEXPRESSIBLE:
            return False
        return True

    def plain(self) -> tuple[Kind, bytes]:
        """As a plain client gets it: (TEXT or BINARY, bytes). A string or `bin` alone loses its wrapping; never
        fails.
        """
        if self.kind <= Kind.BINARY:
            return self.kind, self.raw
        if self.kind == Kind.JSON and self.raw[:1] != b'"':
            return Kind.TEXT, self.raw
        try:
            value = self.value()
            if isinstance(value, bytes):
                return Kind.BINARY, value
            return Kind.TEXT, value.encode() if isinstance(value, str) else _json.encode(value)
        except _INEXPRESSIBLE:
            return Kind.BINARY if self.kind == Kind.MSGPACK else Kind.TEXT, self.raw

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        return f"<Payload {self.kind.name} {len(self.raw)} B>"  # never the content: it may end up in a log


class Message(msgspec.Struct, eq=False, gc=False):
    """One message in a room. `sender` is a subject, None when the relay or a plugin speaks.

    `channel` None means: what the room's rule says. `key` names what a newer message supersedes. `to` names the only
    subject
    that shall hear it, `echo` asks that the sender hears it too. `at` is Unix time in seconds; `offset` counts the
    messages
    of one room, from 1; it is 0 while the message was not published.
    """

    room: str
    data: Payload
    sender: str | None = None
    channel: str | None = None
    key: str | None = None
    to: str | None = None
    echo: bool = False
    offset: int = 0
    at: float = 0.0
    expires: float = 0.0

    def __repr__(self) -> str:
        return f"<Message {self.room}#{self.offset} from {self.sender} {self.data!r}>"
