"""The hub: two maps that agree, each message once to each other member, rooms that live as long as their members."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from relay.config.schema import Channel
from relay.errors import Refused
from relay.model import Kind, Message, Payload
from relay.rooms.room import ALL_RIGHTS, Rights, Room, RoomStatistics
from tests.unit.rooms.kit import Counting, House


def refusal(call: object, *args: object, **keywords: object) -> Refused:
    with pytest.raises(Refused) as caught:
        call(*args, **keywords)  # type: ignore[operator]
    return caught.value


# Rooms come and go.


def test_a_room_is_opened_once_and_freed_with_its_last_member() -> None:
    house = House()
    ann, bob = house.peer("ann"), house.peer("bob")
    room = house.join("r", ann, bob)
    assert house.hub.open("r") is room
    house.hub.leave(ann, room)
    assert house.handler.freed_rooms == []
    house.hub.leave(bob, room)
    assert house.handler.opened_rooms == house.handler.freed_rooms == ["r"]
    assert (house.hub.rooms, ann.rooms, bob.rooms) == ({}, {}, {})


def test_a_room_of_nobody_is_refused() -> None:
    assert refusal(House().hub.open, "nobodys").code == "no_such_room"


def test_a_room_that_its_plugin_will_not_have_is_not_there() -> None:
    house = House()
    house.handler.refuse = "r"
    assert refusal(house.hub.open, "r").code == "not_that_one"
    assert house.hub.rooms == {}


def test_an_opened_room_that_nobody_joined_is_freed_when_given_back() -> None:
    house = House()
    house.hub.free_if_empty(house.hub.open("r"))
    assert house.handler.freed_rooms == ["r"]
    assert house.hub.rooms == {}


def test_a_room_that_is_held_is_not_freed() -> None:
    house = House()
    ann = house.peer("ann")
    room = house.join("r", ann)
    room.holds += 1
    house.hub.leave(ann, room)
    assert house.hub.rooms == {"r": room}
    room.holds -= 1
    house.hub.free_if_empty(room)
    house.hub.free_if_empty(room)
    assert house.handler.freed_rooms == ["r"]


def test_a_plugin_may_give_its_room_back_while_it_opens_it() -> None:
    house = House()
    opened = house.handler.opened

    def and_publish(room: Room) -> None:
        opened(room)
        room.broadcast("welcome")
        house.hub.free_if_empty(room)

    house.handler.opened = and_publish  # type: ignore[method-assign]
    room = house.hub.open("r")
    assert house.hub.rooms == {"r": room}
    assert house.handler.freed_rooms == []


def test_a_room_that_is_opened_again_goes_on_where_it_was_without_the_plugins_state() -> None:
    house = House(history=5)
    ann = house.peer("ann")
    first = house.join("r", ann)
    first.broadcast("x")
    first.state["k"] = 1
    house.hub.leave(ann, first)
    second = house.join("r", ann)
    assert second.epoch == first.epoch
    assert second.history is not None
    assert (second.offset, second.state, len(second.history)) == (1, {}, 1)
    assert len(house.hub.archive) == 0


def test_a_room_that_remembers_nothing_begins_a_new_life() -> None:
    house = House()
    ann = house.peer("ann")
    first = house.join("r", ann)
    first.broadcast("x")
    first.state["k"] = 1
    house.hub.leave(ann, first)
    second = house.join("r", ann)
    assert second.epoch != first.epoch
    assert (second.offset, second.state, second.history) == (0, {}, None)


def test_a_room_of_an_older_life_does_not_free_the_newer() -> None:
    house = House()
    ann = house.peer("ann")
    old = house.join("r", ann)
    house.hub.leave(ann, old)
    new = house.join("r", ann)
    house.hub.free_if_empty(old)
    assert house.hub.rooms == {"r": new}


# Joining.


def test_nobody_is_in_a_room_twice() -> None:
    house = House()
    ann = house.peer("ann")
    room = house.join("r", ann)
    assert refusal(house.hub.join, ann, room, may_publish=True).code == "already_joined"
    assert len(room) == 1


def test_a_full_room_refuses_and_names_the_setting() -> None:
    house = House(max_members=2)
    room = house.join("r", house.peer("ann"), house.peer("bob"))
    refused = refusal(house.hub.join, house.peer("cid"), room, may_publish=True)
    assert (refused.code, refused.setting) == ("room_full", "plugins.test.max_members")
    assert "cid" not in room


def test_leaving_where_one_is_not_changes_nothing() -> None:
    house = House()
    room = house.join("r", house.peer("ann"))
    assert house.hub.leave(house.peer("bob"), room) is False
    assert len(room) == 1


def test_a_peer_knows_where_it_is_and_a_room_what_it_may() -> None:
    house = House()
    ann = house.peer("ann")
    a, b = house.hub.open("a"), house.hub.open("b")
    house.hub.join(ann, a, may_publish=True)
    house.hub.join(ann, b, may_publish=False)
    assert {name: room.may_publish(ann) for name, room in ann.rooms.items()} == {"a": True, "b": False}
    assert house.peer("bob").rooms == {}


def test_who_is_kicked_is_told_by_whoever_knows_how() -> None:
    house = House()
    ann = house.peer("ann")
    room = house.join("r", ann)
    told: list[tuple[object, str, str, str]] = []
    house.hub.on_removed = lambda peer, where, why, code: told.append((peer, where.name, why, code))
    room.kick(ann, "spam")
    assert told == [(ann, "r", "spam", "forbidden")]
    room.kick(house.peer("bob"), "not there")
    assert len(told) == 1


def test_a_kick_with_nobody_to_tell_is_a_leave() -> None:
    house = House()
    ann, bob = house.peer("ann"), house.peer("bob")
    room = house.join("r", ann, bob)
    room.kick(ann)
    assert list(room.peers()) == [bob]


# Delivery.


def test_all_others_hear_a_message_once_and_the_sender_does_not() -> None:
    house = House()
    ann, bob, cid = (house.peer(name) for name in ("ann", "bob", "cid"))
    room = house.join("r", ann, bob, cid)
    assert room.broadcast("hi", sender=ann) == 1
    assert (ann.hears(), bob.hears(), cid.hears()) == ([], ["hi"], ["hi"])


def test_echo_lets_the_sender_hear_it_too() -> None:
    house = House()
    ann = house.peer("ann")
    room = house.join("r", ann)
    room.broadcast("hi", sender=ann, echo=True)
    room.broadcast(Message("r", Payload.of("ho"), "ann", echo=True), sender=ann)
    assert ann.hears() == ["hi", "ho"]


def test_another_connection_of_the_sender_hears_it() -> None:
    house = House()
    phone, laptop = house.peer("ann"), house.peer("ann")
    room = house.join("r", phone, laptop)
    room.broadcast("hi", sender=phone)
    assert (phone.hears(), laptop.hears()) == ([], ["hi"])


def test_a_message_is_encoded_once_for_each_protocol_in_use() -> None:
    house = House()
    one, other, unused = Counting(), Counting(), Counting()
    sender = house.peer("ann", unused)
    room = house.join(
        "r", sender, *(house.peer(f"a{n}", one) for n in range(5)), *(house.peer(f"b{n}", other) for n in range(5))
    )
    room.broadcast("hi", sender=sender)
    assert (one.encoded["r", 1], other.encoded["r", 1]) == (1, 1)
    assert unused.encoded["r", 1] == 0, "nobody but the sender speaks it"


def test_a_message_to_a_subject_reaches_all_its_connections_and_nobody_else() -> None:
    house = House()
    ann, bob1, bob2 = house.peer("ann"), house.peer("bob"), house.peer("bob")
    room = house.join("r", ann, bob1, bob2)
    assert room.send("bob", "psst", sender=ann) == 1
    assert (ann.hears(), bob1.hears(), bob2.hears()) == ([], ["psst"], ["psst"])


def test_a_message_to_oneself_reaches_ones_other_connections() -> None:
    house = House()
    phone, laptop = house.peer("ann"), house.peer("ann")
    room = house.join("r", phone, laptop)
    room.broadcast(Message("r", Payload.of("note"), to="ann"), sender=phone)
    assert (phone.hears(), laptop.hears()) == ([], ["note"])


def test_a_message_to_a_subject_is_not_remembered_for_others() -> None:
    house = House(history=5)
    room = house.join("r", house.peer("bob"))
    room.send("bob", "psst")
    room.broadcast("hi")
    assert room.history is not None
    assert [message.offset for message in room.history.last(5, house.now)] == [2]


def test_messages_are_numbered_stamped_and_forwarded_in_order() -> None:
    house = House()
    room = house.join("r", house.peer("ann"))
    house.now = 5.5
    room.broadcast("a")
    room.send("ann", "b")
    assert [(m.offset, m.at, m.data.value()) for m in house.forwarded] == [(1, 5.5, "a"), (2, 5.5, "b")]


def test_what_came_from_another_node_is_delivered_and_not_forwarded_again() -> None:
    house = House()
    ann = house.peer("ann")
    room = house.join("r", ann)
    house.hub.deliver(room, Message("r", Payload.of("far"), "zoe", offset=9))
    assert ann.hears() == ["far"]
    assert (house.forwarded, room.offset) == ([], 0)


def test_a_channel_that_is_none_is_refused_and_costs_no_offset() -> None:
    house = House()
    ann = house.peer("ann")
    room = house.join("r", ann)
    assert refusal(room.broadcast, "x", channel="nope").code == "no_such_channel"
    assert (room.offset, ann.hears(), house.forwarded) == (0, [], [])


def test_a_message_goes_the_way_of_its_channel_or_of_its_rooms() -> None:
    house = House(channel="bulk")
    ann = house.peer("ann")
    room = house.join("r", ann)
    room.broadcast("slow")
    room.broadcast("quick", channel="urgent")
    assert ann.hears() == ["quick", "slow"]


def test_what_json_cannot_express_is_a_type_error_and_reaches_nobody() -> None:
    house = House()
    ann = house.peer("ann")
    room = house.join("r", ann)
    with pytest.raises(TypeError):
        room.broadcast(object())
    assert (room.offset, ann.hears()) == (0, [])


def test_counts_are_of_messages_and_of_deliveries() -> None:
    house = House()
    ann, bob, cid = (house.peer(name) for name in ("ann", "bob", "cid"))
    room = house.join("r", ann, bob, cid)
    room.broadcast("x", sender=ann)
    room.broadcast("y")
    room.send("bob", "z")
    assert (house.hub.published, house.hub.delivered) == (3, 2 + 3 + 1)


def test_a_room_tells_its_numbers_and_the_plugin_of_what_was_dropped() -> None:
    house = House(history=2)
    room = house.join("r", house.peer("ann"), house.peer("ann"), house.peer("bob"))
    for text in "abc":
        room.broadcast(text)
    assert house.hub.count_drops("r", "bulk", "overflow", 3) == "test"
    assert house.hub.count_drops("r", "bulk", "overflow", 1) == "test"
    assert house.hub.count_drops("r", "bulk", "ttl", 1) == "test"
    told = room.statistics()
    assert told == RoomStatistics("r", "test", 3, 2, 3, 2, {("bulk", "overflow"): 4, ("bulk", "ttl"): 1})
    house.hub.count_drops("r", "bulk", "ttl", 1)
    assert told.drops["bulk", "ttl"] == 1, "what was told does not change"


def test_drops_of_rooms_that_are_closed_or_nobodys_are_still_somebodys_or_nobodys() -> None:
    house = House()
    assert house.hub.count_drops("closed by now", "bulk", "overflow", 1) == "test"
    assert house.hub.count_drops("nobody's", "bulk", "overflow", 1) == ""
    assert house.hub.count_drops("", "control", "closed", 1) == ""
    assert not house.hub.rooms, "counting opens no room"


def test_the_rooms_own_channel_is_not_named_to_its_members() -> None:
    house = House()
    ann, bob = house.peer("ann"), house.peer("bob")
    room = house.join("r", ann, bob)
    said = [Message("r", Payload(Kind.TEXT, b"x"), channel=channel) for channel in (None, "default", "urgent")]
    for message in said:
        house.hub.publish(room, message, None)
    assert [message.channel for message in said] == [None, None, "urgent"]
    with pytest.raises(Refused):
        house.hub.publish(room, Message("r", Payload(Kind.TEXT, b"x"), channel="no such"), None)


def test_a_full_member_does_not_keep_a_message_from_the_others() -> None:
    house = House(channels={"default": Channel(capacity=2048)})
    slow, quick = house.peer("slow"), house.peer("quick")
    room = house.join("r", slow, quick)
    room.broadcast("a" * 1500)
    assert quick.hears()
    room.broadcast("b" * 1500)
    assert quick.hears() == ["b" * 1500]
    assert slow.full
    assert slow.hears() == ["a" * 1500]


@pytest.mark.parametrize(("overflow", "largest"), [("close", 1536), ("drop_newest", 1536), ("pause", 3584)])
def test_a_message_that_fits_nobodys_lane_is_refused_and_costs_nobody_anything(overflow: Any, largest: int) -> None:
    house = House(channels={"default": Channel(capacity=2048, overflow=overflow)})
    ann, bob = house.peer("ann"), house.peer("bob")
    room = house.join("r", ann, bob)
    with pytest.raises(Refused) as caught:
        room.broadcast("x" * (largest + 1), sender=ann)
    assert (caught.value.code, caught.value.setting) == ("too_large", "channels.default.capacity")
    assert room.offset == 0
    room.broadcast("x" * largest, sender=ann)
    assert bob.hears() == ["x" * largest]
    assert not bob.full


# Presence.


def test_members_hear_who_comes_and_goes_but_not_of_themselves() -> None:
    house = House(presence=True)
    ann, bob = house.peer("ann"), house.peer("bob")
    room = house.join("r", ann, bob)
    assert ann.hears() == [("joined", "r", "bob")]
    assert bob.hears() == []
    house.hub.leave(bob, room)
    assert ann.hears() == [("left", "r", "bob")]
    assert bob.hears() == []


def test_a_subject_comes_with_its_first_connection_and_goes_with_its_last() -> None:
    house = House(presence=True)
    ann, phone, laptop = house.peer("ann"), house.peer("bob"), house.peer("bob")
    room = house.join("r", ann, phone, laptop)
    assert ann.hears() == [("joined", "r", "bob")]
    assert room.subjects == {"ann": 1, "bob": 2}
    house.hub.leave(phone, room)
    assert (ann.hears(), laptop.hears()) == ([], [])
    assert "bob" in room
    house.hub.leave(laptop, room)
    assert ann.hears() == [("left", "r", "bob")]
    assert "bob" not in room


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(0, 5)))
def test_subjects_are_right_whenever_they_are_asked_for_first(before: list[int], after: list[int]) -> None:
    house = House()
    peers = [house.peer(subject) for subject in ("ann", "ann", "ann", "bob", "bob", "cid")]
    room = house.hub.open("r")
    room.holds += 1

    def come_and_go(numbers: list[int]) -> None:
        for number in numbers:
            if not house.hub.leave(peers[number], room):
                house.hub.join(peers[number], room, may_publish=True)

    come_and_go(before)
    assert room.subjects == Counter(peer.subject for peer in room.peers())
    come_and_go(after)
    assert room.subjects == Counter(peer.subject for peer in room.peers())
    assert ("ann" in room, len(room)) == ("ann" in room.subjects, sum(room.subjects.values()))


def test_only_what_a_member_may_not_do_is_kept_and_goes_when_it_may_again_or_leaves() -> None:
    house = House()
    ann, bob = house.peer("ann"), house.peer("bob")
    room, other = house.join("r", ann, bob), house.join("other", bob)
    assert (ann.rights, bob.rights) == (None, None)
    house.hub.set_rights(bob, room, Rights(False, True))
    house.hub.set_rights(bob, other, Rights(True, False))
    assert [room.may_publish(peer) for peer in (ann, bob)] == [True, False]
    assert (other.may_publish(bob), other.rights(bob).may_see) == (True, False)
    house.hub.set_rights(bob, other, ALL_RIGHTS)
    assert bob.rights == {room: Rights(False, True)}
    house.hub.join(ann, other, may_publish=False)
    assert ann.rights is not None
    assert ann.rights[other] is bob.rights[room], "no object for each of a million"
    house.hub.leave(bob, room)
    assert bob.rights is None
    house.join("r", bob)
    assert room.may_publish(bob)


def test_a_freed_room_is_gone_without_the_garbage_collector() -> None:
    house = House()
    room = house.join("r", house.peer("ann"))
    house.hub.leave(next(room.peers()), room)
    assert sys.getrefcount(room) == 2, "this test's own, and the argument: nothing that it holds points back at it"


def test_a_room_that_was_freed_knows_nobody_who_is_in_its_successor() -> None:
    house = House()
    ann = house.peer("ann")
    old = house.join("r", ann)
    house.hub.leave(ann, old)
    new = house.join("r", ann)
    old.kick(ann)
    assert (old.has(ann), old.may_publish(ann), new.has(ann)) == (False, False, True)


def test_nothing_is_told_where_presence_is_off() -> None:
    house = House()
    ann, bob = house.peer("ann"), house.peer("bob")
    room = house.join("r", ann, bob)
    house.hub.leave(bob, room)
    assert ann.hears() == []
    assert room.subjects == {"ann": 1}


def test_a_protocol_that_does_not_speak_of_presence_is_spared() -> None:
    house = House(presence=True)
    plain, full = house.peer("ann", Counting(silent=True)), house.peer("bob")
    house.join("r", plain, full, house.peer("cid"))
    assert (plain.hears(), full.hears()) == ([], [("joined", "r", "cid")])


def test_a_crowd_is_not_told_of_everybody() -> None:
    house = House(presence=True)
    protocol = Counting()
    crowd = [house.peer(f"s{number}", protocol) for number in range(200)]
    room = house.join("r", *crowd)
    first = crowd[0]
    assert len(first.hears()) == 199
    late = house.peer("late", protocol)
    house.hub.join(late, room, may_publish=True)
    house.hub.leave(late, room)
    assert first.hears() == [("count", "r", "201")]


async def test_nothing_in_the_hub_is_a_checkpoint() -> None:
    """So nothing can come between its two maps."""
    house = House(presence=True, history=3)
    ann, bob = house.peer("ann"), house.peer("bob")
    with trio.testing.assert_no_checkpoints():
        room = house.join("r", ann, bob)
        room.broadcast("x", sender=ann)
        room.send("bob", "y")
        house.hub.leave(ann, room)
        house.hub.leave(bob, room)
    await trio.lowlevel.checkpoint()
