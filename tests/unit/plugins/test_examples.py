"""The plugins in examples/plugins do what they say."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import trio
import trio.testing

from relay.errors import Refused
from relay.plugin.loader import files, find
from relay.plugin.testing import PluginTester

EXAMPLES = Path(__file__).parents[3] / "examples" / "plugins"
Dice = find("dice", EXAMPLES)
Moderated = find("moderated", EXAMPLES)


def test_every_example_has_a_test() -> None:
    tested = {name.removeprefix("_relay_plugin_") for name in sys.modules if name.startswith("_relay_plugin_")}
    assert set(files(EXAMPLES)) <= tested


async def test_players_take_turns_and_all_see_the_dice() -> None:
    async with PluginTester(Dice, rooms="dice:*") as tester:
        ann, bob = await tester.join("dice:a", "ann"), await tester.join("dice:a", "bob")
        with pytest.raises(Refused, match="it is ann's turn"):
            await bob.call("roll")
        dice = await ann.call("roll", {"count": 2, "sides": 4})
        assert len(dice) == 2
        assert all(1 <= eyes <= 4 for eyes in dice)
        assert ann.received == bob.received == [{"rolled": dice, "by": "ann", "next": "bob"}]
        assert bob.messages[0].channel == "urgent"
        assert await ann.call("turn") == "bob"
        await bob.call("roll")
        assert await ann.call("turn") == "ann"


async def test_who_leaves_gives_the_turn_to_the_next() -> None:
    async with PluginTester(Dice) as tester:
        here, there, bob = [await tester.join("a", name) for name in ("ann", "ann", "bob")]
        await here.leave()
        assert await bob.call("turn") == "ann"
        await there.disconnect()
        assert await bob.call("turn") == "bob"


@pytest.mark.parametrize("data", [{"count": 0}, {"sides": "six"}, "text", {"count": 6}])
async def test_wrong_rolls_are_refused_and_the_turn_is_kept(data: Any) -> None:
    async with PluginTester(Dice, settings={"max_dice": 5}) as tester:
        ann = await tester.join("a", "ann")
        await tester.join("a", "bob")
        with pytest.raises(Refused, match="bad_request"):
            await ann.call("roll", data)
        assert await ann.call("turn") == "ann"


def moderated(answer: Callable[[httpx2.Request], httpx2.Response]) -> PluginTester:
    tester = PluginTester(Moderated, hook_timeout=3, settings={"url": "https://moderation.example/check"})
    tester.plugin.client = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    return tester


async def test_what_the_service_lets_pass_is_heard() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        question = msgspec.json.decode(request.content)
        assert question["from"] == "ann"
        return httpx2.Response(200, json={"ok": "darn" not in question["text"], "why": "language!"})

    async with moderated(answer) as tester:
        ann, bob = await tester.join("a", "ann"), await tester.join("a", "bob")
        await ann.publish("hello")
        with pytest.raises(Refused) as caught:
            await ann.publish("darn")
        assert (caught.value.code, caught.value.message) == ("moderated", "language!")
        with pytest.raises(Refused, match="text only"):
            await ann.publish(b"\xff")
        assert bob.received == ["hello"]


@pytest.mark.parametrize("response", [httpx2.Response(500), httpx2.Response(200, content=b"?")])
async def test_nothing_is_said_while_the_service_is_broken(response: httpx2.Response) -> None:
    async with moderated(lambda request: response) as tester:
        ann = await tester.join("a", "ann")
        with pytest.raises(Refused) as caught:
            await ann.publish("hello")
        assert (caught.value.code, caught.value.retry_after) == ("unchecked", 5)
        assert tester.failures == []


async def test_a_service_that_does_not_answer_meets_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async def never(request: httpx2.Request) -> httpx2.Response:
        await trio.sleep_forever()
        raise AssertionError

    async with moderated(never) as tester:  # type: ignore[arg-type]
        ann = await tester.join("a", "ann")
        with pytest.raises(Refused, match="timeout"):
            await ann.publish("hello")
        assert trio.current_time() == 3
