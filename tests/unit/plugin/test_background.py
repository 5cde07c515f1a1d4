"""A plugin's background task: started again when it fails, and gone with its plugin."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import trio
import trio.testing

from relay.config.schema import Supervision
from relay.counters import Counters
from relay.errors import Refused
from relay.plugin.api import Plugin
from relay.plugin.crew import run_all, supervise
from relay.plugin.loader import LoadedPlugin
from relay.plugin.testing import PluginTester
from relay.plugin.watchdog import Watchdog
from relay.rooms.room import RoomRule
from tests.unit.plugin.kit import fails, fails_later, hub, made


async def test_a_background_task_that_fails_is_started_again_with_longer_and_longer_pauses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    started: list[float] = []

    async def run(self: Any) -> None:
        started.append(trio.current_time())
        await fails_later()

    async with PluginTester(made(run=run)) as tester:
        await trio.sleep(300)
    pauses = [later - before for before, later in itertools.pairwise(started)]
    for pause, whole in zip(pauses, (1, 2, 4, 8, 16, 32, 60, 60), strict=False):
        assert whole / 2 <= pause <= whole
    assert len(pauses) > 7
    assert len(tester.failures) == len(started)


async def test_pauses_are_short_again_after_a_long_good_time(autojump_clock: trio.testing.MockClock) -> None:
    started: list[float] = []

    async def run(self: Any) -> None:
        started.append(trio.current_time())
        await trio.sleep(100)
        fails()

    async with PluginTester(made(run=run)):
        await trio.sleep(1000)
    assert all(later - before <= 101 for before, later in itertools.pairwise(started))


async def test_a_background_task_that_returns_is_done(autojump_clock: trio.testing.MockClock) -> None:
    started: list[float] = []

    async def run(self: Any) -> None:
        started.append(trio.current_time())

    async with PluginTester(made(run=run)):
        await trio.sleep(100)
    assert len(started) == 1


async def test_groups_out_of_a_background_task_are_failures(autojump_clock: trio.testing.MockClock) -> None:
    async def run(self: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails_later)
            nursery.start_soon(trio.sleep_forever)

    async with PluginTester(made(run=run)) as tester:
        await trio.sleep(0.1)
    assert len(tester.failures) == 1


async def test_cancellation_ends_a_background_task_that_fails_on_its_way_out() -> None:
    async def stubborn() -> None:
        try:
            await trio.sleep_forever()
        finally:
            fails()

    async def run(self: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stubborn)
            nursery.start_soon(trio.sleep_forever)

    with trio.fail_after(5):
        async with PluginTester(made(run=run)) as tester:
            await tester.settle()
    assert len(tester.failures) == 1


async def test_a_plugin_that_is_switched_off_loses_its_background_task() -> None:
    ended = trio.Event()

    async def run(self: Any) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with PluginTester(made(run=run, on_message=lambda self, *args: fails()), failures=1) as tester:
        ann = await tester.join("a", "ann")
        for _ in range(2):
            with pytest.raises(Refused):
                await ann.publish("hi")
        with trio.fail_after(5):
            await ended.wait()


async def test_run_all_runs_those_that_have_a_task_and_one_failing_disturbs_no_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    beats: list[float] = []

    async def run(self: Any) -> None:
        while True:
            beats.append(trio.current_time())
            await trio.sleep(1)

    def loaded(name: str, plugin: type[Plugin]) -> LoadedPlugin:
        return LoadedPlugin(name, plugin, None, RoomRule(name, 2), (), 0.0, "")

    async def fail(self: Any) -> None:
        await fails_later()

    counters = Counters()
    plugins = supervise(
        [loaded("a", made(run=fail)), loaded("b", made(run=run)), loaded("c", made())], hub(),
        counters=counters, watchdog=Watchdog(counters, 0), supervision=Supervision(), hook_timeout=1,
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        await nursery.start(run_all, plugins)
        await trio.sleep(10.5)
        nursery.cancel_scope.cancel()
    assert beats == list(range(11))
    assert counters.plugin_failures["a"] >= 3
