"""The longest recent delay of the loop: seen by a scrape every ten seconds, and forgotten after twenty."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from relay.ops.lag import WINDOW, Lag
from relay.process.clocks import LAG_EVERY, run_lag


def test_the_longest_of_a_window_is_kept_and_forgotten_after_two() -> None:
    lag = Lag()
    for second, late in enumerate([0.001, 0.3, 0.002]):
        lag.add(late, 100.0 + second)
    assert lag.longest == 0.3
    lag.add(0.005, 100.0 + WINDOW)
    assert lag.longest == 0.3
    lag.add(0.004, 100.0 + 2 * WINDOW)
    assert lag.longest == 0.005


def test_after_a_long_pause_nothing_old_is_told() -> None:
    lag = Lag()
    lag.add(0.3, 100.0)
    lag.add(0.001, 100.0 + 5 * WINDOW)
    assert lag.longest == 0.001


async def test_a_held_loop_is_measured(autojump_clock: trio.testing.MockClock) -> None:
    lag = Lag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_lag, lag)
        await trio.sleep(1.0)
        assert lag.longest == pytest.approx(0.0, abs=1e-6)
        autojump_clock.jump(LAG_EVERY + 0.4)  # as if the loop had been held so long
        await trio.sleep(LAG_EVERY / 2)
        assert 0.3 < lag.longest < 0.5 + LAG_EVERY
        nursery.cancel_scope.cancel()
