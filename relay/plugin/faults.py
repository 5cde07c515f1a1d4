"""What becomes of the exceptions of one plugin: told, counted, and in the end a reason to switch it off for a while.

Not here: calling hooks (supervisor). The one rule: whatever a plugin raises, whoever asked is told in a word, the log
has it with its place, and a plugin that keeps failing costs nobody any more.

The switch is a circuit breaker: off after `failures` within `failure_window`; on again after `retry` seconds, on
probation: the first failure within the window switches it off again, for twice as long. A plugin that was broken off
because it held the loop rests at once: whoever it kept waiting has had a turn before it does so again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NoReturn

from relay.config.schema import Supervision
from relay.counters import Counters
from relay.errors import Refused
from relay.rooms.room import Room

log = logging.getLogger("relay.plugin")

TRACEBACK_EVERY: Final = 10.0  # seconds between two tracebacks of one hook; what fails in between is counted
LONGEST_RETRY: Final = 900.0  # seconds a plugin stays switched off at most

Schedule = Callable[[float, Callable[[], None]], Any]
"""Calls something after so many seconds; what it returns has `cancel()`."""


class Interrupted(Exception):
    """A synchronous hook held the loop for too long and was broken off, wherever it was."""


class Faults:
    """Of one plugin. `clock` in seconds; `switched`, handed in, is told whenever `off` has changed."""

    def __init__(
        self,
        name: str,
        counters: Counters,
        supervision: Supervision,
        clock: Callable[[], float],
        switched: Callable[[], None],
        schedule: Schedule | None = None,
    ) -> None:
        self.name: Final = name
        self.off = False
        self.on_failure: Callable[[str, BaseException], None] | None = None
        self.schedule = schedule
        self._counters = counters
        self._supervision = supervision
        self._clock = clock
        self._switched = switched
        self._failures: deque[float] = deque(maxlen=supervision.failures or None)
        self._told: dict[str, tuple[float, int]] = {}  # hook -> when its last traceback was logged, failures since
        self._retry = supervision.retry
        self._probation_until = float("-inf")
        self._rest = 0.0  # seconds of the last rest, and when it ended or will
        self._rested_at = float("-inf")
        self._resting: Any = None  # the timer of its end
        self._retrying: Any = None  # that of being switched on again

    def raise_for(self, hook: str, room: Room | None, problem: Exception) -> NoReturn:
        """Turns what came out of a hook into what the sender is told. Raises Refused."""
        refused = refusal(problem)
        if refused is not None:
            if not self.off:
                self._counters.plugin_refusals[self.name] += 1
            self.sign(refused, room)
            raise refused.with_traceback(None)  # one object raised again and again would collect all its tracebacks
        self.failed(hook, room, problem)
        raise self.sign(Refused("internal"), room) from None

    def sign(self, refused: Refused, room: Room | None = None) -> Refused:
        """With the names of who said no, and where."""
        refused.plugin = self.name
        refused.room = room.name if room is not None else ""
        return refused

    def raise_rest(self, hook: str, room: Room | None, group: BaseExceptionGroup[BaseException]) -> NoReturn:
        """Exceptions together with a cancellation: the former are told, the latter goes on."""
        faults, rest = group.split(Exception)
        if faults is not None and refusal(faults) is None:
            self.failed(hook, room, faults)
        assert rest is not None
        raise rest

    def failed(self, hook: str, room: Room | None, problem: Exception) -> None:
        now = self._clock()
        self._counters.plugin_failures[self.name] += 1
        if _was_broken_off(problem):
            self._take_rest(now)
        if self.on_failure is not None:
            self.on_failure(hook, problem)
        if self.may_trace(hook):
            place = f"{hook} in room {room.name}" if room is not None else hook
            log.error(
                "plugin %s: %s failed: %s", self.name, place, describe(problem),
                exc_info=problem, extra=self.fields(hook, room),
            )  # fmt: skip
        if self._supervision.failures:
            times = self._failures
            window = self._supervision.failure_window
            if now < self._probation_until or (len(times) == times.maxlen and now - times[0] <= window):
                self._switch_off()
            times.append(now)

    def tell_slow(self) -> None:
        """Its hooks take so long, and so often, that it takes turns (turns)."""
        log.warning(
            "plugin %s is slow and called often: its calls wait for each other, and others are served in between",
            self.name, extra={"fields": {"plugin": self.name, "setting": "supervision.slow_hook"}},
        )  # fmt: skip

    def may_trace(self, hook: str) -> bool:
        """Whether it is time to tell of it again; what is not told is counted."""
        now = self._clock()
        last, kept = self._told.get(hook, (float("-inf"), 0))
        if now - last < TRACEBACK_EVERY:
            self._told[hook] = last, kept + 1
            return False
        if kept:
            log.error("plugin %s: %s: %d times more since this was last told", self.name, hook, kept)
        self._told[hook] = now, 0
        return True

    def fields(self, hook: str, room: Room | None) -> dict[str, Any]:
        fields = {"plugin": self.name, "hook": hook}
        if room is not None:
            fields["room"] = room.name
        return {"fields": fields}

    def is_off(self) -> Refused:
        if self._resting is None:
            return self.sign(Refused("plugin_off", setting="supervision.failures"))
        wait = max(0.0, self._rested_at - self._clock())
        return self.sign(Refused("plugin_off", retry_after=wait, setting="supervision.interrupt"))

    def renewed(self) -> None:
        """The plugin is another one now: what the old one did is forgotten."""
        self._failures.clear()
        self._retry = self._supervision.retry
        self._probation_until = float("-inf")
        self._rest = 0.0
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        if self.off:
            self.off = False
            self._switched()

    def end(self) -> None:
        """The plugin is no more: no timer of it is left."""
        for timer in (self._resting, self._retrying):
            if timer is not None:
                timer.cancel()
        self._resting = self._retrying = None

    def _switch_off(self) -> None:
        if self.off:
            return
        self.off = True
        self._switched()
        retry = self._retry if self.schedule is not None else 0.0
        log.critical(
            "plugin %s is switched off %s: more than %d failures within %g s",
            self.name,
            f"for {retry:g} s" if retry else "until the relay starts again",
            self._supervision.failures,
            self._supervision.failure_window,
            extra={"fields": {"plugin": self.name, "setting": "supervision.failures"}},
        )
        if retry and self.schedule is not None:
            self._retrying = self.schedule(retry, self._switch_on)
            self._retry = min(2 * self._retry, LONGEST_RETRY)

    def _take_rest(self, now: float) -> None:
        """As long as it may hold the loop; twice as long each time it is broken off again within the window."""
        if self.off or self.schedule is None:
            return
        supervision = self._supervision
        again = now - self._rested_at <= supervision.failure_window
        self._rest = min(2 * self._rest if again else supervision.interrupt, supervision.retry or LONGEST_RETRY)
        self._rested_at = now + self._rest
        self.off = True
        self._switched()
        log.error(
            "plugin %s is switched off for %g s: it held the loop and was broken off", self.name, self._rest,
            extra={"fields": {"plugin": self.name, "setting": "supervision.interrupt"}},
        )  # fmt: skip
        self._resting = self.schedule(self._rest, self._end_rest)

    def _end_rest(self) -> None:
        self._resting = None
        self.off = False
        self._switched()

    def _switch_on(self) -> None:
        if not self.off:
            return
        self.off = False
        self._failures.clear()
        self._probation_until = self._clock() + self._supervision.failure_window
        log.warning("plugin %s is switched on again, on probation", self.name)
        self._switched()


def refusal(problem: BaseException) -> Refused | None:
    """The Refused that an exception is; one out of a plugin's nursery comes wrapped in groups. What cannot be sent is
    none: it is the plugin's bug.
    """
    while isinstance(problem, ExceptionGroup) and len(problem.exceptions) == 1:
        problem = problem.exceptions[0]
    if not isinstance(problem, Refused):
        return None
    told = (problem.code, str), (problem.message, str), (problem.setting, str | None)
    sendable = all(isinstance(value, kind) for value, kind in told)
    return problem if sendable and isinstance(problem.retry_after, float | int | None) else None


def _was_broken_off(problem: BaseException) -> bool:
    if isinstance(problem, BaseExceptionGroup):
        return problem.subgroup(Interrupted) is not None
    return isinstance(problem, Interrupted)


def describe(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {problem}"
