"""The relay as one plugin sees it: its rooms, its timers and tasks, what it may say elsewhere, its own figures.

Not here: the plugin's hooks (supervisor). The one rule: whatever a plugin starts here runs under its supervision, is
bounded, and ends with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from relay.auth.grants import PatternSet
from relay.errors import Refused
from relay.plugin.meters import Meter, Meters
from relay.rooms.hub import Hub
from relay.rooms.room import Room

if TYPE_CHECKING:
    from relay.plugin.supervisor import Supervised

THREADS: Final = 8  # of one plugin at a time: what blocks in one does not use up those of all


class Timer:
    """Something a plugin does later, or again and again. `cancel` may be called at any time."""

    __slots__ = ("_booked", "_handle", "action", "every")

    def __init__(self, handle: Handle, action: Callable[[], Any], every: float | None) -> None:
        self._handle = handle
        self.action: Callable[[], Any] | None = action
        self.every = every
        self._booked: Any = None

    def book(self, seconds: float) -> None:
        assert self._handle.schedule is not None
        self._booked = self._handle.schedule(seconds, self._due)

    def cancel(self) -> None:
        if self.action is not None:
            self.action = None
            self._booked.cancel()
            self._handle.timers.discard(self)

    def _due(self) -> None:
        action = self.action
        if action is None:
            return
        if self.every is None:
            self.action = None
            self._handle.timers.discard(self)
        else:
            self.book(self.every)  # before it runs: what it takes does not make it late
        self._handle.due(action)


class Handle:
    """`relay.plugin.api.Relay`, for one plugin."""

    def __init__(self, hub: Hub, owner: Supervised, most_tasks: int, elsewhere: PatternSet) -> None:
        self.owner: Final = owner
        self.tenant = owner.tenant
        self.schedule = owner.faults.schedule
        self.timers: set[Timer] = set()
        self.meters: Final = Meters()
        self._hub = hub
        self._most = most_tasks
        self.elsewhere = elsewhere
        self._threads: trio.CapacityLimiter | None = None

    def room(self, name: str) -> Room | None:
        return self.owner.rooms.get(name)

    def rooms(self) -> list[Room]:
        return list(self.owner.rooms.values())

    def publish(self, room: str, data: object, *, channel: str | None = None, key: str | None = None) -> None:
        found = self.owner.rooms.get(room)
        if found is None:
            owner = self._hub.router(room)
            if owner is None or (owner[1].owner is not self.owner and not self.elsewhere.matches(room)):
                setting = f"plugins.{self.owner.name}.publish"
                raise Refused("no_such_room", f"{room!r} is no room of plugin {self.owner.name}", setting=setting)
            found = self._hub.open(room)
        try:
            found.broadcast(data, channel=channel, key=key)
        finally:
            self._hub.free_if_empty(found)

    async def to_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._threads is None:
            self._threads = trio.CapacityLimiter(THREADS)
        return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=True, limiter=self._threads)

    def after(self, seconds: float, function: Callable[..., Any], *args: Any) -> Timer:
        return self._book(seconds, None, partial(function, *args))

    def due(self, action: Callable[[], Any]) -> None:
        """What a timer does. An async one needs a task; one that comes when all are taken is the plugin's failure."""
        background = self.owner.background
        if is_async(action) and background.tasks >= self._most and not self.owner.off:
            self.owner.faults.failed("timer", None, self._too_many("tasks"))
        else:
            background.timer(action)

    def every(self, seconds: float, function: Callable[..., Any], *args: Any) -> Timer:
        if not seconds >= 0.001:  # nor is what is no number
            raise ValueError("a timer may run a thousand times a second, not more often")
        return self._book(seconds, seconds, partial(function, *args))

    def _book(self, seconds: float, every: float | None, action: Callable[[], Any]) -> Timer:
        self._check_room_for_one_more("timers", len(self.timers))
        timer = Timer(self, action, every)
        self.timers.add(timer)
        timer.book(max(0.0, seconds))
        return timer

    def spawn(self, function: Callable[..., Awaitable[object]], *args: Any) -> None:
        self._check_room_for_one_more("tasks", self.owner.background.tasks)
        self.owner.background.spawn(partial(function, *args))

    def _check_room_for_one_more(self, what: str, there_are: int) -> None:
        if there_are >= self._most:
            raise self._too_many(what)

    def _too_many(self, what: str) -> RuntimeError:
        return RuntimeError(f"a plugin may have {self._most} {what} [supervision.tasks]")

    def counter(self, name: str, help: str, labels: Iterable[str] = ()) -> Meter:
        return self.meters.make("counter", name, help, tuple(labels))

    def gauge(self, name: str, help: str, labels: Iterable[str] = ()) -> Meter:
        return self.meters.make("gauge", name, help, tuple(labels))

    def stop_timers(self) -> None:
        """The plugin ends, or is another one from now on."""
        for timer in list(self.timers):
            timer.cancel()


def is_async(function: Callable[..., Any]) -> bool:
    """Whether what a timer calls must be awaited."""
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function)
