"""A plugin is exchanged for another version: rooms stay, what the old one runs ends, and a bad one changes nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import trio
import trio.testing

from relay.errors import Refused
from relay.model import Message, Payload
from relay.plugin.api import Peer, Plugin, Room, call
from relay.plugin.exchange import Exchange
from relay.plugin.loader import LoadedPlugin
from relay.plugin.testing import PluginTester
from relay.rooms.room import RoomRule


class Old(Plugin):
    ticks = 0

    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        room.state["count"] = room.state.get("count", 0) + 1
        room.broadcast("old", sender=sender)

    def tick(self) -> None:
        self.ticks += 1

    async def run(self) -> None:
        self.relay.every(1, self.tick)
        self.relay.spawn(self._work)
        await trio.sleep_forever()

    async def _work(self) -> None:
        await trio.sleep_forever()


class New(Plugin):
    took = 0
    ran = False

    def on_reload(self, before: Any) -> None:
        self.took = before.ticks

    async def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        room.broadcast(f"new {room.state['count']}", sender=sender)

    @call
    def version(self, room: Room, caller: Peer) -> int:
        return 2

    async def run(self) -> None:
        self.ran = True


class Refusing(New):
    def on_reload(self, before: Any) -> None:
        self.relay.after(1, print)
        raise RuntimeError("not this one")


def loaded(tester: PluginTester, plugin: type[Plugin]) -> LoadedPlugin:
    rule = dataclasses.replace(tester.supervised.rule, plugin="old")
    assert isinstance(rule, RoomRule)
    return LoadedPlugin("old", plugin, tester.plugin.settings, rule, tester.supervised.patterns, 0.0, "test")


async def test_rooms_and_members_stay_and_the_new_version_answers(autojump_clock: trio.testing.MockClock) -> None:
    async with PluginTester(Old) as tester:
        ann, bob = await tester.join("r", "ann"), await tester.join("r", "bob")
        await ann.publish("x")
        await trio.sleep(3.5)
        old = tester.plugin
        Exchange(tester.supervised, loaded(tester, New)).commit()
        await trio.sleep(10)
        assert (tester.plugin.took, tester.plugin.ran, old.ticks) == (3, True, 3), "the old timer has ended"
        assert tester.supervised.background.tasks == 0, "and its task"
        await ann.publish("y")
        assert bob.received == ["old", "new 1"]
        assert await ann.call("version") == 2
        assert tester.failures == []


async def test_a_version_that_cannot_take_over_changes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with PluginTester(Old) as tester:
        ann, bob = await tester.join("r", "ann"), await tester.join("r", "bob")
        old = tester.plugin
        await trio.sleep(2.5)
        with pytest.raises(RuntimeError, match="not this one"):
            Exchange(tester.supervised, loaded(tester, Refusing)).commit()
        await trio.sleep(2)
        assert (tester.plugin, old.ticks) == (old, 4)
        assert len(tester.supervised.handle.timers) == 1, "its timers, and none of the one that failed"
        await ann.publish("x")
        assert bob.received == ["old"]


async def test_a_plugin_that_was_switched_off_is_on_again_with_a_new_version() -> None:
    class Broken(Plugin):
        def on_message(self, room: Room, sender: Peer, message: Message) -> None:
            raise RuntimeError("a bug")

    class Mended(Plugin):
        def on_message(self, room: Room, sender: Peer, message: Message) -> None:
            room.broadcast(Payload.of("well"), echo=True)

    async with PluginTester(Broken, failures=1) as tester:
        ann = await tester.join("r", "ann")
        for _ in range(2):
            with pytest.raises(Refused, match="internal"):
                await ann.publish("x")
        with pytest.raises(Refused, match="plugin_off"):
            await ann.publish("x")
        Exchange(tester.supervised, loaded(tester, Mended)).commit()
        await ann.publish("x")
        assert ann.received == ["well"]
