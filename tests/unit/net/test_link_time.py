"""A connection as time goes by: heartbeats, who is found dead, and how long a token lasts."""

from __future__ import annotations

import ctypes
import socket
import struct

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from relay.errors import CloseCode
from relay.protocols.plain import Plain
from tests.unit.net.conftest import PLUGINS, PONG, TEXT
from tests.unit.net.kit import masked, open_net, say
from tests.unit.session.kit import identity, settings

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
