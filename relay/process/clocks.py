"""The tasks that only wait: for the next timer, for the next turn of the heartbeats, for the next look at the figures.

Not here: what is due (session/timers). The one rule: a bug in what is due costs that one thing, never the clock.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import trio

from relay.counters import Counters
from relay.ops.lag import Lag
from relay.rooms.hub import Hub
from relay.session.connection import Connection
from relay.session.everybody import for_each
from relay.session.timers import Timers, Wheel

log = logging.getLogger("relay")

ALARM_EVERY: Final = 10.0  # seconds
SWEEP_EVERY: Final = 5.0  # seconds
LAG_EVERY: Final = 0.1  # seconds
LOOK_EVERY: Final = 1.0  # seconds
SET_BY: Final = 0.5  # seconds the wall clock moves against the other before somebody has set it


async def run_timers(timers: Timers) -> None:
    """Does each thing when it is due. Ends only by cancellation."""
    changed = trio.Event()

    def wake() -> None:
        changed.set()

    timers.changed = wake
    while True:
        due = timers.next()
        with trio.move_on_at(float("inf") if due is None else due):
            await changed.wait()
        changed = trio.Event()
        try:
            timers.run(trio.current_time())
        except Exception:
            log.exception("bug in a timer")


async def run_wheel(wheel: Wheel) -> None:
    """Turns the wheel of heartbeats; ends at once where there are none.

    A turn that was missed is not made up for: whoever was asked has the time it was promised. After the process was
    held up (stopped, or its machine was) what clients have said meanwhile is read before anybody is judged.
    """
    if not wheel.slots:
        return
    while True:
        due = trio.current_time() + wheel.step
        await trio.sleep_until(due)
        if trio.current_time() - due > wheel.step:
            continue
        try:
            wheel.turn(trio.current_time())
        except Exception:
            log.exception("bug in a heartbeat")


async def run_look(look: Callable[[], Awaitable[None]]) -> None:
    """Looks once a second whether something has changed that nobody tells us of."""
    while True:
        await trio.sleep(LOOK_EVERY)
        try:
            await look()
        except Exception:
            log.exception("bug in a look")


async def watch_wall_clock(
    wall: Callable[[], float], sessions: Callable[[], Iterable[Connection]], every: float = LOOK_EVERY
) -> None:
    """When the wall clock is set, the tokens of live sessions follow it; timers run on the other clock and do not."""
    apart = wall() - trio.current_time()
    while True:
        await trio.sleep(every)
        moved = wall() - trio.current_time() - apart
        if abs(moved) > SET_BY:
            apart += moved
            log.warning("the wall clock was set", extra={"fields": {"seconds": round(moved, 3)}})
            await for_each(sessions(), lambda connection: connection.credentials.look())


async def run_lag(lag: Lag) -> None:
    """Measures how late the loop is: what is due every tenth of a second comes so much later."""
    while True:
        due = trio.current_time() + LAG_EVERY
        await trio.sleep_until(due)
        now = trio.current_time()
        lag.add(now - due, now)


async def run_alarm(every: Callable[[], Iterable[Counters]]) -> None:
    """Says when more than one of a hundred urgent messages waited longer than the config promises."""
    seen: dict[int, tuple[Counters, dict[str, tuple[int, int]]]] = {}
    while True:
        await trio.sleep(ALARM_EVERY)
        seen = {id(counters): seen.get(id(counters), (counters, {})) for counters in every()}
        for counters, before in seen.values():
            _alarm(counters, before)


def _alarm(counters: Counters, seen: dict[str, tuple[int, int]]) -> None:
    for channel, delays in counters.urgent_delays.items():
        count, late = sum(delays.buckets), counters.urgent_late[channel]
        old_count, old_late = seen.get(channel, (0, 0))
        seen[channel] = count, late
        if (late - old_late) * 100 > count - old_count:
            setting = "outbox.urgent_p99_ms"
            fields = {"channel": channel, "late": late - old_late, "of": count - old_count, "setting": setting}
            log.warning("urgent messages are late", extra={"fields": fields})


async def run_sweep(hubs: Callable[[], Iterable[Hub]]) -> None:
    """Forgets what rooms that nobody is in have remembered long enough."""
    while True:
        await trio.sleep(SWEEP_EVERY)
        _sweep(hubs())


def _sweep(hubs: Iterable[Hub]) -> None:
    """By itself, so that nobody holds a hub meanwhile that is taken out."""
    for hub in hubs:
        hub.archive.sweep(hub.clock())
