"""One plugin under watch: calls its hooks, and lets nothing out of them but `Refused` and cancellation.

A `Supervised` is what a room has as its handler. Not here: finding plugins (loader), what becomes of their exceptions
(faults), what they may use (handle). The one rule: a plugin's bug costs the request that met it, never the connection,
the room or the process.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import CoroutineType
from typing import Any, Final, NoReturn

import trio

from relay.config.schema import Supervision
from relay.counters import Counters
from relay.decisions import Decision
from relay.errors import Refused
from relay.model import Message, Payload
from relay.plugin.api import Plugin
from relay.plugin.arrival import Arrival
from relay.plugin.background import Background
from relay.plugin.calls import Typed, typed_calls
from relay.plugin.faults import Faults, Schedule
from relay.plugin.handle import Handle
from relay.plugin.hooks import FILTERS, TOLD, Hook, answered, awaited, files_of, not_awaited, overrides
from relay.plugin.loader import LoadedPlugin
from relay.plugin.trace import trace
from relay.plugin.turns import InTurn, Turns
from relay.plugin.watchdog import Mark, Watchdog
from relay.plugin.web import Page, WebRequest, WebResponse, as_response, pages
from relay.rooms.hub import Hub
from relay.rooms.room import Peer, Room


class Supervised:
    """What the relay calls instead of the plugin. `hook_timeout`: deadline of async hooks unless its table has one.

    For each of join, leave and message: `has_X` is False where the plugin does not care (then calling it does nothing
    but cost), `X_is_async` says whether to call `X(...)` or `await later("on_X", ...)`; `call_waits` says it of a
    call. All may change while the relay runs: a plugin that is switched off has only synchronous hooks that refuse.
    `rooms` are those it serves or filters, by name. `schedule` calls something later.
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
        tenant: str = "",
        clock: Callable[[], float] = time.monotonic,
        schedule: Schedule | None = None,
    ) -> None:
        self.name: Final = loaded.name
        self.tenant: Final = tenant
        self.title: Final = f"{tenant}/{loaded.name}" if tenant else loaded.name  # where those of all tenants meet
        self.rule: Final = loaded.rule
        self.patterns: Final = loaded.patterns
        self.filters: Final = loaded.filters
        self.owner: Final = self
        self.rooms: Final[dict[str, Room]] = {}
        self.faults: Final = Faults(loaded.name, counters, supervision, clock, self._bind, schedule)
        self.turns: Final = Turns(clock, supervision.slow_hook, self._take_turns, self.faults.tell_slow)
        self._in_turn: Final = InTurn(self)
        self._waits: dict[str, bool] = {}
        self._watchdog = watchdog
        self._traced: Final = supervision.trace
        self.background: Final = Background(self)
        self.handle: Final = Handle(hub, self, supervision.tasks, loaded.publish)
        self._marks: Final[dict[str, Mark]] = {}
        self._usual_timeout = hook_timeout
        self._adopt(loaded)
        self.plugin: Plugin = self.make(loaded)
        self._bind()

    def _adopt(self, loaded: LoadedPlugin) -> None:
        """What of a table is not the plugin's own, and may change while its rooms are open."""
        self.timeout = loaded.hook_timeout or self._usual_timeout
        self.timeout_setting = f"plugins.{loaded.name}.hook_timeout" if loaded.hook_timeout else "timeouts.hook"
        self.hears_decisions = loaded.decisions
        self.handle.elsewhere = loaded.publish
        self._offers = loaded.calls
        self._kind = loaded.plugin

    def introduce(self, kind: type[Plugin] | None = None) -> None:
        """Tells the watchdog whose code that of its class is."""
        for file in files_of(kind or self._kind):
            self._watchdog.knows(file, self.title)

    def make(self, loaded: LoadedPlugin) -> Plugin:
        """A plugin that this one may `become`. Raises what it raises."""
        self.introduce(loaded.plugin)
        kind = loaded.plugin
        if loaded.isolate:
            from relay.plugin.isolate.standin import standin_for

            kind = standin_for(loaded)
        plugin = kind(loaded.name, loaded.settings, self.handle)
        if self._traced:
            trace(plugin)
        return plugin

    def _bind(self) -> None:
        """Looks at which hooks the plugin has; one that is switched off has those that refuse."""
        plugin = self.plugin
        off = self.faults.off
        self.has_run = overrides(type(plugin), "run")
        self._has_open = overrides(type(plugin), "on_open")
        self._has_empty = overrides(type(plugin), "on_empty")
        self._has_renamed = overrides(type(plugin), "on_renamed")
        self.has_join, self._on_join = self._hook("on_join")
        self.has_joined, self._on_joined = self._hook("on_joined")
        self.has_leave, self._on_leave = self._hook("on_leave")
        self.has_message, self._on_message = self._hook("on_message")
        self.has_call, self._on_call = self._hook("on_call")
        self.has_connect, self._on_connect = self._hook("on_connect")
        self.has_disconnect, self._on_disconnect = self._hook("on_disconnect")
        _, self._on_decisions = self._hook("on_decisions")
        self._filters = {name: self._hook(name) for name in FILTERS}
        self.pages = {} if off else pages(plugin)
        self._typed: dict[str, Typed] = {} if off else typed_calls(plugin)
        self._mark_message = self.mark("on_message")
        self._take_turns()
        self.background.switched()

    def _hook(self, name: str) -> tuple[bool, Hook]:
        """Whether the plugin has it, and what to call; `_waits` then says whether that is asynchronous."""
        self._waits[name] = False
        if self.faults.off:
            told = name in TOLD
            wanted = not told and (not name.endswith("connect") or overrides(type(self.plugin), name))
            return wanted, self._hears_nothing if told else self._refuse_all
        method = getattr(self.plugin, name)
        self._waits[name] = inspect.iscoroutinefunction(method)
        return overrides(type(self.plugin), name), method

    def mark(self, hook: str) -> Mark:
        """What the watchdog sees while that hook runs."""
        found = self._marks.get(hook)
        if found is None:
            found = self._marks[hook] = self._watchdog.mark(self.title, hook, self.turns)
        return found

    @property
    def off(self) -> bool:
        return self.faults.off

    # Called by the hub.

    def opened(self, room: Room) -> None:
        """Raises Refused: then there is no room."""
        if self.faults.off:
            raise self.faults.is_off()
        self.rooms[room.name] = room
        if self._has_open:
            try:
                self.inline(self.mark("on_open"), self.plugin.on_open, room)
            except BaseException:
                del self.rooms[room.name]
                raise

    def freed(self, room: Room) -> None:
        """Raises nothing: the room is gone already."""
        self.rooms.pop(room.name, None)
        if self._has_empty and not self.faults.off:
            self._tell("on_empty", self.plugin.on_empty, room)

    def renamed(self, room: Room, old: str) -> None:
        """The room has another name. The plugin's own `state` of it is where it was."""
        self.rooms.pop(old, None)
        self.rooms[room.name] = room

    @property
    def all(self) -> tuple[Supervised, ...]:
        """As of a filtered room: all plugins that it has to do with."""
        return (self,)

    def moved(self, old: str, new: str) -> None:
        """Raises nothing: the room has its new name already."""
        if self._has_renamed and not self.faults.off:
            self._tell("on_renamed", self.plugin.on_renamed, None, old, new)

    # Called by a connection. Each raises Refused and nothing else.

    def join(self, room: Room, peer: Peer) -> None:
        if self.has_join:
            self.inline(self.mark("on_join"), self._on_join, room, peer)

    def joined(self, room: Room, peer: Peer) -> None:
        """Raises nothing: it is in the room already."""
        self._tell("on_joined", self._on_joined, room, peer)

    def leave(self, room: Room, peer: Peer) -> None:
        if self.has_leave:
            self.inline(self.mark("on_leave"), self._on_leave, room, peer)

    def message(self, room: Room, peer: Peer, message: Message) -> None:
        # `inline` written out: this is the hot path, and a call with *args is a quarter of its cost.
        watchdog = self._watchdog
        before = watchdog.current
        watchdog.current = mark = self._mark_message
        mark.calls += 1
        try:
            result = self._on_message(room, peer, message)
            if result.__class__ is CoroutineType:
                not_awaited(result)
        except Exception as problem:
            self.faults.raise_for("on_message", room, problem)
        finally:
            watchdog.current = before

    def call_waits(self, method: str) -> bool:
        """Whether that method is to be awaited (`later`)."""
        return (self.turns.on and not self.faults.off) or self._call_waits(method)

    def _call_waits(self, method: str) -> bool:
        typed = self._typed.get(method)
        return self._waits["on_call"] if typed is None else typed.is_async

    def call(self, room: Room, peer: Peer, method: str, data: Payload | None) -> Payload:
        """The answer; None becomes JSON's null. What JSON cannot express is the plugin's failure."""
        answer = self.inline(self.mark("on_call"), self._target(method), room, peer, method, data)
        return answered(self.faults, room, answer)

    def offers(self, method: str) -> bool:
        """Whether it has such a method marked with `@call`."""
        return method in self._offers

    def _target(self, method: str) -> Hook:
        return self._typed.get(method) or self._on_call

    # Of connections, and of pages.

    async def connect(self, arrival: Arrival) -> None:
        """May it connect? Raises Refused. Asked only where `has_connect`."""
        await self._alone("on_connect", self._waits["on_connect"], self._on_connect, arrival)

    async def _alone(self, name: str, waits: bool, hook: Hook, asked: object) -> Any:
        """A hook that has no room. Raises Refused."""
        if waits:
            return await self._await(name, hook, None, (asked,), None)
        call = partial(self.inline, self.mark(name), hook, None, asked)
        if self.turns.on:
            return await self._in_turn.call(call, None, None)
        answer = call()
        await trio.lowlevel.checkpoint()
        return answer

    def disconnect(self, arrival: Arrival, code: int) -> None:
        """It has gone. Raises nothing."""
        if self._waits["on_disconnect"]:
            self.background.spawn(partial(self._on_disconnect, arrival, code))
        else:
            self._tell("on_disconnect", self._on_disconnect, None, arrival, code)

    def decisions(self, decisions: Sequence[Decision], missed: int) -> None:
        """What was decided lately, wherever. Raises nothing. Told only where `hears_decisions`."""
        self._tell("on_decisions", self._on_decisions, None, decisions, missed)

    async def serve(self, page: Page, request: WebRequest) -> WebResponse:
        """A page's answer. Raises Refused."""
        answer = await self._alone("route", page.is_async, page.handler, request)
        try:
            return as_response(answer)
        except Exception as problem:
            self.faults.raise_for("route", None, problem)

    def become(self, plugin: Plugin, loaded: LoadedPlugin) -> None:
        """Another version, made by `make`, from now on (exchange)."""
        self.plugin = plugin
        self._adopt(loaded)
        self.background.renew()
        self.faults.renewed()
        self._bind()

    async def end(self) -> None:
        """It is taken out: what it runs has ended, and no timer of it is left. Nobody calls it any more."""
        await self.background.end()
        self._forget()

    def discard(self) -> None:
        """As `end`, of one that never ran."""
        self.background.close()
        self._forget()

    def _forget(self) -> None:
        self.faults.end()
        self._watchdog.forgets(self.title)

    # In front of other plugins' rooms.

    def has_filter(self, name: str) -> bool:
        return self._filters[name][0]

    def is_async(self, name: str) -> bool:
        wanted, _ = self._filters[name]
        return wanted and (self._waits[name] or self.turns.on)

    def filter(self, name: str, room: Room, *args: Any) -> Any:
        """A synchronous filter hook. Raises Refused."""
        wanted, hook = self._filters[name]
        return self.inline(self.mark(name), hook, room, *args) if wanted else None

    async def filter_later(self, name: str, room: Room, *args: Any) -> Any:
        """A filter hook of either kind. Raises Refused."""
        wanted, hook = self._filters[name]
        if not wanted:
            return None
        if self._waits[name]:
            return await self._await(name, hook, room, args, None)
        if self.turns.on:
            return await self._in_turn.call(partial(self.filter, name), room, *args)
        return self.filter(name, room, *args)

    # How hooks are called.

    def inline(self, mark: Mark, hook: Hook, room: Room | None, *args: Any) -> Any:
        """A synchronous hook, seen by the watchdog. Raises Refused."""
        watchdog = self._watchdog
        before = watchdog.current
        watchdog.current = mark
        mark.calls += 1
        try:
            result = hook(*args) if room is None else hook(room, *args)
            if result.__class__ is CoroutineType:
                not_awaited(result)
            return result
        except Exception as problem:
            self.faults.raise_for(mark.hook, room, problem)
        finally:
            watchdog.current = before

    def _tell(self, name: str, hook: Hook, room: Room | None, *args: Any) -> None:
        """A synchronous hook that is told of what has happened: it is too late to refuse, and nobody hears of it."""
        try:
            self.inline(self.mark(name), hook, room, *args)
        except Refused:
            pass

    async def either(self, hook: str, room: Room, *args: Any, timeout: float | None = None) -> Any:
        """A hook of either kind, by one who may wait. Raises Refused."""
        if hook == "on_call":
            if self.call_waits(args[1]):
                return await self.later(hook, room, *args, timeout=timeout)
            return self.call(room, *args)
        if getattr(self, f"{hook.removeprefix('on_')}_is_async"):
            return await self.later(hook, room, *args, timeout=timeout)
        return getattr(self, hook.removeprefix("on_"))(room, *args)

    async def later(self, hook: str, room: Room, *args: Any, timeout: float | None = None) -> Any:
        """An async hook ("on_join", "on_leave", "on_message", "on_call") under a deadline; from on_call a Payload.

        `timeout` in seconds can only shorten the plugin's own; where that is 0 there is none. Raises Refused, nothing
        else.
        """
        if self.faults.off:
            await trio.lowlevel.checkpoint()
            raise self.faults.is_off()
        if hook != "on_call":
            if self._waits[hook]:
                await self._await(hook, getattr(self.plugin, hook), room, args, timeout)
            else:
                await self._in_turn.call(getattr(self, hook.removeprefix("on_")), room, *args, timeout=timeout)
            return None
        if self._call_waits(args[1]):
            return answered(self.faults, room, await self._await(hook, self._target(args[1]), room, args, timeout))
        return await self._in_turn.call(self.call, room, *args, timeout=timeout)

    async def _await(
        self, name: str, hook: Hook, room: Room | None, args: tuple[Any, ...], timeout: float | None
    ) -> Any:
        limit, setting = self.timeout or float("inf"), self.timeout_setting
        if timeout is not None and timeout < limit:
            limit, setting = timeout, ""
        return await awaited(self.faults, self.title, name, hook, room, args, limit, setting)

    def _take_turns(self) -> None:
        """Its hooks are called in their turn, or at once; timed, while it is suspected of being slow. May come from the
        watchdog's thread.
        """
        on = self.turns.on and not self.faults.off
        self.join_is_async = self._waits["on_join"] or (on and self.has_join)
        self.leave_is_async = self._waits["on_leave"] or (on and self.has_leave)
        self.message_is_async = self._waits["on_message"] or (on and self.has_message)
        self._in_turn.time_calls()

    def _refuse_all(self, *args: object) -> NoReturn:
        raise self.faults.is_off()

    def _hears_nothing(self, *args: object) -> None:
        """Nobody is kept by a plugin that is switched off."""
