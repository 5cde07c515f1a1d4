"""Which connections are ready: one poller for all of them, and one flush for all that a tick brought.

A tick: wait until something is ready, let every ready connection read (a bounded amount), then let every connection
that somebody put something for write once; `afterwards`, what can wait until all of these are served, has its turn. Not
here: what is read or written. The one rule: handlers are sync and never raise; whoever puts outside a tick gets one too
(`Poller.wake`).

Two implementations behind one interface, tested by the same tests: `EpollPoller` has one `select.epoll` for all
connections and Trio waits for that one descriptor; `TaskPoller` has a task per connection, for systems without epoll.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any, Final, Protocol

import trio

from relay.delivery.tick import Tick

BATCH: Final = 512  # ready connections handled before Trio's other tasks get a turn


class Handler(Protocol):
    """A connection. None of these may raise or block."""

    def readable(self, now: float) -> None: ...
    def hung_up(self) -> None:
        """The other side has ended while nothing is read: see `Poller.watch`."""

    def writable(self, now: float) -> None: ...
    def flush(self) -> None: ...


class Flusher:
    """Flushes for those who put while no tick ran: plugins' tasks, brokers, timers."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._wake = trio.Event()
        self.tick = Tick(self._set)
        self.tick.clock = clock

    def _set(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            self.tick.flush()


class Poller(Protocol):
    """How ready connections are found."""

    tick: Tick
    afterwards: Callable[[float], bool]
    """Called with the time at the end of every tick, or soon after `ask`; True: there is more to do, so soon again."""

    def ask(self) -> None:
        """There is something for `afterwards`."""

    def add(self, fd: int, handler: Handler, *, once: bool = False) -> None:
        """Waits until it is readable. A descriptor that was added before changes hands. `once`: what has come is told
        once, and what comes then after `drained`: for those who do not read at once.
        """

    def drained(self, fd: int) -> None:
        """All that had come was read, of a descriptor that was added with `once`."""

    def watch(self, fd: int, *, read: bool, write: bool, end: bool = False) -> None:
        """Changes what is waited for. Only for descriptors that were added. `end` is for those that are not read: tell
        when the other side has ended, where the system can.
        """

    def remove(self, fd: int) -> None:
        """Must be called before the descriptor is closed. Safe within the handler's own call."""

    async def run(self) -> None:
        """Until cancelled."""


def _nothing(now: float) -> bool:
    del now
    return False


class EpollPoller:
    """Nested epoll: all connections in one epoll, which Trio's own waits for."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._flusher = Flusher(clock)
        self.tick = self._flusher.tick
        self._clock = clock
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self.afterwards = _nothing

    def ask(self) -> None:
        """It comes at the end of every tick, and who asks was called within one."""

    def add(self, fd: int, handler: Handler, *, once: bool = False) -> None:
        known = fd in self._handlers
        self._handlers[fd] = handler
        change = self._epoll.modify if known else self._epoll.register
        change(fd, select.EPOLLIN | select.EPOLLET if once else select.EPOLLIN)

    def drained(self, fd: int) -> None:
        """The edge that comes next is told by itself."""

    def watch(self, fd: int, *, read: bool, write: bool, end: bool = False) -> None:
        if not self._epoll.closed:
            waits = select.EPOLLIN if read else select.EPOLLRDHUP if end else 0
            self._epoll.modify(fd, waits | (select.EPOLLOUT if write else 0))

    def remove(self, fd: int) -> None:
        del self._handlers[fd]
        if not self._epoll.closed:  # else all ends at once, and in any order
            self._epoll.unregister(fd)

    async def run(self) -> None:
        epoll, handlers, tick = self._epoll, self._handlers, self.tick
        writable, end = select.EPOLLOUT, select.EPOLLRDHUP
        other = ~writable
        more = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flusher.run)
            try:
                while True:
                    if more:
                        await trio.lowlevel.checkpoint()
                    else:
                        await trio.lowlevel.wait_readable(epoll.fileno())
                    now = self._clock()
                    tick.running = True
                    ready = epoll.poll(0, BATCH)
                    tick.alone = len(ready) == 1
                    for fd, events in ready:
                        handler = handlers.get(fd)
                        if handler is None:  # removed by another handler of this batch
                            continue
                        if events & end:  # comes only where it was asked for
                            handler.hung_up()
                        elif events & other:  # readable, error or hang-up: reading tells which
                            handler.readable(now)
                        if events & writable and fd in handlers:
                            handler.writable(now)
                    tick.flush()
                    more = self.afterwards(now)
            finally:
                tick.running = False
                epoll.close()


class TaskPoller:
    """The portable twin: up to two tasks per connection, one waiting for each direction."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._flusher = Flusher(clock)
        self.tick = self._flusher.tick
        self._clock = clock
        self._handlers: dict[int, Handler] = {}
        self._waiting: dict[tuple[int, bool], trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._early: list[int] = []
        self._once: set[int] = set()
        self._asked = trio.Event()
        self.afterwards = _nothing

    def ask(self) -> None:
        self._asked.set()

    def add(self, fd: int, handler: Handler, *, once: bool = False) -> None:
        self._handlers[fd] = handler
        if once:
            self._once.add(fd)
        else:
            self._once.discard(fd)
        if self._nursery is None:
            self._early.append(fd)
        else:
            self.watch(fd, read=True, write=False)

    def drained(self, fd: int) -> None:
        self.watch(fd, read=True, write=False)

    def watch(self, fd: int, *, read: bool, write: bool, end: bool = False) -> None:
        del end  # it is found when reading goes on
        for wanted, is_write in ((read, False), (write, True)):
            scope = self._waiting.get((fd, is_write))
            if wanted and scope is None:
                assert self._nursery is not None
                scope = self._waiting[fd, is_write] = trio.CancelScope()
                self._nursery.start_soon(self._wait, fd, is_write, scope)
            elif not wanted and scope is not None:
                del self._waiting[fd, is_write]
                scope.cancel()

    def remove(self, fd: int) -> None:
        self.watch(fd, read=False, write=False)
        self._once.discard(fd)
        del self._handlers[fd]
        trio.lowlevel.notify_closing(fd)

    async def _wait(self, fd: int, is_write: bool, scope: trio.CancelScope) -> None:
        wait = trio.lowlevel.wait_writable if is_write else trio.lowlevel.wait_readable
        key = (fd, is_write)
        with scope:
            while self._waiting.get(key) is scope:
                try:
                    await wait(fd)
                except (trio.ClosedResourceError, OSError):
                    return
                handler = self._handlers.get(fd)
                if handler is None or self._waiting.get(key) is not scope:
                    return
                self.tick.running = self.tick.alone = True
                now = self._clock()
                if is_write:
                    handler.writable(now)
                else:
                    if fd in self._once:
                        del self._waiting[key]  # the loop ends with this
                    handler.readable(now)
                self.tick.flush()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._flusher.run)
            for fd in self._early:
                if fd in self._handlers:
                    self.watch(fd, read=True, write=False)
            self._early.clear()
            while True:
                await self._asked.wait()
                self._asked = trio.Event()
                while self.afterwards(self._clock()):
                    await trio.lowlevel.checkpoint()


def make_poller(kind: str, clock: Callable[[], float]) -> Any:
    """The poller that `server.poller` asks for: "auto", "epoll" or "portable"."""
    if kind == "epoll" or (kind == "auto" and hasattr(select, "epoll")):
        return EpollPoller(clock)
    return TaskPoller(clock)
