"""How a session of relay.v1 ends, or does not begin, from the client's side: each ending has its reason."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock
from wsproto.events import TextMessage

from relay.client import (
    ConnectFailed,
    ConnectionRefused,
    Disconnected,
    connect,
)
from tests.unit.client.server import Peer, obliging, relay_v1, wired


async def test_bye_explains_the_close_and_says_when_to_come_back():
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        await peer.say({"t": "bye", "code": 1001, "reason": "restart", "reconnect": {"after": 2, "jitter": 3}})
        await peer.close(1001, "rest")

    async with wired(script) as url, connect(url) as relay:
        with pytest.raises(Disconnected) as caught:
            async for _ in relay:
                pass
    why = caught.value
    assert (why.code, why.reason, why.reconnect_after, why.reconnect_jitter, why.retry) == (1001, "restart", 2, 3, True)


async def test_bye_is_believed_where_the_close_frame_is_lost():
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        await peer.say({"t": "bye", "code": 4208, "reason": "too slow", "reconnect": None, "limit": "channels.bulk"})

    async with wired(script) as url, connect(url) as relay:
        with pytest.raises(Disconnected, match=r"4208: too slow \[channels.bulk\]"):
            async for _ in relay:
                pass


async def test_who_waits_for_an_answer_learns_that_the_relay_is_gone():
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        await peer.asked()
        await peer.close(4401, "token expired")

    async with wired(script) as url, connect(url) as relay:
        with pytest.raises(Disconnected, match="4401: token expired"):
            await relay.presence("lobby")
        with pytest.raises(Disconnected, match="4401: token expired"):
            await relay.presence("lobby")
        assert relay.closed is not None
        assert not relay.closed.retry


async def test_closing_ends_iteration_and_requests():
    async with wired(obliging) as url, connect(url) as relay:
        await relay.close()
        assert [event async for event in relay] == []
        with pytest.raises(Disconnected, match="1000"):
            await relay.ping()


async def test_a_silent_relay_is_asked_and_then_given_up(autojump_clock: MockClock):
    async def script(peer: Peer) -> None:
        await relay_v1(peer, heartbeat=0.05)
        asked.append(await peer.asked())
        await trio.sleep_forever()

    asked: list[Any] = []
    async with wired(script) as url, connect(url) as relay:
        with pytest.raises(Disconnected, match=r"1006: nothing was heard for 0\.1 s"):
            await relay.receive()
    assert asked == [{"t": "ping"}]


async def test_a_relay_that_answers_is_kept(autojump_clock: MockClock):
    async def script(peer: Peer) -> None:
        await relay_v1(peer, heartbeat=0.02)
        for _ in range(4):
            await peer.asked()
            await peer.say({"t": "pong"})
        await peer.close(1000, "enough")

    async with wired(script) as url, connect(url) as relay:
        assert [event async for event in relay] == []
        assert relay.closed is not None
        assert relay.closed.reason == "enough"


@pytest.mark.parametrize("raw", ["nonsense", "[]", '{"t":"ok","id":[]}', '{"t":7}', "[" * 100_000])
async def test_what_is_not_relay_v1_ends_the_session_with_1002(raw: str):
    codes: list[int] = []

    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        await peer.send(TextMessage(data=raw))
        await peer.hear()
        codes.append(peer.close_code)

    async with wired(script) as url, connect(url) as relay:
        with pytest.raises(Disconnected, match=r"1002: the server does not speak relay\.v1"):
            await relay.receive()
    assert codes == [1002]


async def test_a_refused_handshake_is_raised_by_connect():
    async def script(peer: Peer) -> None:
        await peer.next()
        await peer.stream.send_all(b"HTTP/1.1 429 Many\r\nContent-Length: 0\r\n\r\n")

    async with wired(script) as url:
        with pytest.raises(ConnectionRefused, match="429"):
            async with connect(url):
                pass


async def test_a_close_instead_of_hello_is_raised_by_connect():
    async def script(peer: Peer) -> None:
        await peer.accept("relay.v1.json")
        await peer.close(4401, "token expired")

    async with wired(script) as url:
        with pytest.raises(Disconnected, match="4401: token expired"):
            async with connect(url):
                pass


@pytest.mark.parametrize("first", [None, {"t": "joined", "room": "a", "subject": "b"}])
async def test_a_server_without_hello_is_not_a_relay(first: dict[str, Any] | None, autojump_clock: MockClock):
    async def script(peer: Peer) -> None:
        await peer.accept("relay.v1.json")
        if first is not None:
            await peer.say(first)
        await peer.hear()

    async with wired(script) as url:
        with pytest.raises(ConnectFailed, match="no `hello`"):
            async with connect(url, connect_timeout=0.2):
                pass


async def test_the_body_s_exception_comes_out_as_it_was_raised():
    async with wired(obliging) as url:
        with pytest.raises(KeyError, match="mine"):
            async with connect(url):
                raise KeyError("mine")


async def test_the_body_s_exception_wins_over_a_lost_connection():
    async def script(peer: Peer) -> None:
        await relay_v1(peer)

    async with wired(script) as url:
        with pytest.raises(Disconnected, match="1006"):
            async with connect(url) as relay:
                await relay.ping()
