"""The harness shows what a client would hear, and a refusal as an exception."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from plugins.chat import Chat
from relay.config.schema import Channel
from relay.errors import CloseCode, ConfigError, Refused
from relay.plugin.api import CloseReason, Message, Peer, Plugin, Room
from relay.plugin.testing import START, PluginTester


def test_it_works_in_plain_trio_too() -> None:
    async def main() -> list[Any]:
        async with PluginTester(Chat) as tester:
            ann, bob = await tester.join("a", "ann"), await tester.join("a", "bob")
            await ann.publish("hi")
            return bob.received

    assert trio.run(main) == ["hi"]


async def test_every_kind_of_payload_arrives_as_the_value_it_was() -> None:
    async with PluginTester(Chat) as tester:
        ann, bob = await tester.join("a", "ann"), await tester.join("a", "bob")
        said = ["text", b"\x00binary", {"a": [1, None]}, 3, ""]
        for value in said:
            await ann.publish(value)
        assert bob.received == said
        assert ann.received == []


async def test_what_is_around_a_message_is_there_too() -> None:
    async with PluginTester(Chat) as tester:
        ann, bob = await tester.join("a", "ann"), await tester.join("a", "bob")
        assert await ann.publish("hi", channel="urgent", key="k") == 1
        (message,) = bob.messages
        assert (message.room, message.sender, message.channel, message.key, message.offset, message.at) == (
            "a", "ann", "urgent", "k", 1, START,
        )  # fmt: skip


async def test_history_is_heard_by_who_asks_for_it() -> None:
    async with PluginTester(Chat, history=2) as tester:
        ann = await tester.join("a", "ann")
        for text in "abc":
            await ann.publish(text)
        assert (await tester.join("a", "bob", last=10)).received == ["b", "c"]
        assert (await tester.join("a", "carl")).received == []


async def test_time_is_moved_by_the_test_alone() -> None:
    async with PluginTester(Chat, history=5, history_seconds=60) as tester:
        ann = await tester.join("a", "ann")
        await ann.publish("old")
        assert tester.now() == START
        await tester.advance(61)
        assert tester.now() == START + 61
        assert (await tester.join("a", "bob", last=5)).received == []


async def test_time_follows_trios_mock_clock(autojump_clock: trio.testing.MockClock) -> None:
    async with PluginTester(Chat) as tester:
        await trio.sleep(5)
        await tester.advance(5)
        assert tester.now() == START + 10
        assert trio.current_time() == 10


async def test_presence_is_heard() -> None:
    async with PluginTester(Chat, presence=True) as tester:
        ann, bob = await tester.join("a", "ann"), await tester.join("a", "bob")
        await bob.disconnect()
        assert ann.presence == [("joined", "a", "bob"), ("left", "a", "bob")]
        assert len(tester.room("a")) == 1


async def test_a_full_room_refuses() -> None:
    async with PluginTester(Chat, max_members=1) as tester:
        await tester.join("a", "ann")
        with pytest.raises(Refused, match="room_full"):
            await tester.join("a", "bob")


async def test_a_slow_reader_meets_the_channels_overflow_policy() -> None:
    channels = {"small": Channel(capacity=1024, overflow="drop_newest"), "tight": Channel(capacity=1024)}
    async with PluginTester(Chat, channels=channels) as tester:
        ann, bob = await tester.join("a", "ann"), await tester.join("a", "bob")
        bob.stop_reading()
        for number in range(3):
            await ann.publish(f"{number}" * 500, channel="small")
        bob.read_on()
        assert [text[0] for text in bob.received] == ["0", "1"]
        assert bob.gaps == [("a", 3, 3)]
        bob.stop_reading()
        for number in range(3):
            await ann.publish(f"{number}" * 500, channel="tight")
        assert bob.closed is not None
        assert (bob.closed.code, bob.closed.setting) == (CloseCode.TOO_SLOW, "channels.tight.capacity")
        await tester.settle()
        assert len(tester.room("a")) == 1


async def test_a_member_may_be_in_many_rooms_and_says_which() -> None:
    async with PluginTester(Chat) as tester:
        ann, bob = await tester.join("a", "ann"), await tester.join("a", "bob")
        await ann.join("b")
        with pytest.raises(ValueError, match="in 2 rooms: say which"):
            await ann.publish("hi")
        await ann.publish("hi", room="a")
        assert bob.received == ["hi"]
        await ann.leave("a")
        await ann.publish("alone")
        with pytest.raises(Refused, match="already_joined"):
            await ann.join("b")
        with pytest.raises(Refused, match="not_joined"):
            await ann.call("x", room="a")
        await ann.leave()
        with pytest.raises(Refused, match="not_joined"):
            await ann.publish("hi")


async def test_a_message_may_come_from_outside_the_room() -> None:
    async with PluginTester(Chat) as tester:
        bob = await tester.join("a", "bob")
        await tester.connect("ann").publish("hi", room="a")
        assert bob.received == ["hi"]
        await tester.connect("ann").publish("nobody hears it", room="b")
        assert list(tester.hub.rooms) == ["a"]


async def test_who_may_only_listen_is_refused() -> None:
    async with PluginTester(Chat) as tester:
        ann = await tester.join("a", "ann", may_publish=False)
        with pytest.raises(Refused, match="forbidden"):
            await ann.publish("hi")


async def test_a_room_that_the_plugin_does_not_serve_does_not_exist() -> None:
    async with PluginTester(Chat, rooms="chat:*") as tester:
        with pytest.raises(Refused, match="no_such_room"):
            await tester.join("a", "ann")
        with pytest.raises(KeyError):
            tester.room("a")


async def test_a_plugin_may_put_a_member_out_or_end_its_connection() -> None:
    left: list[str] = []

    class Bouncer(Plugin):
        def on_leave(self, room: Room, peer: Peer) -> None:
            left.append(peer.subject)

        def on_message(self, room: Room, sender: Peer, message: Message) -> None:
            if message.data.value() == "bye":
                sender.close(CloseReason(CloseCode.NORMAL, "as you wish"))
            else:
                room.kick(sender, "rude")

    async with PluginTester(Bouncer) as tester:
        ann, bob = await tester.join("a", "ann"), await tester.join("a", "bob")
        await ann.publish("!")
        assert ann.removed == [("a", "rude")]
        await bob.publish("bye")
        await tester.settle()
        assert bob.closed == CloseReason(CloseCode.NORMAL, "as you wish")
        assert tester.hub.rooms == {}
        assert left == ["ann", "bob"]


async def test_the_plugin_is_checked_as_at_start() -> None:
    with pytest.raises(ConfigError, match="did you mean `on_message`"):
        PluginTester(type("Bad", (Plugin,), {"on_mesage": lambda self, *args: None}))
    with pytest.raises(ConfigError, match=r"plugins\.chat\.colour: no such setting"):
        PluginTester(Chat, settings={"colour": "red"})


async def test_the_tests_own_exception_comes_out_unwrapped() -> None:
    with pytest.raises(ZeroDivisionError):
        async with PluginTester(Chat):
            raise ZeroDivisionError


async def test_an_async_on_leave_is_waited_for() -> None:
    told: list[str] = []

    class Slow(Plugin):
        async def on_leave(self, room: Room, peer: Peer) -> None:
            await trio.lowlevel.checkpoint()
            told.append(f"{peer.subject} left {room.name}")

        def on_empty(self, room: Room) -> None:
            told.append("empty")

    async with PluginTester(Slow) as tester:
        ann = await tester.join("a", "ann")
        await ann.leave()
    assert told == ["ann left a", "empty"]


async def test_a_member_that_reads_hears_every_value_of_a_key_and_a_slow_one_the_latest() -> None:
    async with PluginTester(Chat, channel="state") as tester:
        ann, bob, slow = [await tester.join("a", name) for name in ("ann", "bob", "slow")]
        slow.stop_reading()
        for number in range(3):
            await ann.publish(number, key="k")
        slow.read_on()
        assert (bob.received, slow.received) == ([0, 1, 2], [2])


async def test_messages_of_a_background_task_can_be_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    class Beat(Plugin):
        async def run(self) -> None:
            for number in range(3):
                await trio.sleep(60)
                self.relay.publish("a", number)

    async with PluginTester(Beat) as tester:
        ann = await tester.join("a", "ann")
        assert await ann.hears(2) == [0, 1]
        assert trio.current_time() == 120
