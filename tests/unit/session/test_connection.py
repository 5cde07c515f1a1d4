"""The life of a connection: plain mode, its end, and whom it tells."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from relay.errors import CloseCode, CloseReason
from relay.protocols.plain import Plain
from tests.unit.protocols.table import JSON
from tests.unit.session.kit import Client, House, open_house, settings
from tests.unit.session.plugins import Quick, Slow

PLUGINS: dict[str, Any] = {"q": (Quick, {"history": 5, "presence": True}), "s": (Slow, {"history": 5})}


def plain(house: House, subject: str, home: str = "q:a", **more: Any) -> Client:
    return house.client(subject, protocol=Plain(), home=home, **more)


# Plain mode.


async def test_in_plain_mode_only_what_others_send_is_heard() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = plain(house, "ann"), plain(house, "bob")
        ann.say_plainly("hi")
        ann.say_plainly(b"\xff")
        assert (ann.heard(), bob.heard()) == ([], ["hi", b"\xff"])


async def test_plain_and_enveloped_clients_share_a_room() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = plain(house, "ann"), house.client("bob")
        bob.join("q:a")
        bob.heard()
        ann.say_plainly("hi")
        assert bob.messages() == ["hi"]
        bob.say(t="publish", room="q:a", data={"a": 1})
        assert ann.heard() == ['{"a":1}']


async def test_plain_clients_may_begin_with_the_last_messages() -> None:
    async with open_house(PLUGINS) as house:
        ann = plain(house, "ann")
        for number in range(7):
            ann.say_plainly(str(number))
        assert plain(house, "bob", last=3).heard() == ["4", "5", "6"]
        assert plain(house, "bob", last=99).heard() == ["2", "3", "4", "5", "6"]
        assert plain(house, "bob").heard() == []
        assert plain(house, "bob", last=3, grants={"join": ["*"], "history": []}).heard() == []


async def test_a_plain_client_that_may_not_publish_is_closed_when_it_does() -> None:
    async with open_house(PLUGINS) as house:
        ann = plain(house, "ann", grants={"join": ["*"]})
        assert ann.closed is None
        ann.say_plainly("hi")
        assert ann.closed is not None
        assert ann.closed.code == CloseCode.FORBIDDEN
        assert house.hub.rooms == {}


@pytest.mark.parametrize(("word", "code"), [("no", "plugin"), ("bug", "internal")])
async def test_what_is_refused_in_plain_mode_is_counted_and_not_told(word: str, code: str) -> None:
    async with open_house(PLUGINS) as house:
        ann = plain(house, "ann")
        ann.say_plainly(word)
        assert (ann.heard(), ann.closed) == ([], None)
        assert house.counters.refused[code] == 1


@pytest.mark.parametrize(("home", "code"), [("nobodys:x", CloseCode.NO_SUCH_ROOM), ("q:closed", CloseCode.FORBIDDEN)])
async def test_without_its_room_a_plain_connection_is_nothing(home: str, code: CloseCode) -> None:
    async with open_house(PLUGINS) as house:
        ann = plain(house, "ann", home)
        assert ann.closed is not None
        assert ann.closed.code == code


async def test_a_home_that_the_token_names_too_is_joined_once() -> None:
    async with open_house(PLUGINS) as house:
        ann = plain(house, "ann", grants={"join_at_start": ["q:a", "q:b"], "publish": ["*"]})
        assert ann.closed is None
        assert set(ann.connection.rooms) == {"q:a", "q:b"}


async def test_what_is_said_while_the_home_is_still_being_joined_waits_for_it() -> None:
    async with open_house(PLUGINS) as house:
        bob = plain(house, "bob", "s:a")
        await trio.testing.wait_all_tasks_blocked()
        gate = house.plugin("s").gates["join"] = trio.Event()
        ann = plain(house, "ann", "s:a", grants={"join_at_start": ["q:b"], "join": ["*"], "publish": ["*"]})
        ann.say_plainly("one")
        ann.say_plainly("two")
        assert (ann.closed, bob.heard()) == (None, [])
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        ann.say_plainly("three")
        await trio.testing.wait_all_tasks_blocked()
        assert bob.heard() == ["one", "two", "three"]


async def test_who_is_kicked_from_its_home_is_closed() -> None:
    async with open_house(PLUGINS) as house:
        ann = plain(house, "ann")
        ann.say_plainly("kick me")
        assert ann.closed is not None
        assert (ann.closed.code, ann.closed.reason) == (CloseCode.FORBIDDEN, "as you wish")


async def test_an_enveloped_client_may_have_a_home_too() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann", home="q:a")
        assert [said["t"] for said in ann.heard()] == ["hello"]
        assert ann.ask(t="publish", room="q:a", data=1) == {"t": "ok", "offset": 1}
        assert ann.refused(t="publish", room="q:b", data=1) == ("not_joined", None)


# The end.


async def test_closing_leaves_all_rooms_at_once_and_says_bye() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = house.client("ann"), house.client("bob")
        for room in ("q:a", "q:b"):
            ann.join(room)
        bob.join("q:a")
        ann.connection.close(CloseReason(CloseCode.OVERLOADED, "full", "limits.x", 2.0, 1.0))
        assert set(house.hub.rooms) == {"q:a"}
        assert bob.heard() == [{"t": "left", "room": "q:a", "subject": "ann"}]
        assert JSON.said(ann.farewell) == {
            "t": "bye", "code": 4250, "reason": "full", "reconnect": {"after": 2.0, "jitter": 1.0}, "limit": "limits.x",
        }  # fmt: skip


async def test_the_first_reason_wins() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client()
        ann.connection.close(CloseReason(CloseCode.REPLACED, "first"))
        ann.connection.close(CloseReason(CloseCode.NORMAL, "second"))
        assert ann.closed is not None
        assert ann.closed.reason == "first"


async def test_what_comes_after_the_close_is_ignored() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = house.client("ann"), house.client("bob")
        ann.join("q:a")
        bob.join("q:a")
        ann.connection.close(CloseReason(CloseCode.NORMAL, ""))
        ann.heard(), bob.heard()
        ann.say(t="publish", room="q:a", data=1, id=1)
        ann.say(t="join", room="q:b", id=2)
        ann.connection.message(1, b"}{")
        ann.connection.message(2, b"")
        assert (ann.heard(), bob.heard()) == ([], [])
        assert ann.connection.messages == 1, "the join; what is ignored is not counted"


async def test_the_loss_of_the_socket_leaves_all_rooms_and_is_told_once() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client()
        ann.join("q:a")
        ann.connection.lost()
        assert house.hub.rooms == {}
        assert house.plugin("q").log[-2:] == [("leave", "ann"), ("empty", "q:a")]
        assert house.gone == ["ann"]


async def test_a_plugin_may_close_a_connection() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client()
        ann.join("q:a")
        ann.say(t="publish", room="q:a", data="close me")
        assert ann.closed is not None
        assert (ann.closed.code, ann.closed.reason) == (CloseCode.NORMAL, "done")


# Asynchronous hooks.


async def waiting(house: House, count: int) -> None:
    await trio.testing.wait_all_tasks_blocked()
    assert house.plugin("s").waiting == count


async def test_a_join_is_answered_when_its_hook_has_decided() -> None:
    async with open_house(PLUGINS) as house:
        gate = house.plugin("s").gates["join"] = trio.Event()
        ann = house.client()
        ann.heard()
        ann.say(t="join", room="s:a", id=1)
        await waiting(house, 1)
        assert (ann.heard(), ann.connection.rooms) == ([], {})
        gate.set()
        await waiting(house, 0)
        (ok,) = ann.heard()
        assert (ok["t"], ok["id"], ok["room"]) == ("ok", 1, "s:a")
        assert set(ann.connection.rooms) == {"s:a"}


async def test_all_that_is_asked_of_a_room_being_joined_waits_and_keeps_its_order() -> None:
    async with open_house(PLUGINS) as house:
        gate = house.plugin("s").gates["join"] = trio.Event()
        ann = house.client()
        ann.heard()
        ann.say(t="join", room="s:a", id=1)
        ann.say(t="publish", room="s:a", data="x", id=2, echo=True)
        ann.say(t="publish", room="s:a", data="y", id=3, channel="urgent")
        ann.say(t="call", room="s:a", method="m", data=5, id=4)
        ann.say(t="join", room="s:a", id=5)
        await waiting(house, 1)
        assert ann.heard() == []
        ann.say(t="ping", id=9)
        assert [said["t"] for said in ann.heard()] == ["pong"], "nothing else waits"
        gate.set()
        await waiting(house, 0)
        heard = ann.heard()
        assert {said["id"]: said.get("code") for said in heard if said.get("id")} == {
            1: None, 2: None, 3: None, 4: None, 5: "already_joined",
        }  # fmt: skip
        assert [said["data"] for said in heard if said["t"] == "message"] == ["x"]
        assert heard[0]["id"] == 1
        assert house.hub.rooms["s:a"].offset == 2


async def test_a_leave_behind_a_join_waits_for_it() -> None:
    async with open_house(PLUGINS) as house:
        gate = house.plugin("s").gates["join"] = trio.Event()
        ann = house.client()
        ann.heard()
        ann.say(t="join", room="s:a", id=1)
        ann.say(t="leave", room="s:a", id=2)
        await waiting(house, 1)
        gate.set()
        await waiting(house, 0)
        assert [(said["t"], said["id"]) for said in ann.heard()] == [("ok", 1), ("ok", 2)]
        assert house.hub.rooms == {}
        assert house.plugin("s").log == [("join", "ann"), ("leave", "ann"), ("empty", "s:a")]


async def test_a_join_that_is_refused_late_refuses_what_waited_behind_it_too() -> None:
    async with open_house(PLUGINS) as house:
        house.plugin("s").refuse.add("join")
        ann = house.client("ann", {"join": ["*"]})
        ann.heard()
        ann.say(t="join", room="s:a", id=1)
        ann.say(t="publish", room="s:a", data=1, id=2)
        ann.say(t="leave", room="s:a", id=3)
        await waiting(house, 0)
        assert [(said["id"], said["code"]) for said in ann.heard()] == [
            (1, "not_now"), (2, "forbidden"), (3, "not_joined"),
        ]  # fmt: skip
        assert house.hub.rooms == {}


async def test_messages_of_one_channel_wait_for_each_other_and_not_for_another_channel() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = house.client("ann"), house.client("bob")
        for client in (ann, bob):
            client.say(t="join", room="s:a")
        await waiting(house, 0)
        ann.heard(), bob.heard()
        gate = house.plugin("s").gates["message"] = trio.Event()
        for number in range(3):
            ann.say(t="publish", room="s:a", data=number, id=number)
        await waiting(house, 1)
        ann.say(t="publish", room="s:a", data="u", channel="urgent")
        await waiting(house, 2)
        gate.set()
        await waiting(house, 0)
        heard = bob.messages()
        assert [data for data in heard if data != "u"] == [0, 1, 2]
        assert "u" in heard
        assert [said["id"] for said in ann.heard()] == [0, 1, 2]


async def test_a_hook_that_takes_too_long_is_refused_by_the_deadline(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(timeouts={"hook": 3.0})) as house:
        house.plugin("s").gates["call"] = trio.Event()
        ann = house.client()
        ann.say(t="join", room="s:a")
        await waiting(house, 0)
        ann.heard()
        started = trio.current_time()
        ann.say(t="call", room="s:a", method="m", id=1)
        await trio.sleep(3.1)
        (refusal,) = ann.heard()
        assert (refusal["code"], refusal["limit"]) == ("timeout", "timeouts.hook")
        ann.say(t="call", room="s:a", method="m", id=2, timeout=0.5)
        await trio.sleep(0.6)
        assert [said["code"] for said in ann.heard()] == ["timeout"]
        ann.say(t="call", room="s:a", method="m", id=3, timeout=0)
        ann.say(t="call", room="s:a", method="m", id=4, timeout=1e9)
        await trio.sleep(3.1)
        assert [said["id"] for said in ann.heard()] == [3, 4]
        assert trio.current_time() - started < 10


async def test_too_many_waiting_requests_stop_the_reading_until_half_are_done() -> None:
    async with open_house(PLUGINS, settings(limits={"requests_waiting": 4})) as house:
        ann = house.client()
        ann.say(t="join", room="s:a")
        await waiting(house, 0)
        gate = house.plugin("s").gates["message"] = trio.Event()
        for number in range(4):
            ann.say(t="publish", room="s:a", data=number)
        assert ann.held == [True]
        gate.set()
        await waiting(house, 0)
        assert ann.held == [True, False]


@pytest.mark.parametrize("begun", [True, False])
async def test_what_is_waiting_when_the_connection_is_lost_is_forgotten_and_holds_nothing(begun: bool) -> None:
    async with open_house(PLUGINS) as house:
        house.plugin("s").gates.update(join=trio.Event(), message=trio.Event())
        ann = house.client()
        ann.say(t="join", room="s:a", id=1)
        ann.say(t="join", room="s:b", id=2)
        ann.say(t="publish", room="s:c", data=1, id=3)
        ann.say(t="publish", room="s:d", data=1, id=4)
        if begun:
            await waiting(house, 1)
        assert set(house.hub.rooms) == {"s:a", "s:b", "s:c", "s:d"}
        ann.connection.lost()
        await waiting(house, 0)
        assert house.hub.rooms == {}


async def test_a_room_stays_open_while_a_message_in_it_is_being_handled() -> None:
    async with open_house(PLUGINS) as house:
        gate = house.plugin("s").gates["message"] = trio.Event()
        ann, bob = house.client("ann"), house.client("bob")
        ann.say(t="join", room="s:a")
        await waiting(house, 0)
        ann.say(t="publish", room="s:a", data="late")
        await waiting(house, 1)
        ann.say(t="leave", room="s:a")
        bob.say(t="join", room="s:a")
        await waiting(house, 1)
        bob.heard()
        gate.set()
        await waiting(house, 0)
        assert bob.messages() == ["late"]


async def test_a_join_that_was_granted_after_the_connection_closed_is_none() -> None:
    async with open_house(PLUGINS) as house:
        gate = house.plugin("s").gates["join"] = trio.Event()
        ann = house.client()
        ann.say(t="join", room="s:a", id=1)
        await waiting(house, 1)
        ann.connection.close(CloseReason(CloseCode.NORMAL, ""))
        gate.set()
        await waiting(house, 0)
        assert house.hub.rooms == {}


async def test_an_asynchronous_leave_hook_runs_on_when_the_connection_is_lost() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client()
        ann.say(t="join", room="s:a")
        await waiting(house, 0)
        gate = house.plugin("s").gates["leave"] = trio.Event()
        ann.connection.lost()
        await waiting(house, 1)
        gate.set()
        await waiting(house, 0)
        assert house.plugin("s").log[-2:] == [("leave", "ann"), ("empty", "s:a")]


async def test_the_home_of_a_plain_client_that_is_refused_late_closes_it() -> None:
    async with open_house(PLUGINS) as house:
        house.plugin("s").refuse.add("join")
        ann = plain(house, "ann", "s:a")
        await waiting(house, 0)
        assert ann.closed is not None
        assert ann.closed.code == CloseCode.FORBIDDEN


async def test_a_plain_client_gets_its_last_messages_when_the_hook_has_let_it_in() -> None:
    async with open_house(PLUGINS) as house:
        bob = plain(house, "bob", "s:a")
        await waiting(house, 0)
        for number in range(3):
            bob.say_plainly(str(number))
        await waiting(house, 0)
        ann = plain(house, "ann", "s:a", last=2)
        await waiting(house, 0)
        assert ann.heard() == ["1", "2"]


async def test_whatever_is_asked_nothing_but_answers_comes_of_it() -> None:
    """No request makes a plugin's bug or an exception out of nothing."""
    rooms = ["q:a", "s:a", "nobodys:x", "", "q:closed"]
    async with open_house(PLUGINS) as house:
        for home in ("", "q:a"):
            ann = house.client("ann", home=home)
            for room in rooms:
                for request in (
                    {"t": "join", "last": -1},
                    {"t": "join", "since": {"epoch": "", "offset": -(10**30)}, "members": True},
                    {"t": "history", "since": {"epoch": "epoch-1", "offset": 10**30}},
                    {"t": "history", "last": -5},
                    {"t": "presence"},
                    {"t": "publish", "data": 1, "channel": ""},
                    {"t": "publish", "data": 1, "to": ""},
                    {"t": "call", "method": "", "timeout": 0.0},
                    {"t": "leave"},
                ):
                    ann.connection.message(1, msgspec.json.encode({**request, "room": room, "id": 1}))
                    await waiting(house, 0)
                    answers = [said for said in ann.heard() if said.get("id") == 1]
                    assert len(answers) == 1, request
        assert house.bugs == []
