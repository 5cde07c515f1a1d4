"""A wire format whose messages are compressed: one frame for all receivers that share it (RFC 7692 without context).

    deflated = Deflated(RelayV1Json(), Compressor(12, 1, counters), least=256)

Who shares a frame was agreed on in the handshake: no context takeover, and a window of so many bits. There is one
object for each wire format and window, so rooms find who shares by the object itself, as they do without compression.
Not here: what was agreed on (net/deflate), connections with a context of their own (net/deflating). The one rule: a
frame is compressed once, whatever the number of receivers, and each frame can be inflated without any other.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

from relay.counters import Counters
from relay.model import Message, Payload
from relay.protocols.base import RequestId, WireProtocol
from relay.protocols.frames import RSV1, frame, opened
from relay.protocols.parts import Parts

TAIL: Final = b"\x00\x00\xff\xff"  # RFC 7692 section 7.2.1: not sent
WHOLE_UP_TO: Final = 65536
"""Bytes of a message that is compressed before it is cut into parts. What fits into one part then needs no parts;
compressing more than this would hold up everybody else for too long (64 KB: 0.2 ms).
"""


def memory_level(bits: int) -> int:
    """zlib's memLevel for a window: with it, hash tables are as large as the window itself."""
    return max(1, min(9, bits - 7))


def make_compressor(bits: int, level: int) -> zlib._Compress:
    """A raw deflate stream with a window of 2**bits bytes (9 to 15); it takes 2**(bits+3) bytes of memory."""
    return zlib.compressobj(level, zlib.DEFLATED, -bits, memory_level(bits))


class Compressor:
    """Compresses payloads, each by itself, and counts their bytes. `bits` of window, zlib's `level`."""

    __slots__ = ("_counters", "_stream", "bits")

    def __init__(self, bits: int, level: int, counters: Counters) -> None:
        self.bits = bits
        self._counters = counters
        self._stream = make_compressor(bits, level)

    def compress(self, payload: bytes) -> bytes:
        """The payload of a frame with RSV1 set."""
        stream = self._stream
        # A full flush forgets the window, which is as good as a new stream, and allocates nothing.
        data = stream.compress(payload) + stream.flush(zlib.Z_FULL_FLUSH)
        self._counters.deflate_before += len(payload)
        self._counters.deflate_after += len(data) - len(TAIL)
        return data.removesuffix(TAIL)


class Deflated:
    """`inner`, with messages and long answers of at least `least` bytes compressed where that makes them shorter."""

    __slots__ = (
        "_compressor", "_largest", "_last", "_least", "announced", "bare", "bye", "confirm", "counted", "decode",
        "error", "expiring", "gap", "hello", "inner", "joined", "left", "name", "opening", "parted", "patches", "pong",
        "renamed",
        "request_in", "subprotocol", "takes_parts",
    )  # fmt: skip

    def __init__(self, inner: WireProtocol, compressor: Compressor, least: int, part_bytes: int = 16384) -> None:
        self.inner = inner
        self._compressor = compressor
        self._least = least
        self._largest = part_bytes
        self._last: tuple[Message, bytes] | None = None  # compressed to see whether it needs parts; asked for next
        # What is as it was is called directly: compression costs those calls nothing.
        self.name = inner.name
        self.subprotocol = inner.subprotocol
        self.bare = inner.bare
        self.takes_parts = inner.takes_parts
        self.patches = inner.patches
        self.decode = inner.decode
        self.opening = inner.opening
        self.parted = inner.parted
        self.request_in = inner.request_in
        self.announced = inner.announced
        self.hello = inner.hello
        self.error = inner.error
        self.pong = inner.pong
        self.joined = inner.joined
        self.left = inner.left
        self.counted = inner.counted
        self.confirm = inner.confirm
        self.gap = inner.gap
        self.renamed = inner.renamed
        self.expiring = inner.expiring
        self.bye = inner.bye

    @property
    def bits(self) -> int:
        """Of the window that whoever reads this must have."""
        return self._compressor.bits

    def message(self, message: Message) -> bytes:
        last = self._last
        if last is not None:
            self._last = None
            if last[0] is message:
                return last[1]
        return self._deflated(self.inner.message(message))

    def patch(self, message: Message, base: Message, patch: Payload) -> bytes | None:
        plain = self.inner.patch(message, base, patch)
        return plain if plain is None or len(plain) < self._least else self._deflated(plain)

    def parts(self, message: Message) -> Parts | None:
        """Parts go as they are: each receiver gets cuts of its own. But what is short enough compressed needs none."""
        parts = self.inner.parts(message)
        if parts is None or parts.size > WHOLE_UP_TO:
            return parts
        whole = self._deflated(self.inner.message(message))
        if len(whole) > self._largest:
            return parts
        self._last = message, whole
        return None

    def ok(self, request: RequestId, result: dict[str, Any]) -> bytes | None:
        answer = self.inner.ok(request, result)
        return answer if answer is None or len(answer) < self._least else self._deflated(answer)

    def _deflated(self, plain: bytes) -> bytes:
        """The same frame, compressed, if it is long enough and becomes shorter."""
        opcode, payload = opened(plain)
        if len(payload) < self._least:
            return plain
        packed = self._compressor.compress(payload)
        return frame(opcode | RSV1, packed) if len(packed) < len(payload) else plain

    def __repr__(self) -> str:
        return f"<Deflated {self.name}, {self.bits} bits>"
