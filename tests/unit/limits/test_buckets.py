"""Rates: never more than the burst and what time has brought."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.limits.buckets import MOST, Bucket, Buckets, Rate

rates = st.builds(Rate, st.floats(0.1, 10_000.0), st.floats(1.0, 10_000.0))
pauses = st.floats(0.0, 100.0) | st.sampled_from([0.0, 1e-9, 1e-3])
costs = st.floats(0.0, 20_000.0) | st.just(1.0)


def test_the_burst_may_be_taken_at_once_and_then_the_rate_counts() -> None:
    bucket = Bucket(Rate(10.0, 3.0))
    assert [bucket.try_take(100.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.try_take(100.0) == pytest.approx(0.1)
    assert bucket.try_take(100.05) == pytest.approx(0.05)
    assert bucket.try_take(100.1) == 0.0
    assert bucket.try_take(100.1) > 0.0


def test_take_always_takes_and_says_how_far_ahead_the_caller_is() -> None:
    bucket = Bucket(Rate(10.0, 5.0))
    assert bucket.take(0.0, 5.0) == 0.0
    assert bucket.take(0.0, 5.0) == pytest.approx(0.5)
    assert bucket.take(0.0, 5.0) == pytest.approx(1.0)
    assert bucket.take(1.0, 5.0) == pytest.approx(0.5)
    assert bucket.take(2.0, 5.0) == 0.0


def test_a_rest_never_saves_more_than_the_burst() -> None:
    bucket = Bucket(Rate(10.0, 3.0))
    bucket.take(0.0)
    assert [bucket.try_take(1e6) == 0.0 for _ in range(4)] == [True, True, True, False]


def test_a_rate_of_zero_is_unlimited() -> None:
    bucket = Bucket(Rate(0.0, 5.0))
    assert all(bucket.try_take(0.0, 1e9) == 0.0 == bucket.take(0.0, 1e9) for _ in range(100))
    assert bucket.is_full(0.0)


def test_a_burst_of_zero_is_what_a_second_brings() -> None:
    assert Rate(50.0).burst == 50.0
    assert Rate(0.5).burst == 1.0


def test_what_costs_more_than_the_burst_is_never_there() -> None:
    bucket = Bucket(Rate(10.0, 5.0))
    assert bucket.try_take(0.0, 5.1) == math.inf
    assert bucket.try_take(0.0, 5.0) == 0.0


@pytest.mark.parametrize(
    ("per_second", "burst"), [(-1.0, 1.0), (1.0, -1.0), (math.inf, 1.0), (math.nan, 1.0), (1.0, math.inf)]
)
def test_a_rate_that_is_none_is_refused(per_second: float, burst: float) -> None:
    with pytest.raises(ValueError, match="not a rate"):
        Rate(per_second, burst)


def test_a_bucket_is_full_again_when_all_is_paid_for() -> None:
    bucket = Bucket(Rate(10.0, 5.0))
    assert bucket.is_full(0.0)
    bucket.take(0.0, 2.0)
    assert not bucket.is_full(0.1)
    assert bucket.is_full(0.2)


@given(rates, st.floats(0.0, 1e6), st.lists(st.tuples(pauses, costs), max_size=50))
def test_no_schedule_takes_more_than_burst_and_rate_allow(
    rate: Rate, start: float, steps: list[tuple[float, float]]
) -> None:
    """In every window of time, not only from the start."""
    bucket = Bucket(rate)
    now = start
    taken: list[tuple[float, float]] = []
    for pause, cost in steps:
        now += pause
        if bucket.try_take(now, cost) == 0.0:
            taken.append((now, cost))
    for first in range(len(taken)):
        amount = 0.0
        for at, cost in taken[first:]:
            amount += cost
            allowed = rate.burst + rate.per_second * (at - taken[first][0])
            # A millionth of a second of slack, and what floats round at each step.
            assert amount <= allowed + rate.per_second * 1e-5 + 1e-6 * allowed


@given(rates, st.floats(0.0, 1e6), st.lists(costs, min_size=1, max_size=50))
def test_who_waits_as_long_as_told_is_let_through(rate: Rate, now: float, steps: list[float]) -> None:
    bucket = Bucket(rate)
    for cost in steps:
        wait = bucket.try_take(now, cost)
        assert (wait == math.inf) == (cost > rate.burst) or wait == 0.0
        if 0.0 < wait < math.inf:
            now += wait
            assert bucket.try_take(now, cost) == 0.0


@given(rates, st.lists(costs, min_size=1, max_size=50))
def test_who_is_slowed_down_as_told_keeps_to_the_rate(rate: Rate, steps: list[float]) -> None:
    bucket = Bucket(rate)
    now, total = 0.0, 0.0
    for cost in steps:
        now += bucket.take(now, cost)
        total += cost
        assert total <= (rate.burst + rate.per_second * now) * (1 + 1e-9) + rate.per_second * 1e-4


def test_a_key_has_one_bucket_however_many_hold_it_and_whatever_is_forgotten() -> None:
    table = Buckets(Rate(1.0, 10.0))
    held = table.hold("a", 0.0)
    table.prune(0.0)  # it is full: it need not be kept
    assert len(table) == 0
    assert table.hold("a", 0.0) is held
    assert table.get("a", 0.0) is held


def test_who_leaves_and_comes_back_finds_what_was_spent() -> None:
    table = Buckets(Rate(1.0, 10.0))
    bucket = table.hold("a", 0.0)
    table.prune(0.0)
    bucket.take(0.0, 10.0)
    table.let_go("a", bucket, 0.0)
    del bucket
    assert table.hold("a", 1.0).try_take(1.0, 2.0) == pytest.approx(1.0)


def test_what_is_full_again_is_forgotten() -> None:
    table = Buckets(Rate(1.0, 10.0))
    for n in range(100):
        bucket = table.hold(str(n), 0.0)
        bucket.take(0.0, 5.0)
        table.let_go(str(n), bucket, 0.0)
    del bucket
    table.prune(4.0)
    assert len(table) == 100
    table.prune(5.0)
    assert len(table) == len(table._held) == 0


def test_a_flood_of_keys_costs_the_older_half() -> None:
    table = Buckets(Rate(1.0, 10.0))
    for n in range(MOST + 2000):
        table.get(str(n), 0.0).take(0.0, 5.0)
        assert len(table) <= MOST
    assert len(table) > MOST // 4
    assert table.get(str(MOST + 1999), 0.0).try_take(0.0, 6.0) > 0.0


@given(
    rates,
    st.lists(st.tuples(pauses, st.integers(0, 6), costs, st.sampled_from(["take", "hold", "let go", "prune"]))),
)
def test_no_key_gets_more_than_its_rate_from_a_table_that_forgets(
    rate: Rate, steps: list[tuple[float, int, float, str]]
) -> None:
    """Whoever comes and goes, and whatever is pruned between: in every window, each key keeps to burst and rate."""
    table, now = Buckets(rate), 0.0
    held: dict[str, Bucket] = {}
    taken: dict[str, list[tuple[float, float]]] = {}
    for pause, number, cost, what in steps:
        now += pause
        key = str(number)
        if what == "hold":
            held[key] = table.hold(key, now)
        elif what == "let go" and key in held:
            table.let_go(key, held.pop(key), now)
        elif what == "prune":
            table.prune(now)
        elif (held.get(key) or table.get(key, now)).try_take(now, cost) == 0.0:
            taken.setdefault(key, []).append((now, cost))
        assert len(table) <= 7
    for moments in taken.values():
        for first in range(len(moments)):
            amount = 0.0
            for at, cost in moments[first:]:
                amount += cost
                allowed = rate.burst + rate.per_second * (at - moments[first][0])
                assert amount <= allowed + rate.per_second * 1e-5 + 1e-6 * allowed
