"""The server's WebSocket engine: bytes in, messages out (RFC 6455 section 5). Sans-IO.

A splitter reads each frame's header and checks it *before* a payload is kept. Whole, unfragmented, uncompressed data
frames then take the fast path, a few lines that do nothing else. Every other frame goes, one at a time, the slow way
(slow_path). Not here: sending, sockets, what messages mean. The one rule: both paths agree; the same tests run with the
fast path on and off.
"""

from __future__ import annotations

import codecs

from relay.errors import CloseCode
from relay.net.deflate import Agreement
from relay.net.masking import unmask
from relay.net.slow_path import CONTROL, RSV1, EngineLimits, Sink, SlowPath


class Engine(SlowPath):
    """Reads one client's frames. `message` is called with opcode 1 and valid UTF-8, or opcode 2, for each whole
    message.

    It is set before the first byte is fed. `agreement`: messages may be compressed. `unmask` may be set in tests.
    """

    __slots__ = ("_checked", "_halted", "_head", "_medium", "_need", "_rest", "_small", "_utf8", "unmask")

    def __init__(self, sink: Sink, limits: EngineLimits, agreement: Agreement | None = None) -> None:
        super().__init__(sink, limits, agreement)
        self._halted = False  # stopped, or on hold
        self._open_short_way()
        self._rest: bytearray | None = None  # bytes of a frame that is not whole yet
        self._need = 0  # how many bytes make it whole, as far as is known
        self._utf8: codecs.IncrementalDecoder | None = None
        self._checked = 0
        self._head = 0
        self.unmask = unmask

    def stop(self) -> None:
        self.stopped = self._halted = True
        self._rest = None
        self._small = self._medium = 0

    def hold(self, held: bool) -> None:
        """Keep what has come, from the next frame on, also in the middle of a read. Let go, `feed(b"")` goes on."""
        if not self.stopped:
            self._halted = held
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
        """Or closes it: on hold, and inside a fragmented message. What is shorter than `_small`, or than `_medium` with
        its longer header, may go the fast path; nothing is shorter than 0.
        """
        if self._fast and self._slow is None and not self._halted:
            self._small = min(126, self._limits.message_bytes + 1)
            self._medium = min(65536, self._limits.message_bytes + 1) + 2
        else:
            self._small = self._medium = 0

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
            if head:
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
            if (first == 0x81 or first == 0x82) and second >= 128 and size <= limits.message_bytes and self._small:
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
            if first & 15 >= CONTROL:
                if self._too_many_control_frames(now):
                    break
            elif not self._fragment_fits(first, size):
                break
            elif self._inflater is not None and (first & RSV1 or self._inflater.busy):
                count += self._inflate(self._inflater, first, self.unmask(data[head:stop], data[head - 4 : head]))
                position = stop
                self._open_short_way()
                continue
            count += self._slowly(data[position:stop])
            position = stop
            self._open_short_way()
        else:
            if position < end and not self.stopped:
                self._rest = bytearray(memoryview(data)[position:])
                self._need = 0
        return count

    def _keep(self, data: bytes, position: int, need: int, head: int = 0) -> None:
        """Keeps a frame that is not whole; `need` bytes make it whole, as far as is known, and `head` its header."""
        self._rest = bytearray(memoryview(data)[position:])
        self._need = need
        if head and data[position] & 0x7F == 1:  # text, or the first fragment of it
            self._utf8 = codecs.getincrementaldecoder("utf-8")()
            self._head = self._checked = head
            self._check_text(self._rest)

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
