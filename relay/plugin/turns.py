"""A plugin whose synchronous hooks are slow and called often takes turns: one call, then everybody else.

    watchdog  sees that the loop's time may be full of slow calls, and guesses whose  -> `suspect`
    `probing` its next calls are timed, and nothing else is different; if most are slow  -> `begin`
    `on`      its hooks are called as asynchronous ones are, from their connections' queues; full, they pause reading
    `enter`   each waits here until it is its turn; `leave` lets the next ones in

A connection is read once in a turn of the loop, so one turn would be too little for others: for each millisecond of its
calls they have one. Not here: who finds it slow (watchdog), what is called (supervisor). The one rule: in one turn of
the loop a plugin that takes turns has one call, or as many as fit into A_TURN seconds; and what it is given stays in
order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from relay.plugin.faults import log
from relay.plugin.hooks import too_late
from relay.rooms.room import Peer, Room

if TYPE_CHECKING:
    from relay.plugin.supervisor import Supervised

A_TURN: Final = 0.005  # seconds of calls that are let in together
MOST: Final = 64  # calls that are, however short they are; and turns that others have then, however long
A_MILLISECOND: Final = 0.001
PROBES: Final = 8  # calls that are timed when it is suspected; half of them slow make it slow
SURE: Final = 4  # calls in turn after which it is told that it is slow
CLEARED: Final = 2.0  # seconds for which somebody else is suspected
CALM: Final = 5.0  # seconds without a wait after which it takes no turns any more
_WEIGHT: Final = 0.125  # of the last call in the mean


class Turns:
    """Of one plugin. `clock` in seconds; `slow` is the mean of slow calls; `changed` is told when `on` or `probing` has
    changed, `found` when it is known that calls are slow.

    `waited(room, peer)` is told of each call that had to wait for others of the plugin, `producing(peer)` whose message
    is handled now, and None behind it: the session hands them in.
    """

    def __init__(
        self, clock: Callable[[], float], slow: float, changed: Callable[[], None], found: Callable[[], None]
    ) -> None:
        self.on = False
        self.probing = False
        self.told = False
        self.inside = False  # a call that was let in runs now
        self.waited: Callable[[Any, Any], None] = _nobody
        self.producing: Callable[[Any], None] = _nobody
        self._clock = clock
        self._slow = slow
        self._changed = changed
        self._found = found
        self._queue: deque[trio.Event] = deque()
        self._let_in = 0  # calls that may run, or do
        self._began = 0.0
        self._now_spent = 0.0  # seconds of calls that were let in together
        self._spent = 0.0  # of those before
        self._mean = 0.0
        self._calls = 0  # that were measured
        self._probed = self._slow_ones = 0  # calls timed since it was suspected, and those that were slow
        self._cleared_at = float("-inf")
        self._busy_at = 0.0  # when somebody had to wait, the last time

    def suspect(self) -> None:
        """Its calls may be slow: they are timed from now on (`timed`). From any thread."""
        if not (self.on or self.probing):
            self._probed = self._slow_ones = 0
            self.probing = True
            self._changed()

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, for as long as it is suspected. Most calls tell, not their mean: one may have been interrupted."""

        def timing(*args: Any) -> Any:
            began = self._clock()
            try:
                return call(*args)
            finally:
                self._probe(self._clock() - began)

        return timing

    def _probe(self, took: float) -> None:
        self._probed += 1
        self._slow_ones += took >= self._slow
        if self.probing and self._probed >= PROBES:
            self.probing = False
            if 2 * self._slow_ones >= PROBES:
                self.begin()
            else:
                self._cleared_at = self._clock()
                self._changed()

    def begin(self) -> None:
        """It is slow."""
        if not self.on:
            self._busy_at = self._clock()
            self._calls = 0
            self.on = True
            self._changed()

    @property
    def calm(self) -> bool:
        """Nobody waits, and nobody has for a while; or its calls are not slow."""
        return not self._queue and (not self.slow or self._clock() - self._busy_at > CALM)

    @property
    def slow(self) -> bool:
        """By what was measured."""
        return self._mean >= self._slow

    @property
    def cleared(self) -> bool:
        """It was suspected a moment ago, and was not slow."""
        return self._clock() - self._cleared_at < CLEARED

    def end(self) -> None:
        if not self.slow:
            self._cleared_at = self._clock()
        self.on = self.told = False
        self._changed()

    async def enter(self) -> bool:
        """Waits until it may be called; whether others were first. Then `leave` must follow, with no wait between."""
        first = not self._let_in
        if first:
            self._let_in = 1
        else:
            self._busy_at = self._clock()
            event = trio.Event()
            self._queue.append(event)
            try:
                await event.wait()
            except BaseException:
                if event.is_set():
                    self._one_less()
                else:
                    self._queue.remove(event)
                raise
        try:
            for _ in range(min(MOST, 1 + int(self._spent / A_MILLISECOND))):
                await trio.lowlevel.checkpoint()
        except BaseException:
            self._one_less()
            raise
        self.inside = True
        self._began = self._clock()
        return not first

    def leave(self) -> None:
        self.inside = False
        took = self._clock() - self._began
        self._calls += 1
        self._mean += max(_WEIGHT, 1 / self._calls) * (took - self._mean)
        self._now_spent += took
        if not self.told and self._calls >= SURE and self.slow:
            self.told = True
            self._found()
        self._one_less()

    def _one_less(self) -> None:
        """The last one of those that were let in together lets the next ones in: they run in the loop's next turn."""
        self._let_in -= 1
        if not self._let_in:
            self._spent, self._now_spent = self._now_spent, 0.0
            fit = int(A_TURN / self._mean) if self._mean > A_TURN / MOST else MOST
            while self._queue and self._let_in < max(1, fit):
                self._let_in += 1
                self._queue.popleft().set()

    def __len__(self) -> int:
        return len(self._queue)


class InTurn:
    """Calls synchronous hooks of a plugin that takes turns, and ends that when it is calm again."""

    def __init__(self, owner: Supervised) -> None:
        self._owner = owner
        self._ending = False

    def time_calls(self) -> None:
        """While the plugin is suspected, both ways to its synchronous hooks lead past a clock."""
        owner = self._owner
        for name in ("inline", "message"):
            if owner.turns.probing:
                vars(owner)[name] = owner.turns.timed(getattr(type(owner), name).__get__(owner))
            else:
                vars(owner).pop(name, None)

    async def call(
        self, call: Callable[..., Any], room: Room | None, peer: Peer | None, *args: Any, timeout: float | None = None
    ) -> Any:
        """What `call` returns, when it is its turn; within `timeout` seconds, if that is said. Raises Refused."""
        owner, turns = self._owner, self._owner.turns
        limit = float("inf") if timeout is None else timeout
        with trio.move_on_after(limit) as deadline:
            others_first = await turns.enter()
        if deadline.cancelled_caught:
            raise too_late(owner.faults, room, limit, "")
        turns.producing(peer)
        try:
            if others_first:
                turns.waited(room, peer)
            if owner.faults.off:
                raise owner.faults.is_off()
            return call(*args) if room is None else call(room, peer, *args)
        finally:
            turns.producing(None)
            turns.leave()
            if turns.on and turns.calm:
                self._end_soon()

    def _end_soon(self) -> None:
        """Calls are made at once again, unless something that came before is still queued somewhere."""
        schedule = self._owner.faults.schedule
        if not self._ending and schedule is not None:
            self._ending = True
            schedule(0.0, self._end)

    def _end(self) -> None:
        self._ending = False
        turns = self._owner.turns
        if turns.on and turns.calm and not any(room.holds for room in self._owner.rooms.values()):
            if turns.told:
                log.info("plugin %s: its calls are made at once again", self._owner.title)
            turns.end()


def _nobody(*args: Any) -> None:
    """Nobody listens."""
