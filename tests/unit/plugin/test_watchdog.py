"""What holds the loop is named while it does. The threads are real; time goes on where a test lets it, so that it does
not matter how busy the machine is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from relay.counters import Counters
from relay.plugin.api import Message, Payload, Peer, Plugin, Room
from relay.plugin.testing import PluginTester
from relay.plugin.watchdog import ITSELF, Mark, Watchdog

STALL = 0.02


class Clock:
    """The watchdog's: it stands still, but where it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.now

    def advance(self, seconds: float) -> None:
        """Blocks the thread until the watchdog has seen it; a look that has begun may not have."""
        self.now += seconds
        seen = self.looks + 2
        until = time.monotonic() + 5
        while self.looks < seen and time.monotonic() < until:
            time.sleep(0.001)


def hold(clock: Clock, told: pytest.LogCaptureFixture, count: int = 1) -> None:
    """Blocks the thread until the watchdog has told so often, or a long time has shown that it does not."""
    for _ in range(20):
        if len(told.records) >= count:
            break
        clock.advance(STALL)


def lines(function: Callable[..., object], line: int) -> bool:
    """Whether a line of this file stands in a function."""
    return any(line == inside for _, _, inside in function.__code__.co_lines())


@contextmanager
def watched(plugin: PluginTester, clock: Clock) -> Iterator[Watchdog]:
    watchdog = Watchdog(plugin.counters, STALL, clock=clock)
    plugin.supervised._watchdog = watchdog
    watchdog.knows(__file__, plugin.supervised.name)
    with watchdog:
        yield watchdog


async def test_a_sync_hook_that_blocks_is_named_with_its_line(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()

    class Slow(Plugin):
        def on_message(self, room: Room, sender: Peer, message: Message) -> None:
            hold(clock, caplog)

    async with PluginTester(Slow, name="chess") as tester:
        ann = await tester.join("a", "ann")
        with watched(tester, clock) as watchdog:
            await ann.publish("hi")
            assert watchdog.current is None
    text = caplog.messages[0]
    assert "by on_message of plugin chess, at" in text
    assert f"{__file__}:" in text
    line = int(text.split(f"{__file__}:")[1].split(",")[0])
    assert any(lines(function, line) for function in (hold, Clock.advance))
    assert tester.counters.plugin_stalls["chess"] == 1
    assert caplog.records[0].__dict__["fields"]["hook"] == "on_message"


async def test_one_stall_is_told_once_and_the_next_again(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()

    class Slow(Plugin):
        def on_call(self, room: Room, caller: Peer, method: str, data: Any) -> None:
            hold(clock, caplog, int(method))
            clock.advance(3 * STALL)

    async with PluginTester(Slow) as tester:
        ann = await tester.join("a", "ann")
        with watched(tester, clock):
            await ann.call("1")
            assert len(caplog.records) == 1
            await ann.call("2")
    assert len(caplog.records) == 2


async def test_an_async_hook_that_blocks_is_named_by_its_function(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()

    class Slow(Plugin):
        async def on_message(self, room: Room, sender: Peer, message: Message) -> None:
            hold(clock, caplog)

    async with PluginTester(Slow, name="chess") as tester:
        ann = await tester.join("a", "ann")
        watchdog = Watchdog(tester.counters, STALL, clock=clock)
        watchdog.knows(Slow.on_message.__code__.co_filename, "chess")
        with watchdog:
            await ann.publish("hi")
    # The test itself stands in the same file, further out: what is named is code of the plugin's file.
    assert "of plugin chess" in caplog.messages[0]
    assert tester.counters.plugin_stalls["chess"] == 1


async def test_what_is_no_plugin_is_the_relay_itself(caplog: pytest.LogCaptureFixture) -> None:
    counters, clock = Counters(), Clock()
    with Watchdog(counters, STALL, clock=clock):
        hold(clock, caplog)
    assert f"by {ITSELF}, at {__file__}:" in caplog.messages[0]
    assert counters.plugin_stalls == {ITSELF: 1}


async def test_a_loop_that_waits_or_works_in_short_turns_is_not_held(caplog: pytest.LogCaptureFixture) -> None:
    counters, clock = Counters(), Clock()
    with Watchdog(counters, STALL, clock=clock):
        await trio.to_thread.run_sync(clock.advance, 10 * STALL)
        for _ in range(10):
            clock.advance(0.9 * STALL)
            await trio.lowlevel.checkpoint()
    assert caplog.records == []
    assert counters.plugin_stalls == {ITSELF: 0}


async def test_the_thread_and_the_instrument_end_with_the_block() -> None:
    with Watchdog(Counters(), STALL) as watchdog:
        assert "relay watchdog" in {thread.name for thread in threading.enumerate()}
    assert "relay watchdog" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(KeyError):
        trio.lowlevel.remove_instrument(watchdog)


async def test_a_stall_of_zero_watches_nothing() -> None:
    with Watchdog(Counters(), 0) as watchdog:
        assert "relay watchdog" not in {thread.name for thread in threading.enumerate()}
        with pytest.raises(KeyError):
            trio.lowlevel.remove_instrument(watchdog)


async def test_a_hook_inside_a_hook_gives_the_mark_back() -> None:
    seen: list[tuple[str, str] | None] = []

    class Nested(Plugin):
        def _look(self) -> None:
            mark = tester.supervised._watchdog.current
            seen.append(None if mark is None else (mark.plugin, mark.hook))

        def on_message(self, room: Room, sender: Peer, message: Message) -> None:
            self.relay.publish("other", "hi")
            self._look()

        def on_open(self, room: Room) -> None:
            self._look()

    async with PluginTester(Nested, name="n") as tester:
        ann = await tester.join("a", "ann")
        seen.clear()
        await ann.publish("hi")
    assert seen == [("n", "on_open"), ("n", "on_message")]


async def test_a_hook_that_fails_gives_the_mark_back() -> None:
    async with PluginTester(type("Failing", (Plugin,), {})) as tester:
        mark = tester.supervised._watchdog.current = Mark("outer", "hook")
        ann = await tester.join("a", "ann")
        with pytest.raises(Exception, match="forbidden"):
            await ann.publish("hi")
        assert tester.supervised._watchdog.current is mark


async def test_a_plugin_that_fills_the_time_with_slow_calls_takes_turns() -> None:
    class Slow(Plugin):
        def on_message(self, room: Room, sender: Peer, message: Message) -> None:
            time.sleep(0.002)

    assert await takes_turns(Slow, 5.0)


async def test_quick_calls_are_made_at_once_however_many_there_are() -> None:
    class Quick(Plugin):
        def on_message(self, room: Room, sender: Peer, message: Message) -> None: ...

    assert not await takes_turns(Quick, 10 * STALL)


async def test_quick_calls_are_made_at_once_however_busy_the_loop_is_with_something_else() -> None:
    class Quick(Plugin):
        def on_message(self, room: Room, sender: Peer, message: Message) -> None: ...

    def busy() -> None:
        until = time.monotonic() + 0.003
        while time.monotonic() < until:
            pass

    assert not await takes_turns(Quick, 10 * STALL, between=busy)


async def test_slow_calls_that_leave_the_loop_time_to_wait_are_made_at_once() -> None:
    class Rare(Plugin):
        def on_message(self, room: Room, sender: Peer, message: Message) -> None:
            time.sleep(0.002)

    assert not await takes_turns(Rare, 0.5, stall=0.2, pause=0.05)


async def takes_turns(
    plugin: type[Plugin], seconds: float, *, stall: float = STALL, pause: float = 0.0, between: Callable[[], None] = int
) -> bool:
    """Whether it does so within so many seconds of calls."""
    async with PluginTester(plugin) as tester:
        ann: Any = await tester.join("a", "ann")
        supervised = tester.supervised
        supervised.turns._clock = time.monotonic  # the tester's own goes by what a test says
        watchdog = supervised._watchdog = Watchdog(tester.counters, stall, slow=0.001)
        supervised._mark_message = watchdog.mark("it", "on_message", supervised.turns)
        room, message = tester.room("a"), Message("a", Payload.of("hi"), "ann")
        with watchdog:
            until = time.monotonic() + seconds
            while not supervised.turns.on and time.monotonic() < until:
                supervised.message(room, ann, message)
                between()
                await trio.sleep(pause)
        return supervised.turns.on
