"""A connection on a real socket: how it speaks, how it ends, and that its end hurts nobody else."""

from __future__ import annotations

import errno
import socket
import struct

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from relay.errors import CloseCode, CloseReason
from relay.model import Message, Payload
from relay.protocols.parts import Parts
from relay.protocols.plain import Plain
from tests.unit.net.conftest import BINARY, CLOSE, PING, PLUGINS, PONG, TEXT
from tests.unit.net.kit import close, masked, open_net, say
from tests.unit.session.kit import settings

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
