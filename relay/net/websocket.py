"""The server's WebSocket engine: bytes in, messages out (RFC 6455 section 5). Sans-IO.

A splitter reads each frame's header and checks it *before* a payload is kept. Whole, unfragmented, uncompressed data
frames then take the fast path, a few lines that do nothing else. Every other frame goes, one at a time, through
wsproto's connection; what is compressed is inflated before (deflate), within the limit of a message. Not here: sending,
sockets, what messages mean. The one rule: both paths agree; the same tests
run with the fast path on and off.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from relay.errors import CloseCode, CloseReason
from relay.limits.buckets import Bucket, Rate
from relay.net.deflate import Agreement, Broken, Inflater, TooLarge

BINARY: Final = 2
_RSV1: Final = 0x40  # the message is compressed (RFC 7692 section 6); on its first frame alone
_CONTROL: Final = 8
_KNOWN: Final = frozenset({0, 1, 2, 8, 9, 10})


def xor_mask(data: bytes, mask: bytes) -> bytes:
    """Masks or unmasks (RFC 6455 section 5.3) as one large integer: no C, and still fast for small frames."""
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


def _best_mask() -> Callable[[bytes, bytes], bytes]:
    try:
        from websockets.speedups import apply_mask  # not a documented API, so never relied upon

        if apply_mask(b"\x01\x02\x03\x04\x05", b"\x0f\x0f\x0f\x0f") == xor_mask(
            b"\x01\x02\x03\x04\x05", b"\x0f\x0f\x0f\x0f"
        ):
            return apply_mask
    except (ImportError, TypeError, ValueError):
        pass
    return xor_mask


unmask: Final = _best_mask()


class Sink(Protocol):
    """Who is told of all but messages. Each may close the connection; the engine then stops (`Engine.stop`)."""

    def several(self) -> None:
        """What was just read is more than one whole frame: its messages come one after the other now."""

    def ping(self, payload: bytes) -> None: ...
    def pong(self, payload: bytes) -> None: ...
    def closed(self, code: int, reason: str) -> None:
        """The client's close frame; 1005 where it gave no code (RFC 6455 section 7.1.5)."""

    def failed(self, reason: CloseReason) -> None:
        """The client broke a rule: nothing more will be read from it."""

    def inflated(self, more: int) -> None:
        """A frame was that many bytes larger than it was on the wire. Told only where there is an inflater."""


@dataclass(slots=True, frozen=True)
class EngineLimits:
    """Bounds of what a client may send: bytes of a message, fragments of a message, control frames a second."""

    message_bytes: int
    fragments: int
    control: Rate
    fast_path: bool = True


class Engine:
    """Reads one client's frames. `message` is called with opcode 1 and valid UTF-8, or opcode 2, for each whole
    message.

    It is set before the first byte is fed. `agreement`: messages may be compressed. `unmask` may be set in tests.
    """

    __slots__ = (
        "_checked",
        "_control",
        "_fast",
        "_fragments",
        "_halted",
        "_head",
        "_inflater",
        "_limits",
        "_medium",
        "_message_bytes",
        "_need",
        "_parts",
        "_rest",
        "_sink",
        "_slow",
        "_small",
        "_utf8",
        "message",
        "stopped",
        "unmask",
    )

    message: Callable[[int, bytes], None]

    def __init__(self, sink: Sink, limits: EngineLimits, agreement: Agreement | None = None) -> None:
        self._sink = sink
        self._limits = limits
        self._fast = limits.fast_path
        self._open_short_way()
        self._halted = False  # stopped, or on hold
        self._rest: bytearray | None = None  # bytes of a frame that is not whole yet
        self._need = 0  # how many bytes make it whole, as far as is known
        self._slow: Connection | None = None  # lives while a fragmented message does
        self._parts: list[bytes] | list[str] = []
        self._fragments = 0
        self._message_bytes = 0
        self._utf8: codecs.IncrementalDecoder | None = None
        self._checked = 0
        self._head = 0
        self._control: Bucket | None = None
        self._inflater = None if agreement is None else Inflater(limits.message_bytes, agreement)
        self.stopped = False
        self.unmask = unmask

    def stop(self) -> None:
        """Ignore whatever else has come."""
        self.stopped = self._halted = True
        self._rest = None
        self._small = self._medium = 0

    def hold(self, held: bool) -> None:
        """Keep what has come, from the next frame on, also in the middle of a read. Let go, `feed(b"")` goes on."""
        if not self.stopped:
            self._halted = held
            if held:
                self._small = self._medium = 0
            else:
                self._open_short_way()

    def release(self) -> bytes:
        """Gives away what was kept because of a hold: it begins with a whole frame's first byte, for another engine."""
        kept, self._rest = self._rest, None
        return bytes(kept or b"")

    @property
    def waits(self) -> bool:
        """Whether something was kept because of a hold."""
        return self._rest is not None and not self._need

    def _open_short_way(self) -> None:
        self._small = min(126, self._limits.message_bytes + 1) if self._fast else 0
        self._medium = min(65536, self._limits.message_bytes + 1) + 2 if self._fast else 0

    def feed(self, data: bytes, now: float) -> int:
        """Handles all whole frames of what was read; returns how many messages there were. `now` in seconds, for
        rates.
        """
        rest = self._rest
        if rest is None:
            # Nearly every read is one whole frame of at most 64 KB: the fast path, written out for that.
            size = len(data) - 6
            if 0 <= size < self._small and data[1] == size + 128:
                head = 6
            elif 128 <= size < self._medium and data[1] == 254 and data[2] << 8 | data[3] == size - 2:
                head = 8
            else:
                head = 0
            if head and self._slow is None:
                first = data[0]
                if first == 0x81 or first == 0x82:
                    payload = self.unmask(data[head:], data[head - 4 : head])
                    if first == 0x81 and not payload.isascii() and self._is_bad_text(payload):
                        return 0
                    self.message(first & 15, payload)
                    return 1
        else:
            rest += data
            if len(rest) < self._need:
                if self._utf8 is not None:
                    self._check_text(rest)
                return 0
            data = bytes(rest)
            self._rest = self._utf8 = None
        self._sink.several()
        count = 0
        position = 0
        end = len(data)
        limits = self._limits
        fast = self._fast
        message = self.message
        while not self._halted:
            left = end - position
            if left < 6:
                if left:
                    if left > 1 and not self._header_is_fine(data[position], data[position + 1], 0):
                        break
                    self._keep(data, position, 6 if left > 1 else 2)
                break
            first = data[position]
            second = data[position + 1]
            size = second & 127
            if size < 126:
                head = position + 6
            elif size == 126:
                if left < 8:
                    if self._header_is_fine(first, second, 0):
                        self._keep(data, position, 8)
                    break
                size = int.from_bytes(data[position + 2 : position + 4], "big")
                head = position + 8
                if size < 126:
                    if self._header_is_fine(first, second, 0):
                        self._fail(CloseCode.PROTOCOL_ERROR, "payload length not minimal")
                    break
            else:
                if left < 14:
                    if self._header_is_fine(first, second, 0):
                        self._keep(data, position, 14)
                    break
                size = int.from_bytes(data[position + 2 : position + 10], "big")
                head = position + 14
                if size < 65536 or size >> 63:
                    if self._header_is_fine(first, second, 0):
                        self._fail(CloseCode.PROTOCOL_ERROR, "payload length not minimal")
                    break
            if (
                (first == 0x81 or first == 0x82)
                and second >= 128
                and size <= limits.message_bytes
                and fast
                and self._slow is None
            ):
                stop = head + size
                if stop > end:
                    self._keep(data, position, stop - position, head - position)
                    break
                payload = self.unmask(data[head:stop], data[head - 4 : head])
                if first == 0x81 and not payload.isascii() and self._is_bad_text(payload):
                    break
                position = stop
                count += 1
                message(first & 15, payload)
                continue
            if not self._header_is_fine(first, second, size):
                break
            stop = head + size
            if stop > end:
                self._keep(data, position, stop - position, head - position)
                break
            if first & 15 >= _CONTROL:
                if self._too_many_control_frames(now):
                    break
            elif not self._fragment_fits(first, size):
                break
            elif self._inflater is not None and (first & _RSV1 or self._inflater.busy):
                count += self._inflate(self._inflater, first, self.unmask(data[head:stop], data[head - 4 : head]))
                position = stop
                continue
            count += self._slowly(data[position:stop])
            position = stop
        else:
            if position < end and not self.stopped:
                self._rest = bytearray(memoryview(data)[position:])
                self._need = 0
        return count

    def _is_bad_text(self, payload: bytes) -> bool:
        try:
            payload.decode()
        except UnicodeDecodeError:
            self._fail(CloseCode.INVALID_PAYLOAD, "text is not UTF-8")
            return True
        return False

    def _keep(self, data: bytes, position: int, need: int, head: int = 0) -> None:
        """Keeps a frame that is not whole; `need` bytes make it whole, as far as is known, and `head` its header."""
        self._rest = bytearray(memoryview(data)[position:])
        self._need = need
        if head and data[position] & 0x7F == 1:  # text, or the first fragment of it
            self._utf8 = codecs.getincrementaldecoder("utf-8")()
            self._head = self._checked = head
            self._check_text(self._rest)

    def _header_is_fine(self, first: int, second: int, size: int) -> bool:
        """What a header alone can get wrong (RFC 6455 sections 5.1, 5.2, 5.5), and the size limit."""
        opcode = first & 15
        wrong = None
        inflater = self._inflater
        if first & 0x70 and (inflater is None or first & 0x70 != _RSV1 or not 0 < opcode < _CONTROL):
            wrong = "reserved bit set"  # no extension was negotiated, or it does not stand where RFC 7692 allows it
        elif opcode not in _KNOWN:
            wrong = f"reserved opcode {opcode}"
        elif second < 128:
            wrong = "frame not masked"
        elif opcode >= _CONTROL:
            if first < 128:
                wrong = "fragmented control frame"
            elif second & 127 > 125:
                wrong = "control frame too long"
        elif (opcode == 0) != (self._slow is not None):
            wrong = "continuation without a start" if opcode == 0 else "new message inside another"
        if wrong is not None:
            self._fail(CloseCode.PROTOCOL_ERROR, wrong)
            return False
        total = size if opcode else size + self._message_bytes
        most = self._limits.message_bytes
        if inflater is not None and (first & _RSV1 or inflater.busy):
            most = inflater.largest_frame  # what counts is found when it is inflated
        if opcode < _CONTROL and total > most:
            self._too_large()
            return False
        return True

    def _too_large(self) -> None:
        most = self._limits.message_bytes
        self._fail(CloseCode.TOO_BIG, f"message larger than {most} bytes", "limits.message_bytes")

    def _fragment_fits(self, first: int, size: int) -> bool:
        if first & 15:
            self._fragments = self._message_bytes = 0
        self._fragments += 1
        self._message_bytes += size
        if self._fragments > self._limits.fragments:
            self._fail(CloseCode.TOO_BIG, f"more than {self._limits.fragments} fragments", "limits.fragments")
            return False
        return True

    def _too_many_control_frames(self, now: float) -> bool:
        if self._control is None:
            self._control = Bucket(self._limits.control)
        if self._control.try_take(now) > 0:
            self._fail(CloseCode.POLICY, "too many control frames", "limits.control_frames")
            return True
        return False

    def _check_text(self, rest: bytearray) -> None:
        """Bad UTF-8 is found as it arrives, not when a long message is whole."""
        start = self._checked
        if len(rest) <= start or self._utf8 is None:
            return
        head = self._head
        turn = (start - head) % 4  # where in the mask this piece begins
        mask = bytes(rest[head - 4 + turn : head] + rest[head - 4 : head - 4 + turn])
        self._checked = len(rest)
        try:
            self._utf8.decode(self.unmask(bytes(rest[start:]), mask))
        except UnicodeDecodeError:
            self._fail(CloseCode.INVALID_PAYLOAD, "text is not UTF-8")

    def _inflate(self, inflater: Inflater, first: int, payload: bytes) -> int:
        """One whole frame of a compressed message; from here on it is a frame as any other."""
        try:
            plain = inflater.inflate(payload, last=first >= 128)
        except TooLarge:
            self._too_large()
            return 0
        except Broken as error:
            self._fail(CloseCode.INVALID_PAYLOAD, f"compressed data is broken: {error}")
            return 0
        self._sink.inflated(len(plain) - len(payload))
        first &= ~_RSV1
        if self._fast and (first == 0x81 or first == 0x82):
            if first == 0x81 and not plain.isascii() and self._is_bad_text(plain):
                return 0
            self.message(first & 15, plain)
            return 1
        size = len(plain)
        if size < 126:
            head = bytes((first, 128 | size))
        elif size < 65536:
            head = bytes((first, 254)) + size.to_bytes(2, "big")
        else:
            head = bytes((first, 255)) + size.to_bytes(8, "big")
        return self._slowly(head + b"\0\0\0\0" + plain)  # that mask changes nothing

    def _slowly(self, frame: bytes) -> int:
        """One whole frame through wsproto; returns how many messages it completed."""
        slow = self._slow or Connection(ConnectionType.SERVER)
        slow.receive_data(frame)
        count = 0
        sink = self._sink
        for event in slow.events():
            if self.stopped:
                break
            if isinstance(event, TextMessage | BytesMessage):
                self._slow = slow
                self._parts.append(event.data)  # type: ignore[arg-type]
                if event.message_finished:
                    parts, self._parts, self._slow = self._parts, [], None
                    count += 1
                    if isinstance(event, TextMessage):
                        self.message(1, "".join(parts).encode())  # type: ignore[arg-type]
                    else:
                        self.message(BINARY, b"".join(parts))  # type: ignore[arg-type]
            elif isinstance(event, Ping):
                sink.ping(bytes(event.payload))
            elif isinstance(event, Pong):
                sink.pong(bytes(event.payload))
            elif isinstance(event, CloseConnection):
                if slow.state is ConnectionState.OPEN:  # not a close frame: wsproto's way to tell a protocol error
                    bad_text = event.code == CloseCode.INVALID_PAYLOAD
                    self._fail(
                        CloseCode(event.code), "text is not UTF-8" if bad_text else event.reason or "protocol error"
                    )
                else:
                    self.stop()
                    sink.closed(int(event.code), event.reason or "")
        return count

    def _fail(self, code: CloseCode, reason: str, setting: str | None = None) -> None:
        self.stop()
        self._sink.failed(CloseReason(code, reason, setting))
