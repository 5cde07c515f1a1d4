"""What the outbox promises, whatever happens: every policy, ttl, keys, parts, a second socket that comes and goes.

Nothing is lost unless a policy says so, and then it is counted; order holds inside a channel of a room; what waits
stays within its bounds; what was begun in parts is whole in the end, or was given up.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relay.config.schema import Channel
from relay.delivery.channels import Overflow
from relay.delivery.detour import Junction
from relay.delivery.outbox import QUANTUM, ROUND
from relay.delivery.waiting import Cancellation
from relay.model import Kind, Message, Payload
from relay.protocols.parts import Joiner, decode_part, is_part
from relay.protocols.relay_v1 import RelayV1Msgpack
from tests.sizes import examples
from tests.unit.delivery.kit import Box, payloads

CAPACITY = 6000
LARGE = 1000  # bytes: from here on in parts
CHANNELS = {
    "control": Channel(priority="strict", capacity=CAPACITY),
    "urgent": Channel(priority="urgent", capacity=CAPACITY),
    "default": Channel(weight=8, capacity=CAPACITY),
    "state": Channel(weight=4, capacity=CAPACITY, overflow="latest"),
    "feed": Channel(weight=2, capacity=CAPACITY, overflow="drop_oldest"),
    "files": Channel(weight=2, capacity=CAPACITY, overflow="drop_newest"),
    "bulk": Channel(weight=1, capacity=CAPACITY, overflow="pause"),
}
MOVABLE = sorted(CHANNELS.keys() - {"control"})
protocol = RelayV1Msgpack()


class Socket:
    """An outbox, and the client at the other end of its socket. `heard` is the client's, whichever socket it was."""

    def __init__(self, heard: list[int], clock: Any) -> None:
        self.box = Box(CHANNELS)
        self.box.tick.clock = clock
        self.outbox = self.box.outbox
        self.outbox.part_bytes = LARGE
        self.joiner = Joiner(1 << 20, 1 << 20, 100)
        self.heard = heard

    def read(self, limit: int) -> bool:
        """One take; False: nothing came."""
        return self.came(self.outbox.take(limit), limit)

    def came(self, data: bytes, limit: int) -> bool:
        """What comes is whole frames within the limit, or one that is larger."""
        frames = [payload for _, payload in payloads(data)]
        assert len(data) <= limit or len(frames) == 1
        for payload in frames:
            if not is_part(payload):
                said = msgspec.msgpack.decode(payload)
                self.hear(said["offset"], said["data"])
                continue
            whole = self.joiner.add(decode_part(payload), 0.0)
            if whole is not None:
                self.hear(msgspec.msgpack.decode(whole[0])["offset"], whole[1])
        return bool(frames)

    def hear(self, offset: int, data: bytes) -> None:
        assert data == pattern(offset, len(data)), "the bytes of one message, in their order"
        self.heard.append(offset)


def pattern(offset: int, size: int) -> bytes:
    return (offset.to_bytes(4, "big") * (size // 4 + 1))[:size]


class Promises(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.heard: list[int] = []
        self.said: dict[int, tuple[str, Message]] = {}
        self.first = self.socket()
        self.junction: Junction | None = None
        self.second: Socket | None = None
        self.moved: list[int] = []
        self.over: list[Socket] = []

    def socket(self) -> Socket:
        return Socket(self.heard, lambda: self.now)

    @property
    def sockets(self) -> list[Socket]:
        return [self.first, *([] if self.second is None else [self.second])]

    @rule(
        channel=st.sampled_from(sorted(CHANNELS)),
        size=st.one_of(st.integers(4, 200), st.integers(LARGE, 4500)),
        key=st.sampled_from([None, "a", "b", "c"]),
        room=st.sampled_from("rs"),
        ttl=st.sampled_from([0.0, 0.0, 3.0]),
    )
    def put(self, channel: str, size: int, key: str | None, room: str, ttl: float) -> None:
        offset = len(self.said) + 1
        data = Payload(Kind.BINARY, pattern(offset, size))
        expires = self.now + ttl if ttl else 0.0
        message = Message(room, data, "ann", channel, key, offset=offset, expires=expires)
        self.said[offset] = channel, message
        outbox = self.junction or self.first.outbox
        index = self.first.box.channels.index(channel)
        if size < LARGE:
            outbox.put(index, protocol.message(message), message)
        else:
            parts = protocol.parts(message)
            assert parts is not None
            outbox.put_parts(index, parts, message)

    @rule(limit=st.integers(600, 5000))
    def read_the_first(self, limit: int) -> None:
        self.first.read(limit)

    @precondition(lambda self: self.second is not None)
    @rule(limit=st.integers(600, 5000))
    def read_the_second(self, limit: int) -> None:
        assert self.second is not None
        self.second.read(limit)

    @rule(limit=st.integers(100, 2000))
    def read_what_is_urgent(self, limit: int) -> None:
        """What the writer does while bulk must wait."""
        self.first.came(self.first.outbox.take_urgent(limit), limit)

    @rule(seconds=st.floats(0.5, 4.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.second is None)
    @rule(channels=st.sets(st.sampled_from(MOVABLE), min_size=1))
    def open_a_second_socket(self, channels: set[str]) -> None:
        self.second = self.socket()
        self.moved = [self.first.box.channels.index(name) for name in sorted(channels)]
        self.junction = self.junction or Junction(self.first.outbox)
        for index in self.moved:
            self.junction.divert(index, self.second.outbox)

    @precondition(lambda self: self.second is not None)
    @rule(in_order=st.booleans())
    def the_second_ends(self, in_order: bool) -> None:
        assert self.second is not None
        assert self.junction is not None
        for index in self.moved:
            self.junction.restore(index, self.second.outbox)
        self.junction = None
        while in_order and self.second.read(4000):
            pass
        if in_order:
            assert len(self.second.joiner) == 0, "it ended with something begun"
        self.over.append(self.second)
        self.second = None

    @invariant()
    def what_waits_is_within_its_bounds_and_known(self) -> None:
        for socket in self.sockets:
            box = socket.outbox
            if box.only is not None:
                continue
            for lane in filter(None, box.lanes):
                assert lane.bytes == sum(map(len, lane.frames))
                ends = sum(len(one) for one in lane.frames if type(one) is Cancellation)
                assert lane.bytes - ends <= CAPACITY * (2 if lane.lane.overflow is Overflow.PAUSE else 1)
                assert bool(lane.frames) == bool(box.waiting & lane.bit)
                if not lane.plain:
                    assert len(lane.notes) == len(lane.frames)
                    assert lane.timed == sum(note is not None and note.expires > 0 for note in lane.notes)
                if lane.places is not None:
                    keyed = {
                        (note.room, note.key): place
                        for place, note in enumerate(lane.notes)
                        if note is not None and note.key is not None
                    }
                    for (room, key), place in keyed.items():
                        assert lane.places[room, key] - lane.first == place

    @invariant()
    def order_holds_inside_a_channel_of_a_room(self) -> None:
        assert len(set(self.heard)) == len(self.heard), "something came twice"
        last: dict[tuple[str, str, str | None], int] = {}
        for offset in self.heard:
            channel, message = self.said[offset]
            where = channel, message.room, message.key if channel == "state" else None
            assert last.get(where, 0) < offset, f"{offset} came late in {where}"
            last[where] = offset

    def teardown(self) -> None:
        for socket in self.sockets:
            while socket.read(4000):
                pass
            assert len(socket.joiner) == 0, "a stream was begun and not ended"
        self.order_holds_inside_a_channel_of_a_room()
        everybody = [*self.sockets, *self.over]
        dropped: Counter[tuple[str, str]] = Counter()
        for socket in everybody:
            for (room, channel, _), drop in (socket.outbox.drops or {}).items():
                dropped[room, channel] += drop.count
                assert all(offset in self.said for offset in (drop.first, drop.last))
        refused: Counter[str] = Counter(lane.name for socket in everybody for lane in socket.box.overflows)
        newest: dict[tuple[str, str | None], int] = {}
        for offset, (channel, message) in self.said.items():
            if channel == "state" and message.key is not None:
                newest[message.room, message.key] = offset
        for channel in CHANNELS:
            for room in "rs":
                unheard = [
                    offset
                    for offset, (name, message) in self.said.items()
                    if (name, message.room) == (channel, room) and offset not in self.heard
                ]
                if channel != "state":
                    unheard = unheard[dropped[room, channel] :]
                    refused[channel] -= len(unheard)
                    continue
                superseded = [
                    offset
                    for offset in unheard
                    if (key := self.said[offset][1].key) is not None and newest[room, key] != offset
                ]
                assert len(unheard) - len(superseded) <= dropped[room, channel] <= len(unheard)
        assert all(count == 0 for count in refused.values()), refused


Promises.TestCase.settings = settings(deadline=None, max_examples=examples(150), stateful_step_count=40)
TestPromises = Promises.TestCase


@settings(deadline=None, max_examples=examples(10, 1000))
@given(
    sizes=st.lists(st.integers(LARGE, 3000), min_size=5, max_size=5),
    limit=st.integers(1800, 3000),
    share=st.sampled_from([0.5, 0.8]),
)
def test_no_fair_lane_starves_beside_urgent_and_large_messages_in_parts(
    sizes: list[int], limit: int, share: float
) -> None:
    box = Box(CHANNELS, share)
    box.outbox.part_bytes = LARGE
    names = ["urgent", "default", "state", "feed", "bulk"]
    moved: Counter[str] = Counter()
    messages = {
        name: Message("r", Payload(Kind.BINARY, bytes(size)), name) for name, size in zip(names, sizes, strict=True)
    }
    parts = {name: protocol.parts(message) for name, message in messages.items()}
    for _ in range(500):
        for name, message in messages.items():
            lane = box.outbox.lanes[box.channels.index(name)]
            waiting = 0 if lane is None else lane.bytes
            while waiting < CAPACITY // 2:  # whatever is taken at once, nobody runs out
                cut = parts[name]
                assert cut is not None
                box.outbox.put_parts(box.channels.index(name), cut, message)
                waiting += len(message.data)
        before = {lane.lane.name: lane.bytes for lane in box.outbox.lanes if lane is not None}
        box.outbox.take(limit)
        for lane in filter(None, box.outbox.lanes):
            moved[lane.lane.name] += before[lane.lane.name] - lane.bytes
    fair = sum(moved.values()) - moved["urgent"]
    assert fair >= (1 - share) * (sum(moved.values()) - ROUND) * 0.7, moved
    weights = {name: CHANNELS[name].weight for name in names[1:]}
    for name, weight in weights.items():
        assert moved[name] >= fair * weight / sum(weights.values()) * 0.5 - CAPACITY - weight * QUANTUM, moved
