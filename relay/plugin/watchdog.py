"""Sees, while it happens, that something holds the event loop, and names the plugin, its hook and the line of code.

A thread of its own looks at two marks that the loop leaves behind: a count of the loop's turns (a Trio instrument, two
calls a turn) and the hook that runs now (one attribute, set by the supervisor). A plugin that holds the loop for too
long is broken off (interrupt); one that fills the loop's time with slow calls takes turns from then on (turns). The one
rule: the hot path takes no lock, reads no clock and makes no object for the
watchdog's sake.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from types import FrameType, TracebackType
from typing import Final, TypeAlias

import trio

from relay.counters import Counters
from relay.plugin.interrupt import Interrupt
from relay.plugin.turns import Turns

log = logging.getLogger("relay.plugin")

ITSELF: Final = "the relay itself"
MOST: Final = 0.75  # of the loop's time
SOON: Final = 0.001  # seconds until the next look at a plugin that has had its time

State: TypeAlias = "tuple[int, Mark | None, int]"


class Mark:
    """One synchronous hook of one plugin. `calls` tells one call from the next, so that no clock is read for each;
    `turns` is where its calls wait for each other if they are slow.
    """

    __slots__ = ("calls", "hook", "plugin", "turns")

    def __init__(self, plugin: str, hook: str, turns: Turns | None = None) -> None:
        self.plugin = plugin
        self.hook = hook
        self.calls = 0
        self.turns = turns


@dataclass(slots=True, frozen=True)
class Look:
    """What the watchdog has seen at one time: for how long the loop had waited by then, and how often each hook was
    called.
    """

    when: float
    slept: float
    generation: int
    """Of the marks."""
    calls: list[int]


class Spell:
    """A time in which the loop never waited, and how much of it each plugin's own code took; seen from time to time."""

    __slots__ = ("_began", "_looked", "_spent", "used_up")

    def __init__(self, now: float) -> None:
        self.used_up = False
        self._began = self._looked = now
        self._spent: dict[str, float] = {}

    def spend(self, plugin: str, now: float) -> float:
        """`plugin` is at work, and has been since the last look; "" is the relay. Returns the seconds of a plugin that
        has taken most of the spell, else 0.
        """
        since, self._looked = now - self._looked, now
        spent = self._spent[plugin] = self._spent.get(plugin, 0.0) + since
        return spent if plugin and spent >= MOST * (now - self._began) else 0.0


class Watchdog(trio.abc.Instrument):
    """`with Watchdog(counters, stall=0.1):` inside the Trio run it shall watch. `stall` in seconds; 0 watches nothing.

    After `interrupt` seconds (0: never) what a plugin does is broken off: an exception is raised in its code. The
    seconds are those of one call, or of all that the plugin's own code does while the loop never waits and has time for
    little else: a thousand timers of a millisecond hold it as well as one of a second does. Calls that take turns do
    not count: others are served between them. `slow` seconds a call, on average, make a plugin take turns; 0: never.
    `current` is the mark of the hook that runs now; whoever sets it puts back what was there. `clock` is in seconds,
    and real.
    """

    def __init__(
        self,
        counters: Counters,
        stall: float,
        *,
        interrupt: float = 0.0,
        slow: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current: Mark | None = None
        self.stall: Final = stall
        self._stalls = counters.plugin_stalls
        self._stalls[ITSELF] += 0  # all keys are there before the thread starts: a reader may iterate while it counts
        self._clock = clock
        self._files: dict[str, str] = {}  # a plugin's source file -> the plugin: names async hooks and background tasks
        self._known: dict[str, dict[str, None]] = {}  # all plugins of a file
        self._interrupt_after = interrupt
        self._slow = slow
        self._interrupt = Interrupt(self._files)
        self._marks: list[Mark] = []
        self._generation = 0  # of that list; what the thread remembers holds no mark, and with it a plugin, alive
        self._timing = False  # so few calls that they may be slow: how long the loop waits is measured
        self._slept = self._sleeps_since = 0.0
        self._turns = 0
        self._idle = True
        self._loop = 0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def knows(self, file: str, plugin: str) -> None:
        """Code in `file` belongs to `plugin`. Two tables may share a file; then the first one is named."""
        known = self._known.setdefault(file, {})
        known[plugin] = None
        self._files[file] = next(iter(known))
        self._stalls[plugin] += 0

    def forgets(self, plugin: str) -> None:
        """There is no such plugin any more."""
        for file, known in list(self._known.items()):
            known.pop(plugin, None)
            if known:
                self._files[file] = next(iter(known))
            else:
                del self._known[file], self._files[file]
        self._stalls.pop(plugin, None)
        self._marks = [mark for mark in self._marks if mark.plugin != plugin]
        self._generation += 1

    def mark(self, plugin: str, hook: str, turns: Turns) -> Mark:
        """For one hook of one plugin, which takes turns there if its calls are slow."""
        mark = Mark(plugin, hook, turns)
        self._marks.append(mark)
        return mark

    def __enter__(self) -> Watchdog:
        if self.stall > 0:
            self._loop = threading.get_ident()
            self._idle = False
            trio.lowlevel.add_instrument(self)
            self._interrupt.install(self.state)
            self._done.clear()
            self._thread = threading.Thread(target=self._watch, name="relay watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            trio.lowlevel.remove_instrument(self)
            self._interrupt.remove()
            self._done.set()
            self._thread.join()
            self._thread = None

    # Trio calls these two once each turn of its loop.

    def before_io_wait(self, timeout: float) -> None:
        self._idle = True
        if self._timing:
            self._sleeps_since = self._clock()

    def after_io_wait(self, timeout: float) -> None:
        self._turns += 1
        self._idle = False
        since = self._sleeps_since
        if since:
            self._sleeps_since = 0.0
            self._slept += self._clock() - since

    def _slept_by(self, now: float) -> float:
        """Seconds for which the loop has waited since it is timed."""
        since = self._sleeps_since
        return self._slept + (max(0.0, now - since) if since else 0.0)

    def state(self) -> State:
        """What the loop is doing: the turn, the hook, which call of it. Seen twice, nothing has happened between."""
        mark = self.current
        return (self._turns, mark, 0 if mark is None else mark.calls)

    def _watch(self) -> None:
        """The thread. A state seen unchanged for `stall` seconds is a stall; it is told once."""
        spell = Spell(self._clock())
        seen: State | None = None
        last: Look | None = None
        since = 0.0
        told = False
        while not self._done.wait(SOON if spell.used_up else self.stall / 2):
            state = self.state()
            now = self._clock()
            if self._slow:
                last = self._look_for_slow_calls(last, now)
            if self._idle:
                seen, spell = None, Spell(now)
                continue
            if self._interrupt_after:
                spent = spell.spend(self._working(state, seen), now)
                spell.used_up = spent >= self._interrupt_after
                if spell.used_up:
                    state = self.state()
                    if not told:
                        told = True
                        self._tell(state[1], spent)
                    self._interrupt.strike(state, self._loop, partial(self._is_over, state))
                    continue
            if state != seen:
                seen, since, told = state, now, False
                continue
            if not told and now - since >= self.stall:
                told = True
                self._tell(state[1], now - since)
            if self._interrupt_after and now - since >= self._interrupt_after:
                self._interrupt.strike(state, self._loop, partial(self._is_over, state))

    def _working(self, state: State, seen: State | None) -> str:
        """The plugin that holds the loop now; not one that is called in its turn, unless that call does not end."""
        mark = state[1]
        if mark is not None and mark.turns is not None and mark.turns.inside and state != seen:
            return ""
        return self._interrupt.working(self._loop)

    def _look_for_slow_calls(self, before: Look | None, now: float) -> Look:
        """What is seen now. Was most of the time between two looks taken by slow calls?

        What runs at the moment of a look says nothing about which plugin is slow: this thread gets the interpreter
        when the loop's thread waits for a socket, between two calls. So the plugin with the most calls is suspected:
        its next calls are timed (turns), and if they are not slow, the next one is suspected.
        """
        marks, generation = self._marks, self._generation
        look = Look(now, self._slept_by(now), generation, [mark.calls for mark in marks])
        if before is None or before.generation != generation:
            return look
        since = look.when - before.when
        both = zip(look.calls, before.calls, strict=False)  # marks may have been added
        calls = [later - earlier for later, earlier in both]
        most = sum(calls) * self._slow  # what these calls may have taken
        timed, self._timing = self._timing, 0 < most <= since
        busy = since - (look.slept - before.slept)
        if not (timed and self._timing) or busy < max(most, since / 2):
            return look
        for count, mark in sorted(zip(calls, marks, strict=False), key=itemgetter(0), reverse=True):
            if count and mark.turns is not None and not mark.turns.cleared:
                mark.turns.suspect()
                break
        return look

    def _is_over(self, state: State) -> bool:
        return self._done.is_set() or self.state() != state

    def _tell(self, mark: Mark | None, held: float) -> None:
        frame = sys._current_frames().get(self._loop)
        stack = _stack(frame)
        plugin, hook = (mark.plugin, mark.hook) if mark is not None else self._owner(stack)
        self._stalls[plugin] += 1
        line = self._line(stack)
        del frame, stack  # a frame keeps everything alive that its function holds
        log.warning(
            "the loop is held: nobody has been served for at least %.0f ms, by %s, at %s",
            held * 1000,
            f"{hook} of plugin {plugin}" if hook else plugin,
            line,
            extra={"fields": {"plugin": plugin, "hook": hook, "line": line}},
        )

    def _owner(self, stack: list[FrameType]) -> tuple[str, str]:
        """The plugin and the outermost of its functions on the stack: its async hook, or `run`."""
        for frame in reversed(stack):
            plugin = self._files.get(frame.f_code.co_filename)
            if plugin is not None:
                return plugin, frame.f_code.co_name
        return ITSELF, ""

    def _line(self, stack: list[FrameType]) -> str:
        """The innermost line of the plugin's own code, and what it called that does not return."""
        inner = stack[0] if stack else None
        own = next((frame for frame in stack if frame.f_code.co_filename in self._files), inner)
        if own is None or inner is None:
            return "an unknown line"
        text = f"{own.f_code.co_filename}:{own.f_lineno}"
        if own is not inner:
            text += f", in {inner.f_code.co_filename}:{inner.f_lineno} {inner.f_code.co_name}"
        return text


def _stack(frame: FrameType | None) -> list[FrameType]:
    """Innermost first."""
    stack = []
    while frame is not None:
        stack.append(frame)
        frame = frame.f_back
    return stack
