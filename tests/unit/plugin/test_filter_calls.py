"""A filter's own methods, in rooms of others; and hooks that are told once a connection is in."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from relay.errors import ConfigError, Refused
from relay.model import Message, Payload
from relay.plugin.api import Peer, Plugin, Room, call
from relay.plugin.testing import PluginTester


class Chat(Plugin):
    """An owner that answers every call with the method's name."""

    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        room.broadcast(message, sender=sender)

    def on_call(self, room: Room, caller: Peer, method: str, data: Payload | None) -> str:
        return f"chat: {method}"


class Counted(Plugin):
    """A filter with methods of its own."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: list[str] = []

    def filter_join(self, room: Room, peer: Peer) -> None:
        self.seen.append(f"{peer.subject} wants in")

    def filter_joined(self, room: Room, peer: Peer) -> None:
        self.seen.append(f"{peer.subject} is in {len(room)}")
        if peer.subject == "odd":
            raise Refused("forbidden", "too late")

    def filter_call(self, room: Room, caller: Peer, method: str, data: Payload | None) -> None:
        self.seen.append(method)
        if caller.subject == "mallory":
            raise Refused("forbidden")

    def on_call(self, room: Room, caller: Peer, method: str, data: Payload | None) -> str:
        raise AssertionError("on_call is for rooms of one's own")

    @call
    def add(self, room: Room, caller: Peer, one: int, other: int = 1) -> int:
        return one + other

    @call
    async def slowly(self, room: Room, caller: Peer) -> str:
        await trio.sleep(1)
        return room.name


async def test_a_filter_s_methods_are_called_by_its_name(autojump_clock: trio.testing.MockClock) -> None:
    async with PluginTester(Counted, filters="*", owner=Chat) as tester:
        ann = await tester.join("r", "ann")
        assert await ann.call("counted.add", {"one": 2, "other": 3}) == 5
        assert await ann.call("counted.slowly") == "r"
        with pytest.raises(Refused, match="bad_request: add: expected an integer"):
            await ann.call("counted.add", {"one": "two"})


@pytest.mark.parametrize(
    "method", ["add", "counted", "counted.", "counted.subtract", "counted.on_call", "x.add", ".add"]
)
async def test_what_is_no_method_of_a_filter_is_the_owner_s(method: str) -> None:
    async with PluginTester(Counted, filters="*", owner=Chat) as tester:
        ann = await tester.join("r", "ann")
        assert await ann.call(method) == f"chat: {method}"
        assert tester.failures == []


async def test_filters_look_at_calls_of_their_own_methods_too() -> None:
    async with PluginTester(Counted, filters="*", owner=Chat) as tester:
        mallory = await tester.join("r", "mallory")
        with pytest.raises(Refused, match="forbidden"):
            await mallory.call("counted.add", {"one": 1})
        assert tester.plugin.seen[-1] == "counted.add"


async def test_who_is_in_is_told_of_after_nobody_refused() -> None:
    async with PluginTester(Counted, filters="*", owner=Chat) as tester:
        await tester.join("r", "ann")
        await tester.join("r", "odd")
        assert tester.plugin.seen == ["ann wants in", "ann is in 1", "odd wants in", "odd is in 2"]
        assert "odd" in tester.room("r")


async def test_who_is_refused_by_a_full_room_was_never_in() -> None:
    class Greets(Plugin):
        def on_joined(self, room: Room, peer: Peer) -> None:
            room.tell(f"{peer.subject} of {len(room)}")

    async with PluginTester(Greets, max_members=1, history=10) as tester:
        ann = await tester.join("r", "ann")
        with pytest.raises(Refused, match="room_full"):
            await tester.join("r", "bob")
        assert ann.received == ["ann of 1"]
        assert tester.room("r").offset == 0, "what is of the moment has no number"
        await ann.disconnect()
        assert (await tester.join("r", "late", last=5)).received == ["late of 1"]


async def test_what_is_said_of_the_moment_must_fit_its_channel() -> None:
    async with PluginTester(Chat) as tester:
        ann = await tester.join("r", "ann")
        room = tester.room("r")
        with pytest.raises(Refused, match="too_large"):
            room.tell("x" * 2_000_000)
        with pytest.raises(Refused, match="no_such_channel"):
            room.tell("x", channel="nowhere")
        assert ann.received == []


async def test_a_member_may_publish_as_its_token_says_and_nobody_else() -> None:
    async with PluginTester(Chat) as tester:
        ann, bob = await tester.join("r", "ann"), await tester.join("r", "bob", may_publish=False)
        room = tester.room("r")
        assert room.may_publish(ann)
        assert not room.may_publish(bob)
        assert not room.may_publish(tester.connect("eve"))


async def test_a_failing_hook_keeps_nobody_out() -> None:
    class Broken(Plugin):
        def on_joined(self, room: Room, peer: Peer) -> None:
            raise RuntimeError("a bug")

    async with PluginTester(Broken) as tester:
        await tester.join("r", "ann")
        assert "ann" in tester.room("r")
        assert [str(one) for one in tester.failures] == ["a bug"]


def test_such_a_hook_is_never_async() -> None:
    class Waits(Plugin):
        async def on_joined(self, room: Room, peer: Peer) -> None:  # type: ignore[override]
            pass

    with pytest.raises(ConfigError, match="on_joined cannot be async"):
        PluginTester(Waits)
