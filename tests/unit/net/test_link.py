"""A connection on a real socket: how it speaks, how it ends, and that its end hurts nobody else."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from relay.errors import CloseCode, CloseReason
from relay.model import Message, Payload
from relay.protocols.parts import Parts
from relay.protocols.plain import Plain
from tests.unit.net.kit import Client, Net, close, masked, open_net, say
from tests.unit.session.kit import channels, identity, settings
from tests.unit.session.plugins import Quick, Slow

PLUGINS: dict[str, Any] = {"q": (Quick, {"history": 50}), "s": (Slow, {}), "bulky": (Quick, {"channel": "bulk"})}
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


@pytest.fixture(params=["epoll", "portable"])
def poller(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def patient_clock(mock_clock: MockClock) -> MockClock:
    """Jumps once nothing has happened for a while: long enough for the kernel to carry a byte over loopback."""
    mock_clock.autojump_threshold = 0.01
    return mock_clock


# Speaking.


async def test_what_one_says_the_other_hears(poller: str) -> None:
    async with open_net(PLUGINS, poller=poller) as net:
        ann, bob = net.connect("ann"), net.connect("bob")
        await ann.join("q:a")
        await bob.join("q:a")
        await ann.send(say(t="publish", room="q:a", data="hi", id=1))
        assert (await ann.hear())["offset"] == 1
        said = await bob.hear()
        assert (said["t"], said["data"], said["from"]) == ("message", "hi", "ann")
        assert net.counters.messages_in == 0, "counted when a connection ends"


async def test_many_frames_in_one_read_and_one_frame_in_many_reads(poller: str) -> None:
    async with open_net(PLUGINS, poller=poller) as net:
        ann, bob = (net.connect(name, protocol=Plain(), home="q:a") for name in ("ann", "bob"))
        await ann.send(*(masked(TEXT, str(number)) for number in range(300)))
        assert [await bob.hear() for _ in range(300)] == [str(number) for number in range(300)]
        for byte in masked(TEXT, "slowly"):
            await ann.send(bytes([byte]))
            await trio.lowlevel.checkpoint()
        assert await bob.hear() == "slowly"


async def test_all_that_one_read_brings_leaves_in_one_write() -> None:
    async with open_net(PLUGINS) as net:
        ann, bob = (net.connect(name, protocol=Plain(), home="q:a") for name in ("ann", "bob"))
        await ann.send(*(masked(TEXT, "x") for _ in range(100)))
        for _ in range(100):
            await bob.hear()
        assert net.counters.writes == 1


async def test_a_large_message_arrives_whole_in_both_directions(poller: str) -> None:
    async with open_net(PLUGINS, settings(limits={"message_bytes": 1 << 20}), poller=poller) as net:
        ann, bob = (net.connect(name, protocol=Plain(), home="q:a") for name in ("ann", "bob"))
        payload = bytes(range(256)) * 4000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ann.send, masked(BINARY, payload), masked(TEXT, "after"))
            assert await bob.hear() == payload
            assert await bob.hear() == "after"


async def test_what_came_behind_the_request_head_is_not_lost() -> None:
    async with open_net(PLUGINS) as net:
        bob = net.connect("bob", protocol=Plain(), home="q:a")
        ann = net.connect("ann", protocol=Plain(), home="q:a", early=masked(TEXT, "early") + masked(TEXT, "cut")[:5])
        await ann.send(masked(TEXT, "cut")[5:])
        assert (await bob.hear(), await bob.hear()) == ("early", "cut")


async def test_a_close_that_came_behind_the_request_head_is_answered() -> None:
    async with open_net(PLUGINS) as net:
        ann = net.connect("ann", protocol=Plain(), home="q:a", early=close(1000))
        assert await ann.rest() == [("close", 1000, ""), "end"]


async def test_a_ping_is_answered_with_what_it_holds() -> None:
    async with open_net(PLUGINS) as net:
        ann = net.connect(protocol=Plain(), home="q:a")
        await ann.send(masked(PING, b"are you there"), masked(PONG, b"unasked"))
        assert await ann.hear() == ("pong", b"are you there")
        assert net.counters.control_in == 2


# The client closes.


@pytest.mark.parametrize(("said", "answer"), [(close(1000, "bye"), 1000), (close(4999), 4999), (masked(CLOSE), 1000)])
async def test_a_close_is_answered_and_the_server_ends_the_stream(said: bytes, answer: int, poller: str) -> None:
    async with open_net(PLUGINS, poller=poller) as net:
        ann = net.connect(protocol=Plain(), home="q:a")
        await ann.send(said)
        assert await ann.rest() == [("close", answer, ""), "end"]
        await ann.ended.wait()
        assert net.hub.rooms == {}


async def test_the_code_of_the_client_is_kept_for_the_log() -> None:
    async with open_net(PLUGINS) as net:
        ann = net.connect()
        await ann.send(close(4321, "my reason"))
        await ann.ended.wait()
        assert ann.link.close_code == 4321
        assert ann.link.connection.closing is not None
        assert ann.link.connection.closing.reason == "my reason"


async def test_what_was_sent_before_the_close_is_handled_and_what_comes_after_is_not() -> None:
    async with open_net(PLUGINS) as net:
        ann, bob = (net.connect(name, protocol=Plain(), home="q:a") for name in ("ann", "bob"))
        await ann.send(masked(TEXT, "before"), close(1000), masked(TEXT, "after"), masked(PING, b"x"))
        assert await bob.hear() == "before"
        assert await ann.rest() in ([("close", 1000, ""), "end"], [("close", 1000, ""), "reset"])
        assert await bob.silence(0.02) == []


async def test_a_client_that_just_goes_has_left_its_rooms(poller: str) -> None:
    async with open_net(PLUGINS, poller=poller) as net:
        ann = net.connect()
        await ann.join("q:a")
        ann.sock.close()
        await ann.ended.wait()
        assert net.hub.rooms == {}
        assert ann.link.close_code == 1006
        assert net.gone == ["ann"]


async def test_a_client_that_resets_the_connection_has_left_its_rooms(poller: str) -> None:
    async with open_net(PLUGINS, poller=poller) as net:
        ann = net.connect()
        await ann.join("q:a")
        ann.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ann.sock.close()
        await ann.ended.wait()
        assert net.hub.rooms == {}
        assert ann.link.connection.closing is not None
        assert errno.errorcode[errno.ECONNRESET] in ann.link.connection.closing.reason


# The server closes.


async def test_bye_and_a_close_frame_come_behind_what_was_queued() -> None:
    async with open_net(PLUGINS) as net:
        ann, bob = net.connect("ann"), net.connect("bob")
        await ann.join("q:a")
        await bob.join("q:a")
        room = net.hub.rooms["q:a"]
        for number in range(3):
            room.broadcast(number)
        ann.link.connection.close(CloseReason(CloseCode.GOING_AWAY, "drain", "server.x", 1.0))
        events = [await ann.hear() for _ in range(5)]
        assert sorted(event["data"] for event in events if isinstance(event, dict) and "data" in event) == [0, 1, 2]
        assert [event["code"] for event in events if isinstance(event, dict) and event["t"] == "bye"] == [1001]
        assert events[-1] == ("close", 1001, "drain [server.x]")
        assert "q:a" in net.hub.rooms
        assert await ann.silence(0.02) == [], "the stream ends when the client has answered"
        await ann.send(close(1001))
        assert await ann.rest() == ["end"]
        assert ann.link.close_code == 1001


async def test_the_first_reason_wins_whoever_gives_it() -> None:
    async with open_net(PLUGINS) as net:
        ann = net.connect(protocol=Plain(), home="q:a")
        ann.link.connection.close(CloseReason(CloseCode.REPLACED, "first"))
        ann.link.connection.close(CloseReason(CloseCode.NORMAL, "second"))
        await ann.send(masked(TEXT, b"\xff"))
        assert await ann.hear() == ("close", 4409, "first")


async def test_both_sides_may_close_at_once() -> None:
    async with open_net(PLUGINS) as net:
        ann = net.connect(protocol=Plain(), home="q:a")
        await ann.send(close(1000))
        ann.link.connection.close(CloseReason(CloseCode.REPLACED, "ours"))
        assert await ann.rest() == [("close", 4409, "ours"), "end"]


async def test_what_is_published_while_closing_reaches_nobody() -> None:
    async with open_net(PLUGINS) as net:
        ann, bob = (net.connect(name, protocol=Plain(), home="q:a") for name in ("ann", "bob"))
        ann.link.connection.close(CloseReason(CloseCode.NORMAL, ""))
        await ann.send(masked(TEXT, "late"), masked(PING, b"late"), close(1000))
        assert await ann.rest() == [("close", 1000, ""), "end"]
        assert await bob.silence(0.02) == []


async def test_a_client_that_does_not_answer_a_close_is_cut_off(patient_clock: MockClock) -> None:
    async with open_net(PLUGINS, settings(timeouts={"close": 5.0})) as net:
        ann = net.connect(protocol=Plain(), home="q:a")
        started = trio.current_time()
        ann.link.connection.close(CloseReason(CloseCode.NORMAL, "bye"))
        await ann.ended.wait()
        assert trio.current_time() - started == pytest.approx(5.0, abs=0.5)
        assert await ann.hear() == ("close", 1000, "bye")
        assert await ann.rest() == ["reset"]


async def test_an_abort_ends_at_once_and_only_once() -> None:
    async with open_net(PLUGINS) as net:
        ann = net.connect(protocol=Plain(), home="q:a")
        ann.link.abort()
        ann.link.abort()
        assert ann.ended.is_set()
        assert await ann.rest() == ["reset"]
        assert net.gone == ["ann"]


# The client breaks a rule.

BREAKS = [
    (b"\x81\x01x", 1002, "frame not masked"),
    (masked(TEXT, b"\xff"), 1007, "text is not UTF-8"),
    (masked(BINARY, bytes(70_000)), 1009, "limits.message_bytes"),
    (b"\xf1\x80" + bytes(4), 1002, "reserved"),
    (b"".join(masked(PING) for _ in range(200)), 1008, "limits.control_frames"),
    (masked(CLOSE, b"\x00\x01"), 1002, ""),
]


@pytest.mark.parametrize(("said", "code", "why"), BREAKS, ids=lambda value: str(value)[:12])
async def test_a_broken_rule_is_told_in_a_close_frame_before_the_stream_ends(
    said: bytes, code: int, why: str, poller: str
) -> None:
    async with open_net(PLUGINS, poller=poller) as net:
        ann, bob = (net.connect(name, protocol=Plain(), home="q:a") for name in ("ann", "bob"))
        await ann.send(masked(TEXT, "before"), said, masked(TEXT, "after") * 100)
        events = await ann.rest()
        assert events[-1] == "end", "no reset took the close frame with it"
        (ending,) = [event for event in events if event[0] == "close"]
        assert ending[1] == code
        assert why in ending[2]
        await ann.send(masked(TEXT, "still talking") * 100)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not ann.ended.is_set(), "what is still on its way is read and dropped"
        ann.sock.close()
        await ann.ended.wait()
        assert await bob.hear() == "before"
        assert await bob.silence(0.02) == []


async def test_who_goes_on_after_breaking_a_rule_is_cut_off_at_the_deadline(patient_clock: MockClock) -> None:
    async with open_net(PLUGINS, settings(timeouts={"close": 5.0})) as net:
        ann = net.connect(protocol=Plain(), home="q:a")
        await ann.send(b"\x81\x01x")
        assert (await ann.hear_until("close"))[1] == 1002
        started = trio.current_time()
        with trio.move_on_after(60):
            while not ann.ended.is_set():
                ann.stuff(b"z" * 1000)
                await trio.sleep(0.5)
        assert trio.current_time() - started <= 6


async def test_a_bug_in_one_connection_ends_that_one(caplog: pytest.LogCaptureFixture) -> None:
    async with open_net(PLUGINS) as net:
        ann, bob, cid = (net.connect(name, protocol=Plain(), home="q:a") for name in ("ann", "bob", "cid"))

        def bug(opcode: int, payload: bytes) -> None:
            raise RuntimeError("a bug of ours")

        ann.link.engine.message = bug
        await ann.send(masked(TEXT, "x"))
        assert await ann.rest() == ["reset"]
        assert ann.link.close_code == 1011
        await bob.send(masked(TEXT, "we live"))
        assert await cid.hear() == "we live"


async def test_a_bug_while_flushing_ends_that_one(caplog: pytest.LogCaptureFixture) -> None:
    def bug(stream: int, position: int, size: int = 0) -> bytes:
        raise RuntimeError("a bug of ours")

    async with open_net(PLUGINS) as net:
        ann, bob, cid = (net.connect(name, protocol=Plain(), home="q:a") for name in ("ann", "bob", "cid"))
        ann.link.outbox.put_parts(net.channels.default, Parts(100_000, 10, bug, bug), Message("q:a", Payload.of("x")))
        assert await ann.rest() == ["reset"]
        assert ann.link.close_code == 1011
        await bob.send(masked(TEXT, "we live"))
        assert await cid.hear() == "we live"


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


# Time.


async def test_a_silent_client_is_asked_and_one_that_answers_lives(patient_clock: MockClock) -> None:
    config = settings(websocket={"heartbeat": 10, "heartbeat_timeout": 5})
    async with open_net(PLUGINS, config) as net:
        ann = net.connect(protocol=Plain(), home="q:a")
        for _ in range(5):
            assert await ann.hear() == ("ping", b"")
            await ann.send(masked(PONG))
        assert trio.current_time() == pytest.approx(50, abs=8)
        assert not ann.ended.is_set()


async def test_a_client_that_says_nothing_to_a_ping_is_dead(patient_clock: MockClock) -> None:
    config = settings(websocket={"heartbeat": 10, "heartbeat_timeout": 5})
    async with open_net(PLUGINS, config) as net:
        ann = net.connect(protocol=Plain(), home="q:a")
        await ann.ended.wait()
        assert trio.current_time() == pytest.approx(15, abs=2.5)
        assert net.counters.dead == 1
        assert ann.link.connection.closing is not None
        assert ann.link.connection.closing.setting == "websocket.heartbeat_timeout"
        assert await ann.rest() == [("ping", b""), "reset"]


async def test_a_client_that_talks_is_not_asked(patient_clock: MockClock) -> None:
    config = settings(websocket={"heartbeat": 10, "heartbeat_timeout": 5})
    async with open_net(PLUGINS, config) as net:
        ann = net.connect(protocol=Plain(), home="q:a")
        for _ in range(20):
            await ann.send(masked(TEXT, "x"))
            assert await ann.silence(3) == []


async def test_a_client_that_is_not_read_is_not_called_dead(patient_clock: MockClock) -> None:
    config = settings(
        websocket={"heartbeat": 10, "heartbeat_timeout": 5},
        limits={"requests_waiting": 1},
        timeouts={"hook": 100},
    )
    async with open_net(PLUGINS, config) as net:
        ann = net.connect("ann", protocol=Plain(), home="s:a")
        await trio.sleep(1)
        gate = net.plugin("s").gates["message"] = trio.Event()
        await ann.send(masked(TEXT, "x"))
        await trio.sleep(60)
        assert not ann.ended.is_set()
        gate.set()
        await ann.send(masked(TEXT, "y"))
        await trio.sleep(4)
        assert not ann.ended.is_set()
        assert ann.link.connection.messages == 2


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system does not tell")
async def test_a_client_that_is_not_read_and_whose_host_vanishes_is_found(poller: str) -> None:
    config = settings(
        websocket={"heartbeat": 0.4, "heartbeat_timeout": 0.1}, limits={"requests_waiting": 1}, timeouts={"hook": 100}
    )
    async with open_net(PLUGINS, config, poller=poller) as net:
        ann = net.connect("ann", protocol=Plain(), home="s:a")
        await trio.testing.wait_all_tasks_blocked(0.005)
        gate = net.plugin("s").gates["message"] = trio.Event()
        await ann.send(masked(TEXT, "x"))
        await trio.testing.wait_all_tasks_blocked(0.005)
        vanish(ann.sock)
        await ann.ended.wait()
        assert ann.link.close_reason is not None
        assert "ETIMEDOUT" in ann.link.close_reason.reason
        gate.set()


def vanish(sock: socket.socket) -> None:
    """From now on the kernel drops all that comes for it, unseen (Linux: a filter that lets nothing in)."""
    attach_filter = 26
    let_nothing_in = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(let_nothing_in))
    sock.setsockopt(socket.SOL_SOCKET, attach_filter, program)


async def test_an_expired_token_closes_with_4401(patient_clock: MockClock) -> None:
    async with open_net(PLUGINS, settings(auth={"leeway": 0.0}, websocket={"heartbeat": 0})) as net:
        ann = net.connect(expires_in=30)
        bye = await ann.hear_until("bye")
        assert (bye["code"], bye["reconnect"]) == (CloseCode.UNAUTHORIZED, None)
        assert (await ann.hear())[:2] == ("close", 4401)
        assert trio.current_time() == pytest.approx(30, abs=1)


async def test_a_renewed_token_keeps_the_connection(patient_clock: MockClock) -> None:
    async with open_net(PLUGINS, settings(auth={"leeway": 0.0}, websocket={"heartbeat": 0})) as net:
        ann = net.connect(expires_in=30)
        net.tokens["new"] = identity("ann", expires_in=1000)
        await ann.send(say(t="auth", token="new", id=1))
        assert (await ann.hear_until("ok"))["id"] == 1
        await trio.sleep(100)
        assert not ann.ended.is_set()


# What is counted.


async def test_bytes_and_messages_are_counted_when_a_connection_ends() -> None:
    async with open_net(PLUGINS) as net:
        ann = net.connect(protocol=Plain(), home="q:a")
        frames = masked(TEXT, "abc") + masked(PING, b"x") + close(1000)
        await ann.send(frames)
        await ann.rest()
        await ann.ended.wait()
        counters = net.counters
        assert (counters.messages_in, counters.control_in, counters.bytes_in) == (1, 1, len(frames))
        assert counters.bytes_out == ann.raw


async def test_when_the_relay_stops_at_once_the_poller_may_be_gone_first(poller: str) -> None:
    async with open_net(PLUGINS, poller=poller) as net:
        clients = [net.connect(str(number), protocol=Plain(), home="q:a") for number in range(3)]
        net.poller_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        clients[0].link.abort()
        clients[1].link.connection.close(CloseReason(CloseCode.NORMAL, ""))
        for one in clients:
            one.link.abort()
            assert await one.rest() == ["reset"]
