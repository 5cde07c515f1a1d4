"""What a token allows: patterns of room names, compiled once per token so that asking is cheap.

Not here: tokens, and rooms. The one rule: a wildcard comes from whoever wrote the pattern, never from a subject that is
put into it.

A pattern is a room name in which `*` may stand
    as a whole part between colons  `a:*:log` matches `a:b:log`, neither `a:b:c:log` nor `a::log`: exactly one part
    at the end                      `chat:*` matches `chat:a` and `chat:a:b`, not `chat:` nor `chat`; `chat:te*` matches
                                    `chat:te`, `chat:test` and `chat:team:b`; `*` alone matches every room
In a grant, `{sub}` stands for the subject, taken literally.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Final, TypeAlias

from relay.auth.refusals import refuse
from relay.config import schema
from relay.errors import Rejected

MAX_PATTERNS: Final = 256
MAX_PATTERN_BYTES: Final = 1024
SUBJECT: Final = "{sub}"
CONTROL_CHANNEL: Final = "control"

# White space, controls, what hides or turns text round, lone surrogates: no room's name has them.
_FORBIDDEN: Final = re.compile(
    "[\x00-\x20\x7f-\xa0\xad\u061c\u1680\u180e\u2000-\u200b\u200e\u200f\u2028-\u202f\u205f-\u206f"
    "\u3000\ufeff\ufff9-\ufffb\ud800-\udfff{}]"
)

Specificity: TypeAlias = tuple[bool, int, int, int]


def check_pattern(text: str) -> str | None:
    """Why `text` is not a pattern, as the end of a sentence; None when it is one. `{sub}` is not for this function."""
    if not text:
        return "it is empty"
    if len(text) > MAX_PATTERN_BYTES:
        return f"it is longer than {MAX_PATTERN_BYTES} bytes"
    if found := _FORBIDDEN.search(text):
        return f"it holds the character U+{ord(found[0]):04X}"
    if len(text.encode()) > MAX_PATTERN_BYTES:
        return f"it is longer than {MAX_PATTERN_BYTES} bytes"
    parts = text.split(":")
    if "" in parts:
        return "it has an empty part between colons"
    if any("*" in part and part != "*" for part in parts[:-1]) or "*" in parts[-1][:-1]:
        return "a * stands for a whole part between colons, or at the end"
    return None


class RoomPattern:
    """One pattern, to ask about many rooms. Raises ValueError where `check_pattern` has an objection."""

    __slots__ = ("_exact", "_parts", "_tail", "specificity", "text")

    text: str
    specificity: Specificity
    """Sorts: exact names are highest, then counts the length of what stands before the first `*`, then all that is
    literal, then the number of parts. Of two patterns that match a room the higher is the closer; where they are equal,
    the order in which they were written decides."""

    def __init__(self, text: str) -> None:
        if problem := check_pattern(text):
            raise ValueError(f"{text!r} is not a room pattern: {problem}")
        self._compile(text, "")

    @classmethod
    def of_grant(cls, text: str, subject: str) -> RoomPattern:
        """A pattern where `{sub}` stands for `subject`, literally: nothing in it is a wildcard. Raises ValueError."""
        if SUBJECT + "*" in text:
            raise ValueError("a * right behind {sub} would match other subjects")
        if problem := check_pattern(text.replace(SUBJECT, "s")):
            raise ValueError(problem)
        pattern = cls.__new__(cls)
        pattern._compile(text, subject)
        return pattern

    def _compile(self, text: str, subject: str) -> None:
        """Three shapes: exact (`_exact`), prefix (`_tail` only) and by parts (`_parts`, then `_tail` unless None)."""
        *middle, last = text.split(":")
        tail = last[:-1].replace(SUBJECT, subject) if last.endswith("*") else None
        if tail is None:
            middle.append(last)
        parts: list[str | None] = []
        for part in middle:
            parts += [None] if part == "*" else part.replace(SUBJECT, subject).split(":")
        literals = [part for part in parts if part is not None]
        wild = len(literals) < len(parts)
        self.text = text.replace(SUBJECT, subject)
        self._exact = self.text if not wild and tail is None else None
        self._parts: tuple[str | None, ...] = tuple(parts) if wild else ()
        if wild or tail is None:
            self._tail = tail
        else:
            self._tail = "".join(f"{part}:" for part in literals) + tail
        before = parts.index(None) if wild else len(parts)
        prefix = sum(len(part) + 1 for part in literals[:before]) + (0 if wild or tail is None else len(tail))
        self.specificity = (
            self._exact is not None,
            prefix,
            sum(map(len, literals)) + len(tail or ""),
            len(parts),
        )

    def matches(self, room: str) -> bool:
        if self._exact is not None:
            return room == self._exact
        if self._tail is not None and not self._parts:
            return room.startswith(self._tail) and _complete(room)
        count = len(self._parts)
        parts = room.split(":", count)
        if self._tail is None:
            if len(parts) != count:
                return False
        elif len(parts) != count + 1 or not (parts[-1].startswith(self._tail) and _complete(parts[-1])):
            return False
        pairs = zip(self._parts, parts, strict=False)  # what is left of `parts` is the tail's
        return all(want == got if want is not None else got != "" for want, got in pairs)

    def shape(self) -> tuple[list[str | None], str | None]:
        """Its parts, None for any one, and its tail: None: it ends there; else one or more parts follow, of which the
        first begins with that text.
        """
        if self._exact is not None:
            return [*self._exact.split(":")], None
        parts = [*self._parts]
        if self._tail is None:
            return parts, None
        *more, tail = self._tail.split(":")
        return [*parts, *more], tail

    def covers(self, parts: Sequence[str | None], rest: bool) -> bool:
        """Whether it matches every room that a pattern of these parts does, where None is any one part; with `rest`,
        one or more parts of any kind follow.
        """
        mine, tail = self.shape()
        count = len(mine)
        if tail is None:
            if rest or len(parts) != count:
                return False
        elif len(parts) < count or (len(parts) == count and not rest):
            return False
        elif tail:
            first = parts[count] if len(parts) > count else None
            if first is None or not first.startswith(tail):
                return False
        return all(want is None or want == given for want, given in zip(mine, parts, strict=False))

    def __repr__(self) -> str:
        return f"<RoomPattern {self.text!r}>"


def compile_patterns(texts: Iterable[str]) -> tuple[RoomPattern, ...]:
    """Patterns in the order given. Raises ValueError, naming the first that is none."""
    return tuple(map(RoomPattern, texts))


class PatternSet:
    """Several patterns as one question: names by lookup, prefixes by one `startswith`, the rest one by one."""

    __slots__ = ("_by_parts", "_names", "_prefixes")

    def __init__(self, patterns: Sequence[RoomPattern]) -> None:
        self._names: Final = frozenset(p._exact for p in patterns if p._exact is not None)
        self._prefixes: Final = tuple({p._tail for p in patterns if not p._parts and p._tail is not None})
        self._by_parts: Final = tuple(p for p in patterns if p._parts)

    def matches(self, room: str) -> bool:
        if room in self._names:
            return True
        if room.startswith(self._prefixes) and _complete(room):
            return True
        return any(pattern.matches(room) for pattern in self._by_parts)

    def covers(self, parts: Sequence[str | None], rest: bool) -> bool:
        """Whether every room that such a pattern matches (`RoomPattern.covers`) is matched here.

        One of the patterns must do it alone. That is no restriction: what a wildcard stands for has no end, so several
        patterns that each leave something out leave something out together.
        """
        if any(pattern.covers(parts, rest) for pattern in self._by_parts):
            return True
        return any(_prefix_covers(prefix, parts, rest) for prefix in self._prefixes)


def _prefix_covers(prefix: str, parts: Sequence[str | None], rest: bool) -> bool:
    """Whether all that such a pattern matches begins with `prefix`, and goes on behind it."""
    literal = list(takewhile(lambda part: part is not None, parts))
    begin = ":".join(map(str, literal))
    if len(literal) < len(parts) or rest:  # a wildcard follows, of which nothing is known but that it is something
        begin = f"{begin}:" if literal else ""
    return begin.startswith(prefix)


def _complete(room: str) -> bool:
    """A prefix ends before its `*`: what is nothing, or ends in a colon, has not begun its last part."""
    return room != "" and room[-1] != ":"


class Bounded(PatternSet):
    """The same question of rooms under one prefix; of all others the answer is no, whatever the patterns say."""

    __slots__ = ("_bound",)

    def __init__(self, patterns: Sequence[RoomPattern], bound: str) -> None:
        super().__init__(patterns)
        self._bound: Final = bound

    def matches(self, room: str) -> bool:
        return room.startswith(self._bound) and super().matches(room)

    def covers(self, parts: Sequence[str | None], rest: bool) -> bool:
        return _prefix_covers(self._bound, parts, rest) and super().covers(parts, rest)


class CompiledGrants:
    """What one token allows, ready to be asked. Made by `compile_grants`."""

    __slots__ = ("_call", "_channels", "_history", "_join", "_presence", "_publish", "join_at_start")

    def __init__(
        self,
        *,
        join: PatternSet,
        publish: PatternSet,
        presence: PatternSet,
        history: PatternSet,
        call: PatternSet,
        channels: frozenset[str] | None,
        join_at_start: tuple[str, ...],
    ) -> None:
        self._join = join
        self._publish = publish
        self._presence = presence
        self._history = history
        self._call = call
        self._channels = channels
        self.join_at_start: Final = join_at_start

    def may_join(self, room: str) -> bool:
        return self._join.matches(room)

    def may_join_all(self, parts: Sequence[str | None], rest: bool) -> bool:
        """Whether it may join every room that a pattern of these parts matches (`RoomPattern.covers`)."""
        return self._join.covers(parts, rest)

    def may_publish(self, room: str) -> bool:
        return self._publish.matches(room)

    def may_see(self, room: str) -> bool:
        """Whether it may know who is in the room."""
        return self._presence.matches(room)

    def may_read_history(self, room: str) -> bool:
        return self._history.matches(room)

    def may_call(self, room: str) -> bool:
        """Whether it may call methods of the room's plugin."""
        return self._call.matches(room)

    def may_use_channel(self, name: str) -> bool:
        """Whether it may name this channel when it publishes. `control` is the relay's own."""
        return name != CONTROL_CHANNEL and (self._channels is None or name in self._channels)


_ROOM_KEYS: Final = ("join", "publish", "presence", "history", "call")
_KEYS: Final = frozenset({*_ROOM_KEYS, "channels", "join_at_start"})


def compile_grants(
    claim: object, subject: str, *, setting: str = "auth.claims.grants", bound: str = ""
) -> CompiledGrants:
    """The grants in a token's claim: an object with lists of patterns, under the keys of `schema.Grants`.

    Absent lists: `join`, `publish` and `join_at_start` are empty; `presence` and `history` are as `join`; `call` is as
    `publish`; `channels` are all. A room of `join_at_start` may be joined. `setting` is the config key that a refusal
    names. `bound` is what every room must begin with: a pattern that reaches further is cut, a room of `join_at_start`
    elsewhere refused. Raises Rejected 401 `token_bad_grants`; its reason never quotes the claim.
    """
    if not isinstance(claim, dict):
        raise _bad(setting, "the grants are not an object")
    if not claim.keys() <= _KEYS:
        raise _bad(setting, f"the grants have a key that is none of {', '.join(sorted(_KEYS))}")
    lists = {name: _strings(value, name, setting) for name, value in claim.items()}
    if sum(map(len, lists.values())) > MAX_PATTERNS:
        raise _bad(setting, f"the grants have more than {MAX_PATTERNS} entries")
    start = tuple(dict.fromkeys(_name(text, subject, setting) for text in lists.get("join_at_start", ())))
    if not all(room.startswith(bound) for room in start):
        raise _bad(setting, "join_at_start has a room that is not under the prefix of its issuer")

    def compiled(patterns: Sequence[RoomPattern]) -> PatternSet:
        return Bounded(patterns, bound) if bound else PatternSet(patterns)

    patterns: dict[str, list[RoomPattern]] = {}
    for name in _ROOM_KEYS:
        if name in lists:
            patterns[name] = [_pattern(text, subject, name, setting) for text in lists[name]]
    # "{sub}" with the room as its subject: the room as it is, whatever it holds.
    join = compiled([*patterns.get("join", ()), *(RoomPattern.of_grant(SUBJECT, r) for r in start)])
    publish = compiled(patterns.get("publish", []))
    channels = lists.get("channels")
    return CompiledGrants(
        join=join,
        publish=publish,
        presence=compiled(patterns["presence"]) if "presence" in patterns else join,
        history=compiled(patterns["history"]) if "history" in patterns else join,
        call=compiled(patterns["call"]) if "call" in patterns else publish,
        channels=None if channels is None or "*" in channels else frozenset(channels),
        join_at_start=start,
    )


def grants_of_settings(grants: schema.Grants) -> dict[str, list[str]]:
    """A table `default_grants` as if it were a claim. None there is absent, an empty list allows nothing."""
    fields = {name: getattr(grants, name) for name in (*_ROOM_KEYS, "channels", "join_at_start")}
    return {name: value for name, value in fields.items() if value is not None}


def _strings(value: object, name: str, setting: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise _bad(setting, f"{name} is not a list of strings")
    return value


def _pattern(text: str, subject: str, name: str, setting: str) -> RoomPattern:
    try:
        return RoomPattern.of_grant(text, subject)
    except ValueError as problem:
        raise _bad(setting, f"{name} has a pattern that is none: {problem}") from None


def _name(text: str, subject: str, setting: str) -> str:
    """A room of `join_at_start`: a name, no pattern. The subject may make it impossible, so it is checked with it."""
    room = text.replace(SUBJECT, subject)
    problem = "it has a *" if "*" in room else check_pattern(room)
    if problem:
        raise _bad(setting, f"join_at_start has an entry that is no room: {problem}")
    return room


def _bad(setting: str, reason: str) -> Rejected:
    return refuse("token_bad_grants", reason, setting)
