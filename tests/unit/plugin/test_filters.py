"""Plugins in front of a room: each may refuse or rewrite, in order, and one that fails lets nothing through."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from relay.errors import Refused
from relay.model import Message, Payload
from relay.plugin.api import Peer, Plugin, Room
from relay.plugin.testing import PluginTester


class Chat(Plugin):
    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        room.broadcast(message, sender=sender)

    def on_call(self, room: Room, caller: Peer, method: str, data: Payload | None) -> str:
        return method


class Gate(Plugin):
    """Refuses and rewrites some."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.left: list[str] = []

    def filter_join(self, room: Room, peer: Peer) -> None:
        if peer.subject == "mallory":
            raise Refused("banned", "not in here")

    def filter_leave(self, room: Room, peer: Peer) -> None:
        self.left.append(peer.subject)

    def filter_message(self, room: Room, sender: Peer, message: Message) -> Message | None:
        text = message.data.value()
        if text == "bug":
            raise RuntimeError("a bug in the filter")
        if text == "odd":
            return "no message"  # type: ignore[return-value]
        if "darn" in text:
            raise Refused("language", "mind your tongue")
        if "loud" in text:
            return Message(room.name, Payload.of(text.lower()), message.sender, message.channel)
        return None

    def filter_call(self, room: Room, caller: Peer, method: str, data: Payload | None) -> None:
        if method == "secret":
            raise Refused("forbidden")


class SlowGate(Gate):
    async def filter_message(self, room: Room, sender: Peer, message: Message) -> Message | None:  # type: ignore[override]
        await trio.sleep(1)
        return super().filter_message(room, sender, message)


@pytest.mark.parametrize("gate", [Gate, SlowGate])
async def test_it_refuses_and_rewrites_before_the_owner_hears(
    gate: type[Plugin], autojump_clock: trio.testing.MockClock
) -> None:
    async with PluginTester(gate, filters="*", owner=Chat) as tester:
        ann, bob = await tester.join("r", "ann"), await tester.join("r", "bob")
        await ann.publish("hi")
        await ann.publish("LOUD and loud")
        with pytest.raises(Refused, match="language"):
            await ann.publish("darn")
        assert bob.received == ["hi", "loud and loud"]
        assert [message.sender for message in bob.messages] == ["ann", "ann"]
        with pytest.raises(Refused, match="banned"):
            await tester.join("r", "mallory")
        assert await ann.call("open") == "open"
        with pytest.raises(Refused, match="forbidden"):
            await ann.call("secret")
        await bob.leave()
        assert tester.plugin.left == ["bob"]
        assert tester.failures == []


@pytest.mark.parametrize("gate", [Gate, SlowGate])
@pytest.mark.parametrize("text", ["bug", "odd"])
async def test_a_filter_that_fails_lets_nothing_through_unseen(
    gate: type[Plugin], text: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with PluginTester(gate, filters="*", owner=Chat) as tester:
        ann, bob = await tester.join("r", "ann"), await tester.join("r", "bob")
        with pytest.raises(Refused, match="internal"):
            await ann.publish(text)
        assert bob.received == []
        assert len(tester.failures) == 1


async def test_rooms_that_no_filter_names_have_their_owner_alone() -> None:
    async with PluginTester(Gate, filters="watched:*", rooms="*", owner=Chat) as tester:
        await tester.join("free", "mallory")
        assert tester.room("free").handler is tester._all[1]
        await tester.join("watched:r", "ann")
        assert tester.room("watched:r").handler.owner is tester._all[1]
        assert [room.name for room in tester.plugin.relay.rooms()] == ["watched:r"]
        assert {room.name for room in tester._all[1].plugin.relay.rooms()} == {"free", "watched:r"}


async def test_a_filter_that_is_switched_off_refuses_until_it_is_on_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with PluginTester(Gate, filters="*", owner=Chat, failures=2, retry=30.0) as tester:
        ann, bob = await tester.join("r", "ann"), await tester.join("r", "bob")
        for _ in range(3):
            with pytest.raises(Refused, match="internal"):
                await ann.publish("bug")
        with pytest.raises(Refused, match="plugin_off"):
            await ann.publish("hi")
        await trio.sleep(31)
        await ann.publish("hi")
        assert bob.received == ["hi"]
        with pytest.raises(Refused, match="internal"):
            await ann.publish("bug")
        with pytest.raises(Refused, match="plugin_off"):  # on probation, one failure is enough
            await ann.publish("hi")
        await trio.sleep(31)
        with pytest.raises(Refused, match="plugin_off"):  # and it takes twice as long
            await ann.publish("hi")
        await trio.sleep(31)
        await ann.publish("again")
        assert bob.received == ["hi", "again"]
