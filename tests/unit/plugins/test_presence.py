"""How members are and who types: told once, over by itself, and in no history."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from plugins.chat import Chat
from plugins.presence import Presence
from relay.errors import Refused
from relay.plugin.testing import Member, PluginTester


def beside(**settings: Any) -> PluginTester:
    return PluginTester(Presence, filters="*", owner=Chat, settings=settings)


def statuses(member: Member) -> list[tuple[str, str]]:
    told = [one.data.value() for one in member.messages if one.key and one.key.startswith("status:")]
    return [(said["subject"], said["status"]) for said in told]


def typing(member: Member) -> list[tuple[str, bool]]:
    told = [one.data.value() for one in member.messages if one.key and one.key.startswith("typing:")]
    return [(said["subject"], said["typing"]) for said in told]


def snapshot(member: Member) -> Any:
    said = [one.data.value() for one in member.messages if one.channel == "bulk"][-1]
    return {name: (one["status"], one["text"]) for name, one in said["presence"].items()}, said["typing"]


async def test_who_comes_is_online_and_finds_how_all_are() -> None:
    async with beside() as tester:
        ann = await tester.join("r", "ann")
        await ann.call("presence.status", {"status": "busy", "text": "in a meeting"})
        await ann.call("presence.typing")
        bob = await tester.join("r", "bob")
        assert snapshot(bob) == ({"ann": ("busy", "in a meeting"), "bob": ("online", "")}, ["ann"])
        assert statuses(ann) == [("ann", "online"), ("ann", "busy"), ("bob", "online")]
        assert {one.channel for one in ann.messages} == {"state", "bulk"}
        assert tester.room("r").offset == 0


async def test_a_room_of_its_own_has_the_same_methods() -> None:
    async with PluginTester(Presence) as tester:
        ann, bob = await tester.join("r", "ann"), await tester.join("r", "bob")
        await ann.call("status", {"status": "away"})
        assert statuses(bob)[-1] == ("ann", "away")


async def test_typing_ends_by_itself_by_word_and_by_what_was_typed(autojump_clock: MockClock) -> None:
    async with beside(typing_seconds=4.0) as tester:
        ann, bob = await tester.join("r", "ann"), await tester.join("r", "bob")
        await ann.call("presence.typing")
        await trio.sleep(3)
        await ann.call("presence.typing")
        await trio.sleep(3)
        assert typing(bob) == [("ann", True)], "it is told once, however often it is said"
        await trio.sleep(2)
        assert typing(bob) == [("ann", True), ("ann", False)]
        await ann.call("presence.typing")
        await ann.publish("done")
        assert typing(bob)[2:] == [("ann", True), ("ann", False)]
        await ann.call("presence.typing")
        await ann.call("presence.typing", {"on": False})
        await ann.call("presence.typing", {"on": False})
        assert typing(bob)[4:] == [("ann", True), ("ann", False)]


async def test_who_gives_no_sign_is_away_until_the_next(autojump_clock: MockClock) -> None:
    async with beside(idle_seconds=60.0) as tester:
        ann, bob, carl = [await tester.join("r", name) for name in ("ann", "bob", "carl")]
        await carl.call("presence.status", {"status": "busy"})
        for _ in range(3):
            await trio.sleep(25)
            await bob.call("presence.active")
        assert ("ann", "away") in statuses(bob)
        assert ("bob", "away") not in statuses(ann)
        assert ("carl", "away") not in statuses(ann)
        await ann.publish("back")
        assert statuses(bob)[-1] == ("ann", "online")
        await trio.sleep(61)
        await ann.call("presence.status", {"status": "online"})
        assert statuses(bob)[-1] == ("ann", "online")


async def test_who_comes_back_soon_was_never_gone(autojump_clock: MockClock) -> None:
    async with beside(linger_seconds=5.0, idle_seconds=0.0) as tester:
        bob = await tester.join("r", "bob")
        ann, second = await tester.join("r", "ann"), await tester.join("r", "ann")
        await ann.call("presence.status", {"status": "busy", "text": "deep"})
        await second.disconnect()
        await ann.disconnect()
        await trio.sleep(4)
        back = await tester.join("r", "ann")
        await trio.sleep(10)
        assert snapshot(back)[0]["ann"] == ("busy", "deep")
        assert statuses(bob) == [("bob", "online"), ("ann", "online"), ("ann", "busy")]
        await back.call("presence.typing")
        await back.disconnect()
        assert typing(bob)[-1] == ("ann", False)
        await trio.sleep(6)
        assert statuses(bob)[-1] == ("ann", "offline")
        assert "ann" not in snapshot(await tester.join("r", "carl"))[0]


async def test_what_is_no_status_is_refused() -> None:
    async with beside(text_chars=5) as tester:
        ann = await tester.join("r", "ann")
        reader = await tester.join("r", "reader", may_publish=False)
        with pytest.raises(Refused) as caught:
            await ann.call("presence.status", {"status": "sleeping"})
        assert caught.value.setting == "plugins.presence.statuses"
        with pytest.raises(Refused, match="too_large"):
            await ann.call("presence.status", {"status": "busy", "text": "longer"})
        with pytest.raises(Refused, match="forbidden"):
            await reader.call("presence.status", {"status": "busy"})
        with pytest.raises(Refused, match="bad_request"):
            await ann.call("presence.typing", {"on": "yes"})
        assert statuses(ann) == [("ann", "online"), ("reader", "online")]
