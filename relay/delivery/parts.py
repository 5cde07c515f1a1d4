"""A message that leaves in parts: what one client has still to get of it.

The envelope and the payload are shared by all receivers; only the position is each one's own. Not here: which lane it
waits in (outbox) and how a part looks (protocols/parts). The one rule: a stream that was begun is ended, by its last
part or by a cancellation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

LEAST: Final = 512  # bytes: smaller parts would be mostly header


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


class Sending:
    """How far one client is with it. `stream` is its number on that connection."""

    __slots__ = ("parts", "position", "stream")

    def __init__(self, parts: Parts, stream: int) -> None:
        self.parts = parts
        self.stream = stream
        self.position = 0

    @property
    def envelope_bytes(self) -> int:
        """Of the next part."""
        return 0 if self.position else self.parts.envelope_bytes

    def __len__(self) -> int:
        return self.left

    @property
    def left(self) -> int:
        """Payload bytes still to be sent."""
        return self.parts.size - self.position

    def next(self, size: int) -> bytes:
        """The next part's frame, with at most `size` bytes of payload (and at least one)."""
        size = min(max(size, LEAST), self.left)
        frame = self.parts.cut(self.stream, self.position, size)
        self.position += size
        return frame

    def give_up(self) -> bytes | None:
        """The cancellation's frame, if anything of it has been sent."""
        return self.parts.cancel(self.stream, self.position) if self.position else None
