"""One plugin under watch: calls its hooks, and lets nothing out of them but `Refused` and cancellation.

A `Supervised` is what a room has as its handler. Not here: finding plugins (loader), what a room or a connection is.
The one rule: a plugin's bug costs the request that met it, never the connection, the room or the process.
"""

from __future__ import annotations

import inspect
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from types import CoroutineType
from typing import Any, Final, NoReturn

import trio

from relay.config.schema import Supervision
from relay.counters import Counters
from relay.errors import ConfigError, ConfigProblem, Refused
from relay.model import Message, Payload
from relay.plugin.api import Plugin
from relay.plugin.loader import LoadedPlugin
from relay.plugin.watchdog import Mark, Watchdog
from relay.rooms.hub import Hub
from relay.rooms.room import Peer, Room

log = logging.getLogger("relay.plugin")

TRACEBACK_EVERY: Final = 10.0  # seconds between two tracebacks of one hook; what fails in between is counted
FIRST_PAUSE: Final = 1.0  # seconds until a failed background task starts again; doubles each time
LONGEST_PAUSE: Final = 60.0
THREADS: Final = 8  # of one plugin at a time: what blocks in one does not use up those of all


class Supervised:
    """What the relay calls instead of the plugin. `hook_timeout`: deadline of async hooks unless its table has one.

    For each of join, leave, message and call: `has_X` is False where the plugin does not care (then calling it does
    nothing but cost), `X_is_async` says whether to call `X(...)` or `await later("on_X", ...)`. All four may change
    while the relay runs: a plugin that is switched off has only synchronous hooks that refuse.
    """

    def __init__(
        self,
        loaded: LoadedPlugin,
        hub: Hub,
        *,
        counters: Counters,
        watchdog: Watchdog,
        supervision: Supervision,
        hook_timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name: Final = loaded.name
        self.rule: Final = loaded.rule
        self.patterns: Final = loaded.patterns
        self.timeout: Final = loaded.hook_timeout or hook_timeout
        self.timeout_setting: Final = f"plugins.{loaded.name}.hook_timeout" if loaded.hook_timeout else "timeouts.hook"
        self.off = False
        self.on_failure: Callable[[str, BaseException], None] | None = None
        self._counters = counters
        self._watchdog = watchdog
        self._supervision = supervision
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=supervision.failures or None)
        self._told: dict[str, tuple[float, int]] = {}  # hook -> when its last traceback was logged, failures since
        self._background: trio.CancelScope | None = None

        self.plugin: Final = loaded.plugin(loaded.name, loaded.settings, _Relay(hub, self))
        for file in _files(loaded.plugin):
            watchdog.knows(file, self.name)
        self.has_run: Final = _overrides(loaded.plugin, "run")
        self._has_open = _overrides(loaded.plugin, "on_open")
        self._has_empty = _overrides(loaded.plugin, "on_empty")
        self.has_join, self.join_is_async, self._on_join = self._hook("on_join")
        self.has_leave, self.leave_is_async, self._on_leave = self._hook("on_leave")
        self.has_message, self.message_is_async, self._on_message = self._hook("on_message")
        self.has_call, self.call_is_async, self._on_call = self._hook("on_call")
        self._mark_open = Mark(self.name, "on_open")
        self._mark_empty = Mark(self.name, "on_empty")
        self._mark_join = Mark(self.name, "on_join")
        self._mark_leave = Mark(self.name, "on_leave")
        self._mark_message = Mark(self.name, "on_message")
        self._mark_call = Mark(self.name, "on_call")

    def _hook(self, name: str) -> tuple[bool, bool, Callable[..., Any]]:
        method = getattr(self.plugin, name)
        return _overrides(type(self.plugin), name), inspect.iscoroutinefunction(method), method

    # Called by the hub.

    def opened(self, room: Room) -> None:
        """Raises Refused: then there is no room."""
        if self.off:
            raise self._is_off()
        if self._has_open:
            self._inline(self._mark_open, self.plugin.on_open, room)

    def freed(self, room: Room) -> None:
        """Raises nothing: the room is gone already."""
        if self._has_empty and not self.off:
            try:
                self._inline(self._mark_empty, self.plugin.on_empty, room)
            except Refused:
                pass

    # Called by a connection. Each raises Refused and nothing else.

    def join(self, room: Room, peer: Peer) -> None:
        self._inline(self._mark_join, self._on_join, room, peer)

    def leave(self, room: Room, peer: Peer) -> None:
        self._inline(self._mark_leave, self._on_leave, room, peer)

    def message(self, room: Room, peer: Peer, message: Message) -> None:
        # `_inline` written out: this is the hot path, and a call with *args is a quarter of its cost.
        watchdog = self._watchdog
        before = watchdog.current
        watchdog.current = mark = self._mark_message
        mark.calls += 1
        try:
            result = self._on_message(room, peer, message)
            if result.__class__ is CoroutineType:
                _not_awaited(result)
        except Exception as problem:
            self._refuse("on_message", room, problem)
        finally:
            watchdog.current = before

    def call(self, room: Room, peer: Peer, method: str, data: Payload | None) -> Payload:
        """The answer; None becomes JSON's null. What JSON cannot express is the plugin's failure."""
        answer = self._inline(self._mark_call, self._on_call, room, peer, method, data)
        return self._answer(room, answer)

    def _inline(self, mark: Mark, hook: Callable[..., Any], room: Room, *args: Any) -> Any:
        watchdog = self._watchdog
        before = watchdog.current
        watchdog.current = mark
        mark.calls += 1
        try:
            result = hook(room, *args)
            if result.__class__ is CoroutineType:
                _not_awaited(result)
            return result
        except Exception as problem:
            self._refuse(mark.hook, room, problem)
        finally:
            watchdog.current = before

    async def later(self, hook: str, room: Room, *args: Any, timeout: float | None = None) -> Any:
        """An async hook ("on_join", "on_leave", "on_message", "on_call") under a deadline; from on_call a Payload.

        `timeout` in seconds can only shorten the plugin's own; where that is 0 there is none. Raises Refused, nothing
        else.
        """
        if self.off:
            await trio.lowlevel.checkpoint()
            raise self._is_off()
        limit, setting = self.timeout or float("inf"), self.timeout_setting
        if timeout is not None and timeout < limit:
            limit, setting = timeout, ""
        answer: Any = None
        with trio.move_on_after(limit) as deadline:
            try:
                answer = await getattr(self.plugin, hook)(room, *args)
            except Exception as problem:
                self._refuse(hook, room, problem)
            except BaseExceptionGroup as group:
                self._raise_rest(hook, room, group)
        if deadline.cancelled_caught:
            if self._may_trace(f"{hook} deadline"):
                log.warning(
                    "plugin %s: %s in room %s took longer than %g s", self.name, hook, room.name, limit,
                    extra=self._fields(hook, room),
                )  # fmt: skip
            why = f"the plugin did not answer within {limit:g} s"
            raise self._sign(Refused("timeout", why, setting=setting or None), room)
        return self._answer(room, answer) if hook == "on_call" else None

    def _answer(self, room: Room, answer: object) -> Payload:
        try:
            return Payload.of(answer)
        except Exception as problem:
            self._refuse("on_call", room, problem)

    # What happens to exceptions.

    def _refuse(self, hook: str, room: Room | None, problem: Exception) -> NoReturn:
        """Turns what came out of a hook into what the sender is told."""
        refused = _refusal(problem)
        if refused is not None:
            if not self.off:
                self._counters.plugin_refusals[self.name] += 1
            self._sign(refused, room)
            raise refused.with_traceback(None)  # one object raised again and again would collect all its tracebacks
        self._failed(hook, room, problem)
        raise self._sign(Refused("internal"), room) from None

    def _sign(self, refused: Refused, room: Room | None = None) -> Refused:
        """With the names of who said no, and where."""
        refused.plugin = self.name
        refused.room = room.name if room is not None else ""
        return refused

    def _raise_rest(self, hook: str, room: Room, group: BaseExceptionGroup[BaseException]) -> NoReturn:
        """Exceptions together with a cancellation: the former are told, the latter goes on."""
        faults, rest = group.split(Exception)
        if faults is not None and _refusal(faults) is None:
            self._failed(hook, room, faults)
        assert rest is not None
        raise rest

    def _failed(self, hook: str, room: Room | None, problem: Exception) -> None:
        now = self._clock()
        self._counters.plugin_failures[self.name] += 1
        if self.on_failure is not None:
            self.on_failure(hook, problem)
        if self._may_trace(hook):
            place = f"{hook} in room {room.name}" if room is not None else hook
            log.error(
                "plugin %s: %s failed: %s", self.name, place, _describe(problem),
                exc_info=problem, extra=self._fields(hook, room),
            )  # fmt: skip
        if self._supervision.failures:
            times = self._failures
            if len(times) == times.maxlen and now - times[0] <= self._supervision.failure_window:
                self._switch_off()
            times.append(now)

    def _may_trace(self, hook: str) -> bool:
        now = self._clock()
        last, kept = self._told.get(hook, (float("-inf"), 0))
        if now - last < TRACEBACK_EVERY:
            self._told[hook] = last, kept + 1
            return False
        if kept:
            log.error("plugin %s: %s: %d times more since this was last told", self.name, hook, kept)
        self._told[hook] = now, 0
        return True

    def _fields(self, hook: str, room: Room | None) -> dict[str, Any]:
        fields = {"plugin": self.name, "hook": hook}
        if room is not None:
            fields["room"] = room.name
        return {"fields": fields}

    def _switch_off(self) -> None:
        if self.off:
            return
        self.off = self.has_join = self.has_message = self.has_call = True
        self.has_leave = self.join_is_async = self.leave_is_async = self.message_is_async = self.call_is_async = False
        self._on_join = self._on_leave = self._on_message = self._on_call = self._refuse_all
        if self._background is not None:
            self._background.cancel()
        log.critical(
            "plugin %s is switched off until the relay starts again: more than %d failures within %g s",
            self.name, self._supervision.failures, self._supervision.failure_window,
            extra={"fields": {"plugin": self.name, "setting": "supervision.failures"}},
        )  # fmt: skip

    def _refuse_all(self, *args: object) -> NoReturn:
        raise self._is_off()

    def _is_off(self) -> Refused:
        return self._sign(Refused("plugin_off", setting="supervision.failures"))

    # The background task.

    async def run(self, jitter: Callable[[], float] = random.random) -> None:
        """The plugin's `run`, started again 1 s after a failure, then 2, 4, … 60, less up to a half at random."""
        pause = FIRST_PAUSE
        with trio.CancelScope() as self._background:
            while not self.off:
                started = trio.current_time()
                try:
                    await self.plugin.run()
                    return
                except Exception as problem:
                    self._failed("run", None, problem)
                except BaseExceptionGroup as group:
                    faults, rest = group.split(Exception)
                    if faults is not None:
                        self._failed("run", None, faults)
                    if rest is not None:
                        raise rest from None
                if trio.current_time() - started > LONGEST_PAUSE:
                    pause = FIRST_PAUSE
                await trio.sleep(pause * (1 - jitter() / 2))
                pause = min(pause * 2, LONGEST_PAUSE)


def supervise(
    loaded: Iterable[LoadedPlugin],
    hub: Hub,
    *,
    counters: Counters,
    watchdog: Watchdog,
    supervision: Supervision,
    hook_timeout: float,
) -> list[Supervised]:
    """Makes the plugins; `hub.router` is then `build_router` of them. Raises ConfigError if an `__init__` failed."""
    made: list[Supervised] = []
    problems: list[ConfigProblem] = []
    for one in loaded:
        try:
            plugin = Supervised(
                one, hub, counters=counters, watchdog=watchdog, supervision=supervision, hook_timeout=hook_timeout
            )
            made.append(plugin)
        except Exception as problem:
            what = f"{one.plugin.__name__} could not be made: {_describe(problem)}"
            problems.append(ConfigProblem(one.where, f"plugins.{one.name}", what))
    if problems:
        raise ConfigError(problems)
    return made


async def run_all(plugins: Iterable[Supervised], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """The background tasks of all plugins that have one; ends when they have ended, or is cancelled."""
    async with trio.open_nursery() as nursery:
        for plugin in plugins:
            if plugin.has_run:
                nursery.start_soon(plugin.run, name=f"plugin {plugin.name}")
        task_status.started()


class _Relay:
    """`relay.plugin.api.Relay`, for one plugin."""

    def __init__(self, hub: Hub, owner: Supervised) -> None:
        self._hub = hub
        self._owner = owner
        self._threads: trio.CapacityLimiter | None = None

    def room(self, name: str) -> Room | None:
        room = self._hub.rooms.get(name)
        return room if room is not None and room.handler is self._owner else None

    def rooms(self) -> list[Room]:
        return [room for room in self._hub.rooms.values() if room.handler is self._owner]

    def publish(self, room: str, data: object, *, channel: str | None = None, key: str | None = None) -> None:
        found = self.room(room)
        if found is None:
            owner = self._hub.router(room)
            if room in self._hub.rooms or owner is None or owner[1] is not self._owner:
                raise Refused("no_such_room", f"{room!r} is no room of plugin {self._owner.name}")
            found = self._hub.open(room)
        try:
            found.broadcast(data, channel=channel, key=key)
        finally:
            self._hub.free_if_empty(found)

    async def to_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._threads is None:
            self._threads = trio.CapacityLimiter(THREADS)
        return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=True, limiter=self._threads)


def _overrides(plugin: type[Plugin], name: str) -> bool:
    return getattr(plugin, name) is not getattr(Plugin, name)


def _files(plugin: type[Plugin]) -> set[str]:
    """The source files of a plugin's methods, as frames name them."""
    own = [base for base in plugin.__mro__ if base not in Plugin.__mro__]
    code = [getattr(value, "__code__", None) for base in own for value in vars(base).values()]
    return {one.co_filename for one in code if one is not None}


def _refusal(problem: BaseException) -> Refused | None:
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


def _describe(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {problem}"


def _not_awaited(result: Awaitable[object]) -> NoReturn:
    if isinstance(result, CoroutineType):
        result.close()  # else Python complains that it was never awaited
    raise TypeError("a hook that is not `async def` returned a coroutine; write `async def`")
