"""What a room remembers: its last messages, bounded in number, in bytes and in age.

Not here: who asks, and what becomes of it when the room is empty (archive). The one rule: whoever asks for what it
missed learns whether it got all of it, because a history knows up to which offset it has forgotten (`floor`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final, Protocol

from relay.model import Message

OVERHEAD: Final = 400  # bytes a remembered message costs beside its data


class Purse(Protocol):
    """Who pays for what all rooms remember: the archive."""

    bytes: int
    capacity: int

    def make_room(self, spender: History) -> None:
        """More is remembered than there may be."""


class NoPurse:
    """Pays for everything. For a history that stands alone."""

    def __init__(self) -> None:
        self.bytes = 0
        self.capacity = 1 << 62

    def make_room(self, spender: History) -> None: ...


class History:
    """The last `size` messages of one room, at most `most_bytes` of them (0: any number of bytes), none older than
    `seconds` (0: any age). Messages for one subject alone (`Message.to`) are remembered too, and shown to that one.
    """

    __slots__ = ("_messages", "bytes", "floor", "most_bytes", "purse", "seconds", "size")

    def __init__(self, size: int, seconds: float, most_bytes: int = 0, purse: Purse | None = None) -> None:
        self._messages: deque[Message] = deque()
        self.size = size
        self.seconds = seconds
        self.most_bytes = most_bytes
        self.purse: Purse = purse if purse is not None else NoPurse()
        self.bytes = 0
        self.floor = 0
        """The newest offset that is not remembered any more."""

    def add(self, message: Message) -> None:
        """Remembers a message; its offset follows the one before."""
        cost = len(message.data.raw) + OVERHEAD
        self._messages.append(message)
        self.bytes += cost
        purse = self.purse
        purse.bytes += cost
        if len(self._messages) > self.size or (self.most_bytes and self.bytes > self.most_bytes):
            self._trim()
        if purse.bytes > purse.capacity:
            purse.make_room(self)

    def adopt(self, size: int, seconds: float, most_bytes: int) -> None:
        """Other bounds from now on."""
        self.size, self.seconds, self.most_bytes = size, seconds, most_bytes
        self._trim()

    def drop_oldest(self) -> None:
        """Forgets one message. Raises IndexError when there is none."""
        message = self._messages.popleft()
        cost = len(message.data.raw) + OVERHEAD
        self.bytes -= cost
        self.purse.bytes -= cost
        self.floor = message.offset

    def clear(self) -> None:
        """Forgets all."""
        while self._messages:
            self.drop_oldest()

    def _trim(self) -> None:
        while len(self._messages) > self.size or (self.most_bytes and self.bytes > self.most_bytes and self._messages):
            self.drop_oldest()

    def forget(self, now: float) -> None:
        """Lets go of what is too old. `now` in Unix seconds."""
        if self.seconds:
            oldest = now - self.seconds
            while self._messages and self._messages[0].at < oldest:
                self.drop_oldest()

    @property
    def newest_at(self) -> float:
        """When the newest message was published, Unix seconds; 0.0: there is none."""
        return self._messages[-1].at if self._messages else 0.0

    def last(self, count: int, now: float, subject: str | None = None) -> list[Message]:
        """The newest `count` messages that `subject` may see, oldest first. None: those for everybody."""
        self.forget(now)
        return self._newest(self._messages, count, subject)

    def before(self, offset: int, count: int, now: float, subject: str | None = None) -> list[Message]:
        """The newest `count` messages below `offset`, oldest first: one page further back."""
        self.forget(now)
        older = [message for message in self._messages if message.offset < offset]
        return self._newest(older, count, subject)

    def _newest(self, messages: deque[Message] | list[Message], count: int, subject: str | None) -> list[Message]:
        if count <= 0:
            return []
        seen = (message for message in reversed(messages) if message.to is None or message.to == subject)
        return list(islice(seen, count))[::-1]

    def since(self, offset: int, newest: int, now: float, subject: str | None = None) -> tuple[bool, list[Message]]:
        """What came after `offset`, and whether that is all: `newest` is the room's offset now.

        An offset beyond `newest` belongs to another life of the room, and nothing can be said about it: (False, []).
        """
        self.forget(now)
        if offset > newest:
            return False, []
        messages = self._messages
        first = messages[0].offset if messages else newest + 1
        # Offsets follow one another, so the place of one is known.
        missed = islice(messages, max(0, offset + 1 - first), None)
        return offset >= self.floor, [message for message in missed if message.to is None or message.to == subject]

    def __iter__(self) -> Iterator[Message]:
        return iter(self._messages)

    def __len__(self) -> int:
        return len(self._messages)
