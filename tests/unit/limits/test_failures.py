"""Bad tokens: free at first, then a wait that doubles; forgiven by a good one, by time and by a reload."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config import schema
from relay.errors import Rejected
from relay.limits.failures import MOST, Failures


def failures(**changes: float) -> Failures:
    settings = {
        "auth_failures": 3, "auth_failures_window": 60.0, "auth_backoff": 1.0, "auth_backoff_max": 10.0, **changes,
    }  # fmt: skip
    return Failures(schema.Limits(**settings))  # type: ignore[arg-type]


def wait(one: Failures, now: float, key: str = "a") -> float:
    """What the address is told to wait; 0.0: it may try."""
    try:
        one.check(key, now)
    except Rejected as problem:
        rejected = problem
    else:
        return 0.0
    told = (rejected.status, rejected.code, rejected.setting)
    assert told == (429, "too_many_failures", "limits.auth_failures")
    assert rejected.retry_after is not None
    return rejected.retry_after


def fail(one: Failures, times: int, now: float, key: str = "a") -> None:
    for _ in range(times):
        one.failed(key, now)


def test_the_first_failures_cost_nothing_and_then_each_doubles_the_wait_up_to_the_longest() -> None:
    one = failures()
    fail(one, 2, 100.0)
    assert wait(one, 100.0) == 0.0
    now, waits = 100.0, []
    for _ in range(6):
        fail(one, 1, now)
        waits.append(wait(one, now))
        now += waits[-1]
        assert wait(one, now) == 0.0
    assert waits == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_other_addresses_do_not_wait() -> None:
    one = failures()
    fail(one, 5, 0.0, "a")
    assert wait(one, 0.0, "a") > 0.0
    assert wait(one, 0.0, "b") == 0.0


def test_a_good_token_forgives_all() -> None:
    one = failures()
    fail(one, 2, 0.0)
    one.succeeded("a")
    fail(one, 2, 0.0)
    assert wait(one, 0.0) == 0.0
    assert len(one) == 1


def test_failures_further_apart_than_the_window_do_not_add_up() -> None:
    one = failures()
    for hour in range(10):
        fail(one, 2, hour * 3600.0)
        assert wait(one, hour * 3600.0) == 0.0


def test_an_address_that_kept_still_for_a_window_after_its_wait_begins_anew() -> None:
    one = failures()
    fail(one, 3, 0.0)
    fail(one, 1, 1.0)
    assert wait(one, 1.0) == 2.0
    fail(one, 3, 3.0 + 60.1)
    assert wait(one, 63.1) == pytest.approx(1.0)


def test_what_fails_while_an_address_waits_anyway_makes_nothing_worse() -> None:
    one = failures()
    fail(one, 50, 0.0)
    assert wait(one, 0.0) == 1.0


def test_zero_switches_it_off() -> None:
    one = failures(auth_failures=0)
    fail(one, 1000, 0.0)
    assert wait(one, 0.0) == 0.0
    assert len(one) == 0


def test_new_limits_forgive_all() -> None:
    one = failures()
    fail(one, 5, 0.0)
    one.adopt(schema.Limits())
    assert wait(one, 0.0) == 0.0
    assert one.waiting(0.0) == 0


def test_a_flood_from_everywhere_does_not_fill_the_memory_and_the_newest_are_remembered() -> None:
    one = failures(auth_failures=1)
    for n in range(MOST + 2000):
        one.failed(str(n), 0.0)
    assert MOST // 4 < len(one) <= MOST
    assert wait(one, 0.0, str(MOST + 1999)) > 0.0


@given(
    st.lists(
        st.tuples(st.floats(0.0, 30.0), st.sampled_from("abc"), st.sampled_from(["failed", "failed", "succeeded"])),
        max_size=60,
    )
)
def test_no_wait_is_longer_than_the_longest_and_who_waited_may_try(steps: list[tuple[float, str, str]]) -> None:
    one, now = failures(auth_failures=2), 0.0
    for pause, key, what in steps:
        now += pause
        told = wait(one, now, key)
        assert 0.0 <= told <= 10.0 + 1e-9  # what floats round
        if told:
            now += told
        assert wait(one, now + 1e-9, key) == 0.0
        getattr(one, what)(*((key, now) if what == "failed" else (key,)))
    assert len(one) <= 3


def test_who_has_no_address_never_waits() -> None:
    one = failures()
    fail(one, 100, 1.0, "")
    assert wait(one, 1.0, "") == 0.0
    assert len(one) == 0
