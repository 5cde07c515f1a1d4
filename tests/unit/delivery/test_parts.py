"""Large messages in the outbox: they leave in parts, others pass between, and what was begun is ended."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.config.schema import Channel
from relay.delivery.detour import Junction
from relay.model import Kind, Message, Payload
from relay.protocols.parts import CANCEL, Joiner, decode_part
from relay.protocols.relay_v1 import RelayV1Msgpack
from tests.unit.delivery.kit import Box, table

protocol = RelayV1Msgpack()
LANES = table(
    urgent=Channel(priority="urgent"),
    default=Channel(weight=8, capacity=60_000),
    feed=Channel(capacity=60_000, overflow="drop_oldest"),
    state=Channel(capacity=60_000, overflow="latest"),
    bulk=Channel(capacity=60_000, overflow="pause"),
    files=Channel(capacity=60_000, overflow="drop_newest"),
)


class Reader:
    """A box that puts messages, and the client that joins what comes out of it."""

    def __init__(self, part_bytes: int = 4096) -> None:
        self.box = Box(LANES)
        self.box.outbox.part_bytes = part_bytes
        self.joiner = Joiner(1 << 20, 1 << 20, 100)
        self.heard: list[Any] = []
        self.cancelled: list[int] = []
        self.largest = 0

    def put(self, channel: str, size: int, offset: int = 0, key: str | None = None, expires: float = 0.0) -> Message:
        """Its payload's first bytes are its offset."""
        payload = offset.to_bytes(4, "big") + bytes(size - 4)
        message = Message("r", Payload(Kind.BINARY, payload), key=key, offset=offset, expires=expires)
        index = self.box.channels.index(channel)
        parts = protocol.parts(message)
        assert parts is not None
        if size > 1000:
            self.box.outbox.put_parts(index, parts, message)
        else:
            self.box.outbox.put(index, protocol.message(message), message)
        return message

    def read(self, limit: int) -> bool:
        """One take. False: nothing came."""
        data = self.box.outbox.take(limit)
        came = bool(data)
        while data:
            size, head = data[1], 2
            if size == 126:
                size, head = int.from_bytes(data[2:4], "big"), 4
            payload, data = data[head : head + size], data[head + size :]
            self.largest = max(self.largest, head + size)
            if payload[:1] != b"\xc1":
                self.heard.append(offset_of(payload))
                continue
            part = decode_part(payload)
            if part.flags & CANCEL:
                self.cancelled.append(part.stream)
            whole = self.joiner.add(part, 0.0)
            if whole is not None:
                self.heard.append(int.from_bytes(whole[1][:4], "big"))
        return came

    def read_all(self, limit: int = 5000) -> list[Any]:
        while self.read(limit):
            pass
        return self.heard


def offset_of(payload: bytes) -> int:
    offset: int = msgspec.msgpack.decode(payload)["offset"]
    return offset


def test_a_large_message_leaves_in_parts_and_is_whole_at_the_other_end() -> None:
    reader = Reader(part_bytes=4096)
    reader.put("default", 50_000, 7)
    assert reader.box.outbox.size == 50_000
    assert reader.read_all() == [7]
    assert reader.largest <= 4096
    assert reader.box.outbox.size == 0


def test_urgent_messages_pass_between_two_parts() -> None:
    reader = Reader()
    reader.put("default", 50_000, 7)
    reader.read(5000)
    reader.put("urgent", 100, 1)
    reader.read(5000)
    assert reader.heard == [1]
    assert reader.read_all() == [1, 7]


def test_messages_of_one_channel_keep_their_order_large_or_small() -> None:
    reader = Reader()
    for offset, size in enumerate((100, 20_000, 100, 5000, 100), 1):
        reader.put("default", size, offset)
    assert reader.read_all() == [1, 2, 3, 4, 5]


@settings(deadline=None, max_examples=100)
@given(
    puts=st.lists(
        st.tuples(st.sampled_from(["default", "urgent", "bulk", "files"]), st.integers(4, 9000)), max_size=12
    ),
    limits=st.lists(st.integers(600, 20_000), min_size=1, max_size=6),
    part_bytes=st.integers(1000, 16384),
)
def test_everything_arrives_once_and_in_the_order_of_its_channel(
    puts: list[tuple[str, int]], limits: list[int], part_bytes: int
) -> None:
    reader = Reader(part_bytes)
    turn = 0
    for offset, (channel, size) in enumerate(puts, 1):
        reader.put(channel, size, offset)
        if offset % 3 == 0:
            reader.read(limits[turn % len(limits)])
            turn += 1
    while reader.read(limits[turn % len(limits)]):
        turn += 1
    dropped = {
        offset for drop in (reader.box.outbox.drops or {}).values() for offset in range(drop.first, drop.last + 1)
    }
    assert dropped == set(), "nothing here is more than its lane takes"
    for name in ("default", "urgent", "bulk", "files"):
        mine = [offset for offset, (channel, _) in enumerate(puts, 1) if channel == name]
        assert [offset for offset in reader.heard if offset in mine] == mine
    assert len(reader.joiner) == 0


@settings(deadline=None, max_examples=150)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(
                st.sampled_from(["feed", "state"]), st.integers(4, 40_000), st.sampled_from([None, "a", "b"]),
                st.sampled_from([0.0, 5.0]),
            ),
            st.tuples(st.just("read"), st.integers(600, 9000), st.none(), st.just(0.0)),
            st.tuples(st.just("late"), st.just(0), st.none(), st.just(0.0)),
        ),
        max_size=25,
    )
)  # fmt: skip
def test_whatever_is_dropped_or_superseded_a_stream_that_was_begun_is_ended(
    steps: list[tuple[str, int, str | None, float]],
) -> None:
    reader = Reader()
    reader.box.tick.clock = lambda: 0.0
    put: set[int] = set()
    keys: dict[tuple[str, str], list[int]] = {}
    for offset, (what, size, key, expires) in enumerate(steps, 1):
        if what == "read":
            reader.read(size)
        elif what == "late":
            reader.box.tick.clock = lambda: 9.0
        else:
            reader.put(what, size, offset, key, expires)
            put.add(offset)
            if key is not None:
                keys.setdefault((what, key), []).append(offset)
        for lane in reader.box.outbox.lanes:
            if lane is not None:
                assert lane.bytes == sum(map(len, lane.frames)) <= lane.capacity + 30 * len(reader.cancelled) + 200
                assert lane.bytes >= 0
                assert len(lane.notes) in (0, len(lane.frames))
    reader.read_all()
    assert len(reader.joiner) == 0, "a stream was begun and not ended"
    assert len(set(reader.heard)) == len(reader.heard)
    for name in ("feed", "state"):
        mine = [offset for offset in reader.heard if steps[offset - 1][0] == name and steps[offset - 1][2] is None]
        assert mine == sorted(mine)
    counted = sum(drop.count for drop in (reader.box.outbox.drops or {}).values())
    superseded = sum(len(offsets) - 1 for (name, _), offsets in keys.items() if name == "state")
    assert len(reader.heard) + counted <= len(put)
    assert len(reader.heard) + counted + superseded >= len(put), "what did not arrive was counted, or superseded"


def test_a_newer_value_cancels_an_older_one_that_is_half_sent() -> None:
    reader = Reader()
    reader.put("state", 30_000, 1, key="k")
    reader.read(5000)
    reader.put("state", 30_000, 2, key="k")
    assert reader.read_all() == [2]
    assert reader.cancelled == [0]
    assert reader.box.outbox.drops is None


def test_the_oldest_is_cancelled_when_room_is_needed_and_the_cancellation_is_not_dropped() -> None:
    reader = Reader()
    reader.put("feed", 30_000, 1)
    reader.read(5000)
    reader.put("feed", 20_000, 2)
    reader.put("feed", 59_000, 3)
    reader.put("feed", 59_500, 4)
    assert reader.read_all() == [4]
    assert reader.cancelled == [0]
    assert reader.box.outbox.drops is not None
    (drop,) = reader.box.outbox.drops.values()
    assert (drop.first, drop.last, drop.count) == (1, 3, 3)


def test_what_has_expired_is_not_sent_and_what_was_half_sent_is_cancelled() -> None:
    reader = Reader()
    reader.put("default", 30_000, 1, expires=5.0)
    reader.put("default", 100, 2, expires=5.0)
    reader.put("default", 100, 3)
    reader.put("default", 100, 4, expires=6.0)
    reader.read(5000)
    reader.box.tick.clock = lambda: 5.0
    assert reader.read_all() == [3, 4]
    assert reader.cancelled == [0]
    assert reader.box.outbox.drops is not None
    (where,) = reader.box.outbox.drops
    assert where == ("r", "default", "ttl")


def test_a_lane_that_pauses_tells_each_time_it_grows_beyond_its_capacity_and_once_when_it_has_shrunk() -> None:
    reader = Reader()
    told: list[str] = []
    reader.box.congested = lambda lane: told.append(f"+{lane.name}")  # type: ignore[method-assign]
    reader.box.relieved = lambda lane: told.append(f"-{lane.name}")  # type: ignore[method-assign]
    for offset in range(1, 8):
        reader.put("bulk", 15_000, offset)
    assert told == ["+bulk"] * 3
    assert reader.box.outbox.size == 105_000
    reader.put("bulk", 20_000, 8)
    assert reader.box.outbox.drops is not None, "twice the capacity is the end"
    while reader.box.outbox.size > 30_000:
        assert told[-1] == "+bulk"
        reader.read(5000)
    assert told[3:] == ["-bulk"]
    assert reader.read_all() == [1, 2, 3, 4, 5, 6, 7]
    assert told[3:] == ["-bulk"]


def test_a_paused_lane_whose_messages_expire_is_relieved() -> None:
    reader = Reader()
    told: list[str] = []
    reader.box.relieved = lambda lane: told.append(lane.name)  # type: ignore[method-assign]
    for offset in range(1, 6):
        reader.put("bulk", 15_000, offset, expires=5.0)
    reader.box.tick.clock = lambda: 9.0
    assert reader.read_all() == []
    assert told == ["bulk"]


@pytest.mark.parametrize("channel", ["files", "default"])
def test_a_large_message_that_does_not_fit_is_treated_as_any_other(channel: str) -> None:
    reader = Reader()
    reader.put(channel, 50_000, 1)
    reader.put(channel, 20_000, 2)
    assert reader.read_all() == [1]
    assert bool(reader.box.overflows) == (channel == "default")
    assert bool(reader.box.outbox.drops) == (channel == "files")


def test_clear_forgets_large_messages_too() -> None:
    reader = Reader()
    reader.put("default", 50_000, 1)
    reader.put("bulk", 50_000, 2)
    assert reader.box.outbox.clear() == 100_000
    assert reader.read_all() == []


@pytest.mark.parametrize("channel", ["default", "feed", "state", "bulk", "files"])
def test_what_is_half_sent_when_its_channel_moves_is_given_up_here_and_whole_there(channel: str) -> None:
    reader, other = Reader(), Reader()
    reader.put(channel, 20_000, 1)
    reader.put(channel, 100, 2)
    reader.read(5000)
    junction = Junction(reader.box.outbox)
    junction.divert(reader.box.channels.index(channel), other.box.outbox)
    assert reader.read_all() == []
    assert reader.cancelled == [0]
    assert other.read_all() == [1, 2]
    assert len(reader.joiner) == len(other.joiner) == 0


def test_a_lane_in_which_something_had_a_time_to_live_still_knows_which_is_which() -> None:
    reader = Reader()
    reader.put("default", 100, 1, expires=5.0)
    assert reader.read_all() == [1]
    reader.put("default", 100, 2)
    reader.put("default", 100, 3, expires=5.0)
    reader.put("default", 100, 4)
    reader.box.tick.clock = lambda: 9.0
    assert reader.read_all() == [1, 2, 4]
