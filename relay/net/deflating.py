"""The write side of a connection that compresses with a context of its own (RFC 7692 with context takeover).

Each message is compressed with what went before it in the window, so the compressor must see frames in the order in
which they leave: here, when the outbox has let go of them, and never earlier. That is dearer than a frame shared by all
(protocols/deflated), in time and in memory, and packs small similar messages better. Not here: what was agreed on
(deflate). The one rule: what the compressor has seen leaves, or the connection ends.
"""

from __future__ import annotations

import zlib
from typing import Final

from relay.counters import Counters
from relay.delivery.tick import Tick
from relay.net.deflate import Agreement
from relay.net.transport import Transport
from relay.net.writer import Keeper, Writer
from relay.protocols.deflated import TAIL, make_compressor
from relay.protocols.frames import BINARY, FIN, RSV1, TEXT, frame
from relay.protocols.parts import is_part
from relay.session.services import Services

_WHOLE: Final = (FIN | TEXT, FIN | BINARY)


def make_writer(
    services: Services, transport: Transport, keeper: Keeper, tick: Tick, agreement: Agreement | None
) -> Writer:
    """The write side of a new connection."""
    if agreement is None or not agreement.server_context:
        return Writer(services, transport, keeper, tick)
    settings = services.config.websocket
    return DeflatingWriter(
        services, transport, keeper, tick, agreement.server_bits, settings.deflate_level, settings.deflate_min_bytes
    )


class DeflatingWriter(Writer):
    """A writer whose data frames of at least `least` bytes leave compressed. `bits` of window, zlib's `level`."""

    __slots__ = ("_counters", "_least", "_stream")

    def __init__(
        self, services: Services, transport: Transport, keeper: Keeper, tick: Tick, bits: int, level: int, least: int
    ) -> None:
        super().__init__(services, transport, keeper, tick)
        self._counters: Counters = services.counters
        self._least = max(1, least)
        self._stream = make_compressor(bits, level)
        self._busy = True

    def _look(self) -> None:
        """Busy without end: all leaves the long way, which goes through `take`."""
        super()._look()
        self._busy = True

    def take(self, limit: int) -> bytes:
        return self._compressed(super().take(limit))

    def take_urgent(self, limit: int) -> bytes:
        return self._compressed(super().take_urgent(limit))

    def _compressed(self, frames: bytes) -> bytes:
        """Whole frames, those that are long enough compressed. Parts of large messages go as they are."""
        out: list[bytes] = []
        position = 0
        end = len(frames)
        while position < end:
            first, size = frames[position], frames[position + 1]
            head = position + 2
            if size == 126:
                size, head = int.from_bytes(frames[head : head + 2], "big"), head + 2
            elif size == 127:
                size, head = int.from_bytes(frames[head : head + 8], "big"), head + 8
            stop = head + size
            if size < self._least or first not in _WHOLE or (first == _WHOLE[1] and is_part(frames[head : head + 1])):
                out.append(frames[position:stop])
            else:
                out.append(self._deflated(first & 15, frames[head:stop]))
            position = stop
        return out[0] if len(out) == 1 else b"".join(out)

    def _deflated(self, opcode: int, payload: bytes) -> bytes:
        """It is sent even where it became longer: the compressor has it in its window, so the client must."""
        packed = self._stream.compress(payload) + self._stream.flush(zlib.Z_SYNC_FLUSH)
        self._counters.deflate_before += len(payload)
        self._counters.deflate_after += len(packed) - len(TAIL)
        return frame(opcode | RSV1, packed.removesuffix(TAIL))
