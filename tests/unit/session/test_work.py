"""Work queues: in order within a channel, side by side between channels, and nothing left behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from relay.session.work import Work


class Desk:
    """Work with a nursery, and notes of what was held and done."""

    def __init__(self, nursery: trio.Nursery, capacity: int = 4) -> None:
        self.held: list[bool] = []
        self.done: list[str] = []
        self.dropped: list[str] = []
        self.tasks = 0
        self.nursery = nursery
        self.work = Work(self.spawn, capacity, self.held.append)

    def spawn(self, job: Callable[[], Awaitable[None]]) -> None:
        async def counted() -> None:
            self.tasks += 1
            try:
                await job()
            finally:
                self.tasks -= 1

        self.nursery.start_soon(counted)

    def put(self, name: str, channel: str = "default", wait: trio.Event | None = None, seconds: float = 0.0) -> None:
        async def job() -> None:
            if wait is not None:
                await wait.wait()
            await trio.sleep(seconds)
            self.done.append(name)

        self.work.put(channel, job, lambda: self.dropped.append(name))


async def test_jobs_of_a_channel_are_done_in_order_however_long_each_takes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        desk = Desk(nursery)
        for name, seconds in (("a", 3.0), ("b", 0.0), ("c", 1.0)):
            desk.put(name, seconds=seconds)
    assert desk.done == ["a", "b", "c"]
    assert trio.current_time() == 4.0


async def test_a_slow_job_delays_nothing_in_another_channel(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        desk = Desk(nursery)
        desk.put("slow", "bulk", seconds=60.0)
        desk.put("quick", "urgent")
    assert desk.done == ["quick", "slow"]


async def test_there_is_a_task_only_while_there_is_work() -> None:
    async with trio.open_nursery() as nursery:
        desk = Desk(nursery)
        assert desk.tasks == 0
        wait = trio.Event()
        desk.put("a", wait=wait)
        desk.put("b", "other", wait=wait)
        await trio.testing.wait_all_tasks_blocked()
        assert desk.tasks == 2
        wait.set()
        await trio.testing.wait_all_tasks_blocked()
        assert desk.tasks == 0
        desk.put("c")
        await trio.testing.wait_all_tasks_blocked()
        assert (desk.tasks, sorted(desk.done)) == (0, ["a", "b", "c"])


async def test_a_full_queue_holds_the_connection_until_it_is_half_empty() -> None:
    async with trio.open_nursery() as nursery:
        desk = Desk(nursery, capacity=4)
        gates = [trio.Event() for _ in range(4)]
        for number, gate in enumerate(gates[:3]):
            desk.put(str(number), wait=gate)
        assert desk.held == []
        desk.put("3", wait=gates[3])
        desk.put("one too many that was read already")
        assert desk.held == [True], "said once"
        for gate, held in zip(gates, ([True], [True], [True, False], [True, False]), strict=True):
            gate.set()
            await trio.testing.wait_all_tasks_blocked()
            assert desk.held == held
    assert len(desk.done) == 5


async def test_with_room_for_one_each_job_holds_and_lets_go() -> None:
    async with trio.open_nursery() as nursery:
        desk = Desk(nursery, capacity=1)
        desk.put("a")
        await trio.testing.wait_all_tasks_blocked()
        desk.put("b")
    assert desk.held == [True, False, True, False]


async def test_it_goes_on_only_when_no_queue_is_full_any_more() -> None:
    async with trio.open_nursery() as nursery:
        desk = Desk(nursery, capacity=2)
        one, other = trio.Event(), trio.Event()
        for _ in range(2):
            desk.put("a", "one", wait=one)
            desk.put("b", "other", wait=other)
        one.set()
        await trio.testing.wait_all_tasks_blocked()
        assert desk.held == [True]
        other.set()
        await trio.testing.wait_all_tasks_blocked()
        assert desk.held == [True, False]


async def test_a_job_may_queue_more() -> None:
    async with trio.open_nursery() as nursery:
        desk = Desk(nursery)

        async def again() -> None:
            desk.put("later")
            desk.done.append("first")

        desk.work.put("default", again)
        desk.put("second")
    assert desk.done == ["first", "second", "later"]


async def test_cancel_ends_what_runs_and_tells_what_never_began() -> None:
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            desk = Desk(nursery)
            ended: list[str] = []

            async def endless() -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    ended.append("endless")

            desk.work.put("default", endless, lambda: desk.dropped.append("endless"))
            desk.put("b")
            await trio.testing.wait_all_tasks_blocked()
            desk.put("c", "other")  # its task has not begun yet either
            desk.work.cancel()
    assert ended == ["endless"]
    assert desk.dropped == ["b", "c"]
    assert desk.done == []


async def test_a_job_may_cancel_the_work_it_is_part_of() -> None:
    async with trio.open_nursery() as nursery:
        desk = Desk(nursery)

        async def end() -> None:
            desk.work.cancel()
            desk.done.append("end")

        desk.work.put("default", end)
        desk.put("never")
    assert (desk.done, desk.dropped) == (["end"], ["never"])


async def test_after_a_cancel_new_work_is_done_again() -> None:
    async with trio.open_nursery() as nursery:
        desk = Desk(nursery)
        desk.put("a", wait=trio.Event())
        await trio.testing.wait_all_tasks_blocked()
        desk.work.cancel()
        desk.put("b")
    assert desk.done == ["b"]


@pytest.mark.parametrize("capacity", [1, 2, 64])
async def test_a_job_that_breaks_its_word_and_raises_does_not_leave_the_connection_held(capacity: int) -> None:
    problems: list[BaseException] = []

    async with trio.open_nursery() as nursery:
        desk = Desk(nursery, capacity)
        spawn = desk.spawn

        def guarded(job: Callable[[], Awaitable[None]]) -> None:
            async def guard() -> None:
                try:
                    await job()
                except ValueError as problem:
                    problems.append(problem)

            spawn(guard)

        desk.work = Work(guarded, capacity, desk.held.append)

        async def broken() -> None:
            raise ValueError("a bug")

        desk.work.put("default", broken)
        desk.put("b")
        await trio.testing.wait_all_tasks_blocked()
        desk.put("c")
    assert len(problems) == 1
    assert desk.held.count(True) == desk.held.count(False)
    assert desk.done == ["b", "c"]
    assert desk.tasks == 0
