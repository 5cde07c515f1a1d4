"""How much bulk a path may hold, on a path that is made of numbers: a rate, a round trip and a queue."""

from __future__ import annotations

from collections import deque

import pytest

from relay.net.pacing import FIRST_CAP, SEGMENT, SHORT, Path, PathInfo

STEP = 0.001
CHUNK = 4096
WIDE = 1 << 30  # a window that the kernel does not hold us to


class Wire:
    """A bottleneck of `rate` bytes a second behind a round trip of `rtt` seconds, with an endless queue."""

    def __init__(self, rate: float, rtt: float) -> None:
        self.rate, self.rtt = rate, rtt
        self.now = 1000.0
        self.acked = self.in_flight = 0
        self.queue = 0.0
        self.on_the_way: deque[tuple[float, float]] = deque()
        self.longest_queue = 0.0
        self.queued: list[float] = []

    def send(self, size: int) -> None:
        self.in_flight += size
        self.queue += size

    def step(self) -> None:
        self.now += STEP
        served = min(self.queue, self.rate * STEP)
        self.queue -= served
        self.on_the_way.append((self.now + self.rtt, served))
        while self.on_the_way and self.on_the_way[0][0] <= self.now:
            arrived = self.on_the_way.popleft()[1]
            self.acked += round(arrived)
            self.in_flight = max(0, self.in_flight - round(arrived))
        self.queued.append(self.queue / self.rate)

    def info(self) -> PathInfo:
        rtt = self.rtt + self.queue / self.rate
        return PathInfo(self.acked, self.in_flight, 0, WIDE, 0, self.rtt, rtt)


def bulk(path: Path, wire: Wire, seconds: float, *, fresh: bool = False) -> float:
    """Sends bulk as the path allows; returns the share of the bottleneck's rate that got through."""
    before, start, ask = wire.acked, wire.now, 0.0
    while wire.now - start < seconds:
        if wire.now >= ask:
            for _ in range(1000):
                room = path.room(wire.info(), wire.now, fresh=fresh)
                if room <= 0:
                    ask = wire.now + path.pause
                    break
                wire.send(min(CHUNK, max(room, 1024)))
        wire.step()
    return (wire.acked - before) / (wire.rate * seconds)


@pytest.mark.parametrize("rate", [125_000, 2_500_000])
@pytest.mark.parametrize("rtt", [0.02, 0.1])
def test_a_path_is_used_well_and_holds_no_long_queue_of_ours(rate: float, rtt: float) -> None:
    path, wire = Path(), Wire(rate, rtt)
    bulk(path, wire, 3.0)
    wire.queued.clear()
    assert bulk(path, wire, 3.0) > 0.85
    ordered = sorted(wire.queued)
    median, worst = ordered[len(ordered) // 2], ordered[-1]
    floor = 2 * (FIRST_CAP + 8192) / rate  # what it takes at least, on a path this slow
    assert median < 0.25 * rtt + floor
    assert worst < 1.0 * rtt + floor


@pytest.mark.parametrize("rtt", [0.02, 0.04, 0.1])
def test_values_that_are_replaced_while_they_wait_find_a_shorter_queue_on_a_slow_path(rtt: float) -> None:
    queues = {}
    for fresh in (False, True):
        path, wire = Path(), Wire(125_000, rtt)
        bulk(path, wire, 3.0, fresh=fresh)
        wire.queued.clear()
        assert bulk(path, wire, 3.0, fresh=fresh) > 0.85
        queues[fresh] = sum(wire.queued) / len(wire.queued)
    assert queues[True] < queues[False] - 0.015


def test_a_path_for_fresh_values_that_has_become_faster_is_found() -> None:
    path, wire = Path(), Wire(125_000, 0.05)
    bulk(path, wire, 3.0, fresh=True)
    wire.rate = 1_000_000
    bulk(path, wire, 6.0, fresh=True)
    assert bulk(path, wire, 2.0, fresh=True) > 0.8


def test_a_record_of_fresh_values_is_a_segment_or_ten_milliseconds_of_the_path() -> None:
    path, wire = Path(), Wire(125_000, 0.04)
    assert path.fresh_step == SEGMENT - 48
    bulk(path, wire, 2.0)
    assert path.fresh_step == SEGMENT - 48
    path, wire = Path(), Wire(1_000_000, 0.04)
    bulk(path, wire, 2.0)
    assert 8_000 < path.fresh_step < 12_000


def test_the_first_bytes_are_the_initial_window() -> None:
    path = Path()
    assert path.room(PathInfo(0, 0, 0, WIDE, 0, 0.05, 0.05), 1.0) == FIRST_CAP
    assert path.room(PathInfo(0, FIRST_CAP - 100, 0, WIDE, 0, 0.05, 0.05), 1.0) == 100
    assert path.room(PathInfo(0, FIRST_CAP - 100, 100, WIDE, 0, 0.05, 0.05), 1.0) == 0


def test_over_a_short_round_trip_nothing_is_held_back() -> None:
    assert Path().room(PathInfo(0, 1 << 24, 0, WIDE, 0, SHORT / 2, SHORT / 2), 1.0) > 1 << 24


def test_it_finds_a_path_that_has_become_faster() -> None:
    path, wire = Path(), Wire(250_000, 0.05)
    bulk(path, wire, 3.0)
    wire.rate = 1_000_000
    bulk(path, wire, 4.0)
    assert bulk(path, wire, 2.0) > 0.8


def test_it_finds_a_path_that_has_become_slower() -> None:
    path, wire = Path(), Wire(1_000_000, 0.05)
    bulk(path, wire, 3.0)
    wire.rate = 250_000
    bulk(path, wire, 4.0)
    wire.queued.clear()
    bulk(path, wire, 2.0)
    assert sorted(wire.queued)[len(wire.queued) // 2] < 0.2


def test_time_without_bulk_teaches_nothing_about_the_path() -> None:
    path, wire = Path(), Wire(1_000_000, 0.05)
    bulk(path, wire, 3.0)
    before = path.cap
    for _ in range(3000):
        wire.step()
    path.room(wire.info(), wire.now)
    assert path.cap >= before * 0.9


@pytest.mark.parametrize("rtt", [0.002, 0.05, 0.3, 2.0])
def test_the_pause_is_short_against_the_round_trip_and_never_none(rtt: float) -> None:
    path = Path()
    path.room(PathInfo(0, 0, 0, WIDE, 0, rtt, rtt), 1.0)
    assert 0.001 <= path.pause <= max(0.001, rtt / 4)
