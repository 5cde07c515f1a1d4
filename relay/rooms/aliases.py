"""Other names of rooms: who asks for `general` gets `chat:main`.

Not here: where names come from (session, front). The one rule: an alias leads to a name that is no alias in
the end, found in bounded steps, so no chain of them can be a circle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from relay.config.aliases import is_circle
from relay.protocols.names import check_room_name

MOST: Final = 10000
NAME_BYTES: Final = 1024


class Aliases:
    """By alias. `configured` are those of the configuration, which a reload changes; the others come by the API."""

    def __init__(self, configured: Mapping[str, str] | None = None) -> None:
        self._configured: dict[str, str] = {}
        self._added: dict[str, str | None] = {}  # None: taken back, though the configuration has it
        self._all: dict[str, str] = {}
        if configured:
            self.adopt(configured)

    def adopt(self, configured: Mapping[str, str]) -> None:
        """Other ones in the configuration, which has checked them; what was added meanwhile stays, unless it would make
        a circle.
        """
        self._configured = dict(configured)
        self._merge()
        for alias in [*self._added]:
            if is_circle(alias, self._all):
                del self._added[alias]
                self._merge()

    def set(self, alias: str, room: str) -> None:
        """Raises ValueError: no names, a circle, or too many."""
        if problem := problem_with(alias, room, {**self._all, alias: room}):
            raise ValueError(problem)
        if alias not in self._all and len(self._all) >= MOST:
            raise ValueError(f"there are {MOST} aliases already")
        self._added[alias] = room
        self._merge()

    def remove(self, alias: str) -> bool:
        """False: there is none of that name. One of the configuration is back with the next start."""
        if alias not in self._all:
            return False
        if alias in self._configured:
            self._added[alias] = None
        else:
            del self._added[alias]
        self._merge()
        return True

    def _merge(self) -> None:
        merged: dict[str, str | None] = {**self._configured, **self._added}
        self._all = {alias: room for alias, room in merged.items() if room is not None}

    def resolve(self, name: str) -> str:
        """The room's own name; a name that is no alias is its own."""
        every = self._all
        while name in every:
            name = every[name]
        return name

    def of(self, room: str) -> list[str]:
        """The names that lead to a room."""
        return sorted(alias for alias in self._all if self.resolve(alias) == room)

    def __contains__(self, name: str) -> bool:
        return name in self._all

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(sorted(self._all.items()))

    def __len__(self) -> int:
        return len(self._all)


def problem_with(alias: str, room: str, every: Mapping[str, str]) -> str | None:
    """What is wrong with one alias among `every`; None: nothing."""
    for name in (alias, room):
        if problem := check_room_name(name, NAME_BYTES):
            return f"not a room's name: {problem}"
    return "it leads round in a circle" if is_circle(alias, every) else None
