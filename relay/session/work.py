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
        self._queues: dict[str, deque[Job]] = {}
        self._scopes: set[trio.CancelScope] = set()
        self.full = False

    def put(self, channel: str, job: Job) -> None:
        """Queues a job; it must raise nothing. Never waits: at capacity `changed(True)` asks the connection to stop
        reading.
        """
        queue = self._queues.get(channel)
        if queue is None:
            queue = self._queues[channel] = deque()
            queue.append(job)
            self._spawn(lambda: self._drain(channel, queue))
        else:
            queue.append(job)
        if len(queue) >= self._capacity and not self.full:
            self.full = True
            self._changed(True)

    async def _drain(self, channel: str, queue: deque[Job]) -> None:
        scope = trio.CancelScope()
        self._scopes.add(scope)
        try:
            with scope:
                while queue:
                    await queue[0]()  # it counts as waiting until it is done
                    if not queue:  # the work was called off meanwhile
                        break
                    queue.popleft()
                    if self.full and all(len(waiting) <= self._capacity // 2 for waiting in self._queues.values()):
                        self.full = False
                        self._changed(False)
        finally:
            self._scopes.discard(scope)
            if self._queues.get(channel) is queue:
                del self._queues[channel]

    def cancel(self) -> None:
        """Ends all work; what was queued is forgotten."""
        for queue in self._queues.values():
            queue.clear()
        self._queues.clear()
        for scope in self._scopes:
            scope.cancel()
