"""The clocks of the process, where the process itself was held up."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from relay.process.clocks import run_wheel
from relay.session.timers import Wheel

PERIOD = 20.0


class Peer:
    slot = 0

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.judged: list[float] = []

    def beat(self, now: float) -> None:
        self.asked.append(now)

    def check(self, now: float) -> None:
        self.judged.append(now)


@pytest.mark.parametrize("timeout", [1.0, 10.0, 19.0])
@pytest.mark.parametrize("begins", [3.5, 19.99, 20.5, 29.5, 40.1])
async def test_who_was_asked_has_the_time_it_was_promised_however_long_the_process_was_held_up(
    autojump_clock: MockClock, begins: float, timeout: float
) -> None:
    wheel = Wheel(PERIOD, timeout)
    peers = [Peer() for _ in range(20)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_wheel, wheel)
        for peer in peers:
            wheel.add(peer)
            await trio.sleep(1.0)
        await trio.sleep(begins)
        autojump_clock.jump(45.3)  # SIGSTOP, a snapshot of the machine: nothing ran
        resumed = trio.current_time()
        await trio.sleep(3 * PERIOD)
        nursery.cancel_scope.cancel()
    for peer in peers:
        assert not [at for at in peer.judged if resumed - 0.01 <= at < resumed + 0.5], "judged before it was heard"
        for asked in peer.asked:
            later = [at for at in peer.judged if at > asked] or [asked + PERIOD]
            assert min(later) - asked >= timeout - 0.01
            assert asked not in peer.judged
        gaps = [after - before for before, after in zip(peer.asked, peer.asked[1:], strict=False)]
        assert all(gap >= PERIOD - 0.01 for gap in gaps), "asked twice in a row"
        assert len(peer.asked) >= 3
