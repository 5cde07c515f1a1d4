"""A slow plugin's calls wait for each other, and others are served in between; on Trio's clock and one that is set."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from relay.plugin.turns import A_TURN, CALM, CLEARED, MOST, SURE, Turns


class Slow:
    """A plugin's calls of `seconds` each: they take no time, but the clock says so."""

    def __init__(self, seconds: float = 0.005) -> None:
        self.now = 100.0
        self.seconds = seconds
        self.said: list[str] = []
        self.changes: list[bool] = []
        self.tells = 0
        self.turns = Turns(lambda: self.now, 0.001, lambda: self.changes.append(self.turns.on), self.found)
        self.turns.begin()

    def found(self) -> None:
        self.tells += 1

    async def call(self, name: str) -> None:
        await self.turns.enter()
        self.said.append(name)
        self.now += self.seconds
        self.turns.leave()


class Sizes(trio.abc.Instrument):
    """How many calls there were in each turn of the loop."""

    def __init__(self, slow: Slow) -> None:
        self.of_turns: list[int] = []
        self._slow = slow
        self._seen = 0

    def before_io_wait(self, timeout: float) -> None:
        seen, self._seen = self._seen, len(self._slow.said)
        self.of_turns.append(self._seen - seen)


async def counted(turns: list[int]) -> None:
    """Counts the loop's turns."""
    while True:
        turns[0] += 1
        await trio.lowlevel.checkpoint()


async def test_between_two_calls_others_have_a_turn_for_each_millisecond() -> None:
    slow, others = Slow(0.005), [0]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(counted, others)
        async with trio.open_nursery() as calls:
            for number in range(20):
                calls.start_soon(slow.call, str(number))
        nursery.cancel_scope.cancel()
    assert len(slow.said) == 20
    assert others[0] >= 19 * 5


async def test_those_who_wait_are_called_in_the_order_in_which_they_came() -> None:
    slow = Slow()
    await slow.call("measured")
    slow.said = []
    async with trio.open_nursery() as nursery:
        await slow.turns.enter()
        for number in range(50):
            nursery.start_soon(slow.call, str(number))
            await trio.testing.wait_all_tasks_blocked()
        slow.now += slow.seconds
        slow.turns.leave()
    assert slow.said == [str(number) for number in range(50)]


@pytest.mark.parametrize(("seconds", "together"), [(0.005, 1), (0.02, 1), (0.001, 5), (0.0, MOST)])
async def test_short_calls_are_let_in_together_as_many_as_fit_into_a_turn(seconds: float, together: int) -> None:
    slow = Slow(seconds)
    for _ in range(100):  # until the mean is known
        await slow.call("")
    slow.said = []
    sizes = Sizes(slow)
    trio.lowlevel.add_instrument(sizes)
    async with trio.open_nursery() as nursery:
        await slow.turns.enter()
        for number in range(2 * MOST):
            nursery.start_soon(slow.call, str(number))
        await trio.testing.wait_all_tasks_blocked()
        slow.now += seconds
        slow.turns.leave()
    trio.lowlevel.remove_instrument(sizes)
    most = max(sizes.of_turns)
    assert most * max(seconds, A_TURN / MOST) <= max(A_TURN, seconds) * 1.01
    assert most >= together * 0.8


async def test_who_gives_up_while_waiting_keeps_nobody_from_its_turn() -> None:
    slow = Slow()
    await slow.call("measured")
    slow.said = []
    await slow.turns.enter()
    async with trio.open_nursery() as nursery:
        scopes = []
        for number in range(6):
            scope = trio.CancelScope()
            scopes.append(scope)

            async def call(scope: trio.CancelScope = scope, number: int = number) -> None:
                with scope:
                    await slow.call(str(number))

            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        scopes[3].cancel()
        await trio.testing.wait_all_tasks_blocked()
        slow.now += slow.seconds
        slow.turns.leave()  # lets the next one in, which gives up before it comes to run
        scopes[1].cancel()
    assert slow.said == ["2", "4", "5"]
    assert len(slow.turns) == 0
    await slow.call("free again")
    assert slow.said[-1] == "free again"


async def test_it_is_calm_when_nobody_has_waited_for_a_while_or_calls_are_short() -> None:
    slow = Slow()
    for _ in range(SURE):
        assert slow.tells == 0
        await slow.call("long")
    assert slow.tells == 1
    assert not slow.turns.calm
    slow.now += CALM + 1
    assert slow.turns.calm
    slow.turns.end()
    assert not slow.turns.cleared
    slow.turns.begin()
    slow.seconds = 0.0
    await slow.call("short")
    assert slow.turns.calm
    slow.turns.end()
    assert slow.turns.cleared, "somebody else is suspected next"
    slow.now += CLEARED
    assert not slow.turns.cleared
    assert slow.changes == [True, False, True, False]
    assert slow.tells == 1


def test_who_is_suspected_takes_turns_only_if_most_of_its_calls_are_slow() -> None:
    now, changes = [0.0], []

    def call(took: float) -> float:
        now[0] += took
        return took

    turns = Turns(lambda: now[0], 0.001, lambda: changes.append((turns.probing, turns.on)), lambda: None)
    turns.suspect()
    assert (turns.probing, turns.on) == (True, False)
    timed = turns.timed(call)
    for took in (0.0001, 0.5, 0.0001, 0.0001, 0.0001, 0.002, 0.002, 0.0001):
        assert timed(took) == took
    assert (turns.probing, turns.on, turns.cleared) == (False, False, True)
    now[0] += 3.0
    turns.suspect()
    for took in (0.0001, 0.002) * 4:
        turns.timed(call)(took)
    assert (turns.probing, turns.on, turns.cleared) == (False, True, False)
    assert changes == [(True, False), (False, False), (True, False), (False, True)]
