"""The engine's slow path: one whole frame at a time, whatever it is, through wsproto's connection. Sans-IO.

Fragments, control frames and what is compressed come this way; what is compressed is inflated before (deflate), within
the limit of a message. Not here: cutting what was read into frames, the fast path (websocket). The one rule: a frame's
header is checked before its payload is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from relay.errors import CloseCode, CloseReason
from relay.limits.buckets import Bucket, Rate
from relay.net.deflate import Agreement, Broken, Inflater, TooLarge

BINARY: Final = 2
RSV1: Final = 0x40  # the message is compressed (RFC 7692 section 6); on its first frame alone
CONTROL: Final = 8
KNOWN: Final = frozenset({0, 1, 2, 8, 9, 10})


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


class SlowPath:
    """What both paths share, and each kind of frame that the fast path leaves to this one.

    `message` is called with opcode 1 and valid UTF-8, or opcode 2, for each whole message.
    """

    __slots__ = (
        "_control", "_fast", "_fragments", "_inflater", "_limits", "_message_bytes", "_parts", "_sink", "_slow",
        "message", "stopped",
    )  # fmt: skip

    message: Callable[[int, bytes], None]

    def __init__(self, sink: Sink, limits: EngineLimits, agreement: Agreement | None) -> None:
        self._sink = sink
        self._limits = limits
        self._fast = limits.fast_path
        self._slow: Connection | None = None  # lives while a fragmented message does
        self._parts: list[bytes] | list[str] = []
        self._fragments = 0
        self._message_bytes = 0
        self._control: Bucket | None = None
        self._inflater = None if agreement is None else Inflater(limits.message_bytes, agreement)
        self.stopped = False

    def stop(self) -> None:
        """Ignore whatever else has come."""
        self.stopped = True

    def _is_bad_text(self, payload: bytes) -> bool:
        try:
            payload.decode()
        except UnicodeDecodeError:
            self._fail(CloseCode.INVALID_PAYLOAD, "text is not UTF-8")
            return True
        return False

    def _header_is_fine(self, first: int, second: int, size: int) -> bool:
        """What a header alone can get wrong (RFC 6455 sections 5.1, 5.2, 5.5), and the size limit."""
        opcode = first & 15
        wrong = None
        inflater = self._inflater
        if first & 0x70 and (inflater is None or first & 0x70 != RSV1 or not 0 < opcode < CONTROL):
            wrong = "reserved bit set"  # no extension was negotiated, or it does not stand where RFC 7692 allows it
        elif opcode not in KNOWN:
            wrong = f"reserved opcode {opcode}"
        elif second < 128:
            wrong = "frame not masked"
        elif opcode >= CONTROL:
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
        if inflater is not None and (first & RSV1 or inflater.busy):
            most = inflater.largest_frame  # what counts is found when it is inflated
        if opcode < CONTROL and total > most:
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
        first &= ~RSV1
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
