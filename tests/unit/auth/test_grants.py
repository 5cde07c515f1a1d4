"""Patterns of rooms, and what a token with them may do."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.auth.grants import (
    MAX_PATTERNS,
    CompiledGrants,
    PatternSet,
    RoomPattern,
    check_pattern,
    compile_grants,
    compile_patterns,
    grants_of_settings,
)
from relay.config import schema
from relay.errors import Rejected
from relay.protocols.names import check_room_name


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("lobby", ["lobby"], ["lobby2", "lobb", "lobby:a", "Lobby", ""]),
        ("chat:*", ["chat:a", "chat:a:b", "chat:é"], ["chat", "chat:", "chats:a", "x:chat:a", "chat:a:"]),
        ("chat:te*", ["chat:te", "chat:test", "chat:team:b"], ["chat:t", "chat:x", "chat:te:"]),
        ("te*", ["te", "test", "team:b"], ["t", "xte", ""]),
        ("*", ["a", "a:b"], [""]),
        ("a:*:log", ["a:b:log"], ["a:log", "a:b:c:log", "a::log", "a:b:log:x", "a:b:logs", "a:b"]),
        ("*:log", ["a:log"], ["log", ":log", "a:b:log"]),
        ("a:*:*", ["a:b:c", "a:b:c:d"], ["a:b", "a:b:", "a::c", "x:b:c"]),
        ("a:*:te*", ["a:b:te", "a:b:test:c"], ["a:te", "a:b:x", "a:b:c:te"]),
        ("*:*", ["a:b", "a:b:c"], ["a", "a:"]),
        ("*:b:*:d", ["a:b:c:d"], ["a:b:c:d:e", "a:x:c:d", "a:b:c"]),
        ("a.b+c", ["a.b+c"], ["aXb+c", "a.bbc"]),
    ],
)
def test_a_pattern_matches_whole_parts_or_a_prefix(pattern: str, yes: list[str], no: list[str]) -> None:
    one = RoomPattern(pattern)
    several = PatternSet(compile_patterns(["nothing", "no:*", "not:*:this", pattern]))
    for room in yes:
        assert one.matches(room), room
        assert several.matches(room), room
    for room in no:
        assert not one.matches(room), room
        assert not several.matches(room), room


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        (":a", "empty part"),
        ("a:", "empty part"),
        ("a::b", "empty part"),
        ("a*b", "whole part"),
        ("a*:b", "whole part"),
        ("*a", "whole part"),
        ("a:*b:c", "whole part"),
        ("**", "whole part"),
        ("a:**", "whole part"),
        ("a:{sub}", "U\\+007B"),
        ("a b", "U\\+0020"),
        ("a\nb", "U\\+000A"),
        ("a\u202eb", "U\\+202E"),
        ("a\ud800", "U\\+D800"),
        ("x" * 1025, "longer than 1024"),
        ("é" * 513, "longer than 1024"),
    ],
)
def test_what_is_no_pattern_is_refused_with_the_reason(text: str, problem: str) -> None:
    assert check_pattern(text) is not None
    with pytest.raises(ValueError, match=problem):
        RoomPattern(text)


def test_the_closer_pattern_is_the_more_specific_one() -> None:
    order = ["a:b:log", "a:b:lo*", "a:b:*", "a:*:log", "a:*:*", "a:*", "*:b:log", "*:*:log", "*:b:*", "*"]
    shuffled = sorted(compile_patterns(reversed(order)), key=lambda p: p.specificity, reverse=True)
    found = [p.text for p in shuffled]
    assert found.index("a:b:log") == 0
    assert found == order


def test_an_exact_name_beats_any_longer_prefix() -> None:
    assert RoomPattern("a").specificity > RoomPattern("aaaaaaaa:*").specificity


parts = st.text(alphabet="ab", min_size=1, max_size=2)
rooms = st.lists(parts, min_size=1, max_size=4).map(":".join)
patterns = st.builds(
    lambda head, tail: ":".join([*head, tail]),
    st.lists(parts | st.just("*"), max_size=3),
    parts | st.just("*") | parts.map(lambda part: part + "*"),
)


def reference(pattern: str, room: str) -> bool:
    """The definition again, recursive and slow."""
    head, colon, rest = pattern.partition(":")
    if not colon:
        return room.startswith(head[:-1]) if head.endswith("*") else room == head
    first, has_more, others = room.partition(":")
    return bool(has_more) and head in ("*", first) and reference(rest, others)


@given(patterns, rooms)
@example("a:*", "a")
@example("*:a*", "b:ab:b")
def test_matching_agrees_with_the_definition(pattern: str, room: str) -> None:
    assert RoomPattern(pattern).matches(room) == reference(pattern, room)
    assert PatternSet([RoomPattern(pattern)]).matches(room) == reference(pattern, room)


@given(st.text(max_size=12) | st.text(alphabet="a:*{}\u200d \x00", max_size=6))
def test_a_name_of_a_room_is_a_pattern_of_itself_and_a_pattern_without_a_star_is_a_name(text: str) -> None:
    """Two floors that may not know each other have to draw the same line."""
    if check_room_name(text, 255) is None:
        assert check_pattern(text) is None
        assert RoomPattern(text).matches(text)
    elif "*" not in text:
        assert check_pattern(text) is not None


# Grants


def grants(subject: str = "ann", **claim: list[str]) -> CompiledGrants:
    return compile_grants(claim, subject)


def test_the_example_of_the_docs_means_what_they_say() -> None:
    ann = grants(
        join=["chat:*", "feed:news"],
        publish=["chat:*"],
        presence=["chat:*"],
        channels=["urgent", "default"],
        join_at_start=["user:{sub}"],
    )
    assert ann.may_join("chat:a")
    assert ann.may_join("feed:news")
    assert not ann.may_join("feed:sport")
    assert ann.may_publish("chat:a")
    assert not ann.may_publish("feed:news")
    assert ann.may_see("chat:a")
    assert not ann.may_see("feed:news")
    assert ann.may_read_history("feed:news")
    assert ann.may_call("chat:a")
    assert not ann.may_call("feed:news")
    assert ann.may_use_channel("urgent")
    assert not ann.may_use_channel("bulk")
    assert ann.join_at_start == ("user:ann",)
    assert ann.may_join("user:ann")


def test_nothing_is_granted_by_nothing() -> None:
    none = grants()
    asked = [none.may_join, none.may_publish, none.may_see, none.may_read_history, none.may_call]
    assert not any(may("chat:a") for may in asked)
    assert none.join_at_start == ()


def test_what_is_absent_follows_what_is_there() -> None:
    some = grants(join=["a"], publish=["b"])
    assert some.may_see("a")
    assert some.may_read_history("a")
    assert some.may_call("b")
    assert not some.may_call("a")


def test_an_empty_list_is_not_an_absent_one() -> None:
    some = grants(join=["a"], publish=["b"], presence=[], history=[], call=[], channels=[])
    assert not some.may_see("a")
    assert not some.may_read_history("a")
    assert not some.may_call("b")
    assert not some.may_use_channel("default")


def test_nobody_may_use_the_channel_of_the_relay() -> None:
    for claim in ({}, {"channels": ["*"]}, {"channels": ["control"]}):
        assert not compile_grants(claim, "ann").may_use_channel("control")
    assert grants().may_use_channel("bulk")
    assert grants(channels=["*"]).may_use_channel("bulk")


def test_the_subject_gets_its_own_rooms() -> None:
    ann = grants(join=["user:{sub}", "user:{sub}:*", "log:*:{sub}", "{sub}-notes"])
    for room in ("user:ann", "user:ann:a:b", "log:x:ann", "ann-notes"):
        assert ann.may_join(room), room
    for room in ("user:bob", "user:anna", "log:x:bob", "log:ann", "user:{sub}"):
        assert not ann.may_join(room), room


@pytest.mark.parametrize("subject", ["*", "{sub}", "a*", "x:*", "*:*", "{sub}:*", "{sub", "sub}"])
def test_a_subject_is_never_a_pattern(subject: str) -> None:
    them = grants(subject, join=["user:{sub}", "log:*:{sub}", "box:{sub}:*"])
    for room in ("user:bob", "user:x:bob", "user:a", "user:ab", "log:x:bob", "log:x:x:bob", "box:bob:a", "box:x:y:a"):
        assert not them.may_join(room), room
    assert them.may_join(f"user:{subject}")
    assert them.may_join(f"log:x:{subject}")
    assert them.may_join(f"box:{subject}:y")


def test_a_star_behind_the_subject_is_refused_because_it_would_match_others() -> None:
    with pytest.raises(Rejected, match="would match other subjects"):
        grants(join=["user:{sub}*"])


@given(st.text(min_size=1, max_size=6), patterns, rooms)
def test_the_subject_does_not_matter_where_no_pattern_names_it(subject: str, pattern: str, room: str) -> None:
    assert compile_grants({"join": [pattern]}, subject).may_join(room) == reference(pattern, room)


@given(st.text(alphabet="ab:*{}", min_size=1, max_size=6), rooms)
def test_a_grant_of_the_subject_s_room_is_that_room_and_no_other(subject: str, room: str) -> None:
    assert compile_grants({"join": ["{sub}"]}, subject).may_join(room) == (room == subject)


@pytest.mark.parametrize(
    "claim",
    [
        None,
        [],
        "chat:*",
        7,
        {"join": "chat:*"},
        {"join": None},
        {"join": [7]},
        {"join": [["a"]]},
        {"join": {"a": 1}},
        {"joins": ["chat:*"]},
        {"join": [""]},
        {"join": ["a*b"]},
        {"join": ["{user}"]},
        {"join": ["x" * 1100]},
        {"join": ["a"] * MAX_PATTERNS, "publish": ["a"]},
        {"join_at_start": ["a:*"]},
        {"join_at_start": ["a:"]},
        {"join_at_start": ["a b"]},
        {"channels": "urgent"},
    ],
)
def test_a_claim_that_cannot_be_understood_is_refused_and_not_quoted(claim: object) -> None:
    with pytest.raises(Rejected) as caught:
        compile_grants(claim, "ann")
    refusal = caught.value
    assert (refusal.status, refusal.code, refusal.setting) == (401, "token_bad_grants", "auth.claims.grants")
    assert not any(text in refusal.reason for text in ("chat:*", "joins", "a*b", "{user}"))


@pytest.mark.parametrize("subject", ["a b", "a:", "*", "a\u200bb"])
def test_a_subject_that_makes_no_room_name_cannot_be_put_into_its_room(subject: str) -> None:
    with pytest.raises(Rejected, match="no room"):
        grants(subject, join_at_start=["user:{sub}"])


def test_as_many_patterns_as_allowed_are_fine_and_rooms_at_the_start_come_once() -> None:
    many = grants(join=[f"room:{n}:*" for n in range(MAX_PATTERNS - 2)], join_at_start=["a", "a"])
    assert many.may_join(f"room:{MAX_PATTERNS - 3}:x")
    assert many.join_at_start == ("a",)


def test_default_grants_of_the_config_are_grants() -> None:
    table = schema.Grants(join=["chat:*"], presence=["chat:*"])
    found = compile_grants(grants_of_settings(table), "ann", setting="auth.default_grants")
    assert found.may_join("chat:a")
    assert found.may_see("chat:a")
    assert not found.may_publish("chat:a")


def test_a_room_to_be_joined_at_the_start_must_be_under_the_issuers_prefix() -> None:
    assert compile_grants({"join_at_start": ["acme:a"]}, "ann", bound="acme:").join_at_start == ("acme:a",)
    for rooms in (["other:a"], ["acme:a", "acme"]):
        with pytest.raises(Rejected, match="under the prefix of its issuer"):
            compile_grants({"join_at_start": rooms}, "ann", bound="acme:")


@pytest.mark.parametrize(("text", "why"), [("", "it is empty"), ("a::b", "it has an empty part between colons")])
def test_what_is_no_pattern_is_told_why(text: str, why: str) -> None:
    assert check_pattern(text) == why
