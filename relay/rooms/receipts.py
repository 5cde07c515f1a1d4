"""Which publishes of a room were answered already, so that one that comes again is not heard twice.

A client that lost its connection does not know whether its last message arrived. It sends it again with the same key
(`once`), and gets the same answer. Not here: who asks. The one rule: bounded in number and in age, and a key that was
forgotten counts as new.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from relay.errors import Refused

COST: Final = 250  # bytes of one receipt


class Receipt(NamedTuple):
    """`offset` -1: the message is being handled just now. `at` in Unix seconds."""

    offset: int
    at: float


class Receipts:
    """By subject and key, oldest first."""

    __slots__ = ("_kept", "most", "seconds")

    def __init__(self, most: int, seconds: float) -> None:
        self.most = most
        self.seconds = seconds
        self._kept: dict[tuple[str, str], Receipt] = {}

    def begin(self, subject: str, key: str, now: float) -> int | None:
        """None: it is new, and `done` or `failed` must follow. Else the offset that was answered.

        Raises Refused("in_progress") while the first one is still being handled.
        """
        self.forget(now)
        found = self._kept.get((subject, key))
        if found is not None:
            if found.offset < 0:
                raise Refused("in_progress", retry_after=1.0)
            return found.offset
        self._kept[subject, key] = Receipt(-1, now)
        while len(self._kept) > self.most:
            del self._kept[next(iter(self._kept))]
        return None

    def done(self, subject: str, key: str, offset: int, now: float) -> None:
        """It was published. The receipt counts from now."""
        self._kept.pop((subject, key), None)
        self._kept[subject, key] = Receipt(offset, now)

    def failed(self, subject: str, key: str) -> None:
        """It was not: whoever sends it again is heard."""
        self._kept.pop((subject, key), None)

    def forget(self, now: float) -> None:
        """Lets go of what is too old, but for what is still being handled."""
        if self.seconds:
            oldest = now - self.seconds
            for pair, receipt in list(self._kept.items()):
                if receipt.at >= oldest:
                    break
                if receipt.offset >= 0:
                    del self._kept[pair]

    @property
    def newest_at(self) -> float:
        """Unix seconds; 0.0: there is none."""
        return self._kept[next(reversed(self._kept))].at if self._kept else 0.0

    def __len__(self) -> int:
        return len(self._kept)
