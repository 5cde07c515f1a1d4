"""What a session keeps of what was decided against it."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from relay.decisions import Decision
from relay.errors import CloseCode, CloseReason, Refused
from relay.model import Message
from relay.plugin.api import Peer, Plugin, Room
from tests.unit.session.kit import House, channels, open_house, settings


class Strict(Plugin):
    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        if message.data.value() == "bug":
            raise ZeroDivisionError
        if message.data.value() == "out":
            room.kick(sender, "enough of you")
        else:
            raise Refused("not_your_turn", "white moves first")


class Feed(Plugin):
    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        room.broadcast(message, sender=sender)


class Slow(Plugin):
    async def on_join(self, room: Room, peer: Peer) -> None:
        raise Refused("not_today", "come back tomorrow")

    async def on_call(self, room: Room, peer: Peer, method: str, data: object) -> Any:
        await trio.sleep(100)


PLUGINS: Any = {"strict": (Strict, {}), "slow": (Slow, {})}


def only(house: House, kind: str) -> Decision:
    [found] = house.services.decisions.find(kind=kind)
    return found


async def test_a_refusal_is_kept_with_its_room_and_its_setting(autojump_clock: trio.testing.MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann", {"join": ["strict:*"]})
        ann.refused(t="join", room="nobody:1")
        found = only(house, "refused")
        assert (found.code, found.room, found.session, found.subject) == (
            "forbidden",
            "nobody:1",
            "session of ann",
            "ann",
        )
        assert found.plugin == ""


async def test_a_plugins_refusal_names_the_plugin(autojump_clock: trio.testing.MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann")
        ann.join("strict:1")
        ann.say(t="publish", room="strict:1", data="move")
        found = only(house, "refused")
        assert (found.code, found.plugin, found.room) == ("not_your_turn", "strict", "strict:1")
        assert found.detail == "white moves first"


async def test_a_plugins_bug_names_the_plugin_and_no_payload(autojump_clock: trio.testing.MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann")
        ann.join("strict:1")
        ann.say(t="publish", room="strict:1", data="bug", id=1)
        found = only(house, "refused")
        assert (found.code, found.plugin, found.room) == ("internal", "strict", "strict:1")
        assert "bug" not in found.detail.removeprefix("a bug on our side")
        house.bugs.clear()


async def test_an_asynchronous_refusal_is_kept_too(autojump_clock: trio.testing.MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann")
        ann.say(t="join", room="slow:1", id=1)
        await trio.testing.wait_all_tasks_blocked()
        found = only(house, "refused")
        assert (found.code, found.plugin, found.room) == ("not_today", "slow", "slow:1")


async def test_who_is_kicked_is_told_apart(autojump_clock: trio.testing.MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann")
        ann.join("strict:1")
        ann.say(t="publish", room="strict:1", data="out")
        found = only(house, "kicked")
        assert (found.room, found.plugin, found.detail) == ("strict:1", "strict", "enough of you")


async def test_dropped_messages_are_counted_by_room_and_reason(autojump_clock: trio.testing.MockClock) -> None:
    table = {"bulk": {"capacity": 1024, "overflow": "drop_oldest", "weight": 1, "priority": "fair"}}
    async with open_house({"feed": (Feed, {})}, settings(channels=channels(**table))) as house:
        ann, bob = house.client("ann"), house.client("bob")
        ann.join("feed:1")
        bob.join("feed:1")
        for _ in range(10):
            ann.say(t="publish", room="feed:1", data="x" * 300, channel="bulk")
        bob.connection.tell_drops()
        found = only(house, "dropped")
        assert (found.code, found.setting, found.room) == ("overflow", "channels.bulk.capacity", "feed:1")
        assert (found.subject, found.count) == ("bob", 8)


async def test_a_full_queue_of_requests_is_a_throttle(autojump_clock: trio.testing.MockClock) -> None:
    async with open_house(PLUGINS, settings(limits={"requests_waiting": 2})) as house:
        ann = house.client("ann")
        ann.connection.later("slow:1", None, _forever)
        ann.connection.later("slow:1", None, _forever)
        found = only(house, "throttled")
        assert (found.code, found.setting) == ("too_many_requests", "limits.requests_waiting")


async def test_the_address_comes_along(autojump_clock: trio.testing.MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann")
        ann.connection.address = "192.0.2.7"
        ann.refused(t="leave", room="strict:1")
        assert only(house, "refused").address == "192.0.2.7"
        ann.connection.close(CloseReason(CloseCode.NORMAL, "done"))


async def _forever() -> None:
    await trio.sleep_forever()
