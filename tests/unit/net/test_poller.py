"""The contract of pollers, kept by both of them, on real sockets."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
import trio.testing

from relay.net.poller import EpollPoller, Poller, TaskPoller, make_poller

MAKERS = [
    pytest.param(EpollPoller, id="epoll", marks=pytest.mark.skipif(not hasattr(select, "epoll"), reason="needs epoll")),
    pytest.param(TaskPoller, id="tasks"),
]
pytestmark = pytest.mark.parametrize("make", MAKERS)
Make = Callable[[Callable[[], float]], Any]


class Handler:
    """One end of a pair, and notes of what the poller said about it. `on_read` and `on_flush` may be replaced."""

    def __init__(self, poller: Poller, log: list[str], name: str = "a") -> None:
        self.mine, self.other = socket.socketpair()
        self.mine.setblocking(False)
        self.other.setblocking(False)
        self.poller, self.log, self.name = poller, log, name
        self.data = b""
        self.read: list[float] = []
        self.on_read: Callable[[], None] = lambda: None
        self.on_write: Callable[[], None] = lambda: None
        self.on_flush: Callable[[], None] = lambda: None
        self.told = trio.Event()
        self.removed = False

    def readable(self, now: float) -> None:
        self.log.append(f"{self.name} readable")
        self.read.append(now)
        with contextlib.suppress(BlockingIOError):
            self.data += self.mine.recv(4)
        self.on_read()
        self.told.set()

    def writable(self, now: float) -> None:
        self.log.append(f"{self.name} writable")
        self.poller.watch(self.mine.fileno(), read=True, write=False)
        self.on_write()
        self.told.set()

    def flush(self) -> None:
        self.log.append(f"{self.name} flush")
        self.on_flush()
        self.told.set()

    def touch(self) -> None:
        """As an outbox does that somebody puts something into."""
        self.poller.tick.touched.append(self)
        if not self.poller.tick.running:
            self.poller.tick.wake()

    def add(self) -> Handler:
        self.poller.add(self.mine.fileno(), self)
        return self

    def remove(self) -> None:
        if not self.removed:
            self.removed = True
            self.poller.remove(self.mine.fileno())

    def close(self) -> None:
        self.mine.close()
        self.other.close()


class Room:
    """A poller that runs, and handlers that are closed with it."""

    def __init__(self, make: Make) -> None:
        self.poller: Poller = make(trio.current_time)
        self.log: list[str] = []
        self.handlers: list[Handler] = []

    def handler(self, name: str = "a") -> Handler:
        self.handlers.append(Handler(self.poller, self.log, name))
        return self.handlers[-1].add()

    async def quiet(self) -> None:
        """Until nothing more is ready: a task that waits its turn sees all that happens at once."""
        before = -1
        while before != len(self.log):
            before = len(self.log)
            await trio.testing.wait_all_tasks_blocked(0.005)


@contextlib.asynccontextmanager
async def running(make: Make) -> AsyncIterator[Room]:
    room = Room(make)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.poller.run)
            await trio.testing.wait_all_tasks_blocked()
            yield room
            nursery.cancel_scope.cancel()
    for handler in room.handlers:
        handler.remove()
        handler.close()


async def test_what_comes_is_read_and_the_time_is_told(make: Make) -> None:
    async with running(make) as room:
        one = room.handler()
        before = trio.current_time()
        one.other.send(b"hi")
        await one.told.wait()
        assert one.data == b"hi"
        assert before <= one.read[0] <= trio.current_time()


async def test_what_is_left_is_told_again(make: Make) -> None:
    async with running(make) as room:
        one = room.handler()
        one.other.send(b"eleven byte")
        await room.quiet()
        assert one.data == b"eleven byte"
        assert room.log.count("a readable") == 3


async def test_the_other_sides_end_is_readable(make: Make) -> None:
    async with running(make) as room:
        one = room.handler()
        one.on_read = one.remove
        one.other.close()
        await one.told.wait()
        assert room.log == ["a readable"]


async def test_reading_first_then_one_flush_of_all_that_was_put(make: Make) -> None:
    async with running(make) as room:
        one = room.handler()

        def put_three_times() -> None:
            touched = room.poller.tick.touched
            if one not in touched:  # what the outbox' flag is for
                one.touch()

        one.on_read = lambda: [put_three_times() for _ in range(3)]  # type: ignore[assignment, func-returns-value]
        one.other.send(b"x")
        await room.quiet()
        assert room.log == ["a readable", "a flush"]


async def test_what_flushing_touches_is_flushed_at_once(make: Make) -> None:
    async with running(make) as room:
        one, other = room.handler("a"), room.handler("b")
        one.on_flush = other.touch
        one.on_read = one.touch
        one.other.send(b"x")
        await room.quiet()
        assert room.log == ["a readable", "a flush", "b flush"]


async def test_what_is_put_while_no_tick_runs_is_flushed_too(make: Make) -> None:
    async with running(make) as room:
        one = room.handler()
        one.touch()
        assert room.log == []
        await one.told.wait()
        assert room.log == ["a flush"]
        room.log.clear()
        one.touch()
        await room.quiet()
        assert room.log == ["a flush"]


async def test_what_was_put_before_the_poller_ran_is_flushed_when_it_does(make: Make) -> None:
    room = Room(make)
    one = room.handler()
    one.touch()
    one.other.send(b"x")
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.poller.run)
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
    assert set(room.log) == {"a flush", "a readable"}
    one.remove()
    one.close()


async def test_writable_is_told_only_to_whom_it_matters(make: Make) -> None:
    async with running(make) as room:
        one = room.handler()
        await room.quiet()
        assert room.log == []
        room.poller.watch(one.mine.fileno(), read=True, write=True)
        await one.told.wait()
        await room.quiet()
        assert room.log == ["a writable"]


async def test_who_does_not_read_is_not_told_and_hears_it_later(make: Make) -> None:
    async with running(make) as room:
        one = room.handler()
        room.poller.watch(one.mine.fileno(), read=False, write=False)
        one.other.send(b"x")
        await room.quiet()
        assert room.log == []
        room.poller.watch(one.mine.fileno(), read=True, write=False)
        await room.quiet()
        assert (room.log, one.data) == (["a readable"], b"x")


async def test_reading_may_stop_and_go_on_within_one_call(make: Make) -> None:
    async with running(make) as room:
        one = room.handler()
        fd = one.mine.fileno()

        def off_and_on() -> None:
            room.poller.watch(fd, read=False, write=False)
            room.poller.watch(fd, read=True, write=False)

        one.on_read = off_and_on
        for byte in (b"1", b"2", b"3"):
            one.other.send(byte)
            await room.quiet()
        assert one.data == b"123"


async def test_one_may_be_waited_for_in_both_directions(make: Make) -> None:
    async with running(make) as room:
        one = room.handler()
        with contextlib.suppress(BlockingIOError):
            while True:
                one.mine.send(bytes(65536))
        room.poller.watch(one.mine.fileno(), read=True, write=True)
        await room.quiet()
        assert room.log == []
        one.other.send(b"x")
        await room.quiet()
        assert room.log == ["a readable"]
        with contextlib.suppress(BlockingIOError):
            while True:
                one.other.recv(65536)
        await room.quiet()
        assert room.log == ["a readable", "a writable"]


async def test_one_may_be_removed_within_its_own_call(make: Make) -> None:
    async with running(make) as room:
        one = room.handler()

        def end() -> None:
            one.remove()
            one.mine.close()

        one.on_read = end
        one.other.send(b"x")
        await room.quiet()
        assert room.log == ["a readable"]


async def test_one_that_another_of_the_same_batch_removed_is_not_told(make: Make) -> None:
    async with running(make) as room:
        one, other = room.handler("a"), room.handler("b")
        one.on_read = other.remove
        other.on_read = one.remove
        one.other.send(b"x")
        other.other.send(b"x")
        await room.quiet()
        assert room.log in (["a readable"], ["b readable"])


async def test_one_removed_while_reading_is_not_told_that_it_is_writable(make: Make) -> None:
    async with running(make) as room:
        one = room.handler()
        room.poller.watch(one.mine.fileno(), read=True, write=True)
        one.on_read = one.on_write = one.remove
        one.other.send(b"x")
        await room.quiet()
        assert len(room.log) == 1


async def test_a_descriptor_that_is_used_again_belongs_to_its_new_handler(make: Make) -> None:
    async with running(make) as room:
        one = room.handler("a")
        fd = one.mine.fileno()
        one.remove()
        second = Handler(room.poller, room.log, "b")
        room.handlers.append(second)
        os.dup2(second.mine.fileno(), fd)
        second.mine.close()
        second.mine = socket.socket(fileno=fd)
        one.mine.detach()
        second.add()
        second.other.send(b"x")
        await room.quiet()
        assert room.log == ["b readable"]


async def test_removed_and_added_again_before_it_runs_is_waited_for_once(make: Make) -> None:
    room = Room(make)
    one = room.handler()
    room.poller.remove(one.mine.fileno())
    one.add()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.poller.run)
            one.other.send(b"x")
            await room.quiet()
            nursery.cancel_scope.cancel()
    assert room.log == ["a readable"]
    one.remove()
    one.close()


async def test_a_busy_one_does_not_starve_the_others(make: Make) -> None:
    async with running(make) as room:
        busy, quiet = room.handler("busy"), room.handler("quiet")
        busy.other.send(b"x" * 4000)
        quiet.other.send(b"x")
        await quiet.told.wait()
        assert room.log.count("busy readable") < 10


async def test_other_tasks_have_their_turn_while_everything_is_ready(make: Make) -> None:
    async with running(make) as room:
        one = room.handler()
        one.on_read = lambda: (one.other.send(b"x"), None)[1]  # always ready again
        one.other.send(b"x")
        for _ in range(50):
            await trio.lowlevel.checkpoint()
        assert 0 < len(one.read) <= 60
        one.on_read = lambda: None


async def test_many_that_are_ready_at_once_are_all_told(make: Make) -> None:
    async with running(make) as room:
        handlers = [room.handler(str(number)) for number in range(40)]
        for handler in handlers:
            handler.other.send(b"x")
        await room.quiet()
        assert all(handler.data == b"x" for handler in handlers)


@pytest.fixture
def descriptors() -> Callable[[], set[str]]:
    def count() -> set[str]:
        return set(os.listdir("/proc/self/fd"))

    return count


async def test_cancelled_it_leaves_no_descriptors_and_takes_removals_still(
    make: Make, descriptors: Callable[[], set[str]]
) -> None:
    before = descriptors()
    room = Room(make)
    one = room.handler()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.poller.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    room.poller.watch(one.mine.fileno(), read=False, write=False)
    one.remove()
    one.close()
    assert descriptors() == before
    assert not room.poller.tick.running


async def test_it_is_chosen_by_name(make: Make) -> None:
    assert type(make_poller("portable", trio.current_time)) is TaskPoller
    if hasattr(select, "epoll"):
        for name in ("auto", "epoll"):
            poller = make_poller(name, trio.current_time)
            assert type(poller) is EpollPoller
            poller._epoll.close()
