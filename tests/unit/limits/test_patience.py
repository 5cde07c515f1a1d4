"""How long is waited for whom."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from relay.limits.patience import Patience


def test_who_has_waited_too_long_is_told_once_the_longest_first() -> None:
    patience: Patience[str] = Patience()
    patience.begin("ann", 5.0)
    patience.begin("bob", 6.0)
    patience.begin("eve", 7.0)
    assert patience.next == 5.0
    assert patience.late(4.9) is None
    assert [patience.late(6.0), patience.late(6.0), patience.late(6.0)] == ["ann", "bob", None]
    assert (patience.next, len(patience)) == (7.0, 1)


def test_who_is_heard_waits_no_more_and_nothing_is_left_of_it() -> None:
    patience: Patience[str] = Patience()
    patience.begin("ann", 5.0)
    patience.end("ann")
    patience.end("ann")
    assert (patience.late(9.0), patience.next, len(patience)) == (None, math.inf, 0)


def test_who_begins_anew_comes_behind_the_others() -> None:
    patience: Patience[str] = Patience()
    patience.begin("ann", 5.0)
    patience.begin("bob", 6.0)
    patience.begin("ann", 7.0)
    assert [patience.late(9.0), patience.late(9.0), patience.late(9.0)] == ["bob", "ann", None]


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60))
def test_all_who_wait_too_long_are_told_in_order(steps: list[tuple[int, bool]]) -> None:
    patience: Patience[int] = Patience()
    model: dict[int, float] = {}
    for now, (one, begins) in enumerate(steps):
        if begins:
            patience.begin(one, now + 10.0)
            model.pop(one, None)
            model[one] = now + 10.0
        else:
            patience.end(one)
            model.pop(one, None)
        for late in [one for one, until in model.items() if until <= now]:
            assert patience.late(now) == late
            del model[late]
        assert patience.late(now) is None
        assert len(patience) == len(model)
