"""A transcript is a test: what was recorded is what replaying it gives, and a difference is shown line by line."""

from __future__ import annotations

import pytest
import trio.testing

from relay.model import Message
from relay.plugin.api import CloseCode, CloseReason, Peer, Plugin, Refused, Room
from relay.plugin.testing import PluginTester


class Talk(Plugin):
    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        match message.data.value():
            case "out":
                room.kick(sender, "as you wish")
            case "close":
                sender.close(CloseReason(CloseCode.NORMAL, "done"))
            case "no":
                raise Refused("no", "not that")
            case _:
                room.broadcast(message, sender=sender)


WHOLE = """\
ann joins r
bob joins r
  ann sees that bob joined
ann says {"x": [1, "ü"]} in urgent
  bob hears {"x": [1, "ü"]} from ann in urgent
bob says "psst" key k to ann
  ann hears "psst" from bob key k
bob says "no"
  refused no: not that
bob says "out"
  ann sees that bob left
  bob is put out of r: as you wish
ann says "close"
  ann is closed: 1000 done"""


async def test_what_was_recorded_is_what_replaying_gives(autojump_clock: trio.testing.MockClock) -> None:
    async with PluginTester(Talk, presence=True) as tester:
        recorded = await tester.play("\n".join(line for line in WHOLE.splitlines() if line[0] != " "))
    assert recorded == WHOLE
    async with PluginTester(Talk, presence=True) as tester:
        await tester.check(WHOLE)


async def test_a_difference_is_shown_line_by_line() -> None:
    async with PluginTester(Talk) as tester:
        with pytest.raises(AssertionError) as caught:
            await tester.check("""
                ann joins r
                bob joins r
                ann says 1
                  bob hears 2 from ann
            """)
    assert "-  bob hears 2 from ann\n+  bob hears 1 from ann" in str(caught.value)


@pytest.mark.parametrize("line", ["ann dances", "ann", "bob says 1"])
async def test_a_line_that_makes_no_sense_is_named(line: str) -> None:
    async with PluginTester(Talk) as tester:
        with pytest.raises(ValueError, match=line.split(maxsplit=1)[0]):
            await tester.play(f"ann joins r\n{line}")
