"""Values out of patches: right whatever is lost, shed or let go of, and bounded. Against the relay's own rooms."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from trio.testing import MockClock

from relay.client import Gap, Left, Message, Renamed, connect
from relay.client.codec import Codec, understood
from relay.client.values import EVERY, FIRST_PAUSE, MOST_WANTED, OVERHEAD, TOGETHER, Values
from relay.delivery.outbox import Outbox
from relay.model import Message as Published
from relay.model import Payload
from relay.protocols.relay_v1 import RelayV1Json, RelayV1Msgpack
from tests.unit.client.server import Peer, relay_v1, wired
from tests.unit.rooms.test_delta import Listener, World, same, small

PLENTY = 1 << 20
TYPING = {"a": "typing", "b": "a text that is long enough for a patch to be shorter"}


class Reader(Listener):
    """A peer of the relay's hub whose other end is what the client has. `told` are messages and gaps, in order."""

    def __init__(self, world: World, codec: Codec, subject: str, most: int) -> None:
        super().__init__(world, RelayV1Json() if codec == "json" else RelayV1Msgpack(), subject)
        self.codec = codec
        self.values = Values(codec, most)
        self.most = most
        self.told: list[Message | Gap] = []
        self.lossy = False

    def read(self, most: int) -> None:
        super().read(most)
        assert self.values.kept_bytes <= self.most

    def hear(self, payload: bytes) -> None:
        message = understood(self.codec, payload)
        assert isinstance(message, Message)
        self.told += self.values.take(message, self.world.now)

    def resync(self) -> bool:
        """Asks the relay for what is due. False: nothing is."""
        peer: Any = self
        delta = self.world.room.delta
        assert delta is not None
        wanted = self.values.due(self.world.now)
        for _, key in wanted:
            delta.forget(peer, "r", key)
            for message in delta.newest(key):
                self.world.hub.resend(peer, self.world.room, message)
        return bool(wanted)


class Client(RuleBasedStateMachine):
    """`lane` is where the room's values go."""

    lane = "state"

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.lane)
        self.readers = [
            Reader(self.world, "json", "a", PLENTY),
            Reader(self.world, "msgpack", "b", PLENTY),
            Reader(self.world, "json", "c", 2 * OVERHEAD),  # keeps one small value, and hardly that
        ]
        self.history: dict[str, dict[int, Any]] = {}
        for reader in self.readers:
            self.enter(reader)

    def enter(self, reader: Reader) -> None:
        peer: Any = reader
        self.world.hub.join(peer, self.world.room, may_publish=True, delta=True)
        reader.values.joined("r")
        reader.told.clear()

    @rule(key=st.sampled_from("kl"), value=small | st.sampled_from([[1], {"a": None}, {"a": {"b": 1, "c": "x"}}]))
    def put(self, key: str, value: Any) -> None:
        message = Published("r", Payload.of(value), None, None, key)
        self.world.hub.publish(self.world.room, message, None)
        self.history.setdefault(key, {})[message.offset] = value
        self.note_drops()

    @rule(number=st.integers(0, 2), key=st.sampled_from("kl"), value=small)
    def put_by_a_member(self, number: int, key: str, value: Any) -> None:
        peer: Any = self.readers[number]
        message = Published("r", Payload.of(value), None, None, key)
        self.world.hub.publish(self.world.room, message, peer)
        self.history.setdefault(key, {})[message.offset] = value
        self.note_drops()

    @rule(key=st.sampled_from("kl"))
    def tell_what_is_of_the_moment(self, key: str) -> None:
        """It has no number, and is no value of the room."""
        self.world.hub.tell(self.world.room, Published("r", Payload.of(TYPING), None, None, key))
        self.note_drops()

    @rule(number=st.integers(0, 2), most=st.integers(1, 600))
    def read(self, number: int, most: int) -> None:
        self.readers[number].read(most)
        self.note_drops()
        self.look(self.readers[number])

    @rule(number=st.integers(0, 2), most=st.integers(1, 600))
    def lose(self, number: int, most: int) -> None:
        """What the relay believes to be sent does not arrive, and nobody knows."""
        self.readers[number].outbox.take(most)
        self.note_drops()

    @rule(number=st.integers(0, 2))
    def go_on_by_another_socket(self, number: int) -> None:
        """What was on its way is gone, and the client is told that not all is recovered."""
        reader = self.readers[number]
        reader.outbox = Outbox(self.world.channels, reader, self.world.tick)
        peer: Any = reader
        self.world.hub.rewire(peer)
        reader.values.lost("r", self.world.now)

    @rule(number=st.integers(0, 2))
    def ask(self, number: int) -> None:
        self.readers[number].resync()
        self.note_drops()

    @rule(seconds=st.sampled_from([0.1, 1.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(number=st.integers(0, 2))
    def leave_and_join(self, number: int) -> None:
        reader = self.readers[number]
        reader.read(1 << 30)
        peer: Any = reader
        self.world.hub.leave(peer, self.world.room)
        self.enter(reader)

    def note_drops(self) -> None:
        for reader in self.readers:
            if reader.outbox.drops:  # told as a gap
                reader.outbox.drops = None
                reader.values.lost("r", self.world.now)

    def look(self, reader: Reader) -> None:
        """What the program is told is what the room had by that offset, and never an older one behind a newer one."""
        newest: dict[str, int] = {}
        for told in reader.told:
            if isinstance(told, Message) and not told.offset:
                assert told.data == TYPING
            elif isinstance(told, Message):
                assert told.key is not None
                assert same(told.data, self.history[told.key][told.offset])
                assert told.offset >= newest.get(told.key, 0)
                newest[told.key] = told.offset

    def settle(self) -> None:
        for reader in self.readers:
            for _ in range(20):
                self.world.now += 100.0
                while reader.outbox.waiting:
                    reader.read(1 << 30)
                    self.note_drops()
                if not reader.resync():
                    break
            else:
                raise AssertionError("it never has what it wants")
            self.look(reader)

    def teardown(self) -> None:
        """All is read, and each key changes once more: then all have the room's values."""
        self.settle()
        for number in (1, 2):
            for key in "kl":
                self.put(key, {"a": number, "long": "a text that is long enough for a patch to be shorter"})
                self.settle()
        for reader in self.readers:
            for key, versions in self.history.items():
                last = [told for told in reader.told if isinstance(told, Message) and told.key == key and told.offset]
                assert last[-1].offset == max(versions)
                assert same(last[-1].data, versions[max(versions)])


class _Waits(Client):
    lane = "wait"


class _DropsOldest(Client):
    lane = "old"


class _DropsNewest(Client):
    lane = "new"


TestLatest, TestWaits = Client.TestCase, _Waits.TestCase
TestDropsOldest, TestDropsNewest = _DropsOldest.TestCase, _DropsNewest.TestCase
for case in (TestLatest, TestWaits, TestDropsOldest, TestDropsNewest):
    case.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


# One by one.


def whole(offset: int, key: str = "k", **data: Any) -> Message:
    return Message("r", data, "bob", offset, key=key)


def patch(offset: int, base: int, key: str = "k", **changed: Any) -> Message:
    return Message("r", None, "bob", offset, key=key, patch=changed, base=base)


def made(most: int = PLENTY) -> Values:
    values = Values("json", most)
    values.joined("r")
    return values


def test_a_program_may_do_what_it_likes_with_its_copy() -> None:
    values = made()
    (first,) = values.take(whole(1, x=[1], y=2), 0.0)
    assert isinstance(first, Message)
    first.data["x"].append("mine")
    (second,) = values.take(patch(2, 1, y=3), 0.0)
    assert isinstance(second, Message)
    assert (second.data, second.patch, second.base) == ({"x": [1], "y": 3}, {"y": 3}, 1)


def test_a_patch_without_its_base_is_asked_for_once_and_what_was_passed_over_is_a_gap() -> None:
    values = made()
    values.take(whole(1, x=1), 0.0)
    for offset in (5, 6, 7):
        assert values.take(patch(offset, offset - 1, x=offset), 10.0) == ()
    assert values.due(10.0) == [("r", "k")]
    assert values.take(patch(8, 7, x=8), 10.1) == ()
    assert values.due(10.1) == [], "the answer is under way"
    assert values.take(whole(7, x=7), 10.2) == (Gap("r", 5, 6, "resync"), whole(7, x=7))
    assert values.due(99.0) == []
    (told,) = values.take(patch(8, 7, x=8), 10.3)
    assert isinstance(told, Message)
    assert told.data == {"x": 8}


def test_what_does_not_help_is_asked_for_more_and_more_rarely() -> None:
    values = made()
    asked = []
    for second in range(300):
        values.take(patch(second + 2, second + 1, x=1), float(second))
        asked += [second for _ in values.due(float(second))]
    assert asked == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]
    assert FIRST_PAUSE == 1.0


def test_what_is_kept_is_bounded_and_so_is_what_is_wanted() -> None:
    values = made(100 * OVERHEAD)
    for number in range(1000):
        values.take(whole(number + 1, str(number), text="x" * number), 0.0)
        assert values.kept_bytes <= 100 * OVERHEAD
    values.take(whole(2000, "huge", text="x" * 100 * OVERHEAD), 0.0)
    assert values.take(patch(2001, 2000, "huge", a=1), 0.0) == (), "it is too large to be kept"
    for number in range(2 * MOST_WANTED):
        values.take(patch(3000 + number, 1, f"new {number}", a=1), 0.0)
    assert len(values._wants) == MOST_WANTED + 1
    assert values.due(0.0) == [("r", EVERY)]
    values.left("r")
    assert values.kept_bytes == 0
    assert values.due(1e9) == []


def test_many_keys_are_asked_for_together_and_no_more_often_than_one() -> None:
    values = made()
    for number in range(TOGETHER):
        values.take(patch(number + 1, 500, str(number), a=1), 0.0)
    assert values.due(0.0) == [("r", str(number)) for number in range(TOGETHER)]
    asked = []
    for second in range(20):
        for number in range(TOGETHER + 1):
            values.take(patch(1000 + 100 * second + number, 500, f"other {number}", a=1), float(second))
        asked += [(second, key) for _, key in values.due(float(second))]
    assert asked[:3] == [(0, EVERY), (1, EVERY), (3, EVERY)]
    assert {key for _, key in asked} == {EVERY}
    assert len(asked) < 8


def test_what_is_heard_again_is_not_told_again_unless_it_is_wanted() -> None:
    values = made()
    values.take(whole(3, x=1), 0.0)
    assert values.take(whole(3, x=1), 0.0, new=False) == ()
    assert values.take(whole(2, "other", x=1), 0.0, new=False) == ()
    assert values.take(patch(4, 1, x=1), 0.0, new=False) == ()
    assert values.due(0.0) == []
    values.lost("r", 0.0)
    assert values.due(0.0) == [("r", EVERY)]
    assert values.take(whole(2, "other", x=1), 0.0, new=False) == (whole(2, "other", x=1),)


@pytest.mark.parametrize("data", [[1], "text", None, 7])
def test_what_is_no_object_is_a_value_that_no_patch_is_for(data: Any) -> None:
    values = made()
    values.take(whole(1, x=1), 0.0)
    message = Message("r", data, "bob", 2, key="k")
    assert values.take(message, 0.0) == (message,)
    assert values.take(patch(3, 2, x=1), 0.0) == ()
    assert values.due(0.0) == [("r", "k")]


def test_what_is_for_one_subject_or_of_the_moment_is_no_value_of_the_room() -> None:
    values = made()
    values.take(whole(1, x=1), 0.0)
    for message in (Message("r", {"y": 1}, "bob", 2, key="k", to="ann"), whole(0, y=2)):
        assert values.take(message, 0.0) == (message,)
    (told,) = values.take(patch(3, 1, z=1), 0.0)
    assert isinstance(told, Message)
    assert told.data == {"x": 1, "z": 1}


# In a session.

Script = Callable[[Peer], Coroutine[Any, Any, None]]


def state(offset: int, **more: Any) -> dict[str, Any]:
    return {"t": "message", "room": "r", "key": "k", "offset": offset, **more}


async def joins(peer: Peer, **hello: Any) -> None:
    await relay_v1(peer, **hello)
    asked = await peer.asked()
    assert asked["delta"] is True
    await peer.say({"t": "ok", "id": asked["id"], "room": "r", "epoch": "e", "offset": 0, "delta": True})


async def test_the_program_gets_whole_values_and_the_client_asks_for_what_it_misses(autojump_clock: MockClock) -> None:
    async def script(peer: Peer) -> None:
        await joins(peer)
        await peer.say(state(1, data={"x": 1, "y": 1}))
        await peer.say(state(2, patch={"x": 2}, base=1))
        await peer.say(state(4, patch={"x": 4}, base=3))
        asked = await peer.asked()
        assert (asked["t"], asked["room"], asked["key"]) == ("resync", "r", "k")
        await peer.say({"t": "ok", "id": asked["id"], "room": "r", "values": 1, "more": False})
        await peer.say(state(4, data={"x": 4, "y": 3}))
        await peer.say({"t": "gap", "room": "r", "from": 5, "to": 6, "reason": "channels.state"})
        asked = await peer.asked()
        assert (asked["t"], asked.get("key")) == ("resync", None)
        await peer.say({"t": "error", "id": asked["id"], "code": "rate_limited", "retry_after": 7.0})
        began = trio.current_time()
        asked = await peer.asked()
        assert asked["t"] == "resync"
        assert trio.current_time() - began >= 7.0
        await peer.say({"t": "ok", "id": asked["id"], "room": "r", "values": 1, "more": False})
        await peer.say(state(7, data={"x": 7, "y": 3}))
        await peer.close(1000)

    async with wired(script) as url, connect(url) as relay:
        assert (await relay.join("r", delta=True)).delta
        told = [event async for event in relay]
    assert [event.data for event in told if isinstance(event, Message)] == [
        {"x": 1, "y": 1}, {"x": 2, "y": 1}, {"x": 4, "y": 3}, {"x": 7, "y": 3},
    ]  # fmt: skip
    assert [event for event in told if isinstance(event, Gap)] == [Gap("r", 5, 6, "channels.state")]


async def test_values_move_along_with_their_room_and_end_with_it(autojump_clock: MockClock) -> None:
    async def script(peer: Peer) -> None:
        await joins(peer)
        await peer.say(state(1, data={"x": 1}))
        await peer.say({"t": "renamed", "room": "r", "to": "s"})
        await peer.say(state(2, patch={"x": 2}, base=1))
        await peer.say(state(3, patch={"y": 3}, base=2) | {"room": "s"})
        await peer.say({"t": "left", "room": "s", "subject": "ann", "reason": "enough"})
        await peer.close(1000)

    async with wired(script) as url, connect(url) as relay:
        await relay.join("r", delta=True)
        told = [event async for event in relay]
        assert [(event.room, event.data) for event in told if isinstance(event, Message)] == [
            ("r", {"x": 1}), ("s", {"x": 2}), ("s", {"x": 2, "y": 3}),
        ]  # fmt: skip
        assert told[1] == Renamed("r", "s")
        assert told[-1] == Left("s", "ann", "enough")
        assert relay._values.kept_bytes == 0


async def test_where_there_are_no_patches_nothing_is_kept() -> None:
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        asked = await peer.asked()
        await peer.say({"t": "ok", "id": asked["id"], "room": "r", "epoch": "e", "offset": 0, "delta": False})
        await peer.say(state(1, data={"x": 1}))
        await peer.close(1000)

    async with wired(script) as url, connect(url) as relay:
        assert not (await relay.join("r", delta=True)).delta
        assert [event async for event in relay] == [Message("r", {"x": 1}, offset=1, key="k")]
        assert relay._values.kept_bytes == 0


def test_msgpack_has_patches_too() -> None:
    values = Values("msgpack", PLENTY)
    values.joined("r")
    document = msgspec.msgpack.encode({"t": "message", "room": "r", "key": "k", "offset": 1, "data": {"b": b"\xff"}})
    message = understood("msgpack", document)
    assert isinstance(message, Message)
    values.take(message, 0.0)
    (told,) = values.take(patch(2, 1, x=1), 0.0)
    assert isinstance(told, Message)
    assert told.data == {"b": b"\xff", "x": 1}
