"""What one says comes back, to its sender alone."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.echo import Echo
from relay.plugin.testing import PluginTester


@pytest.mark.parametrize("said", ["text", b"\x00\xff", {"a": 1}, ""])
async def test_the_sender_alone_hears_it_as_it_was(said: Any) -> None:
    async with PluginTester(Echo) as tester:
        ann, other, bob = [await tester.join("echo", name) for name in ("ann", "ann", "bob")]
        await ann.publish(said)
        assert (ann.received, other.received, bob.received) == ([said], [], [])


async def test_it_comes_back_in_the_channel_it_came_in() -> None:
    async with PluginTester(Echo, channel="bulk") as tester:
        ann = await tester.join("echo", "ann")
        await ann.publish("fast", channel="urgent", key="k")
        await ann.publish("slow")
        assert [(message.channel, message.key) for message in ann.messages] == [("urgent", "k"), (None, None)]


async def test_nothing_is_remembered() -> None:
    async with PluginTester(Echo, history=10) as tester:
        ann = await tester.join("echo", "ann")
        await ann.publish("hi")
        assert (await tester.join("echo", "bob", last=10)).received == []
