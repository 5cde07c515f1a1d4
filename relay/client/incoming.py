"""Messages that come in parts, until they are whole.

Not here: what a part looks like, and the joining itself (relay.protocols.parts). The one rule: what is held is bounded
in bytes and in number; a message beyond that is let go, and that is said with a `Gap`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from relay.client.codec import UNREADABLE, Codec, value
from relay.client.errors import Disconnected
from relay.client.events import Gap, Message, Progress
from relay.errors import Refused
from relay.protocols.parts import CANCEL, FIRST, Joiner, Part, decode_part

STREAMS: Final = 16  # messages in parts at once; the relay has one under way in each channel
TOTAL: Final = 4  # times the largest message: what all of them together may hold


class _Head(msgspec.Struct, frozen=True, rename={"sender": "from"}):
    """The envelope in the first part: a message without its data."""

    room: str
    kind: str
    sender: str | None = None
    offset: int = 0
    channel: str | None = None
    key: str | None = None
    to: str | None = None
    at: float = 0.0


class _Stream:
    """A message of which the first part has come."""

    __slots__ = ("head", "number", "received", "size")

    def __init__(self, head: _Head, number: int, size: int) -> None:
        self.head = head
        self.number = number
        self.size = size
        self.received = 0

    def progress(self, *, cancelled: bool) -> Progress:
        head = self.head
        return Progress(
            head.room, self.number, self.received, self.size, head.key, head.channel, head.offset, cancelled
        )


class Incoming:
    """The messages in parts of one connection. `message_bytes` bounds each, as `max_message_bytes` does whole ones."""

    def __init__(self, codec: Codec, message_bytes: int, *, progress: bool, socket: int = 0) -> None:
        """`socket`: streams are numbered for each socket of a session; in `Progress` each has a number of its own."""
        self._joiner = self._make_joiner(message_bytes)
        self._decode: Any = (msgspec.json if codec == "json" else msgspec.msgpack).Decoder(_Head).decode
        self._progress = progress
        self._streams: dict[int, _Stream] = {}
        self._message_bytes = message_bytes
        self._first = socket << 32

    def add(self, raw: bytes) -> list[Message | Gap | Progress]:
        """What is to be told after one more part. Raises Disconnected: that is not relay.v1."""
        try:
            part = decode_part(raw)
            if part.flags & FIRST:
                return self._join(part, _Stream(self._decode(part.envelope), self._first + part.stream, part.size))
            stream = self._streams.get(part.stream)
            return [] if stream is None else self._join(part, stream)  # []: the rest of one that was let go
        except UNREADABLE as error:
            raise Disconnected(1002, f"the server does not speak relay.v1: {error}") from None
        except Refused as refused:  # of the relay, not by it
            raise Disconnected(1002, f"the server does not speak relay.v1: {refused.message}") from None

    def abandon(self) -> list[Progress]:
        """Forgets what is not whole: the rest of it will not come. What is to be told of that."""
        told = [stream.progress(cancelled=True) for stream in self._streams.values()] if self._progress else []
        self._streams.clear()
        self._joiner = self._make_joiner(self._message_bytes)
        return told

    @staticmethod
    def _make_joiner(message_bytes: int) -> Joiner:
        return Joiner(message_bytes, TOTAL * message_bytes, STREAMS)

    def _join(self, part: Part, stream: _Stream) -> list[Message | Gap | Progress]:
        head = stream.head
        try:
            whole = self._joiner.add(part, 0.0)  # without a deadline: what is held is bounded, and the relay is alive
        except Refused as refused:
            if refused.code == "bad_part":
                raise
            self._streams.pop(part.stream, None)
            return [Gap(head.room, head.offset, head.offset, "client_limit")]
        self._streams[part.stream] = stream
        stream.received += len(part.data)
        cancelled = bool(part.flags & CANCEL)
        told: list[Message | Gap | Progress] = [stream.progress(cancelled=cancelled)] if self._progress else []
        if whole is not None or cancelled:
            del self._streams[part.stream]
        if whole is not None:
            told.append(_message(head, whole[1]))
        return told


def _message(head: _Head, raw: bytes) -> Message | Gap:
    try:
        data = value(head.kind, raw)
    except UNREADABLE:  # the relay passes documents on unread: that is the publisher's fault, not the relay's
        return Gap(head.room, head.offset, head.offset, "unreadable")
    return Message(head.room, data, head.sender, head.offset, head.channel, head.key, head.to, head.at)
