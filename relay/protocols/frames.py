"""How a message leaves: one unmasked WebSocket frame (RFC 6455 section 5.2), the same bytes for every receiver.

Not here: reading clients' frames (net/websocket), compressing. The one rule: what the server sends is never fragmented
or masked.
"""

from __future__ import annotations

import struct
from typing import Final

FIN: Final = 0x80
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10
RSV1: Final = 0x40  # beside the opcode: the payload is compressed (RFC 7692 section 6)

_SMALL: Final = struct.Struct("!BB").pack
_MEDIUM: Final = struct.Struct("!BBH").pack


def frame(opcode: int, payload: bytes) -> bytes:
    """A whole frame with FIN set."""
    size = len(payload)
    if size < 126:
        return _SMALL(0x80 | opcode, size) + payload
    if size < 65536:
        return _MEDIUM(0x80 | opcode, 126, size) + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


def opened(whole: bytes) -> tuple[int, bytes]:
    """Opcode (with RSV1, if set) and payload of one whole frame of ours."""
    size = whole[1]
    return whole[0] & 0x7F, whole[2:] if size < 126 else whole[4:] if size == 126 else whole[10:]


def close_frame(code: int, reason: str = "") -> bytes:
    """A close frame; the reason is cut to the 123 bytes that fit (RFC 6455 sections 5.5 and 5.5.1)."""
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode()[:123].decode(errors="ignore").encode())
