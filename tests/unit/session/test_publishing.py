"""A publish that wants an answer: once it cannot be lost any more, and the same one only once."""

from __future__ import annotations

from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from tests.unit.session.kit import open_house, settings
from tests.unit.session.plugins import Quick, Slow

PLUGINS: dict[str, Any] = {
    "q": (Quick, {"history": 10}),
    "s": (Slow, {}),
    "d": (Quick, {"history": 10, "durable": True}),
}
ON_DISK = settings(history={"file": "rooms.db"})


async def test_a_publish_that_comes_again_is_answered_as_before_and_heard_once() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = house.client("ann"), house.client("bob")
        ann.join("q:a")
        bob.join("q:a")
        bob.heard()
        first = ann.ask(t="publish", room="q:a", data=1, once="k1")
        assert first == {"t": "ok", "offset": 1}
        ann.connection.lost()
        again = house.client("ann")
        again.join("q:a")
        assert again.ask(t="publish", room="q:a", data=1, once="k1") == {"t": "ok", "offset": 1, "duplicate": True}
        assert again.ask(t="publish", room="q:a", data=2, once="k2") == {"t": "ok", "offset": 2}
        assert bob.messages() == [1, 2]


async def test_it_is_known_again_after_the_room_was_empty() -> None:
    async with open_house({"q": (Quick, {})}) as house:
        ann = house.client("ann")
        ann.join("q:a")
        ann.ask(t="publish", room="q:a", data=1, once="k")
        ann.connection.lost()
        assert house.hub.rooms == {}
        ann = house.client("ann")
        ann.join("q:a")
        assert ann.ask(t="publish", room="q:a", data=1, once="k")["duplicate"] is True


async def test_what_was_refused_may_be_sent_again_with_the_same_key() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann")
        ann.join("q:a")
        assert ann.refused(t="publish", room="q:a", data="no", once="k")[0] == "not_your_turn"
        assert ann.ask(t="publish", room="q:a", data="yes", once="k") == {"t": "ok", "offset": 1}


async def test_a_key_needs_an_id_and_a_sensible_length() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann")
        ann.join("q:a")
        ann.heard()
        ann.say(t="publish", room="q:a", data=1, once="k")
        [error] = ann.heard()
        assert (error["code"], error["id"]) == ("bad_request", None)
        assert ann.refused(t="publish", room="q:a", data=1, once="")[0] == "bad_request"
        assert ann.refused(t="publish", room="q:a", data=1, once="k" * 129)[0] == "bad_request"
        assert house.hub.rooms["q:a"].offset == 0


async def test_keys_hold_from_outside_the_room_too() -> None:
    async with open_house(PLUGINS) as house:
        bob = house.client("bob")
        bob.join("q:a")
        bob.heard()
        ann = house.client("ann")
        assert ann.ask(t="publish", room="q:a", data=1, once="k") == {"t": "ok", "offset": 1}
        assert ann.ask(t="publish", room="q:a", data=1, once="k")["duplicate"] is True
        assert bob.messages() == [1]


async def test_while_an_async_hook_decides_a_second_one_is_told_to_wait() -> None:
    async with open_house(PLUGINS) as house:
        ann, other = house.client("ann"), house.client("ann")
        for client in (ann, other):
            client.say(t="join", room="s:a", id=1)
        await wait_all_tasks_blocked()
        ann.heard()
        other.heard()
        gate = house.plugin("s").gates["message"] = trio.Event()
        ann.say(t="publish", room="s:a", data="x", id=2, once="k")
        await wait_all_tasks_blocked()
        other.say(t="publish", room="s:a", data="x", id=3, once="k")
        await wait_all_tasks_blocked()
        [error] = other.heard()
        assert (error["code"], error["id"]) == ("in_progress", 3)
        gate.set()
        await wait_all_tasks_blocked()
        assert ann.heard() == [{"t": "ok", "id": 2, "offset": 1}]
        other.heard()
        other.say(t="publish", room="s:a", data="x", id=4, once="k")
        await wait_all_tasks_blocked()
        assert other.heard() == [{"t": "ok", "id": 4, "offset": 1, "duplicate": True}]


async def test_in_a_durable_room_ok_is_said_once_it_is_on_disk() -> None:
    async with open_house(PLUGINS, ON_DISK) as house:
        ann, bob = house.client("ann"), house.client("bob")
        for client in (ann, bob):
            client.join("d:a")
            client.heard()
        ann.heard()
        ann.say(t="publish", room="d:a", data=1, id=1)
        ann.say(t="publish", room="d:a", data=2, id=2)
        assert (ann.heard(), bob.heard()) == ([], [])
        house.write()
        assert ann.heard() == [{"t": "ok", "id": 1, "offset": 1}, {"t": "ok", "id": 2, "offset": 2}]
        assert bob.messages() == [1, 2]


async def test_what_the_disk_refuses_is_refused_and_may_be_sent_again() -> None:
    async with open_house(PLUGINS, ON_DISK) as house:
        ann = house.client("ann")
        ann.join("d:a")
        ann.heard()
        ann.say(t="publish", room="d:a", data=1, id=1, once="k")
        house.write("disk full")
        [error] = ann.heard()
        assert (error["code"], error["limit"], error["id"]) == ("unavailable", "history.file", 1)
        ann.say(t="publish", room="d:a", data=1, id=2, once="k")
        house.write()
        assert ann.heard() == [{"t": "ok", "id": 2, "offset": 1}]


async def test_a_joiner_stands_where_the_disk_stands() -> None:
    """Else it would take a message that is about to be heard for one that it has."""
    async with open_house(PLUGINS, ON_DISK) as house:
        ann, bob = house.client("ann"), house.client("bob")
        ann.join("d:a")
        ann.say(t="publish", room="d:a", data=1)
        answer = bob.join("d:a", last=5)
        assert (answer["offset"], answer["messages"]) == (0, [])
        house.write()
        assert bob.messages() == [1]


async def test_whoever_joins_a_room_with_a_last_value_hears_it_at_once() -> None:
    plugins: dict[str, Any] = {"v": (Quick, {"history": 3, "last_value": True})}
    async with open_house(plugins) as house:
        ann = house.client("ann")
        ann.join("v:a")
        assert ann.heard() == [], "there is none yet"
        for number in range(5):
            ann.say(t="publish", room="v:a", data=number)
        bob = house.client("bob")
        bob.heard()
        bob.say(t="join", room="v:a", id=1)
        answer, value = bob.heard()
        assert (answer["t"], answer["offset"], value["data"], value["offset"]) == ("ok", 5, 4, 5)
        cid = house.client("cid")
        assert [message["data"] for message in cid.join("v:a", last=2)["messages"]] == [3, 4], "asked for, not doubled"
        blind = house.client("dan", {"join": ["v:*"], "history": []})
        blind.join("v:a")
        assert blind.heard() == []


async def test_pages_of_history_go_back_to_its_beginning() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann")
        ann.join("q:a")
        for number in range(1, 8):
            ann.say(t="publish", room="q:a", data=number)
        ann.heard()
        seen: list[int] = []
        before: int | None = None
        for _ in range(3):
            page = ann.ask(t="history", room="q:a", last=3, **({} if before is None else {"before": before}))
            seen = [message["data"] for message in page["messages"]] + seen
            before = page["messages"][0]["offset"]
            assert page["more"] is (before > 1)
        assert seen == [1, 2, 3, 4, 5, 6, 7]


async def test_a_room_that_everybody_left_can_still_be_recovered_and_read() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann")
        epoch = ann.join("q:a")["epoch"]
        for number in range(1, 4):
            ann.say(t="publish", room="q:a", data=number)
        ann.connection.lost()
        assert house.hub.rooms == {}
        ann = house.client("ann")
        page = ann.ask(t="history", room="q:a", last=2)
        assert ([message["data"] for message in page["messages"]], page["epoch"]) == ([2, 3], epoch)
        answer = ann.join("q:a", since={"epoch": epoch, "offset": 1})
        assert (answer["recovered"], [message["data"] for message in answer["messages"]]) == (True, [2, 3])
        bob = house.client("bob")
        lost = bob.join("q:a", since={"epoch": "another", "offset": 1})
        assert (lost["recovered"], lost["from"]) == (False, 1)
