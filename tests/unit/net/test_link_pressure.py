"""A connection that is sent or sends more than it can carry: who waits, what is dropped and told, and who is ended."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from relay.errors import CloseCode, CloseReason
from relay.protocols.plain import Plain
from tests.unit.net.conftest import BINARY, PLUGINS, TEXT
from tests.unit.net.kit import Client, Net, close, masked, open_net, say
from tests.unit.session.kit import channels, settings
from tests.unit.session.plugins import Quick

# Back-pressure.


SMALL = settings(channels=channels(default={"capacity": 65536}, bulk={"overflow": "drop_newest", "capacity": 65536}))


async def flood(ann: Client, count: int, size: int = 1000) -> None:
    for _ in range(count // 20):
        await ann.send(masked(BINARY, bytes(size)) * 20)
        await trio.lowlevel.checkpoint()


async def test_a_peer_that_does_not_read_fills_its_own_outbox_and_no_other(poller: str) -> None:
    config = settings(channels=channels(default={"capacity": 1 << 24}))
    async with open_net(PLUGINS, config, poller=poller) as net:
        ann, bob = (net.connect(name, protocol=Plain(), home="q:a") for name in ("ann", "bob"))
        slow = net.connect("slow", protocol=Plain(), home="q:a", small=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, ann, 1000)
            for _ in range(1000):
                assert await bob.hear() == bytes(1000)
        assert slow.link.outbox.size > 500_000
        assert (ann.link.outbox.size, bob.link.outbox.size) == (0, 0)
        for _ in range(1000):
            assert await slow.hear() == bytes(1000)
        assert slow.link.outbox.size == 0
        await ann.send(masked(TEXT, "after"))
        assert await slow.hear() == "after"


async def test_a_peer_too_slow_for_its_channel_is_closed_with_the_config_key(poller: str) -> None:
    async with open_net(PLUGINS, SMALL, poller=poller) as net:
        ann, bob = (net.connect(name, protocol=Plain(), home="q:a") for name in ("ann", "bob"))
        slow = [net.connect(f"slow{number}", protocol=Plain(), home="q:a", small=True) for number in range(3)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, ann, 400)
            for _ in range(400):
                assert await bob.hear() == bytes(1000), "nobody else misses anything"
        for one in slow:
            assert (await one.hear_until("close"))[1:] == (
                CloseCode.TOO_SLOW, "channel default is full [channels.default.capacity]",
            )  # fmt: skip
            assert one.link.close_code == CloseCode.TOO_SLOW
        assert len(net.hub.rooms["q:a"]) == 2
        assert net.counters.dropped["q", "default", "closed"] >= 3
        room = net.hub.rooms["q:a"].statistics()
        assert room.drops == {("default", "closed"): net.counters.dropped["q", "default", "closed"]}
        assert net.bugs == []


async def test_presence_that_finds_everybody_full_does_not_stumble() -> None:
    plugins = {"q": (Quick, {"presence": True})}
    async with open_net(plugins, SMALL) as net:
        slow = [net.connect(f"slow{number}", small=True) for number in range(4)]
        for one in slow:
            await one.join("q:a")
        room = net.hub.rooms["q:a"]
        while not all(one.link.connection.closing for one in slow):
            room.broadcast("x" * 8000)
            late = net.connect("late")
            await late.join("q:a")
            late.link.abort()
        for one in slow:
            assert (await one.hear_until("close"))[1] == CloseCode.TOO_SLOW


async def test_a_slow_client_that_is_closed_gets_whole_frames_to_the_end(poller: str) -> None:
    async with open_net(PLUGINS, SMALL, poller=poller) as net:
        slow = net.connect("slow", protocol=Plain(), home="q:a", small=True)
        room = net.hub.rooms["q:a"]
        said = 0
        while slow.link.connection.closing is None:
            room.broadcast(bytes(5000))
            said += 1
            await trio.lowlevel.checkpoint()
        events: list[Any] = []
        while not (events and events[-1][0] == "close"):
            events.append(await slow.hear())
        assert all(event == bytes(5000) for event in events[:-1])
        assert len(events) - 1 <= said - 65536 // 5000, "what waited in the full channel is not sent any more"
        await slow.send(close(1000))
        assert await slow.rest() == ["end"]


async def test_a_client_that_never_reads_is_gone_at_the_deadline(patient_clock: MockClock) -> None:
    async with open_net(PLUGINS, SMALL) as net:
        slow = net.connect("slow", protocol=Plain(), home="q:a", small=True)
        room = net.hub.rooms["q:a"]
        while slow.link.connection.closing is None:
            room.broadcast(bytes(5000))
            await trio.lowlevel.checkpoint()
        started = trio.current_time()
        await slow.ended.wait()
        assert trio.current_time() - started == pytest.approx(5.0, abs=0.5)


async def test_what_was_dropped_is_told_as_a_gap() -> None:
    async with open_net(PLUGINS, SMALL) as net:
        slow = net.connect("slow", small=True)
        await slow.join("bulky:a")
        room = net.hub.rooms["bulky:a"]
        for number in range(100):
            room.broadcast({"n": number, "x": "y" * 4000})
        heard: list[dict[str, Any]] = []
        while not {"gap", "message"} <= {said["t"] for said in heard}:
            heard.append(await slow.hear())
        gap = next(said for said in heard if said["t"] == "gap")
        assert (gap["room"], gap["to"]) == ("bulky:a", 100)
        assert gap["reason"] == "channels.bulk.capacity"
        while (numbers := [said["offset"] for said in heard if said["t"] == "message"])[-1] < gap["from"] - 1:
            heard.append(await slow.hear())
        assert numbers == list(range(1, gap["from"]))
        assert net.counters.dropped["bulky", "bulk", "overflow"] == 101 - gap["from"]
        assert room.statistics().drops == {("bulk", "overflow"): 101 - gap["from"]}


async def test_urgent_messages_overtake_what_waits() -> None:
    config = settings(channels=channels(default={"capacity": 1 << 24}))
    async with open_net(PLUGINS, config) as net:
        slow = net.connect("slow", protocol=Plain(), home="q:a", small=True)
        room = net.hub.rooms["q:a"]
        for _ in range(500):
            room.broadcast(b"f" * 1000)
        await trio.testing.wait_all_tasks_blocked(0.01)
        room.broadcast("now", channel="urgent")
        heard: list[Any] = []
        while "now" not in heard:
            heard.append(await slow.hear())
        assert len(heard) < 250
        assert slow.link.outbox.size > 200_000


# The channel that pauses producers.


PAUSING = channels(bulk={"overflow": "pause", "capacity": 65536})


async def flood_room(net: Net, room: str, reader: Client, count: int) -> Client:
    """A producer in the room that says `count` large messages, as far as the relay reads them."""
    ann = net.connect("ann")
    await ann.join(room)
    messages = b"".join(say(t="publish", room=room, data={"n": n, "x": "y" * 4000}) for n in range(count))
    net.nursery.start_soon(ann.send, messages)
    return ann


async def test_a_slow_reader_slows_the_producer_and_nothing_is_lost(poller: str) -> None:
    async with open_net(PLUGINS, settings(channels=PAUSING), poller=poller) as net:
        slow = net.connect("slow", small=True)
        await slow.join("bulky:a")
        ann = await flood_room(net, "bulky:a", slow, 200)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert slow.link.outbox.size <= 2 * 65536
        assert ann.link.connection.messages < 100, "it is not read"
        heard = [await slow.hear_until("message") for _ in range(200)]
        assert [said["data"]["n"] for said in heard] == list(range(200))
        await ann.send(say(t="ping"))
        assert await ann.hear() == {"t": "pong"}
        assert net.counters.dropped == {}


async def test_who_publishes_by_another_socket_of_its_session_is_slowed_down_there() -> None:
    async with open_net(PLUGINS, settings(channels=PAUSING)) as net:
        slow = net.connect("slow", small=True)
        await slow.join("bulky:a")
        ann = net.connect("ann")
        await ann.join("bulky:a")
        other = net.second(ann, "urgent")
        messages = b"".join(say(t="publish", room="bulky:a", data={"n": n, "x": "y" * 4000}) for n in range(200))
        net.nursery.start_soon(other.send, messages)
        await trio.testing.wait_all_tasks_blocked(0.02)
        await ann.send(say(t="ping"))
        assert await ann.hear_until("pong"), "it is not to blame"
        heard = [await slow.hear_until("message") for _ in range(200)]
        assert [said["data"]["n"] for said in heard] == list(range(200))
        assert net.counters.dropped == {}


async def test_a_producer_is_let_go_when_its_reader_goes() -> None:
    async with open_net(PLUGINS, settings(channels=PAUSING)) as net:
        slow = net.connect("slow", small=True)
        await slow.join("bulky:a")
        ann = await flood_room(net, "bulky:a", slow, 200)
        await trio.testing.wait_all_tasks_blocked(0.02)
        slow.sock.close()
        while ann.link.connection.messages < 201:
            await trio.testing.wait_all_tasks_blocked(0.001)


async def test_a_producer_is_let_go_when_its_reader_is_closed() -> None:
    async with open_net(PLUGINS, settings(channels=PAUSING)) as net:
        slow = net.connect("slow", small=True)
        await slow.join("bulky:a")
        ann = await flood_room(net, "bulky:a", slow, 200)
        await trio.testing.wait_all_tasks_blocked(0.02)
        slow.link.connection.close(CloseReason(CloseCode.NORMAL, "enough"))
        while ann.link.connection.messages < 201:
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert not slow.ended.is_set(), "nobody had to wait for its deadline"


async def test_a_reader_that_makes_others_wait_too_long_is_closed(patient_clock: MockClock) -> None:
    config = settings(channels=PAUSING, outbox={"pause_timeout": 10}, websocket={"heartbeat": 0})
    async with open_net(PLUGINS, config) as net:
        slow = net.connect("slow", small=True)
        await slow.join("bulky:a")
        ann = await flood_room(net, "bulky:a", slow, 200)
        await trio.sleep(9)
        assert slow.link.connection.closing is None
        assert ann.link.connection.messages < 100
        await trio.sleep(2)
        assert slow.link.connection.closing is not None
        assert slow.link.connection.closing.code == CloseCode.TOO_SLOW
        await trio.sleep(1)
        assert ann.link.connection.messages == 201


# Messages that expire.


async def test_a_message_too_old_when_its_turn_comes_is_not_sent_and_that_is_said(patient_clock: MockClock) -> None:
    config = settings(channels=channels(default={"capacity": 1 << 20}), websocket={"heartbeat": 0})
    async with open_net(PLUGINS, config) as net:
        slow = net.connect("slow", small=True)
        await slow.join("q:a")
        ann = net.connect("ann")
        for number in range(50):
            await ann.send(say(t="publish", room="q:a", data={"n": number, "x": "y" * 4000}, ttl=5))
        await ann.send(say(t="publish", room="q:a", data={"n": 50}))
        await trio.sleep(6)
        heard: list[Any] = []
        numbers: list[int] = []
        while not (numbers and numbers[-1] == 50 and "gap" in [said["t"] for said in heard]):
            heard.append(await slow.hear())
            numbers = [said["data"]["n"] for said in heard if said["t"] == "message"]
        (gap,) = [said for said in heard if said["t"] == "gap"]
        assert numbers[:-1] == list(range(gap["from"] - 1))
        assert (gap["to"], gap["reason"]) == (50, "ttl")


# Rates.


async def test_who_is_too_fast_is_read_more_slowly_and_loses_nothing(patient_clock: MockClock) -> None:
    config = settings(limits={"messages_per_second": 100, "messages_burst": 100, "slow_down": 60})
    async with open_net(PLUGINS, config) as net:
        ann, bob = (net.connect(name, protocol=Plain(), home="q:a") for name in ("ann", "bob"))
        started = trio.current_time()
        for number in range(500):
            await ann.send(masked(TEXT, f"{number:0>400}"))
            if number % 40 == 39:
                await trio.testing.wait_all_tasks_blocked(0.005)
        assert [int(await bob.hear()) for _ in range(500)] == list(range(500))
        assert trio.current_time() - started > 2.5
        assert net.counters.slowed > 0
        await trio.sleep(10)
        await ann.send(masked(TEXT, "7"))
        assert await bob.hear() == "7"


async def test_who_keeps_to_a_low_rate_is_left_in_peace(patient_clock: MockClock) -> None:
    config = settings(
        limits={"messages_per_second": 1, "messages_burst": 2, "slow_down": 1}, websocket={"heartbeat": 0}
    )
    async with open_net(PLUGINS, config) as net:
        ann, bob = (net.connect(name, protocol=Plain(), home="q:a") for name in ("ann", "bob"))
        for number in range(40):
            await ann.send(masked(TEXT, str(number)))
            assert await bob.hear() == str(number)
            await trio.sleep(1.0)
        assert net.counters.slowed == 0
        assert ann.link.connection.closing is None


@pytest.mark.parametrize(
    ("limits", "frame", "setting"),
    [
        ({"messages_per_second": 10, "messages_burst": 10}, masked(TEXT, "x"), "limits.messages_per_second"),
        ({"bytes_per_second": 1000, "bytes_burst": 1000}, masked(TEXT, "x" * 5000), "limits.bytes_per_second"),
    ],
)
async def test_far_too_much_ends_the_connection_and_names_the_rate(
    limits: dict[str, Any], frame: bytes, setting: str
) -> None:
    async with open_net(PLUGINS, settings(limits={"slow_down": 2, **limits})) as net:
        ann = net.connect("ann", {"join": ["*"], "publish": ["*"]}, home="q:a")
        await ann.send(frame * 100)
        bye = await ann.hear_until("bye")
        assert (bye["code"], bye["limit"]) == (CloseCode.TOO_MANY, setting)
        assert bye["reconnect"]["after"] > 2


# Requests that wait for plugins.


async def test_too_many_waiting_requests_stop_the_reading_and_it_goes_on_later(poller: str) -> None:
    async with open_net(PLUGINS, settings(limits={"requests_waiting": 4}), poller=poller) as net:
        bob = net.connect("bob", protocol=Plain(), home="s:a")
        ann = net.connect("ann", protocol=Plain(), home="s:a")
        await trio.testing.wait_all_tasks_blocked(0.005)
        gate = net.plugin("s").gates["message"] = trio.Event()
        for number in range(50):
            await ann.send(masked(TEXT, str(number)))
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert ann.link.connection.messages < 20
        gate.set()
        assert [await bob.hear() for _ in range(50)] == [str(number) for number in range(50)]


async def test_not_even_one_read_brings_more_waiting_requests_than_there_may_be(poller: str) -> None:
    async with open_net(PLUGINS, settings(limits={"requests_waiting": 4}), poller=poller) as net:
        bob = net.connect("bob", protocol=Plain(), home="s:a")
        ann = net.connect("ann", protocol=Plain(), home="s:a")
        await trio.testing.wait_all_tasks_blocked(0.005)
        gate = net.plugin("s").gates["message"] = trio.Event()
        await ann.send(*(masked(TEXT, str(number)) for number in range(50)))
        await trio.testing.wait_all_tasks_blocked(0.005)
        assert ann.link.connection.messages == 4
        gate.set()
        assert [await bob.hear() for _ in range(50)] == [str(number) for number in range(50)]


async def test_what_was_kept_of_a_read_is_let_go_with_the_client(poller: str) -> None:
    async with open_net(PLUGINS, settings(limits={"requests_waiting": 4}), poller=poller) as net:
        ann = net.connect("ann", protocol=Plain(), home="s:a")
        await trio.testing.wait_all_tasks_blocked(0.005)
        net.plugin("s").gates["message"] = trio.Event()
        await ann.send(*(masked(TEXT, str(number)) for number in range(50)))
        await trio.testing.wait_all_tasks_blocked(0.005)
        ann.link.connection.close(CloseReason(CloseCode.NORMAL, "enough"))
        assert await ann.hear() == ("close", 1000, "enough")
        await ann.send(close(1000))
        assert await ann.rest() == ["end"]
        assert ann.link.connection.messages == 4


async def test_a_client_that_goes_while_it_is_not_read_is_found_gone(poller: str) -> None:
    async with open_net(PLUGINS, settings(limits={"requests_waiting": 1}), poller=poller) as net:
        ann = net.connect("ann", protocol=Plain(), home="s:a")
        await trio.testing.wait_all_tasks_blocked(0.005)
        gate = net.plugin("s").gates["message"] = trio.Event()
        await ann.send(masked(TEXT, "x"))
        await trio.testing.wait_all_tasks_blocked(0.005)
        ann.sock.close()
        gate.set()
        await ann.ended.wait()
