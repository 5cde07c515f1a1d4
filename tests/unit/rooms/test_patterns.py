"""Patterns and tries against brute force: every pattern asked one by one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.auth.grants import Bounded, PatternSet, RoomPattern
from relay.rooms.patterns import Names, Trie, Wildcard

PARTS = ["a", "b", "ab", "abc"]
FRESH = ["a", "b", "ab", "abc", "zz"]  # the last one no pattern names: what else a wildcard stands for
names = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map(":".join)


@st.composite
def wildcards(draw: st.DrawFn) -> Wildcard:
    parts = draw(st.lists(st.sampled_from([*PARTS, "*"]), max_size=3))
    if draw(st.booleans()) or "*" not in parts:
        parts.append("**")
    return Wildcard(":".join(parts))


@st.composite
def grants(draw: st.DrawFn) -> RoomPattern:
    parts = draw(st.lists(st.sampled_from([*PARTS, "*", "*"]), max_size=3))
    return RoomPattern(":".join([*parts, draw(st.sampled_from([*PARTS, "*", "a*", "ab*"]))]))


EVERY = [":".join(parts) for count in range(1, 5) for parts in itertools.product(FRESH, repeat=count)]


@pytest.mark.parametrize(
    ("pattern", "rooms", "others"),
    [
        ("sensors:*", ["sensors:a", "sensors:bc"], ["sensors", "sensors:a:b", "sensor:a"]),
        ("sensors:*:temp", ["sensors:a:temp"], ["sensors:a:hum", "sensors:temp", "sensors:a:b:temp"]),
        ("sensors:**", ["sensors:a", "sensors:a:b:c"], ["sensors", "other:a"]),
        ("*:log:**", ["a:log:b", "a:log:b:c"], ["a:log", "log:b"]),
        ("**", ["a", "a:b"], []),
        ("*", ["a"], ["a:b"]),
    ],
)
def test_what_a_wildcard_matches(pattern: str, rooms: list[str], others: list[str]) -> None:
    wildcard = Wildcard(pattern)
    assert [room for room in [*rooms, *others] if wildcard.matches(room)] == rooms


@pytest.mark.parametrize(
    "text",
    ["", "a", "a:b", "a*", "a:b*", "**:a", "a:**:b", "a::*", "a:*:", "a b:*", "{sub}:*", "a:***", "x" * 300 + ":*"],
)
def test_what_is_no_wildcard_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Wildcard(text)


@given(patterns=st.lists(wildcards(), max_size=6), room=names, gone=st.data())
def test_a_trie_finds_what_asking_each_pattern_finds(patterns: list[Wildcard], room: str, gone: st.DataObject) -> None:
    trie: Trie[int] = Trie()

    def shape(one: Wildcard) -> tuple[tuple[str | None, ...], str | None]:
        return one.parts, "" if one.rest else None

    for number, one in enumerate(patterns):
        trie.add(*shape(one), number)
    removed = gone.draw(st.sets(st.sampled_from(range(len(patterns))))) if patterns else set()
    for number in removed:
        trie.remove(*shape(patterns[number]), number)
        with pytest.raises(KeyError):
            trie.remove(*shape(patterns[number]), number)
    left = {number for number in range(len(patterns)) if number not in removed}
    assert sorted(trie.match(room)) == sorted(number for number in left if patterns[number].matches(room))
    assert len(trie) == len(left)
    for number in left:
        trie.remove(*shape(patterns[number]), number)
    assert trie._root.empty  # nothing stays of what is gone


@given(patterns=st.lists(grants(), max_size=6), room=names)
def test_patterns_of_plugins_are_found_as_by_asking_each(patterns: list[RoomPattern], room: str) -> None:
    trie: Trie[int] = Trie()
    for number, one in enumerate(patterns):
        trie.add(*one.shape(), number)
    assert sorted(trie.match(room)) == [number for number, one in enumerate(patterns) if one.matches(room)]


@given(rooms=st.lists(names, unique=True, max_size=8), pattern=wildcards(), gone=st.data())
def test_names_are_found_as_by_asking_each(rooms: list[str], pattern: Wildcard, gone: st.DataObject) -> None:
    there: Names[str] = Names()
    for room in rooms:
        there.add(room, room)
    removed = gone.draw(st.sets(st.sampled_from(rooms))) if rooms else set()
    for room in removed:
        there.remove(room)
        with pytest.raises(KeyError):
            there.remove(room)
    left = [room for room in rooms if room not in removed]
    assert sorted(there.match(pattern)) == sorted(room for room in left if pattern.matches(room))
    for room in left:
        there.remove(room)
    assert not there._root.below


@given(patterns=st.lists(grants(), max_size=4), wanted=wildcards(), bound=st.sampled_from(["", "a:", "ab:b:"]))
def test_grants_cover_a_pattern_if_and_only_if_they_grant_every_room_of_it(
    patterns: list[RoomPattern], wanted: Wildcard, bound: str
) -> None:
    granted = Bounded(patterns, bound) if bound else PatternSet(patterns)
    every_room = all(granted.matches(room) for room in EVERY if wanted.matches(room))
    assert granted.covers(wanted.parts, wanted.rest) == every_room
