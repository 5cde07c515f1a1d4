"""Whose turn it is: work that waits, taken in turn from each address; from those in arrears when nobody else has any.

Not here: what the work is, how much of it is done at a time, and who is in arrears (limits/pending). The one rule: an
address has one turn in each round, however much of its work waits; within an address the first come is the first
served.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """What waits, by key. Each step costs the same, however much waits; nothing is kept of a key that has no work."""

    __slots__ = ("_last", "_rest", "_waiting")

    def __init__(self) -> None:
        self._rest: OrderedDict[str, deque[T]] = OrderedDict()  # who has its turn next comes first
        self._last: OrderedDict[str, deque[T]] = OrderedDict()  # in arrears
        self._waiting = 0

    def put(self, key: str, item: T, *, last: bool = False) -> None:
        """One more piece of work of this key. `last`: it is done when nobody else has any."""
        rank = self._last if last else self._rest
        queue = rank.get(key)
        if queue is None:
            rank[key] = deque((item,))
        else:
            queue.append(item)
        self._waiting += 1

    def take(self) -> T | None:
        """The next one; None: nothing waits."""
        rank = self._rest or self._last
        if not rank:
            return None
        key, queue = rank.popitem(last=False)
        item = queue.popleft()
        if queue:
            rank[key] = queue  # behind all the others
        self._waiting -= 1
        return item

    @property
    def pressing(self) -> bool:
        """Whether anybody waits who is not in arrears."""
        return bool(self._rest)

    def __len__(self) -> int:
        return self._waiting
