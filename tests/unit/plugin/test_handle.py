"""What a plugin may do beside its hooks: timers, tasks, figures of its own, speaking in other rooms; all bounded."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from relay.errors import Refused
from relay.model import Message
from relay.plugin.api import Peer, Plugin, Room
from relay.plugin.testing import PluginTester


class Clock(Plugin):
    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        room.broadcast(message, sender=sender)


def relay_of(tester: PluginTester) -> Any:
    return tester.plugin.relay


async def test_a_timer_calls_once_and_a_repeated_one_again_and_again(autojump_clock: trio.testing.MockClock) -> None:
    said: list[Any] = []
    async with PluginTester(Clock) as tester:
        relay_of(tester).after(5, said.append, "once")
        every = relay_of(tester).every(2, said.append, "tick")
        await trio.sleep(5.5)
        assert said == ["tick", "tick", "once"]
        every.cancel()
        every.cancel()
        await trio.sleep(100)
        assert said == ["tick", "tick", "once"]
        assert relay_of(tester).timers == set()


async def test_a_timer_that_is_called_off_does_nothing(autojump_clock: trio.testing.MockClock) -> None:
    said: list[Any] = []
    async with PluginTester(Clock) as tester:
        relay_of(tester).after(5, said.append, "x").cancel()
        await trio.sleep(10)
        assert said == []


async def test_an_async_function_gets_a_task_and_a_failing_one_is_the_plugins_failure(
    autojump_clock: trio.testing.MockClock,
) -> None:
    said: list[Any] = []

    async def slowly(what: str) -> None:
        await trio.sleep(3)
        said.append(what)

    async def wrongly() -> None:
        raise RuntimeError("a task's bug")

    def at_once_wrongly() -> None:
        raise RuntimeError("a timer's bug")

    async with PluginTester(Clock) as tester:
        relay = relay_of(tester)
        relay.after(1, slowly, "later")
        relay.spawn(slowly, "sooner")
        relay.spawn(wrongly)
        relay.every(1, at_once_wrongly)
        await trio.sleep(3.5)
        assert said == ["sooner"]
        await trio.sleep(1)
        assert said == ["sooner", "later"]
        assert len(tester.failures) == 1 + 4, "a repeated timer goes on after a failure"
        assert tester.supervised.background.tasks == 0


async def test_timers_and_tasks_are_bounded() -> None:
    async with PluginTester(Clock) as tester:
        relay = relay_of(tester)
        for _ in range(1000):
            relay.after(1000, print)
            relay.spawn(trio.sleep_forever)
        for one_more in (lambda: relay.after(1, print), lambda: relay.spawn(trio.sleep_forever)):
            with pytest.raises(RuntimeError, match=r"supervision\.tasks"):
                one_more()
        for often in (0, -1.0, float("nan")):
            with pytest.raises(ValueError, match="not more often"):
                relay.every(often, print)


async def test_timers_that_start_tasks_are_bounded_as_tasks_are(autojump_clock: trio.testing.MockClock) -> None:
    async with PluginTester(Clock) as tester:
        relay = relay_of(tester)
        timer = relay.every(0.01, trio.sleep_forever)
        await trio.sleep(11)
        timer.cancel()
        assert tester.supervised.background.tasks == 1000
        assert "supervision.tasks" in str(tester.failures[-1])


async def test_timers_work_without_a_mock_clock_by_advancing() -> None:
    said: list[Any] = []
    async with PluginTester(Clock) as tester:
        relay_of(tester).every(10, said.append, 1)
        await tester.advance(25)
        assert said == [1], "a timer that is late runs once, and not once for each time it missed"


async def test_a_plugin_speaks_in_others_rooms_only_where_its_table_says_so() -> None:
    async with PluginTester(Clock, filters="mine:*", publish="news:*", owner=Clock) as tester:
        relay = relay_of(tester)
        bob = await tester.join("news:a", "bob")
        relay.publish("news:a", "from afar")
        assert bob.received == ["from afar"]
        with pytest.raises(Refused, match="no_such_room") as caught:
            relay.publish("other:a", "x")
        assert caught.value.setting == "plugins.clock.publish"


async def test_meters_count_and_bound_their_labels() -> None:
    async with PluginTester(Clock) as tester:
        relay = relay_of(tester)
        rolled = relay.counter("rolled", "Dice rolled, by sides.", ["sides"])
        assert relay.counter("rolled", "Dice rolled, by sides.", ["sides"]) is rolled
        for number in range(300):
            rolled.add(1, str(number))
        assert len(rolled.values) == 201
        assert rolled.values["other",] == 100
        level = relay.gauge("level", "How high.")
        level.set(3.5)
        level.add(-1)
        assert level.values == {(): 2.5}
        with pytest.raises(ValueError, match="only grows"):
            rolled.add(-1, "6")
        with pytest.raises(ValueError, match="add to it"):
            rolled.set(1, "6")
        with pytest.raises(ValueError, match="has the labels"):
            rolled.add(1)
        with pytest.raises(ValueError, match="already"):
            relay.gauge("rolled", "x")
        with pytest.raises(ValueError, match="no name"):
            relay.gauge("Not a name", "x")
