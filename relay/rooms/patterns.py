"""Patterns over room names, and tries to ask many of them at once.

A wildcard subscription is a room's name in which
    *    stands for exactly one part between colons, wherever it stands    `sensors:*:temp`, `sensors:*`
    **   as the last part, stands for one or more parts                    `sensors:**`, `**`
A grant's pattern differs in its last part alone: there `*` stands for any rest (auth/grants).

Not here: who may subscribe (session/patterns), who is told (rooms/watching). The one rule: the time to ask depends on
the parts of what is asked, never on how many patterns, or names, there are that have nothing to do with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Generic, TypeVar

from relay.protocols.names import check_room_name

ONE: Final = "*"
REST: Final = "**"

Value = TypeVar("Value")
Part = str | None
"""Of a pattern: a literal, or None for any one part."""


class Wildcard:
    """A wildcard subscription, taken apart. Raises ValueError for a text that is none, saying why."""

    __slots__ = ("parts", "rest", "text")

    def __init__(self, text: str, max_bytes: int = 255) -> None:
        *before, last = text.split(":")
        self.rest: Final = last == REST
        names = before if self.rest else [*before, last]
        # What is left when each wildcard is a letter must be a room's name.
        stand_in = ":".join("x" if part == ONE else part for part in [*names, *(["x"] if self.rest else [])])
        if problem := check_room_name(stand_in, max_bytes):
            if "*" in stand_in and "U+002A" in problem:
                problem = "a * stands for a whole part between colons, and ** for the last ones"
            raise ValueError(problem)
        if not self.rest and ONE not in names:
            raise ValueError("it has no wildcard")
        self.text: Final = text
        self.parts: Final[tuple[Part, ...]] = tuple(None if part == ONE else part for part in names)

    def matches(self, room: str) -> bool:
        parts = room.split(":")
        if len(parts) < len(self.parts) + self.rest or (len(parts) > len(self.parts) and not self.rest):
            return False
        return all(want is None or want == got for want, got in zip(self.parts, parts, strict=False))

    def __repr__(self) -> str:
        return f"<Wildcard {self.text!r}>"


class _Node(Generic[Value]):
    __slots__ = ("any", "here", "literal", "tails")

    def __init__(self) -> None:
        self.literal: dict[str, _Node[Value]] = {}
        self.any: _Node[Value] | None = None
        self.here: list[Value] = []  # of patterns that end here
        self.tails: list[tuple[str, Value]] = []  # of patterns that take any rest here, if it begins so

    @property
    def empty(self) -> bool:
        return not (self.literal or self.any or self.here or self.tails)


class Trie(Generic[Value]):
    """Patterns, each with a value; asked with a name, it gives the values of those that match.

    A pattern is its parts and a `tail`: None: it ends there; a text: it goes on with one or more parts, of which the
    first begins with that text.
    """

    __slots__ = ("_count", "_root")

    def __init__(self) -> None:
        self._root: _Node[Value] = _Node()
        self._count = 0

    def add(self, parts: Sequence[Part], tail: str | None, value: Value) -> None:
        node = self._root
        for part in parts:
            if part is None:
                if node.any is None:
                    node.any = _Node()
                node = node.any
            else:
                node = node.literal.setdefault(part, _Node())
        if tail is None:
            node.here.append(value)
        else:
            node.tails.append((tail, value))
        self._count += 1

    def remove(self, parts: Sequence[Part], tail: str | None, value: Value) -> None:
        """Takes out what was added so; nothing stays of it. Raises KeyError where it is not there."""
        path = [self._root]
        for part in parts:
            node = path[-1].any if part is None else path[-1].literal.get(part)
            if node is None:
                raise KeyError(value)
            path.append(node)
        last = path[-1]
        try:
            if tail is None:
                last.here.remove(value)
            else:
                last.tails.remove((tail, value))
        except ValueError:
            raise KeyError(value) from None
        self._count -= 1
        for part, parent in zip(reversed(parts), reversed(path[:-1]), strict=True):
            node = parent.any if part is None else parent.literal[part]
            assert node is not None
            if not node.empty:
                break
            if part is None:
                parent.any = None
            else:
                del parent.literal[part]

    def match(self, name: str) -> list[Value]:
        """The values of all patterns that match a room's name, in no order."""
        found: list[Value] = []
        if self._count:
            parts = name.split(":")
            if "" not in parts:
                _match(self._root, parts, 0, found)
        return found

    def __len__(self) -> int:
        return self._count


def _match(node: _Node[Value], parts: list[str], at: int, found: list[Value]) -> None:
    if at == len(parts):
        found += node.here
        return
    part = parts[at]
    for prefix, value in node.tails:
        if part.startswith(prefix):
            found.append(value)
    child = node.literal.get(part)
    if child is not None:
        _match(child, parts, at + 1, found)
    if node.any is not None:
        _match(node.any, parts, at + 1, found)


class _Place(Generic[Value]):
    __slots__ = ("below", "value")

    def __init__(self) -> None:
        self.below: dict[str, _Place[Value]] | None = None
        self.value: Value | None = None


class Names(Generic[Value]):
    """The other way round: names, each with a value; asked with a pattern, it gives the values of those it matches."""

    __slots__ = ("_root",)

    def __init__(self) -> None:
        self._root: _Place[Value] = _Place()

    def add(self, name: str, value: Value) -> None:
        place = self._root
        for part in name.split(":"):
            if place.below is None:
                place.below = {}
            place = place.below.setdefault(part, _Place())
        place.value = value

    def remove(self, name: str) -> None:
        """Raises KeyError where it is not there."""
        path = [self._root]
        parts = name.split(":")
        for part in parts:
            path.append((path[-1].below or {})[part])
        if path[-1].value is None:
            raise KeyError(name)
        path[-1].value = None
        for part, parent, place in zip(reversed(parts), reversed(path[:-1]), reversed(path), strict=False):
            if place.value is not None or place.below:
                break
            assert parent.below is not None
            del parent.below[part]

    def match(self, pattern: Wildcard) -> Iterator[Value]:
        """Lazily: whoever has enough stops asking. Nothing may be added or removed meanwhile."""
        return _names(self._root, pattern, 0)


def _names(place: _Place[Value], pattern: Wildcard, at: int) -> Iterator[Value]:
    if at == len(pattern.parts):
        if pattern.rest:
            yield from _all_below(place)
        elif place.value is not None:
            yield place.value
        return
    part = pattern.parts[at]
    if part is None:
        for below in (place.below or {}).values():
            yield from _names(below, pattern, at + 1)
    elif place.below is not None and part in place.below:
        yield from _names(place.below[part], pattern, at + 1)


def _all_below(place: _Place[Value]) -> Iterator[Value]:
    for below in (place.below or {}).values():
        if below.value is not None:
            yield below.value
        yield from _all_below(below)
