"""The outbox against a reference that is too simple to be wrong: one list per channel.

After every step the two agree on what waits, on what was dropped, and on whose turn it may be.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relay.config.schema import Channel
from relay.delivery.channels import Lane, Overflow, Priority
from tests.sizes import examples
from tests.unit.delivery.kit import LEAST, Box, message, parse

CAPACITY = 2048
CHANNELS = {
    "control": Channel(priority="strict", capacity=CAPACITY),
    "alarm": Channel(priority="urgent", capacity=CAPACITY, overflow="drop_oldest"),
    "move": Channel(priority="urgent", capacity=CAPACITY),
    "default": Channel(weight=8, capacity=CAPACITY),
    "state": Channel(weight=4, capacity=CAPACITY, overflow="latest"),
    "feed": Channel(weight=2, capacity=CAPACITY, overflow="drop_oldest"),
    "bulk": Channel(weight=1, capacity=CAPACITY, overflow="drop_newest"),
}
Item = tuple[int, int, str, str | None]  # number, size, room, key


class OutboxModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.box = Box(CHANNELS)
        self.waiting: dict[str, list[Item]] = {name: [] for name in CHANNELS}
        self.drops: Counter[tuple[str, str, str]] = Counter()
        self.overflows: list[str] = []

    def bytes(self, name: str) -> int:
        return sum(size for _, size, _, _ in self.waiting[name])

    def lane(self, name: str) -> Lane:
        return self.box.channels.lanes[self.box.channels.index(name)]

    @rule(
        name=st.sampled_from(sorted(CHANNELS)),
        size=st.one_of(st.integers(LEAST, 300), st.integers(LEAST, CAPACITY + 100)),
        room=st.sampled_from("rs"),
        key=st.sampled_from([None, None, "a", "b", "c"]),
        noted=st.booleans(),
    )
    def put(self, name: str, size: int, room: str, key: str | None, noted: bool) -> None:
        number = self.box.put(name, size, message(room, key=key) if noted else None)
        item = (number, size, room if noted else "", key if noted else None)
        queue, overflow = self.waiting[name], self.lane(name).overflow
        if overflow is Overflow.LATEST and item[3] is not None and size <= CAPACITY:
            for place, old in enumerate(queue):
                if old[2:] == item[2:]:
                    if self.bytes(name) - old[1] + size <= CAPACITY:
                        queue[place] = item
                        return
                    del queue[place]
                    break
        if self.bytes(name) + size <= CAPACITY:
            queue.append(item)
        elif overflow is Overflow.CLOSE:
            self.overflows.append(name)
        elif overflow is Overflow.DROP_NEWEST or size > CAPACITY:
            self.drops[item[2], name, "overflow"] += 1
        else:
            while self.bytes(name) + size > CAPACITY:
                self.drops[queue.pop(0)[2], name, "overflow"] += 1
            queue.append(item)

    @rule(limit=st.one_of(st.integers(1, 400), st.integers(1, 8 * CAPACITY)))
    def take(self, limit: int) -> None:
        taken = parse(self.box.outbox.take(limit))
        total = sum(size for _, size in taken)
        assert total <= limit or len(taken) == 1
        assert bool(taken) == any(self.waiting.values())
        for number, size in taken:
            name = next(name for name, queue in self.waiting.items() if queue and queue[0][:2] == (number, size))
            rank = self.lane(name).priority
            for other, queue in self.waiting.items():
                if queue and self.lane(other).priority is Priority.STRICT:
                    assert rank is Priority.STRICT, f"{name} overtook {other}"
                if queue and rank is Priority.URGENT and other == "alarm":
                    assert name == "alarm", "the first urgent lane is first"
            self.waiting[name].pop(0)
        # Nobody stops early: what is next, whichever lane it is of, does not fit.
        if any(self.waiting.values()):
            assert any(queue and total + queue[0][1] > limit for queue in self.waiting.values())

    @rule()
    def tell_the_drops(self) -> None:
        drops, self.box.outbox.drops = self.box.outbox.drops, None
        assert {where: drop.count for where, drop in (drops or {}).items()} == dict(self.drops)
        self.drops.clear()

    @rule()
    def flush(self) -> None:
        self.box.tick.flush()

    @precondition(lambda self: any(self.waiting.values()))
    @rule()
    def clear(self) -> None:
        assert self.box.outbox.clear() == sum(map(self.bytes, CHANNELS))
        self.waiting = {name: [] for name in CHANNELS}

    @invariant()
    def the_same_waits(self) -> None:
        only = self.box.outbox.only
        if only is not None:
            (name,) = (name for name in CHANNELS if self.waiting[name])
            assert [parse(only)[0][0]] == [number for number, *_ in self.waiting[name]]
            assert self.box.outbox.waiting == 1 << self.lane(name).index
            return
        for name in CHANNELS:
            lane: Any = self.box.outbox.lanes[self.box.channels.index(name)]
            expected = self.waiting[name]
            if lane is None:
                assert not expected
                continue
            assert [parse(frame)[0][0] for frame in lane.frames] == [number for number, *_ in expected]
            assert lane.bytes == self.bytes(name) <= CAPACITY
            assert bool(self.box.outbox.waiting & lane.bit) == bool(expected)
            assert len(lane.notes) == (0 if lane.plain else len(expected))
        assert [lane.name for lane in self.box.overflows] == self.overflows

    @invariant()
    def whoever_has_something_to_tell_is_touched_once(self) -> None:
        assert self.box.tick.touched.count(self.box) <= 1
        assert self.box.outbox.touched == bool(self.box.tick.touched)


OutboxModel.TestCase.settings = settings(deadline=None, max_examples=examples(120), stateful_step_count=40)
TestOutboxModel = OutboxModel.TestCase
