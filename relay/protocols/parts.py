"""A message in parts: binary frames with a fixed header, so that a more urgent message can pass between two of them.

WebSocket's own fragments cannot do this (RFC 6455 section 5.4 forbids interleaving messages). The same in both
directions and in both codecs. Not here: who cuts (delivery/parts) or who joins (`Joiner` is below; the session drives
it). The one rule: what is kept for a message that is not whole is bounded in bytes, in number and in time.

    0      1       2            4        8          12      16
    +------+-------+------------+--------+----------+-------+----------+------+
    | 0xC1 | flags | envelope   | stream | position | size  | envelope | data |
    |      |       | length u16 | u32    | u32      | u32   |          |      |
    +------+-------+------------+--------+----------+-------+----------+------+

0xC1 begins no msgpack document, so parts and documents share binary frames. Flags: 1 first, 2 last, 4 cancel. `size`
is the whole payload's, `position` where `data` belongs in it. Only the first part has an envelope: the message or
publish object as otherwise, but without `data` and with `kind`: "json", "text", "binary" or "msgpack", what the
payload's bytes are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from relay.errors import Refused

MAGIC: Final = 0xC1
FIRST: Final = 1
LAST: Final = 2
CANCEL: Final = 4
HEADER: Final = struct.Struct(">BBHIII")
GIVEN_UP: Final = 256  # streams of which the rest is passed over; of older ones each part is refused again


class Part(NamedTuple):
    """One part. `data` is empty in a cancellation."""

    flags: int
    stream: int
    position: int
    size: int
    envelope: bytes
    data: bytes


def encode_part(part: Part) -> bytes:
    """The payload of one binary frame."""
    head = HEADER.pack(MAGIC, part.flags, len(part.envelope), part.stream, part.position, part.size)
    return head + part.envelope + part.data


def is_part(payload: bytes) -> bool:
    """Whether a binary message is a part, going by its first byte."""
    return payload[:1] == b"\xc1"


def decode_part(payload: bytes) -> Part:
    """Raises Refused("bad_part")."""
    if len(payload) < HEADER.size:
        raise Refused("bad_part", f"a part has a header of {HEADER.size} bytes")
    _, flags, envelope, stream, position, size = HEADER.unpack_from(payload)
    start = HEADER.size + envelope
    if flags & ~7 or len(payload) < start or (envelope and not flags & FIRST):
        raise Refused("bad_part", "flags or envelope length make no sense")
    data = payload[start:]
    if not flags & CANCEL and (position + len(data) > size or bool(flags & LAST) != (position + len(data) == size)):
        raise Refused("bad_part", "position, size and the last flag do not fit the data")
    return Part(flags, stream, position, size, payload[HEADER.size : start], data)


def declared_bytes(payload: bytes) -> int | None:
    """Bytes of the whole message that a first part begins, with its envelope; None for any other part. What is no part
    counts as what it is.
    """
    if len(payload) < HEADER.size:
        return len(payload)
    _, flags, envelope, _, _, size = HEADER.unpack_from(payload)
    return envelope + size if flags & FIRST else None


class Parts:
    """One large message, encoded once for a protocol.

    `size` is the payload's, in bytes, `envelope_bytes` what comes on top in the first part. `cut(stream, position,
    size)` gives
    the frame of one part, `cancel(stream, position)` that of a cancellation.
    """

    __slots__ = ("cancel", "cut", "envelope_bytes", "size")

    def __init__(
        self,
        size: int,
        envelope_bytes: int,
        cut: Callable[[int, int, int], bytes],
        cancel: Callable[[int, int], bytes],
    ) -> None:
        self.size = size
        self.envelope_bytes = envelope_bytes
        self.cut = cut
        self.cancel = cancel


class PartRefused(Refused):
    """A message in parts that cannot be had. `envelope` is its own, b"" where that is not known any more."""

    def __init__(self, code: str, message: str, envelope: bytes = b"", *, setting: str | None = None) -> None:
        super().__init__(code, message, setting=setting)
        self.envelope = envelope


class _Stream:
    __slots__ = ("begun", "data", "envelope", "heard", "size")

    def __init__(self, envelope: bytes, size: int, now: float) -> None:
        self.envelope = envelope
        self.size = size
        self.data = bytearray()
        self.begun = self.heard = now


class Joiner:
    """Puts one client's parts together again.

    `message_bytes` bounds one message, `total_bytes` all that are not whole together, `streams` their number. A message
    is refused once: what else comes of it is passed over.
    """

    __slots__ = ("_given_up", "_message_bytes", "_most", "_streams", "_total_bytes", "held")

    def __init__(self, message_bytes: int, total_bytes: int, streams: int) -> None:
        self._message_bytes = message_bytes
        self._total_bytes = total_bytes
        self._most = streams
        self._streams: dict[int, _Stream] = {}
        self._given_up: dict[int, None] = {}
        self.held = 0

    def add(self, part: Part, now: float) -> tuple[bytes, bytes] | None:
        """(envelope, payload) once a message is whole. Raises PartRefused; the stream it was about is then given up."""
        stream = self._streams.get(part.stream)
        if part.flags & CANCEL:
            self._forget(part.stream)
            self._given_up.pop(part.stream, None)
            return None
        if part.flags & FIRST:
            if stream is not None:
                raise self._give_up(part, stream.envelope, "bad_part", f"stream {part.stream} has begun already")
            self._given_up.pop(part.stream, None)
            if part.size > self._message_bytes:
                why = f"larger than {self._message_bytes} bytes"
                raise self._give_up(part, part.envelope, "too_large", why, "limits.parted_message_bytes")
            if len(self._streams) >= self._most:
                why = "too many messages in parts at once"
                raise self._give_up(part, part.envelope, "too_many_requests", why, "limits.parted_streams")
            stream = self._streams[part.stream] = _Stream(part.envelope, part.size, now)
        elif stream is None:
            if part.stream in self._given_up:
                if part.flags & LAST:
                    del self._given_up[part.stream]
                return None
            raise PartRefused("bad_part", f"stream {part.stream} has not begun")
        if part.position != len(stream.data) or part.size != stream.size:
            raise self._give_up(part, stream.envelope, "bad_part", "a part is missing, or the size has changed")
        if self.held + len(part.data) > self._total_bytes:
            why = "too much is waiting to be whole"
            raise self._give_up(part, stream.envelope, "too_large", why, "limits.parted_bytes")
        stream.data += part.data
        stream.heard = now
        self.held += len(part.data)
        if not part.flags & LAST:
            return None
        self._forget(part.stream)
        return stream.envelope, bytes(stream.data)

    def refuse(self, part: Part) -> None:
        """Gives up the stream of a part that was refused elsewhere: the rest of it is passed over."""
        self._forget(part.stream)
        if not part.flags & LAST:
            self._remember(part.stream)

    def expire(self, now: float, idle: float, total: float) -> list[tuple[int, bytes]]:
        """Gives up streams silent for `idle` or begun `total` seconds ago: (stream, envelope) of each."""
        late = [
            (number, stream.envelope)
            for number, stream in self._streams.items()
            if now - stream.heard >= idle or now - stream.begun >= total
        ]
        for number, _ in late:
            self._forget(number)
            self._remember(number)
        return late

    def __len__(self) -> int:
        return len(self._streams)

    def _give_up(self, part: Part, envelope: bytes, code: str, why: str, setting: str | None = None) -> PartRefused:
        self.refuse(part)
        return PartRefused(code, why, envelope, setting=setting)

    def _remember(self, number: int) -> None:
        """More of it will come, before its sender hears that it is in vain."""
        self._given_up[number] = None
        if len(self._given_up) > GIVEN_UP:
            del self._given_up[next(iter(self._given_up))]

    def _forget(self, number: int) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            self.held -= len(stream.data)
