"""How rooms are joined and left, who is told, and every way a join is refused."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from relay.errors import CloseCode, CloseReason
from relay.plugin.api import Peer, Room
from tests.unit.session.asking import PLUGINS, together
from tests.unit.session.kit import open_house, settings
from tests.unit.session.plugins import Quick


async def test_the_rooms_of_the_token_are_joined_at_the_start() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann", {"join_at_start": ["q:a", "nobodys:x", "q:b"]})
        assert set(ann.connection.rooms) == {"q:a", "q:b"}
        hello, refusal = ann.heard()
        assert hello["t"] == "hello"
        assert (refusal["t"], refusal["id"], refusal["code"]) == ("error", None, "no_such_room")


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


async def test_who_is_put_out_of_a_second_room_while_it_leaves_a_first_leaves_it_once() -> None:
    class Together(Quick):
        def on_leave(self, room: Room, peer: Peer) -> None:
            self.log.append(("leave", room.name))
            for other in self.relay.rooms():
                other.kick(peer, "not without the other")

    async with open_house({"q": (Together, {})}) as house:
        ann = house.client()
        ann.join("q:a")
        ann.join("q:b")
        ann.connection.close(CloseReason(CloseCode.NORMAL, "enough"))
        assert [what for what in house.plugin("q").log if what[0] == "leave"] == [("leave", "q:a"), ("leave", "q:b")]
        assert ann.connection.rooms == {}
