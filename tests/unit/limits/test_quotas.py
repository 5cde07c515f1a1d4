"""Quotas together: what is refused has taken nothing, and none of them lets more through than it says."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.quotas import Quota
from relay.limits.buckets import Bucket, Rate
from relay.limits.pace import QuotaPace, Shape
from relay.limits.quotas import Bound, Quotas, Rule, take


def rule(name: str = "q", **table: Any) -> Rule:
    keys = {"counts": "messages_in", "per": "room", "rate": 1.0, "burst": 3.0, **table}
    return Rule(name, msgspec.convert(keys, Quota), None)


def bound(name: str = "q", **table: Any) -> Bound:
    made = rule(name, **table)
    return made, Bucket(made.rate)


def test_the_bound_that_is_exceeded_most_is_told_and_nothing_is_taken() -> None:
    few, fewer, many = bound("few", burst=2.0), bound("fewer", burst=1.0, rate=0.5), bound("many", burst=100.0)
    bounds = (few, fewer, many)
    assert take(bounds, 10, 0.0) is None
    over = take(bounds, 10, 0.0)
    assert over is not None
    assert (over.rule.name, over.seconds) == ("fewer", pytest.approx(2.0))
    assert take((few,), 10, 0.0) is None, "what was refused for another's sake is still there"


def test_bytes_are_counted_where_the_quota_says_so() -> None:
    one = bound(counts="bytes_in", burst=100.0, rate=10.0)
    assert take((one,), 80, 0.0) is None
    over = take((one,), 30, 0.0)
    assert over is not None
    assert over.seconds == pytest.approx(1.0)
    never = take((one,), 101, 1e6)
    assert never is not None
    assert never.seconds == math.inf


def test_what_slows_takes_all_the_same_and_tells_when_it_is_paid_for() -> None:
    one = bound(at_limit="slow", burst=1.0, rate=2.0)
    assert take((one,), 1, 0.0) is None
    for expected in (0.5, 1.0, 1.5):
        over = take((one,), 1, 0.0)
        assert over is not None
        assert over.seconds == pytest.approx(expected)


def test_what_is_refused_does_not_slow_down_either() -> None:
    slow, refuse = bound("slow", at_limit="slow", burst=2.0), bound("refuse", burst=1.0)
    assert take((slow, refuse), 1, 0.0) is None
    over = take((slow, refuse), 1, 0.0)
    assert over is not None
    assert over.rule.name == "refuse"
    assert take((slow,), 1, 0.0) is None


def test_rules_are_sorted_by_where_they_are_asked_and_those_without_a_rate_are_off() -> None:
    rules = [
        rule("off", rate=0.0), rule("joins", counts="joins"), rule("calls", counts="calls", per="subject"),
        rule("paced", per="subject", at_limit="slow"), rule("each", per="address", at_limit="close"),
        rule("published", at_limit="slow"), rule("shaped", counts="bytes_out", per="connection", at_limit="slow"),
        rule("delivered", counts="messages_out", per="subject"), rule("plugin", per="subject", plugins=["chat"]),
    ]  # fmt: skip
    quotas = Quotas(rules)
    found = {
        name: [each.name for each in getattr(quotas, name)]
        for name in ("joins", "calls", "paced", "each", "published", "shaped", "delivered")
    }
    assert found == {
        "joins": ["joins"], "calls": ["calls"], "paced": ["paced"], "each": ["each"],
        "published": ["published", "plugin"], "shaped": ["shaped"], "delivered": ["delivered"],
    }  # fmt: skip
    assert (quotas.metered, quotas.early) == (True, True)
    usual = Quotas(rules[:3])
    assert (usual.metered, usual.early) == (False, False)


def test_a_reload_gives_nobody_a_new_burst_unless_the_quota_has_changed() -> None:
    old, same, other = Quotas([rule()]), Quotas([rule()]), Quotas([rule(burst=4.0)])
    old.rules[0].buckets.get("a", 0.0).take(0.0, 3.0)
    for new in (same, other):
        new.inherit(old)
    assert same.rules[0].buckets.get("a", 0.0).try_take(0.0) == pytest.approx(1.0)
    assert other.rules[0].buckets.get("a", 0.0).try_take(0.0) == 0.0


kinds = st.fixed_dictionaries(
    {
        "counts": st.sampled_from(["messages_in", "bytes_in"]),
        "rate": st.floats(0.1, 1000.0),
        "burst": st.floats(1.0, 1000.0),
        "at_limit": st.sampled_from(["refuse", "close", "slow"]),
    }
)
schedules = st.lists(st.tuples(st.floats(0.0, 20.0) | st.just(0.0), st.integers(0, 1500)), max_size=50)


@given(st.lists(kinds, min_size=1, max_size=4), schedules)
def test_no_schedule_gets_more_through_than_any_of_its_quotas_allows(
    tables: list[dict[str, Any]], schedule: list[tuple[float, int]]
) -> None:
    """In every window of time. Who is slowed down waits as long as it was told."""
    bounds = tuple(bound(str(number), **table) for number, table in enumerate(tables))
    passed: list[tuple[float, int]] = []
    now = 0.0
    for pause, size in schedule:
        now += pause
        over = take(bounds, size, now)
        if over is None or over.rule.slows:
            passed.append((now, size))
        if over is not None and over.rule.slows:
            now += over.seconds
    for each, _ in bounds:
        burst, rate = each.rate.burst, each.rate.per_second
        largest = max((size for _, size in passed), default=0) if each.by_bytes else 1
        for first in range(len(passed)):
            amount = 0
            for at, size in passed[first:]:
                amount += size if each.by_bytes else 1
                allowed = burst + rate * (at - passed[first][0])
                allowed += largest if each.slows else 0  # the one for which it then has to wait
                assert amount <= allowed + rate * 1e-5 + 1e-6 * allowed


@given(st.floats(1.0, 100.0), st.floats(1.0, 100.0), st.integers(1, 8), schedules)
def test_many_who_share_a_bucket_and_wait_as_told_keep_to_its_rate_together(
    rate: float, burst: float, spenders: int, schedule: list[tuple[float, int]]
) -> None:
    shared = bound(counts="messages_in", at_limit="slow", rate=rate, burst=burst)
    ready = [0.0] * spenders
    now = 0.0
    for total, (pause, _) in enumerate(schedule, 1):
        who = total % spenders
        now = max(now + pause, ready[who])
        over = take((shared,), 1, now)
        ready[who] = now + (over.seconds if over is not None else 0.0)
        assert total <= burst + rate * now + spenders + 1e-6 * total


def test_a_pace_with_quotas_tells_of_the_one_that_is_exceeded_most_and_counts_in_steps_no_burst_hides() -> None:
    quota = bound("of subject", per="subject", at_limit="slow", burst=4.0, rate=1.0)
    pace = QuotaPace(Rate(1000.0, 1000.0), Rate(0.0), [quota])
    assert pace.messages_step == 4
    pace.messages = 4
    assert pace.ahead(0.0) == (0.0, "limits.messages_per_second")
    assert pace.shared is None
    pace.messages = 3
    assert pace.ahead(0.0) == (pytest.approx(3.0), "quotas.of subject")
    assert pace.shared is not None
    assert pace.shared.rule is quota[0]


def test_a_shape_holds_what_is_written_to_its_rate() -> None:
    shape = Shape([bound(counts="bytes_out", per="connection", at_limit="slow", rate=1000.0, burst=500.0)])
    assert shape.step == 500
    assert shape.ahead(500, 0.0) is None
    over = shape.ahead(1500, 0.0)
    assert over is not None
    assert over.seconds == pytest.approx(1.0)
    assert shape.ahead(1500, 1.0) is None
