"""Deadlines and heartbeats, without a clock: time is a number that the test moves."""

from __future__ import annotations

import heapq
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.session.timers import Timer, Timers, Wheel

# One heap of deadlines.


def test_what_is_due_is_done_in_order_and_once() -> None:
    timers, done = Timers(), list[str]()
    timers.at(3.0, lambda: done.append("c"))
    timers.at(1.0, lambda: done.append("a"))
    timers.at(2.0, lambda: done.append("b"))
    timers.run(2.0)
    assert done == ["a", "b"]
    assert timers.next() == 3.0
    timers.run(9.0)
    timers.run(10.0)
    assert done == ["a", "b", "c"]
    assert timers.next() is None


def test_deadlines_of_one_moment_are_kept_in_the_order_they_were_set() -> None:
    timers, done = Timers(), list[int]()
    for number in range(5):
        timers.at(1.0, lambda number=number: done.append(number))  # type: ignore[misc]
    timers.run(1.0)
    assert done == [0, 1, 2, 3, 4]


def test_what_was_called_off_does_not_happen_and_is_not_waited_for() -> None:
    timers, done = Timers(), list[str]()
    first = timers.at(1.0, lambda: done.append("a"))
    timers.at(2.0, lambda: done.append("b"))
    first.cancel()
    first.cancel()
    assert timers.next() == 2.0
    timers.run(5.0)
    assert done == ["b"]


def test_a_timer_called_off_after_it_ran_is_nothing() -> None:
    timers = Timers()
    timer = timers.at(1.0, lambda: None)
    timers.run(1.0)
    timer.cancel()
    timers.at(2.0, lambda: None)
    assert timers.next() == 2.0


def test_an_action_may_set_and_call_off_others() -> None:
    timers, done = Timers(), list[str]()
    victim = timers.at(2.0, lambda: done.append("victim"))

    def act() -> None:
        victim.cancel()
        timers.at(1.5, lambda: done.append("new and due"))
        timers.at(9.0, lambda: done.append("new and not due"))

    timers.at(1.0, act)
    timers.run(3.0)
    assert done == ["new and due"]
    assert timers.next() == 9.0


def test_whoever_waits_is_told_only_when_the_next_deadline_comes_earlier() -> None:
    timers, told = Timers(), list[float | None]()
    timers.changed = lambda: told.append(timers.next())
    timers.at(5.0, lambda: None)
    timers.at(7.0, lambda: None)
    timers.at(3.0, lambda: None)
    assert told == [5.0, 3.0]


def test_called_off_deadlines_do_not_pile_up() -> None:
    timers = Timers()
    keep = [timers.at(1e9 + number, lambda: None) for number in range(10)]
    for number in range(10_000):
        timers.at(1e6 + number, lambda: None).cancel()
    assert len(timers) < 300
    assert timers.next() == 1e9
    assert keep[0].action is not None


@settings(deadline=None, max_examples=100)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("at"), st.integers(0, 50)),
            st.tuples(st.just("cancel"), st.integers(0, 30)),
            st.tuples(st.just("run"), st.integers(0, 20)),
            st.tuples(st.just("many"), st.integers(0, 50)),
        ),
        max_size=60,
    )
)
def test_timers_are_a_heap_with_things_taken_out(steps: list[tuple[str, int]]) -> None:
    timers, done, made = Timers(), list[int](), list[tuple[Timer, int]]()
    model: list[tuple[int, int]] = []
    now = number = 0

    def set_one(when: int) -> None:
        nonlocal number
        number += 1
        made.append((timers.at(when, lambda number=number: done.append(number)), number))  # type: ignore[misc]
        heapq.heappush(model, (when, number))

    def call_off(timer: Timer, which: int) -> None:
        timer.cancel()
        model[:] = [entry for entry in model if entry[1] != which]
        heapq.heapify(model)

    for what, value in steps:
        if what == "at":
            set_one(now + value)
        elif what == "cancel" and made:
            call_off(*made[value % len(made)])
        elif what == "many":
            for _ in range(70):
                set_one(now + value)
                call_off(*made[-1])
        elif what == "run":
            now += value
            expected = []
            while model and model[0][0] <= now:
                expected.append(heapq.heappop(model)[1])
            timers.run(now)
            assert done == expected
            done.clear()
        assert timers.next() == (model[0][0] if model else None)


# The wheel.


class Beaten:
    """Keeps when it was beaten and checked."""

    def __init__(self) -> None:
        self.slot = 0
        self.beats: list[float] = []
        self.checks: list[float] = []

    def beat(self, now: float) -> None:
        self.beats.append(now)

    def check(self, now: float) -> None:
        self.checks.append(now)


def turn(wheel: Wheel, seconds: float, start: float = 0.0) -> None:
    """Turns the wheel as the server does: at start + step, start + 2 steps, …"""
    for number in range(1, round(seconds / wheel.step) + 1):
        wheel.turn(start + number * wheel.step)


@pytest.mark.parametrize(("period", "timeout"), [(25.0, 20.0), (10.0, 3.0), (3.0, 1.0), (2.0, 1.0), (0.5, 0.2)])
def test_each_gets_one_beat_a_period_and_one_check_a_timeout_later(period: float, timeout: float) -> None:
    wheel, one = Wheel(period, timeout), Beaten()
    wheel.add(one)
    turn(wheel, 4 * period)
    assert one.beats == pytest.approx([period, 2 * period, 3 * period, 4 * period])
    checks = [when for when in one.checks if when > period]
    assert checks[:3] == pytest.approx([beat + checks[0] - period for beat in one.beats[:3]])
    assert timeout - wheel.step <= checks[0] - period <= timeout + wheel.step


def test_a_timeout_longer_than_the_period_is_cut_to_just_under_it() -> None:
    wheel, one = Wheel(10.0, 60.0), Beaten()
    wheel.add(one)
    turn(wheel, 20.0)
    assert (one.beats[0], next(when for when in one.checks if when > 10)) == (10.0, 19.0)


def test_the_first_beat_comes_a_whole_period_after_one_was_added_whenever_that_was() -> None:
    wheel = Wheel(5.0, 2.0)
    some = [Beaten() for _ in range(7)]
    for number, one in enumerate(some):
        wheel.add(one)
        wheel.turn(float(number + 1))
    for now in range(8, 20):
        wheel.turn(float(now))
    assert [one.beats[0] for one in some] == [number + 5.0 for number in range(7)]


def test_who_was_removed_is_left_in_peace_also_twice_and_also_if_never_added() -> None:
    wheel, one = Wheel(5.0, 2.0), Beaten()
    wheel.remove(one)
    wheel.add(one)
    wheel.remove(one)
    wheel.remove(one)
    turn(wheel, 20.0)
    assert (one.beats, one.checks) == ([], [])


def test_one_may_remove_itself_and_others_while_it_is_beaten() -> None:
    wheel = Wheel(5.0, 2.0)
    some = [Beaten() for _ in range(5)]

    def remove_all(now: float) -> None:
        for one in some:
            wheel.remove(one)

    for one in some:
        one.beat = remove_all  # type: ignore[method-assign]
        wheel.add(one)
    turn(wheel, 20.0)
    assert not any(wheel.slots)


def test_a_period_of_none_switches_the_wheel_off() -> None:
    wheel, one = Wheel(0.0, 20.0), Beaten()
    wheel.add(one)
    wheel.remove(one)
    assert wheel.slots == []


def test_those_who_came_one_by_one_are_spread_over_the_slots() -> None:
    wheel = Wheel(25.0, 20.0)
    for number in range(100):
        wheel.add(Beaten())
        if number % 4 == 3:
            wheel.turn(float(number))
    assert Counter(len(slot) for slot in wheel.slots) == {4: 25}


def test_a_period_of_years_is_no_crowd_of_slots() -> None:
    wheel, one = Wheel(1e9, 20.0), Beaten()
    assert len(wheel.slots) == Wheel.MOST
    assert wheel.step * len(wheel.slots) == pytest.approx(1e9)
    wheel.add(one)
    turn(wheel, 1e9)
    assert one.beats == pytest.approx([1e9])
