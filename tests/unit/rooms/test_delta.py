"""State rooms: whatever is put, dropped, replaced or read late, a client that keeps to the rules has right values."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from relay.config.schema import Channel, default_channels
from relay.delivery.channels import Channels, Lane
from relay.delivery.outbox import Outbox
from relay.delivery.tick import Tick
from relay.model import Kind, Message, Payload
from relay.protocols.relay_v1 import RelayV1Json, RelayV1Msgpack
from relay.rooms.delta import MOST_BYTES, Delta
from relay.rooms.hub import Hub
from relay.rooms.merge_patch import applied, diff, fields_of
from relay.rooms.room import Peer, Rights, Room, RoomRule
from tests.sizes import examples
from tests.unit.delivery.kit import AtEase, payloads
from tests.unit.rooms.kit import Notes

leaves = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(0, 1) | st.sampled_from(["", "null", "x"])
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
)
objects = st.dictionaries(st.sampled_from("abc"), values, max_size=3)


def same(one: Any, other: Any) -> bool:
    """As JSON: 1 is not true, and not 1.0."""
    return msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")


@given(old=objects, new=objects)
def test_applying_a_patch_to_the_old_value_gives_the_new_one(old: dict[str, Any], new: dict[str, Any]) -> None:
    before, after = fields_of(msgspec.json.encode(old)), fields_of(msgspec.json.encode(new))
    assert before is not None
    assert after is not None
    patch = diff(before, after)
    if patch is not None:
        assert same(applied(old, msgspec.json.decode(patch)), new)
    else:
        assert b"null" in msgspec.json.encode(new)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_patches_are_applied_as_the_rfc_says(target: Any, patch: Any, result: Any) -> None:
    assert applied(target, patch) == result


def test_numbers_are_passed_on_as_they_are_written() -> None:
    old, new = fields_of(b'{"a":1.10,"b":1}'), fields_of(b'{"a":1.100000000000000000001,"b":true}')
    assert old is not None
    assert new is not None
    assert diff(old, new) == b'{"a":1.100000000000000000001,"b":true}'


# A room, and clients that read when they like.


class World:
    def __init__(self, lane: str) -> None:
        table = {
            "wait": Channel(capacity=1 << 20), "old": Channel(capacity=900, overflow="drop_oldest"),
            "new": Channel(capacity=900, overflow="drop_newest"), "state": Channel(capacity=1000, overflow="latest"),
        }  # fmt: skip
        self.channels = Channels({**default_channels(), **table})
        rule = RoomRule("test", self.channels.index(lane), delta=True)
        self.now = 1000.0
        epochs = itertools.count(1)
        self.tick = Tick(lambda: None)
        self.tick.clock = lambda: self.now
        self.hub = Hub(
            self.channels, lambda name: (rule, Notes()), clock=lambda: self.now, new_epoch=lambda: str(next(epochs))
        )
        self.room: Room = self.hub.open("r")
        self.room.holds += 1


class Listener(AtEase, ABC):
    """A peer of the hub that reads when it likes; what is dropped on the way is its channel's choice."""

    def __init__(self, world: World, protocol: Any, subject: str) -> None:
        self.world, self.protocol, self.subject, self.session = world, protocol, subject, subject
        self.outbox = Outbox(world.channels, self, world.tick)
        self.rooms: dict[str, Room] = {}
        self.rights: dict[Room, Rights] | None = None

    def send(self, room: Room, data: object, *, channel: str | None = None, key: str | None = None) -> None: ...
    def close(self, reason: object) -> None: ...
    def overflowed(self, lane: Lane, room: str) -> None: ...

    def read(self, most: int) -> None:
        """Takes at most so many bytes, but one frame at least."""
        for _, payload in payloads(self.outbox.take(most)):
            self.hear(payload)

    @abstractmethod
    def hear(self, payload: bytes) -> None:
        """A message, as it came."""


class Reader(Listener):
    """A client, as docs/rooms.md says one must be."""

    def __init__(self, world: World, protocol: Any, subject: str) -> None:
        super().__init__(world, protocol, subject)
        self.values: dict[str, tuple[Any, int]] = {}
        self.mismatches = 0
        self.patches = 0

    def hear(self, payload: bytes) -> None:
        codec = msgspec.json if isinstance(self.protocol, RelayV1Json) else msgspec.msgpack
        said: dict[str, Any] = codec.decode(payload)
        key = said.get("key")
        if key is None:
            return
        value, offset = self.values.get(key, (None, 0))
        if said["offset"] < offset:
            return
        if "patch" in said:
            self.patches += 1
            if said["base"] != offset:
                self.mismatches += 1
                return
            self.values[key] = applied(value, said["patch"]), said["offset"]
        else:
            self.values[key] = said["data"], said["offset"]


small = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 9) | st.sampled_from(["long " * 9]), max_size=4)


class StateRoom(RuleBasedStateMachine):
    """`lane` is where the room's values go."""

    lane = "state"

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.lane)
        self.readers = [
            Reader(self.world, protocol, name) for protocol, name in ((RelayV1Json(), "a"), (RelayV1Msgpack(), "b"))
        ]
        self.readers.append(Reader(self.world, self.readers[0].protocol, "c"))
        self.history: dict[str, dict[int, Any]] = {}
        self.lost: set[tuple[str, str]] = set()  # what a reader was dropped the newest value of
        for reader in self.readers:
            self.enter(reader)

    def enter(self, reader: Reader) -> None:
        peer: Any = reader
        self.world.hub.join(peer, self.world.room, may_publish=True, delta=True)
        reader.values.clear()

    @rule(
        key=st.sampled_from("kl"), value=small | st.sampled_from([[1], {"a": None}]), ttl=st.sampled_from([0, 0, 0, 5])
    )
    def put(self, key: str, value: Any, ttl: int) -> None:
        message = Message("r", Payload.of(value), None, None, key, expires=self.world.now + ttl if ttl else 0.0)
        self.world.hub.publish(self.world.room, message, None)
        self.history.setdefault(key, {})[message.offset] = value
        self.lost -= {(reader.subject, key) for reader in self.readers}
        self.note_drops()

    @rule(number=st.integers(0, 2), key=st.sampled_from("kl"), value=small)
    def put_by_a_member(self, number: int, key: str, value: Any) -> None:
        peer: Any = self.readers[number]
        message = Message("r", Payload.of(value), None, None, key)
        self.world.hub.publish(self.world.room, message, peer)
        self.history.setdefault(key, {})[message.offset] = value
        self.lost -= {(reader.subject, key) for reader in self.readers}
        self.lost.add((self.readers[number].subject, key))  # it does not hear what it said itself
        self.note_drops()

    @rule(number=st.integers(0, 2), most=st.integers(1, 600))
    def read(self, number: int, most: int) -> None:
        self.readers[number].read(most)
        self.note_drops()
        self.look(self.readers[number])

    @rule(seconds=st.integers(1, 10))
    def wait(self, seconds: int) -> None:
        self.world.now += seconds

    @rule(number=st.integers(0, 2), key=st.sampled_from([None, "k", "l"]))
    def resync(self, number: int, key: str | None) -> None:
        peer: Any = self.readers[number]
        delta = self.world.room.delta
        assert delta is not None
        delta.forget(peer, "r", key)
        for message in delta.newest(key):
            self.world.hub.resend(peer, self.world.room, message)
        self.note_drops()

    @rule(number=st.integers(0, 2))
    def leave_and_join(self, number: int) -> None:
        reader = self.readers[number]
        reader.read(1 << 30)
        peer: Any = reader
        self.world.hub.leave(peer, self.world.room)
        self.enter(reader)
        self.lost |= {(reader.subject, key) for key in self.history}

    def note_drops(self) -> None:
        for reader in self.readers:
            if reader.outbox.drops:
                reader.outbox.drops = None
                self.lost |= {(reader.subject, key) for key in self.history}

    def look(self, reader: Reader) -> None:
        """What a client has is always some value that the room had, the one of its offset; no patch ever missed."""
        assert reader.mismatches == 0
        for key, (value, offset) in reader.values.items():
            assert same(value, self.history[key][offset])

    def teardown(self) -> None:
        for reader in self.readers:
            while reader.outbox.waiting:
                reader.read(1 << 30)
            self.note_drops()
            self.look(reader)
        # Full values again, read at once: then all have all, dropped or not.
        delta = self.world.room.delta
        if delta is None:
            return
        for reader in self.readers:
            peer: Any = reader
            for key, versions in self.history.items():
                newest = max(versions)
                if (reader.subject, key) not in self.lost:
                    assert reader.values[key][1] == newest
                for message in delta.newest(key):
                    if 0 < message.expires <= self.world.now:
                        continue  # its publisher said that it is of no use any more
                    delta.forget(peer, "r", key)
                    self.world.hub.resend(peer, self.world.room, message)
                    reader.read(1 << 30)
                    assert same(reader.values[key][0], versions[newest])


TestLatest = StateRoom.TestCase


class _Waits(StateRoom):
    lane = "wait"


class _DropsOldest(StateRoom):
    lane = "old"


class _DropsNewest(StateRoom):
    lane = "new"


TestWaits, TestDropsOldest, TestDropsNewest = _Waits.TestCase, _DropsOldest.TestCase, _DropsNewest.TestCase
for case in (TestLatest, TestWaits, TestDropsOldest, TestDropsNewest):
    case.settings = settings(max_examples=examples(15, 2500), stateful_step_count=30, deadline=None)


def test_those_in_step_share_one_patch_and_who_lags_gets_one_against_what_it_has() -> None:
    world = World("wait")
    protocol = RelayV1Json()
    readers = [Reader(world, protocol, str(number)) for number in range(3)]
    peers: list[Any] = [*readers]
    for peer in peers:
        world.hub.join(peer, world.room, may_publish=True, delta=True)
    value = {"x": 1, "name": "a name that is long enough for a patch to be shorter", "y": 1}
    frames: list[bytes] = []
    for number in range(4):
        skip: Peer | None = peers[0] if number == 2 else None
        world.hub.publish(world.room, Message("r", Payload.of({**value, "x": number}), key="k"), skip)
        frames = [reader.outbox.take(1 << 20) for reader in readers]
        if number == 1:
            assert frames[0] is frames[1] is frames[2]
            said = msgspec.json.decode(frames[0][2:])
            assert (said["patch"], said["base"]) == ({"x": 1}, 1)
    assert frames[1] is frames[2]
    assert msgspec.json.decode(frames[0][2:])["base"] == 2  # it said the third value, and did not hear it
    assert msgspec.json.decode(frames[1][2:])["base"] == 3


def test_what_a_room_keeps_of_versions_is_bounded() -> None:
    delta = Delta()
    for number in range(3000):
        data = Payload(Kind.JSON, msgspec.json.encode({"a": "x" * 1000, "n": number}))
        delta.add_version(Message("r", data, key=str(number), offset=number + 1))
        assert delta.bytes <= MOST_BYTES
    assert delta.bytes == sum(version.cost for chain in delta._chains.values() for version in chain)
    delta.add_version(Message("r", Payload.of(7), key="2999", offset=9999))
    assert delta.newest("2999") == []  # no object: nothing to patch
