"""What each request does, and every way it is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from relay.errors import CloseCode
from tests.unit.protocols.table import JSON, MSGPACK
from tests.unit.session.kit import Client, House, channels, identity, open_house, settings
from tests.unit.session.plugins import Quick, Slow

PLUGINS: dict[str, Any] = {
    "q": (Quick, {"history": 5, "presence": True}),
    "full": (Quick, {"max_members": 1}),
    "s": (Slow, {}),
    "bulky": (Quick, {"history": 5, "channel": "bulk"}),
}


# Hello.


async def test_hello_is_the_first_word_and_says_who_and_what() -> None:
    async with open_house(PLUGINS, settings(limits={"message_bytes": 1234})) as house:
        ann = house.client("ann", {"join": ["*"], "channels": ["default"]}, expires_in=60)
        (hello,) = ann.heard()
        assert (hello["t"], hello["subject"], hello["session"]) == ("hello", "ann", "session of ann")
        assert hello["channels"] == ["default"]
        assert hello["expires"] == ann.connection.identity.expires
        assert hello["limits"]["message_bytes"] == 1234
        assert (hello["heartbeat"], hello["version"]) == (25.0, "test")


async def test_the_rooms_of_the_token_are_joined_at_the_start() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann", {"join_at_start": ["q:a", "nobodys:x", "q:b"]})
        assert set(house.hub.memberships(ann.connection)) == {"q:a", "q:b"}
        hello, refusal = ann.heard()
        assert hello["t"] == "hello"
        assert (refusal["t"], refusal["id"], refusal["code"]) == ("error", None, "no_such_room")


# Join and leave.


async def test_joining_tells_where_the_room_is() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client()
        assert ann.join("q:a") == {"t": "ok", "room": "q:a", "epoch": "epoch-1", "offset": 0}
        assert house.plugin("q").log == [("open", "q:a"), ("join", "ann")]


async def test_joining_with_members_lists_the_subjects_each_once() -> None:
    async with open_house(PLUGINS) as house:
        house.client("bob").join("q:a")
        house.client("bob").join("q:a")
        answer = house.client("ann").join("q:a", members=True)
        assert (answer["members"], answer["count"]) == (["ann", "bob"], 2)


@pytest.mark.parametrize(
    ("request_", "code", "setting"),
    [
        ({"room": ""}, "bad_room", "limits.room_name_bytes"),
        ({"room": "q:" + "a" * 300}, "bad_room", "limits.room_name_bytes"),
        ({"room": "q:a b"}, "bad_room", "limits.room_name_bytes"),
        ({"room": "q:a*"}, "bad_room", "limits.room_name_bytes"),
        ({"room": "nobodys:x"}, "no_such_room", "plugins"),
        ({"room": "q:closed"}, "shut", None),
        ({"room": "q:in"}, "already_joined", None),
        ({"room": "full:a"}, "room_full", "plugins.full.max_members"),
    ],
)
async def test_a_join_is_refused_with_its_reason(request_: dict[str, Any], code: str, setting: str | None) -> None:
    async with open_house(PLUGINS) as house:
        house.client("bob").join("full:a")
        ann = house.client()
        ann.join("q:in")
        assert ann.refused(t="join", **request_) == (code, setting)
        assert set(house.hub.rooms) == {"q:in", "full:a"}, "no room is left of a refused join"


async def test_a_room_one_may_not_join_looks_like_one_that_is_not_there() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann", {"join": ["q:mine"]})
        answers = [ann.ask(t="join", room=room) for room in ("q:closed", "q:theirs", "nobodys:x")]
        assert answers[0] == answers[1] == answers[2]
        assert answers[0]["code"] == "forbidden"


async def test_members_are_told_only_to_whom_the_token_grants_it() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann", {"join": ["*"], "presence": []})
        assert ann.refused(t="join", room="q:a", members=True) == ("forbidden", None)
        assert ann.refused(t="presence", room="q:a") == ("forbidden", None)


async def test_the_number_of_rooms_is_bounded() -> None:
    async with open_house(PLUGINS, settings(limits={"rooms_per_connection": 2})) as house:
        ann = house.client()
        ann.join("q:a")
        ann.join("q:b")
        assert ann.refused(t="join", room="q:c") == ("too_many_rooms", "limits.rooms_per_connection")
        ann.ask(t="leave", room="q:a")
        ann.join("q:c")


async def test_rooms_that_are_still_being_joined_count_too() -> None:
    async with open_house(PLUGINS, settings(limits={"rooms_per_connection": 2})) as house:
        house.plugin("s").gates["join"] = trio.Event()
        ann = house.client()
        ann.say(t="join", room="s:a")
        ann.say(t="join", room="s:b")
        assert ann.refused(t="join", room="q:c") == ("too_many_rooms", "limits.rooms_per_connection")


async def test_what_the_plugin_says_about_a_join_is_passed_on() -> None:
    async with open_house(PLUGINS) as house:
        house.plugin("q").refuse_join = "banned"
        ann = house.client()
        assert ann.refused(t="join", room="q:a") == ("banned", None)
        assert house.plugin("q").log == [("open", "q:a"), ("empty", "q:a")]
        assert house.counters.refused["plugin"] == 1


async def test_who_is_closed_while_joining_is_not_in_the_room() -> None:
    async with open_house(PLUGINS) as house:
        house.plugin("q").close_on_join = True
        ann = house.client()
        ann.say(t="join", room="q:a", id=1)
        assert ann.closed is not None
        assert ann.closed.code == CloseCode.REPLACED
        assert house.hub.rooms == {}


async def test_leaving_tells_the_plugin_which_cannot_prevent_it() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client()
        ann.join("q:a")
        assert ann.ask(t="leave", room="q:a") == {"t": "ok", "room": "q:a"}
        assert house.plugin("q").log[-2:] == [("leave", "ann"), ("empty", "q:a")]
        assert ann.refused(t="leave", room="q:a") == ("not_joined", None)


async def test_others_hear_of_coming_and_going() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann")
        ann.join("q:a")
        bob = house.client("bob")
        bob.join("q:a")
        bob.ask(t="leave", room="q:a")
        assert ann.heard() == [
            {"t": "joined", "room": "q:a", "subject": "bob"},
            {"t": "left", "room": "q:a", "subject": "bob"},
        ]


# Publish.


async def together(house: House, room: str = "q:a") -> tuple[Client, Client]:
    ann, bob = house.client("ann"), house.client("bob")
    ann.join(room)
    bob.join(room)
    ann.heard()
    return ann, bob


async def test_what_is_published_the_others_hear_and_the_sender_is_told_the_offset() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = await together(house)
        assert ann.ask(t="publish", room="q:a", data={"x": [1]}) == {"t": "ok", "offset": 1}
        (said,) = bob.heard()
        assert said.pop("at") > 0
        assert said == {"t": "message", "room": "q:a", "data": {"x": [1]}, "from": "ann", "offset": 1}


async def test_without_an_id_nothing_is_answered() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = await together(house)
        ann.say(t="publish", room="q:a", data=1)
        assert (ann.heard(), bob.messages()) == ([], [1])


async def test_a_refusal_without_an_id_is_told_all_the_same() -> None:
    async with open_house(PLUGINS) as house:
        ann, _ = await together(house)
        ann.say(t="publish", room="q:a", data="no")
        (error,) = ann.heard()
        assert (error["id"], error["code"], error["retry_after"]) == (None, "not_your_turn", 1.5)


async def test_channel_key_and_receiver_travel_along() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = await together(house)
        cid = house.client("cid")
        cid.join("q:a")
        ann.heard(), bob.heard()
        ann.say(t="publish", room="q:a", data=1, channel="urgent", key="k", to="bob")
        (said,) = bob.heard()
        assert (said["channel"], said["key"], said["to"]) == ("urgent", "k", "bob")
        assert cid.heard() == []


async def test_echo_is_heard_by_the_sender() -> None:
    async with open_house(PLUGINS) as house:
        ann, _ = await together(house)
        ann.say(t="publish", room="q:a", data=1, echo=True)
        assert ann.messages() == [1]


@pytest.mark.parametrize(
    ("grants", "request_", "code", "setting"),
    [
        (None, {"room": "q:a", "channel": "nope"}, "no_such_channel", "channels"),
        (None, {"room": "q:a", "channel": "control"}, "forbidden", None),
        ({"join": ["*"], "publish": ["*"], "channels": []}, {"room": "q:a", "channel": "urgent"}, "forbidden", None),
        ({"join": ["*"]}, {"room": "q:a"}, "forbidden", None),
        ({"join": ["*"], "publish": ["q:b"]}, {"room": "q:c"}, "forbidden", None),
        (None, {"room": "nobodys:x"}, "no_such_room", "plugins"),
        (None, {"room": "q:a b"}, "bad_room", "limits.room_name_bytes"),
        (None, {"room": "q:closed"}, "shut", None),
        (None, {"room": "q:a", "data": "bug"}, "internal", None),
        (None, {"room": "q:a", "data": "no"}, "not_your_turn", None),
    ],
)
async def test_a_publish_is_refused_with_its_reason(
    grants: Any, request_: dict[str, Any], code: str, setting: str | None
) -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann", grants)
        ann.join("q:a")
        assert ann.refused(t="publish", **{"data": 1, **request_}) == (code, setting)
        assert ann.closed is None
        assert set(house.hub.rooms) == {"q:a"}


async def test_one_may_publish_where_one_is_not_if_the_token_says_so() -> None:
    async with open_house(PLUGINS) as house:
        bob = house.client("bob")
        bob.join("q:a")
        ann = house.client("ann", {"publish": ["q:*"]})
        assert ann.ask(t="publish", room="q:a", data="hi") == {"t": "ok", "offset": 1}
        assert bob.messages() == ["hi"]
        assert ann.ask(t="publish", room="q:empty", data="hi") == {"t": "ok", "offset": 1}
        assert house.plugin("q").log[-2:] == [("open", "q:empty"), ("empty", "q:empty")]
        assert set(house.hub.rooms) == {"q:a"}


async def test_a_plugin_may_answer_the_sender_alone() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = await together(house)
        ann.say(t="publish", room="q:a", data="only me")
        (said,) = ann.heard()
        assert (said["t"], said["room"], said["data"]) == ("message", "q:a", {"psst": True})
        assert bob.heard() == []


async def test_who_is_kicked_is_told_and_the_plugin_hears_it_left() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = await together(house)
        ann.say(t="publish", room="q:a", data="kick me")
        left, error = ann.heard()
        assert left == {"t": "left", "room": "q:a", "subject": "ann", "reason": "as you wish"}
        assert (error["code"], error["message"]) == ("forbidden", "as you wish")
        assert bob.heard() == [{"t": "left", "room": "q:a", "subject": "ann"}]
        assert house.plugin("q").log[-1] == ("leave", "ann")
        assert ann.refused(t="leave", room="q:a") == ("not_joined", None)


# Call.


async def test_a_call_is_answered_by_the_plugin() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client()
        ann.join("q:a")
        assert ann.ask(t="call", room="q:a", method="double", data=[1]) == {"t": "ok", "data": [1, 1]}
        assert ann.ask(t="call", room="q:a", method="nothing") == {"t": "ok", "data": None}


@pytest.mark.parametrize(
    ("grants", "request_", "code"),
    [
        (None, {"room": "q:a", "method": "nope"}, "no_such_method"),
        (None, {"room": "q:a", "method": "odd"}, "internal"),
        (None, {"room": "q:b", "method": "double"}, "not_joined"),
        ({"join": ["*"]}, {"room": "q:a", "method": "double"}, "forbidden"),
        ({"join": ["*"], "publish": ["*"], "call": ["q:b"]}, {"room": "q:a", "method": "double"}, "forbidden"),
    ],
)
async def test_a_call_is_refused_with_its_reason(grants: Any, request_: dict[str, Any], code: str) -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann", grants)
        ann.join("q:a")
        assert ann.refused(t="call", **request_)[0] == code


# Presence and history.


async def test_members_see_of_each_other_what_the_table_names() -> None:
    shown = {"presence": True, "presence_claims": ["name"]}
    async with open_house({"q": (Quick, shown)}) as house:
        ann = house.client("ann")
        ann.join("q:a")
        who = dataclasses.replace(identity("bob"), public={"name": "Bob", "email": "bob@example.org"})
        bob = Client(house, who, JSON.protocol, "", 0)
        answer = bob.join("q:a", members=True)
        assert (answer["members"], answer["claims"]) == (["ann", "bob"], {"bob": {"name": "Bob"}})
        assert ann.heard() == [{"t": "joined", "room": "q:a", "subject": "bob", "claims": {"name": "Bob"}}]
        house.tokens["new"] = dataclasses.replace(who, public={"name": "Robert"})
        assert bob.ask(t="auth", token="new")["t"] == "ok"
        assert ann.ask(t="presence", room="q:a")["claims"] == {"bob": {"name": "Robert"}}


async def test_a_crowd_is_told_its_number_and_is_not_listed() -> None:
    shown = {"presence": True, "presence_events_up_to": 1, "presence_list_up_to": 2, "presence_count_every": 5.0}
    async with open_house({"q": (Quick, shown)}) as house:
        ann, blind = house.client("ann"), house.client("blind", {"join": ["*"], "presence": []})
        ann.join("q:a")
        blind.join("q:a")
        assert ann.heard() == [{"t": "count", "room": "q:a", "count": 2, "events": False}]
        house.client("cid").join("q:a")
        assert ann.ask(t="presence", room="q:a") == {
            "t": "ok", "room": "q:a", "members": [], "count": 3, "events": False,
        }  # fmt: skip
        await trio.sleep(5.1)
        assert ann.heard() == [{"t": "count", "room": "q:a", "count": 3, "events": False}]
        assert blind.heard() == []


async def test_presence_counts_and_names_those_in_the_room() -> None:
    async with open_house(PLUGINS) as house:
        ann, _ = await together(house)
        assert ann.ask(t="presence", room="q:a") == {"t": "ok", "room": "q:a", "members": ["ann", "bob"], "count": 2}
        empty = {"t": "ok", "room": "q:none", "members": [], "count": 0}
        assert ann.ask(t="presence", room="q:none") == empty, "a room need not be there to be asked about"


async def said(house: House, count: int, room: str = "q:a") -> Client:
    """A member of the room, who has said 1, 2, …"""
    bob = house.client("bob")
    bob.join(room)
    for number in range(1, count + 1):
        bob.say(t="publish", room=room, data=number)
    return bob


def data(answer: Any) -> list[Any]:
    return [message["data"] for message in answer["messages"]]


async def test_the_last_messages_come_with_the_join() -> None:
    async with open_house(PLUGINS) as house:
        await said(house, 7)
        answer = house.client().join("q:a", last=3)
        assert (data(answer), answer["offset"]) == ([5, 6, 7], 7)
        assert "recovered" not in answer
        assert data(house.client("cid").join("q:a", last=99)) == [3, 4, 5, 6, 7]


async def test_who_comes_back_gets_what_it_missed_and_hears_whether_that_is_all() -> None:
    async with open_house(PLUGINS) as house:
        await said(house, 7)
        epoch = house.hub.rooms["q:a"].epoch
        for since, expected, recovered in (
            ({"epoch": epoch, "offset": 5}, [6, 7], True),
            ({"epoch": epoch, "offset": 7}, [], True),
            ({"epoch": epoch, "offset": 1}, [3, 4, 5, 6, 7], False),
            ({"epoch": epoch, "offset": 9}, [], False),
            ({"epoch": "another life", "offset": 6}, [], False),
        ):
            ann = house.client("ann")
            answer = ann.join("q:a", since=since)
            assert (data(answer), answer["recovered"]) == (expected, recovered), since
            ann.ask(t="leave", room="q:a")


async def test_history_can_be_asked_for_without_joining() -> None:
    async with open_house(PLUGINS) as house:
        await said(house, 7)
        ann = house.client("ann", {"history": ["q:*"]})
        answer = ann.ask(t="history", room="q:a", last=2)
        assert (data(answer), answer["offset"], answer["room"]) == ([6, 7], 7, "q:a")
        assert data(ann.ask(t="history", room="q:a")) == [3, 4, 5, 6, 7]
        answer = ann.ask(t="history", room="q:a", since={"epoch": answer["epoch"], "offset": 6})
        assert (data(answer), answer["recovered"]) == ([7], True)


async def test_history_is_refused_to_whom_it_is_not_granted_and_where_nobody_is() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann", {"join": ["*"], "history": []})
        assert ann.refused(t="history", room="q:a") == ("forbidden", None)
        assert house.client().refused(t="history", room="q:a") == ("not_recoverable", None)
        await said(house, 3)
        assert "messages" not in ann.join("q:a", last=3), "granted the room but not its past"


async def test_more_history_than_a_channel_can_carry_is_cut_and_said_to_be_incomplete() -> None:
    async with open_house(PLUGINS, settings(channels=channels(default={"capacity": 4096}))) as house:
        bob = house.client("bob")
        bob.join("q:a")
        for number in range(5):
            bob.say(t="publish", room="q:a", data=f"{number}" * 300)
        epoch = house.hub.rooms["q:a"].epoch
        answer = house.client().join("q:a", since={"epoch": epoch, "offset": 0})
        assert data(answer) == ["3" * 300, "4" * 300]
        assert answer["recovered"] is False


async def test_history_too_old_is_gone(autojump_clock: MockClock) -> None:
    async with open_house({"q": (Quick, {"history": 5, "history_seconds": 10})}) as house:
        bob = await said(house, 1)
        await trio.sleep(8)
        bob.say(t="publish", room="q:a", data=2)
        await trio.sleep(8)
        assert data(house.client().join("q:a", last=5)) == [2]


async def test_what_comes_after_a_join_with_history_comes_behind_it() -> None:
    async with open_house(PLUGINS) as house:
        bob = await said(house, 2, "bulky:a")
        ann = house.client()
        ann.heard()
        ann.say(t="join", room="bulky:a", last=5, id=1)
        bob.say(t="publish", room="bulky:a", data=3)
        answer, message = ann.heard()
        assert (data(answer), message["data"]) == ([1, 2], 3)


# Ping, and what is no request.


async def test_a_ping_is_answered_with_and_without_an_id() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client()
        assert ann.ask(t="ping") == {"t": "pong"}
        ann.say(t="ping")
        assert ann.heard() == [{"t": "pong"}]


async def test_what_is_not_understood_is_refused_and_the_connection_lives() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client()
        ann.heard()
        ann.connection.message(1, b'{"t":"shout","id":5}')
        ann.connection.message(1, b"}{")
        first, second = ann.heard()
        assert (first["code"], first["id"]) == ("unknown_type", 5)
        assert (second["code"], second["id"]) == ("bad_request", None)
        assert ann.closed is None
        assert (house.counters.refused["unknown_type"], house.counters.refused["bad_request"]) == (1, 1)


async def test_the_wrong_kind_of_message_ends_the_connection() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client()
        ann.connection.message(2, b"\x80")
        assert ann.closed is not None
        assert ann.closed.code == CloseCode.UNSUPPORTED_DATA


async def test_two_formats_in_one_room_understand_each_other() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann")
        bob = house.client("bob", protocol=MSGPACK.protocol)
        ann.join("q:a")
        bob.connection.message(2, MSGPACK.encode({"t": "join", "room": "q:a"}))
        bob.outbox.clear()
        ann.heard()
        ann.say(t="publish", room="q:a", data={"a": "ü"})
        assert MSGPACK.said(bob.outbox.take(1 << 20))["data"] == {"a": "ü"}
        bob.connection.message(2, MSGPACK.encode({"t": "publish", "room": "q:a", "data": b"\xff"}))
        assert ann.messages() == ["/w=="]
