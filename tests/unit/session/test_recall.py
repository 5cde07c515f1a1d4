"""What a client gets of a room's members and of its memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import trio
from trio.testing import MockClock

from tests.unit.protocols.table import JSON
from tests.unit.session.asking import PLUGINS, together
from tests.unit.session.kit import Client, House, channels, identity, open_house, settings
from tests.unit.session.plugins import Quick

# Members.


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


# Memory.


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
