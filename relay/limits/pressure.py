"""When memory is short, and who has to go. Pure: numbers come in, decisions go out.

Not here: measuring (ops/memory) and closing (process/pressure). The one rule: it begins at the mark and ends well below
it, so that a relay at its mark does not change its mind with every message.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, TypeVar

CALM: Final = 0.9
"""Share of the mark below which memory is not short any more."""
LEAST: Final = 65536
"""Bytes waiting for a client below which ending it would help nobody."""

Client = TypeVar("Client")


class Reading(NamedTuple):
    """Bytes in use, and the mark they are held against; `setting` is the config key behind it."""

    used: int
    mark: int
    setting: str

    @property
    def excess(self) -> int:
        """Bytes to get rid of until memory is not short any more."""
        return self.used - int(self.mark * CALM)


class Pressure:
    """`setting` names the config key of the mark that was passed; "": memory is not short."""

    def __init__(self) -> None:
        self.setting = ""

    def look(self, readings: Iterable[Reading]) -> Reading | None:
        """The reading that is furthest over its mark, or not yet well below it; None: memory is not short."""
        worst: Reading | None = None
        for reading in readings:
            line = reading.mark * (CALM if self.setting else 1.0)
            if reading.used > line and (worst is None or reading.excess > worst.excess):
                worst = reading
        self.setting = worst.setting if worst is not None else ""
        return worst


def to_shed(waiting: Iterable[tuple[int, Client]], excess: int) -> list[Client]:
    """Those for whom most waits, until enough of it would be gone. `waiting`: bytes and who they wait for."""
    shed = []
    for size, client in sorted(waiting, key=lambda one: one[0], reverse=True):
        if excess <= 0 or size < LEAST:
            break
        shed.append(client)
        excess -= size
    return shed
