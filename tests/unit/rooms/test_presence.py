"""What members are told of each other: comings and goings, numbers in a crowd, and what a list says meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from relay.rooms.room import Room
from tests.sizes import examples
from tests.unit.rooms.kit import Guest, House

PLENTY = 1 << 20


def listed(room: Room, most: int = PLENTY) -> dict[str, Any]:
    assert room.presence is not None
    return room.presence.listed(most)


def come(house: House, room: Room, subject: str, **claims: Any) -> Guest:
    peer = house.peer(subject)
    house.hub.join(peer, room, may_publish=True, claims=claims or None)
    return peer


# Claims.


def test_a_list_has_the_claims_that_the_table_names_and_no_others() -> None:
    house = House(presence=True, presence_claims=("name", "picture"))
    room = house.join("r", house.peer("ann"))
    come(house, room, "bob", name="Bob", secret="x")
    come(house, room, "cid", secret="x")
    assert listed(room) == {"members": ["ann", "bob", "cid"], "count": 3, "claims": {"bob": {"name": "Bob"}}}


def test_of_several_connections_the_newest_token_counts() -> None:
    house = House(presence_claims=("name",))
    room = house.join("r", house.peer("ann"))
    old = come(house, room, "bob", name="Bob")
    come(house, room, "bob", name="Robert")
    assert listed(room)["claims"] == {"bob": {"name": "Robert"}}
    assert listed(room)["connections"] == {"bob": 2}
    house.hub.leave(old, room)
    assert listed(room) == {"members": ["ann", "bob"], "count": 2, "claims": {"bob": {"name": "Robert"}}}


def test_what_a_renewed_token_says_takes_the_place_of_what_was_said() -> None:
    house = House(presence_claims=("name",))
    room = house.join("r", house.peer("ann"))
    come(house, room, "bob", name="Bob")
    assert room.presence is not None
    room.presence.renewed("bob", {"name": "Sir Bob"})
    assert listed(room)["claims"] == {"bob": {"name": "Sir Bob"}}
    room.presence.renewed("bob", None)
    assert "claims" not in listed(room)


def test_who_has_left_is_known_no_more() -> None:
    house = House(presence_claims=("name",))
    room = house.join("r", house.peer("ann"))
    bob = come(house, room, "bob", name="Bob")
    house.hub.leave(bob, room)
    come(house, room, "bob")
    assert listed(room) == {"members": ["ann", "bob"], "count": 2}


# Coming back.


def test_who_is_back_in_time_was_never_away() -> None:
    house = House(presence=True, presence_debounce=3.0, presence_claims=("name",))
    ann = house.peer("ann")
    room = house.join("r", ann)
    bob = come(house, room, "bob", name="Bob")
    assert ann.hears() == [("joined", "r", "bob")]
    house.hub.leave(bob, room)
    house.later(2.9)
    assert listed(room) == {
        "members": ["ann", "bob"], "count": 2, "claims": {"bob": {"name": "Bob"}}, "connections": {"bob": 0},
    }  # fmt: skip
    come(house, room, "bob", name="Bob")
    house.later(10)
    assert ann.hears() == []
    assert listed(room)["count"] == 2


def test_who_does_not_come_back_is_told_to_have_left_once() -> None:
    house = House(presence=True, presence_debounce=3.0)
    ann = house.peer("ann")
    room = house.join("r", ann)
    bob = come(house, room, "bob")
    ann.hears()
    house.hub.leave(bob, room)
    house.later(3)
    assert ann.hears() == [("left", "r", "bob")]
    assert listed(room) == {"members": ["ann"], "count": 1}
    come(house, room, "bob")
    house.later(10)
    assert ann.hears() == [("joined", "r", "bob")]


def test_a_room_that_everybody_left_has_nothing_more_to_tell() -> None:
    house = House(presence=True, presence_debounce=3.0)
    ann, bob = house.peer("ann"), house.peer("bob")
    room = house.join("r", ann, bob)
    house.hub.leave(bob, room)
    house.hub.leave(ann, room)
    assert (house.hub.rooms, house.timers.next()) == ({}, None)
    again = house.join("r", ann)
    assert listed(again) == {"members": ["ann"], "count": 1}


# Crowds.


def crowd(house: House, number: int) -> tuple[Guest, Room, list[Guest]]:
    first = house.peer("first")
    room = house.join("r", first)
    others = [come(house, room, f"s{each}") for each in range(number - 1)]
    return first, room, others


def test_beyond_the_size_the_number_is_told_and_then_no_more_than_now_and_then() -> None:
    house = House(presence=True, presence_events_up_to=4, presence_count_every=5.0)
    first, room, others = crowd(house, 4)
    assert len(first.hears()) == 3
    others.append(come(house, room, "s3"))
    assert first.hears() == [("count", "r", "5")]
    others += [come(house, room, f"t{each}") for each in range(10)]
    house.later(4.9)
    assert first.hears() == []
    house.later(0.2)
    assert first.hears() == [("count", "r", "15")]
    house.later(60)
    assert first.hears() == [], "it has not changed"
    house.hub.leave(others.pop(), room)
    house.later(0)
    assert first.hears() == [("count", "r", "14")]
    assert listed(room)["events"] is False


def test_names_are_told_again_when_the_room_is_clearly_smaller() -> None:
    house = House(presence=True, presence_events_up_to=4, presence_count_every=5.0)
    first, room, others = crowd(house, 5)
    first.hears()
    house.hub.leave(others.pop(), room)
    house.later(5)
    assert first.hears() == [("count", "r", "4")]
    house.hub.leave(others.pop(), room)
    assert first.hears() == [("count", "r", "3")]
    assert "events" not in listed(room)
    house.hub.leave(others.pop(), room)
    assert first.hears() == [("left", "r", "s1")]
    house.later(60)
    assert first.hears() == []


def test_with_a_size_of_0_it_is_always_numbers() -> None:
    house = House(presence=True, presence_events_up_to=0, presence_count_every=1.0)
    first, room, others = crowd(house, 2)
    house.later(1)
    house.hub.leave(others.pop(), room)
    house.later(1)
    assert first.hears() == [("count", "r", "2"), ("count", "r", "1")]


def test_without_an_interval_only_that_names_end_is_told() -> None:
    house = House(presence=True, presence_events_up_to=1, presence_count_every=0.0)
    first, room, _ = crowd(house, 2)
    come(house, room, "more")
    house.later(60)
    assert first.hears() == [("count", "r", "2")]


def test_a_crowd_costs_its_joins_nothing_between_two_numbers() -> None:
    house = House(presence=True, presence_events_up_to=10, presence_count_every=5.0)
    first, room, _ = crowd(house, 11)
    first.hears()
    before = len(first.recorder._said)
    for number in range(1000):
        come(house, room, f"x{number}")
    assert len(first.recorder._said) == before
    assert len(house.timers) == 1


def test_a_list_ends_at_its_bounds_and_the_number_does_not() -> None:
    house = House(presence=True, presence_list_up_to=5)
    _, room, others = crowd(house, 5)
    assert len(listed(room)["members"]) == 5
    assert len(listed(room, 30)["members"]) == 2
    come(house, room, "six")
    assert listed(room) == {"members": [], "count": 6}
    house.hub.leave(others.pop(), room)
    assert len(listed(room)["members"]) == 5


def test_members_without_the_grant_hear_no_numbers_either() -> None:
    house = House(presence=True, presence_events_up_to=1)
    room = house.join("r", house.peer("ann"))
    blind = house.peer("blind")
    house.hub.join(blind, room, may_publish=True, may_see=False)
    come(house, room, "bob")
    house.later(60)
    assert blind.hears() == []


# All of it against two sets.

SUBJECTS = ["ann", "bob", "cid", "dan", "eve"]
DEBOUNCE = 3.0


class PresenceModel(RuleBasedStateMachine):
    """A witness who was there from the start knows who is there: what it was told is what a list says."""

    def __init__(self) -> None:
        super().__init__()
        self.house = House(presence=True, presence_debounce=DEBOUNCE, presence_events_up_to=4, presence_count_every=2.0)
        self.witness = self.house.peer("witness")
        self.room = self.house.join("r", self.witness)
        self.inside: list[Guest] = []
        self.known: set[str] | None = {"witness"}
        self.told: list[Any] = []

    def listen(self) -> None:
        """What a client makes of it: when names are told again it asks who is there, and has its answer behind all
        that was told until then.
        """
        asks = False
        for what, _, who in self.witness.hears():
            if what == "count":
                assert int(who) >= 1
                asks, self.known = True, None
            elif not asks:
                assert self.known is not None, "a name was told in a crowd"
                assert (who in self.known) == (what == "left"), "told twice"
                self.known ^= {who}
        assert self.room.presence is not None
        if asks and not self.room.presence.counting:
            self.known = set(listed(self.room)["members"])

    @rule(subject=st.sampled_from(SUBJECTS))
    def come(self, subject: str) -> None:
        self.inside.append(come(self.house, self.room, subject))
        self.listen()

    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        if self.inside:
            peer = data.draw(st.sampled_from(self.inside))
            self.inside.remove(peer)
            self.house.hub.leave(peer, self.room)
            self.listen()

    @rule(data=st.data(), away=st.floats(0, DEBOUNCE - 0.1))
    def flap(self, data: st.DataObject, away: float) -> None:
        """Nobody hears of one who is back in time."""
        if self.inside:
            peer = data.draw(st.sampled_from(self.inside))
            self.house.hub.leave(peer, self.room)
            self.house.later(away)
            self.listen()
            assert self.known is None or peer.subject in self.known
            self.house.hub.join(peer, self.room, may_publish=True)
            self.listen()
            assert self.known is None or peer.subject in self.known

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds: float) -> None:
        self.house.later(seconds)
        self.listen()

    @invariant()
    def what_was_told_is_what_the_list_says(self) -> None:
        found = listed(self.room)
        assert found["count"] == len(found["members"])
        there = {"witness", *(peer.subject for peer in self.inside)}
        assert there <= set(found["members"])
        if self.known is not None:
            assert self.known == set(found["members"])

    def teardown(self) -> None:
        self.house.later(20)
        self.listen()
        assert set(listed(self.room)["members"]) == {"witness", *(peer.subject for peer in self.inside)}
        assert self.house.timers.next() is None


PresenceModel.TestCase.settings = settings(deadline=None, max_examples=examples(100, 20_000), stateful_step_count=40)
TestPresenceModel = PresenceModel.TestCase


@pytest.mark.parametrize("rule", [{}, {"presence_claims": ("name",)}])
def test_nothing_is_told_where_presence_is_off_claims_or_not(rule: dict[str, Any]) -> None:
    house = House(**rule)
    ann = house.peer("ann")
    room = house.join("r", ann)
    house.hub.leave(come(house, room, "bob", name="Bob"), room)
    house.later(60)
    assert ann.hears() == []
