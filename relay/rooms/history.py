"""What a room remembers: its last messages, bounded in number and in age.

Not here: who asks. The one rule: a client that asks for what it missed learns whether it got all of it.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from relay.model import Message


class History:
    """The last `size` messages of one room, none older than `seconds`."""

    __slots__ = ("_messages", "seconds")

    def __init__(self, size: int, seconds: float) -> None:
        self._messages: deque[Message] = deque(maxlen=size)
        self.seconds = seconds

    def add(self, message: Message) -> None:
        self._messages.append(message)

    def _forget(self, now: float) -> None:
        if self.seconds:
            oldest = now - self.seconds
            while self._messages and self._messages[0].at < oldest:
                self._messages.popleft()

    def last(self, count: int, now: float) -> list[Message]:
        """The newest `count` messages, oldest first."""
        self._forget(now)
        return list(islice(self._messages, max(0, len(self._messages) - count), None)) if count > 0 else []

    def since(self, offset: int, newest: int, now: float) -> tuple[bool, list[Message]]:
        """What came after `offset`, and whether that is all: `newest` is the room's offset now.

        An offset beyond `newest` belongs to another life of the room, and nothing can be said about it: (False, []).
        """
        self._forget(now)
        if offset > newest:
            return False, []
        missed = [message for message in self._messages if message.offset > offset]
        return offset + len(missed) == newest, missed

    def __len__(self) -> int:
        return len(self._messages)
