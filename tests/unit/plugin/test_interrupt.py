"""A plugin that holds the loop is broken off, in its own code and nowhere else, and the relay goes on."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio

import relay
from relay.config.schema import Supervision, default_channels
from relay.counters import Counters
from relay.delivery.channels import Channels
from relay.errors import Refused
from relay.model import Message, Payload
from relay.plugin.api import Peer, Plugin, Room
from relay.plugin.crew import run_all
from relay.plugin.faults import Faults, Interrupted
from relay.plugin.interrupt import Interrupt
from relay.plugin.loader import LoadedPlugin
from relay.plugin.supervisor import Supervised
from relay.plugin.watchdog import Watchdog
from relay.rooms.hub import Hub
from relay.rooms.room import RoomRule

AFTER = 0.05  # seconds


class Hog(Plugin):
    """Each message says how it shall hold the loop."""

    swallowed = 0

    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        match message.data.value():
            case "spin":
                while True:
                    pass
            case "sleep":
                time.sleep(60)
            case "flood":
                while True:
                    room.broadcast("x")
            case "stubborn":
                while self.swallowed < 3:
                    try:
                        while True:
                            pass
                    except Exception:
                        self.swallowed += 1

    async def run(self) -> None:
        if self.settings == "spin in run":
            while True:
                pass


def supervised(
    watchdog: Watchdog, counters: Counters, settings: Any = None, kind: type[Plugin] = Hog
) -> tuple[Supervised, Hub]:
    hub = Hub(Channels(default_channels()), lambda room: None, clock=time.time, new_epoch=lambda: "e")
    loaded = LoadedPlugin("hog", kind, settings, RoomRule("hog", hub.channels.default), (), 1.0, "test")
    plugin = Supervised(
        loaded, hub, counters=counters, watchdog=watchdog, supervision=Supervision(failures=0), hook_timeout=1.0
    )
    hub.router = lambda room: (plugin.rule, plugin)
    return plugin, hub


@pytest.mark.parametrize("how", ["spin", "sleep", "flood", "stubborn"])
async def test_a_sync_hook_that_does_not_return_is_broken_off(how: str) -> None:
    counters = Counters()
    told: list[BaseException] = []
    with Watchdog(counters, 0.01, interrupt=AFTER) as watchdog:
        plugin, hub = supervised(watchdog, counters)
        plugin.faults.on_failure = lambda hook, problem: told.append(problem)
        room = hub.open("r")
        peer: Any = None
        if how == "stubborn":
            plugin.message(room, peer, Message("r", Payload.of(how)))
            assert plugin.plugin.swallowed == 3  # type: ignore[attr-defined]
        else:
            with pytest.raises(Refused, match="internal"):
                plugin.message(room, peer, Message("r", Payload.of(how)))
            assert [type(problem) for problem in told] == [Interrupted]
        await trio.lowlevel.checkpoint()
        assert room.offset == hub.published, "the relay's own state is whole"
    assert counters.plugin_stalls["hog"] >= 1


OURS = """
import os, signal
def work(done):
    os.kill(os.getpid(), signal.SIGURG)  # arrives here, in the middle of it
    for number in range(1000):
        done.append(number)
"""


def test_what_the_relay_does_for_a_plugin_is_done_to_its_end_and_the_plugins_next_line_is_not() -> None:
    names: dict[str, Any] = {}
    exec(compile(OURS, str(Path(relay.__file__).parent / "work.py"), "exec"), names)
    done: list[int] = []
    went_on = False
    interrupt = Interrupt({__file__: "hog"})
    interrupt.install(lambda: "the call")
    try:
        interrupt._condemned = "the call"
        with pytest.raises(Interrupted):  # noqa: PT012 - it is the second line that raises
            names["work"](done)
            went_on = True
        assert (len(done), went_on, sys.gettrace()) == (1000, False, None)
        interrupt._condemned = "the call"
        interrupt._state = lambda: "the call" if len(done) < 2000 else "another call"
        names["work"](done)
        went_on = True  # it was over by then
        assert sys.gettrace() is None
    finally:
        interrupt.remove()
    assert went_on


async def test_a_background_task_that_does_not_return_is_broken_off() -> None:
    counters = Counters()
    failed = trio.Event()
    with trio.fail_after(20), Watchdog(counters, 0.01, interrupt=AFTER) as watchdog:
        plugin, _ = supervised(watchdog, counters, "spin in run")
        plugin.faults.on_failure = lambda hook, problem: failed.set() if isinstance(problem, Interrupted) else None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_all, [plugin])
            await failed.wait()
            nursery.cancel_scope.cancel()


ELSEWHERE = compile("import time\nasync def hold(seconds):\n    time.sleep(seconds)\n", "elsewhere.py", "exec")


async def test_what_is_no_plugin_is_never_broken_off() -> None:
    names: dict[str, Any] = {}
    exec(ELSEWHERE, names)
    counters = Counters()
    with Watchdog(counters, 0.01, interrupt=AFTER) as watchdog:
        supervised(watchdog, counters)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(names["hold"], 4 * AFTER)


async def test_a_hook_that_is_slow_but_in_time_is_left_alone() -> None:
    counters = Counters()
    with Watchdog(counters, 0.01, interrupt=30.0) as watchdog:
        plugin, hub = supervised(watchdog, counters)
        plugin.message(hub.open("r"), None, Message("r", Payload.of("nothing")))  # type: ignore[arg-type]
        assert counters.plugin_failures["hog"] == 0


async def test_many_short_hooks_that_leave_time_for_nothing_else_are_broken_off_as_one_long_one_is() -> None:
    class Dawdler(Plugin):
        heard = 0

        def on_message(self, room: Room, sender: Peer, message: Message) -> None:
            self.heard += 1
            time.sleep(0.01)

    counters = Counters()
    with Watchdog(counters, 0.04, interrupt=0.2) as watchdog:
        plugin, hub = supervised(watchdog, counters, kind=Dawdler)
        room = hub.open("r")
        peer: Any = None
        answers: list[str] = []
        while not answers and plugin.plugin.heard < 1000:  # type: ignore[attr-defined]
            try:
                plugin.message(room, peer, Message("r", Payload.of("x")))
            except Refused as refused:
                answers.append(refused.code)
        assert answers == ["internal"]
        await trio.lowlevel.checkpoint()


async def test_a_plugin_that_was_broken_off_rests_twice_as_long_each_time() -> None:
    now, booked = 0.0, list[tuple[float, Any]]()
    scope = trio.CancelScope  # something with cancel()

    def schedule(seconds: float, action: Any) -> Any:
        booked.append((seconds, action))
        return scope()

    faults = Faults("hog", Counters(), Supervision(interrupt=1.0, retry=3.0), lambda: now, lambda: None, schedule)
    for rest in (1.0, 2.0, 3.0, 3.0):
        faults.failed("on_message", None, Interrupted("held"))
        assert faults.off
        refused = faults.is_off()
        assert (refused.code, refused.setting) == ("plugin_off", "supervision.interrupt")
        assert refused.retry_after == rest
        faults.failed("spawn", None, ExceptionGroup("several", [Interrupted("held too")]))  # it rests already
        seconds, action = booked.pop()
        assert seconds == rest
        assert not booked
        now += seconds
        action()
        assert not faults.off
    now += 1000.0
    faults.failed("on_message", None, Interrupted("held"))
    assert booked.pop()[0] == 1.0, "that was long ago"
    faults.renewed()
    assert not faults.off, "another version of it has held nothing yet"
