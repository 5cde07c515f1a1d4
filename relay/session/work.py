"""A connection's work queues: what asynchronous hooks of plugins have to do for it, in order, channel by channel.

Not here: hooks, sockets. The one rule: a slow hook delays only what stands behind it in its own channel of its own
connection. A queue has a task only while it has work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

Job: TypeAlias = Callable[[], Awaitable[None]]
Entry: TypeAlias = tuple[Job, Callable[[], None] | None]
"""A job, and what is called in its place when it is called off before it has begun."""
Spawn: TypeAlias = Callable[[Callable[[], Awaitable[None]]], None]
"""Starts a task in the server's nursery for work."""


class Work:
    """The queues of one connection. `spawn` is handed in; `changed` is told when a queue becomes full or has room
    again.
    """

    __slots__ = ("_capacity", "_changed", "_queues", "_scopes", "_spawn", "full")

    def __init__(self, spawn: Spawn, capacity: int, changed: Callable[[bool], None]) -> None:
        self._spawn = spawn
        self._capacity = capacity
        self._changed = changed
        self._queues: dict[str, deque[Entry]] = {}
        self._scopes: set[trio.CancelScope] = set()
        self.full = False

    def put(self, channel: str, job: Job, dropped: Callable[[], None] | None = None) -> None:
        """Queues a job; it must raise nothing. Never waits: at capacity `changed(True)` asks the connection to stop
        reading. `dropped` is called in place of a job that is called off before it has begun.
        """
        queue = self._queues.get(channel)
        if queue is None:
            queue = self._queues[channel] = deque()
            queue.append((job, dropped))
            self._spawn(lambda: self._drain(channel, queue))
        else:
            queue.append((job, dropped))
        if len(queue) >= self._capacity and not self.full:
            self.full = True
            self._changed(True)

    async def _drain(self, channel: str, queue: deque[Entry]) -> None:
        scope = trio.CancelScope()
        self._scopes.add(scope)
        broken = False
        try:
            with scope:
                while queue:
                    job = queue[0][0]
                    queue[0] = job, None  # from now on it cleans up after itself
                    try:
                        await job()
                    finally:
                        self._done(queue)  # it counts as waiting until it is done
        except Exception:  # it broke its word; what stands behind it shall not suffer
            broken = True
            raise
        finally:
            self._scopes.discard(scope)
            if queue and broken:
                self._spawn(lambda: self._drain(channel, queue))
            elif self._queues.get(channel) is queue:
                del self._queues[channel]

    def _done(self, queue: deque[Entry]) -> None:
        if queue:  # else the work was called off meanwhile
            queue.popleft()
        if self.full and all(len(waiting) <= self._capacity // 2 for waiting in self._queues.values()):
            self.full = False
            self._changed(False)

    def cancel(self) -> None:
        """Ends all work; what was queued is forgotten."""
        queues = list(self._queues.values())
        self._queues.clear()
        for scope in self._scopes:
            scope.cancel()
        for queue in queues:
            dropped = [called_off for _, called_off in queue if called_off is not None]
            queue.clear()
            for called_off in dropped:
                called_off()
