"""A message that leaves in parts: what one client has still to get of it.

The envelope and the payload are shared by all receivers; only the position is each one's own. Not here: which lane it
waits in (outbox) and how a part looks (protocols/parts). The one rule: a stream that was begun is ended, by its last
part or by a cancellation.
"""

from __future__ import annotations

from typing import Final

from relay.protocols.parts import Parts

LEAST: Final = 512  # bytes: smaller parts would be mostly header


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
