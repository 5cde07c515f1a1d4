"""Clients of a plugin that is slow and called often: what they sent waits, in order, and it is kept why."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from relay.plugin.api import Message, Payload, Peer, Plugin, Refused, Room, call
from relay.plugin.supervisor import Supervised
from relay.plugin.turns import CALM
from relay.session.turns import tell_of_turns
from tests.unit.session.kit import Client, House, open_house, settings


class Slow(Plugin):
    """Hooks without an await. What they were called for is in `calls`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.calls: list[tuple[str, Any]] = []

    def on_join(self, room: Room, peer: Peer) -> None:
        self.calls.append(("join", peer.subject))

    def on_leave(self, room: Room, peer: Peer) -> None:
        self.calls.append(("leave", peer.subject))

    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        said = message.data.value()
        if said == "no":
            raise Refused("forbidden", "not that")
        self.calls.append(("message", said))
        room.broadcast(message, sender=sender, echo=True)

    @call
    def ask(self, room: Room, caller: Peer, what: int) -> int:
        self.calls.append(("call", what))
        return what + 1


class Front(Plugin):
    def filter_message(self, room: Room, sender: Peer, message: Message) -> Message:
        return Message(message.room, Payload.of([message.data.value()]), message.sender, message.channel)


@asynccontextmanager
async def slow_house(**limits: Any) -> AsyncIterator[tuple[House, Supervised]]:
    plugins = {"slow": (Slow, {"rooms": "slow:*"}), "front": (Front, {"rooms": [], "filters": "slow:front:*"})}
    async with open_house(plugins, settings(limits=limits) if limits else None) as house:
        for plugin in house.plugins.values():
            plugin.faults.schedule = lambda seconds, action: house.services.timers.at(
                trio.current_time() + seconds, action
            )
            tell_of_turns(house.services, plugin)
        yield house, house.plugins["slow"]


def said(client: Client) -> list[Any]:
    return [one["data"] for one in client.heard() if one["t"] == "message"]


async def test_what_comes_before_and_while_and_after_it_takes_turns_stays_in_order(autojump_clock: MockClock) -> None:
    async with slow_house() as (house, slow):
        ann, bob = house.client("ann"), house.client("bob")
        ann.join("slow:a")
        bob.join("slow:a")
        bob.heard()
        for number in range(90):
            if number == 30:
                slow.turns.begin()
            ann.say(t="publish", room="slow:a", data=number)
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(CALM + 1)
        ann.say(t="publish", room="slow:a", data=90)  # the calm is found
        ann.say(t="publish", room="slow:a", data=91)
        await trio.sleep(1)
        assert not slow.turns.on
        ann.say(t="publish", room="slow:a", data=92)
        assert said(bob) == list(range(93))


async def test_while_something_is_queued_calls_are_not_made_at_once_again(autojump_clock: MockClock) -> None:
    async with slow_house() as (house, slow):
        ann = house.client("ann")
        ann.join("slow:a")
        slow.turns.begin()
        room = house.hub.rooms["slow:a"]
        room.holds += 1  # as a request does that stands in the queue of a connection
        await trio.sleep(CALM + 1)
        ann.say(t="publish", room="slow:a", data=1)
        await trio.sleep(1)
        assert slow.turns.on
        room.holds -= 1
        ann.say(t="publish", room="slow:a", data=2)
        await trio.sleep(1)
        assert not slow.turns.on


async def test_joins_calls_leaves_and_refusals_go_their_way_too(autojump_clock: MockClock) -> None:
    async with slow_house() as (house, slow):
        slow.turns.begin()
        ann = house.client("ann")
        ann.heard()
        ann.say(t="join", id=1, room="slow:a")
        ann.say(t="publish", id=2, room="slow:a", data="hi")
        ann.say(t="publish", id=3, room="slow:a", data="no")
        ann.say(t="call", id=4, room="slow:a", method="ask", data={"what": 6})
        ann.say(t="leave", id=5, room="slow:a")
        await trio.testing.wait_all_tasks_blocked()
        answers = {one["id"]: one for one in ann.heard() if "id" in one}
        assert [answers[number]["t"] for number in range(1, 6)] == ["ok", "ok", "error", "ok", "ok"]
        assert (answers[2]["offset"], answers[3]["code"], answers[4]["data"]) == (1, "forbidden", 7)
        calls = slow.plugin.calls  # type: ignore[attr-defined]
        assert calls[:2] == [("join", "ann"), ("message", "hi")]
        assert sorted(calls[2:]) == [("call", 6), ("leave", "ann")], "a leave waits for no other request"
        assert not slow.has_filter("filter_message")


async def test_a_slow_filter_takes_turns_in_front_of_a_quick_owner(autojump_clock: MockClock) -> None:
    async with slow_house() as (house, slow):
        ann = house.client("ann")
        ann.join("slow:front:a")
        ann.heard()
        house.plugins["front"].turns.begin()
        for number in range(5):
            ann.say(t="publish", room="slow:front:a", data=number)
        assert said(ann) == []
        await trio.testing.wait_all_tasks_blocked()
        assert said(ann) == [[number] for number in range(5)]
        assert not slow.turns.on


async def test_who_sends_too_much_of_it_is_not_read_and_all_who_wait_are_told_why(autojump_clock: MockClock) -> None:
    async with slow_house(requests_waiting=8) as (house, slow):
        ann, bob = house.client("ann"), house.client("bob")
        for one in (ann, bob):
            one.join("slow:a")
        slow.turns.begin()
        for number in range(8):
            for one in (ann, bob):
                one.say(t="publish", room="slow:a", data=number)
        assert (ann.held, bob.held) == ([True], [True])
        await trio.testing.wait_all_tasks_blocked()
        assert (ann.held, bob.held) == ([True, False], [True, False])
        found = house.services.decisions.find(code="plugin_busy")
        assert {(one.kind, one.subject, one.plugin, one.setting) for one in found} <= {
            ("throttled", name, "slow", "supervision.slow_hook") for name in ("ann", "bob")
        }
        waits = house.counters.plugin_waits["slow"]
        assert waits == sum(one.count for one in found) > 8
        spoken = [what for kind, what in slow.plugin.calls if kind == "message"]  # type: ignore[attr-defined]
        assert spoken == sorted(spoken), "one of each, in turn: nobody gets ahead by sending more"


async def test_who_has_gone_meanwhile_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with slow_house() as (house, slow):
        ann, bob = house.client("ann"), house.client("bob")
        for one in (ann, bob):
            one.join("slow:a")
        slow.turns.begin()
        for number in range(20):
            for one in (ann, bob):
                one.say(t="publish", room="slow:a", data=number)
        ann.connection.lost()
        await trio.testing.wait_all_tasks_blocked()
        assert [what for kind, what in slow.plugin.calls if kind == "message"] == list(range(20))  # type: ignore[attr-defined]


async def test_its_producer_is_known_while_a_message_is_handled(autojump_clock: MockClock) -> None:
    async with slow_house() as (house, slow):
        seen: list[Any] = []
        ann = house.client("ann")
        ann.join("slow:a")
        slow.turns.begin()
        slow._on_message = lambda room, peer, message: seen.append(house.services.producer)
        ann.say(t="publish", room="slow:a", data=1)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [ann.connection]
        assert house.services.producer is None


async def test_a_call_that_waits_longer_than_its_caller_wants_is_answered_with_timeout(
    autojump_clock: MockClock,
) -> None:
    async with slow_house() as (house, slow):
        ann = house.client("ann")
        ann.join("slow:a")
        slow.turns.begin()
        await slow.turns.enter()
        ann.heard()
        ann.say(t="call", id=1, room="slow:a", method="ask", data={"what": 1}, timeout=2.0)
        await trio.sleep(3)
        [answer] = ann.heard()
        assert answer["code"] == "timeout"
        slow.turns.leave()


@pytest.mark.parametrize("taking_turns", [False, True])
async def test_switched_off_it_refuses_at_once(autojump_clock: MockClock, taking_turns: bool) -> None:
    async with slow_house() as (house, slow):
        ann = house.client("ann")
        ann.join("slow:a")
        if taking_turns:
            slow.turns.begin()
        slow.faults._switch_off()
        assert ann.refused(t="publish", room="slow:a", data=1)[0] == "plugin_off"
        assert ann.refused(t="call", room="slow:a", method="ask", data={"what": 1})[0] == "plugin_off"
