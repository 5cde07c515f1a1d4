"""Tests a plugin with no socket and no real time, on the relay's own rooms, outboxes and supervisor.

    async def test_all_in_the_room_hear_it() -> None:
        async with PluginTester(Chat, rooms="chat:*", history=10) as tester:
            ann = await tester.join("chat:a", "ann")
            bob = await tester.join("chat:a", "bob")
            await ann.publish("hi")
            assert bob.received == ["hi"]

Works in pytest-trio and in plain `trio.run`. With Trio's MockClock (pytest-trio's `autojump_clock`) deadlines and
pauses take no time. A refusal is raised as `Refused`, a plugin's bug as Refused("internal") with the exception in
`tester.failures`. Not here: grants and wire formats, which a plugin never sees. The one rule: what a member hears is
what a client would.
"""

from __future__ import annotations

from relay.plugin.testing.member import Member
from relay.plugin.testing.tester import START, PluginTester

__all__ = ["START", "Member", "PluginTester"]
