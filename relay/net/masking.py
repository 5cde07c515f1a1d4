"""The mask that a client's frames carry (RFC 6455 section 5.3), on and off.

Not here: frames (websocket). The one rule: both ways to do it give the same bytes; the faster one is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final


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
