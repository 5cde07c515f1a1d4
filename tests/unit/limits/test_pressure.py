"""Memory: short at the mark, not short well below it, and those for whom most waits go first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.limits.pressure import CALM, LEAST, Pressure, Reading, to_shed


def test_it_begins_above_the_mark_and_ends_well_below_it() -> None:
    pressure = Pressure()
    found = []
    for used in (999, 1001, 950, 901, 900, 950, 1000, 1001):
        pressure.look([Reading(used, 1000, "limits.memory_bytes")])
        found.append(bool(pressure.setting))
    assert found == [False, True, True, True, False, False, False, True]


def test_of_two_marks_the_one_that_is_passed_further_is_named() -> None:
    pressure = Pressure()
    bytes_, share = Reading(1500, 1000, "limits.memory_bytes"), Reading(1900, 1000, "limits.memory_share")
    assert pressure.look([bytes_, share]) == share
    assert pressure.setting == "limits.memory_share"
    assert share.excess == 1900 - 1000 * CALM
    assert pressure.look([bytes_]) == bytes_
    assert pressure.look([]) is None
    assert pressure.setting == ""


@given(st.lists(st.integers(0, 4 * LEAST), max_size=50), st.integers(-LEAST, 20 * LEAST))
def test_the_largest_go_and_no_more_of_them_than_needed(sizes: list[int], excess: int) -> None:
    shed = to_shed([(size, number) for number, size in enumerate(sizes)], excess)
    gone = [sizes[number] for number in shed]
    stay = [size for number, size in enumerate(sizes) if number not in shed]
    assert all(size >= LEAST for size in gone)
    assert min(gone, default=0) >= max((size for size in stay), default=0) or not gone
    assert sum(gone[:-1]) < max(excess, 1), "the last one was not needed"
    assert sum(gone) >= excess or all(size < LEAST for size in stay), "more could have gone"
