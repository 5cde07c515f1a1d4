"""What a plugin runs beside its hooks: its `run`, its tasks, what its timers do; all in one nursery of its own.

Not here: hooks (supervisor). The one rule: whatever fails here is the plugin's failure and ends nothing but itself.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from relay.errors import Refused
from relay.plugin.handle import is_async

if TYPE_CHECKING:
    from relay.plugin.supervisor import Supervised

FIRST_PAUSE: Final = 1.0  # seconds until a failed `run` starts again; doubles each time
LONGEST_PAUSE: Final = 60.0

Task = Callable[[], Awaitable[object]]


class Background:
    """Of one plugin. `tasks` are those that were spawned and have not ended."""

    def __init__(self, owner: Supervised) -> None:
        self.tasks = 0
        self._owner = owner
        self._nursery: trio.Nursery | None = None
        self._early: list[Task] = []  # what was spawned before there was a nursery
        self._running: trio.CancelScope | None = None
        self._renewed = trio.Event()
        self._scope = trio.CancelScope()
        self._over = trio.Event()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled, or told to `end`. Each version of the plugin has a nursery of its own."""
        owner = self._owner
        told = False
        try:
            with self._scope:
                while True:
                    self._renewed = trio.Event()
                    async with trio.open_nursery() as nursery:
                        self._nursery = nursery
                        if owner.has_run and not owner.off:
                            nursery.start_soon(self.run)
                        for task in self._early:
                            nursery.start_soon(self._guarded, task)
                        self._early.clear()
                        if not told:
                            told = True
                            task_status.started()
                        await self._renewed.wait()
                        nursery.cancel_scope.cancel()
        finally:
            self.close()

    async def end(self) -> None:
        """All of it is cancelled, and has ended. `serve` must have been started."""
        self._scope.cancel()
        await self._over.wait()

    def close(self) -> None:
        """Nothing runs any more, and nothing will."""
        self._nursery = None
        self._early.clear()
        self._over.set()
        self._owner.handle.stop_timers()

    def renew(self) -> None:
        """The plugin is another version from now on: what the old one runs is cancelled."""
        if self._nursery is not None:
            self._nursery = None
            self._running = None
            self._renewed.set()

    def switched(self) -> None:
        """The plugin was switched off or on, or is another one."""
        if self._owner.off:
            self.stop_run()
        elif self._nursery is not None and self._running is None and self._owner.has_run:
            self._nursery.start_soon(self.run)

    def stop_run(self) -> None:
        if self._running is not None:
            self._running.cancel()
            self._running = None

    def spawn(self, task: Task) -> None:
        """Starts a task of the plugin; what it raises is the plugin's failure. Of one that has ended nothing starts."""
        if self._over.is_set():
            return
        self.tasks += 1
        if self._nursery is None:
            self._early.append(task)
        else:
            self._nursery.start_soon(self._guarded, task)

    async def _guarded(self, task: Task) -> None:
        try:
            await self._judged("spawn", task)
        finally:
            self.tasks -= 1

    async def _judged(self, what: str, task: Task) -> bool:
        """Whether it ended well. Raises cancellations alone."""
        faults = self._owner.faults
        try:
            await task()
            return True
        except Exception as problem:
            faults.failed(what, None, problem)
        except BaseExceptionGroup as group:
            wrong, rest = group.split(Exception)
            if wrong is not None:
                faults.failed(what, None, wrong)
            if rest is not None:
                raise rest from None
        return False

    def timer(self, action: Callable[[], Any]) -> None:
        """A timer of the plugin is due."""
        owner = self._owner
        if owner.off:
            return
        if is_async(action):
            self.spawn(action)
            return
        try:
            owner.inline(owner.mark("timer"), action, None)
        except Refused:
            pass  # there is nobody to be told

    async def run(self, jitter: Callable[[], float] = random.random) -> None:
        """The plugin's `run`, started again 1 s after a failure, then 2, 4, … 60, less up to a half at random."""
        pause = FIRST_PAUSE
        with trio.CancelScope() as scope:
            self._running = scope
            while not self._owner.off:
                started = trio.current_time()
                if await self._judged("run", self._owner.plugin.run):
                    break
                if trio.current_time() - started > LONGEST_PAUSE:
                    pause = FIRST_PAUSE
                await trio.sleep(pause * (1 - jitter() / 2))
                pause = min(pause * 2, LONGEST_PAUSE)
        if self._running is scope and scope.cancelled_caught:
            self._running = None
