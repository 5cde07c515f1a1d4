"""What a plugin may do in its own rooms beside its hooks, and that it sees no others."""

from __future__ import annotations

import pytest

from relay.errors import Refused
from relay.model import Message
from relay.plugin.testing import PluginTester
from tests.unit.plugin.kit import made


async def test_publishing_into_a_room_nobody_is_in_opens_and_frees_it() -> None:
    told: list[str] = []
    plugin = made(
        on_open=lambda self, room: told.append(f"open {room.name}"),
        on_empty=lambda self, room: told.append(f"empty {room.name}"),
    )
    async with PluginTester(plugin, rooms="a:*") as tester:
        forwarded: list[Message] = []
        tester.hub.forward = forwarded.append
        tester.plugin.relay.publish("a:b", {"x": 1}, channel="urgent", key="k")
        assert told == ["open a:b", "empty a:b"]
        assert tester.hub.rooms == {}
        (message,) = forwarded
        assert (message.data.value(), message.sender, message.channel, message.key) == ({"x": 1}, None, "urgent", "k")


async def test_publishing_into_an_open_room_is_heard_by_its_members() -> None:
    async with PluginTester(made(), rooms="a:*") as tester:
        ann = await tester.join("a:b", "ann")
        tester.plugin.relay.publish("a:b", "hi")
        assert ann.received == ["hi"]
        assert len(tester.room("a:b")) == 1


async def test_a_plugin_cannot_publish_into_a_room_that_is_not_its_own() -> None:
    async with PluginTester(made(), rooms="a:*") as tester:
        with pytest.raises(Refused, match="no_such_room"):
            tester.plugin.relay.publish("b", "hi")


async def test_a_message_that_cannot_be_expressed_leaves_no_room_behind() -> None:
    async with PluginTester(made()) as tester:
        with pytest.raises(TypeError):
            tester.plugin.relay.publish("a", object())
        assert tester.hub.rooms == {}


async def test_a_plugin_sees_its_own_open_rooms() -> None:
    async with PluginTester(made(), rooms="a:*") as tester:
        relay = tester.plugin.relay
        assert (relay.room("a:b"), relay.rooms()) == (None, [])
        await tester.join("a:b", "ann")
        assert relay.room("a:b") is tester.room("a:b")
        assert relay.rooms() == [tester.room("a:b")]


async def test_a_plugin_does_not_see_rooms_of_others() -> None:
    async with PluginTester(made(), rooms="a:*", filters="none:*", owner=made()) as tester:
        await tester.join("a:b", "ann")
        relay = tester.plugin.relay
        assert (relay.room("a:b"), relay.rooms()) == (None, [])


async def test_blocking_work_goes_to_a_thread_and_comes_back() -> None:
    async with PluginTester(made()) as tester:
        assert await tester.plugin.relay.to_thread(sum, [1, 2]) == 3
