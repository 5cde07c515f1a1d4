"""How long is waited for whom: deadlines of one length each, so that they stand in order by themselves.

Not here: what is done about them (front/lobby), deadlines of other kinds (session/timers). The one rule: waiting
costs two steps, one to begin and one to end, whatever number waits.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Patience(Generic[T]):
    """Those who wait, and until when. All wait equally long; where that changes, who waits already keeps their time."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until: OrderedDict[T, float] = OrderedDict()

    def begin(self, one: T, until: float) -> None:
        """Waits from now on. Who waits already waits anew."""
        self._until.pop(one, None)
        self._until[one] = until

    def end(self, one: T) -> None:
        """Waits no more. More than once is as once."""
        self._until.pop(one, None)

    def late(self, now: float) -> T | None:
        """The one who has waited longest, if that is too long; it waits no more."""
        for one, until in self._until.items():
            if until > now:
                return None
            del self._until[one]
            return one
        return None

    @property
    def next(self) -> float:
        """When the first one will have waited too long; infinite where nobody waits."""
        return next(iter(self._until.values()), math.inf)

    def __len__(self) -> int:
        return len(self._until)
