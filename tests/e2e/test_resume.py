"""Sockets are cut for real, and the session goes on: over TLS, with the Python client and without it."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from relay.client import Client, ConnectionRefused, Disconnected, Joined, Left, Message, PlainClient, connect
from relay.client.plain import connect_plain
from tests.e2e.harness import RelayProcess, running_relay

ROOM = "chat:a"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


class Network:
    """Bytes go through it to the relay, as long as it lives; `cut` resets what is open."""

    def __init__(self, relay: RelayProcess) -> None:
        self.relay = relay
        self.port = 0
        self.deaf = False
        self.up = trio.Event()
        self.up.set()
        self._open: list[trio.SocketStream] = []
        self._scopes: list[trio.CancelScope] = []

    @property
    def url(self) -> str:
        return f"wss://localhost:{self.port}/ws"

    def cut(self) -> None:
        """What is open now is reset at both ends."""
        for scope in self._scopes:
            scope.cancel()

    async def serve(self, inner: trio.SocketStream) -> None:
        await self.up.wait()
        outer = await trio.open_tcp_stream("127.0.0.1", self.relay.port)
        with trio.CancelScope() as scope:
            self._scopes.append(scope)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass_on, inner, outer, nursery)
                    nursery.start_soon(self._pass_on, outer, inner, nursery)
            finally:
                for stream in (inner, outer):
                    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    stream.socket.close()

    async def _pass_on(self, source: trio.SocketStream, target: trio.SocketStream, nursery: trio.Nursery) -> None:
        try:
            async for data in source:
                if not self.deaf:
                    await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def network(relay: RelayProcess) -> AsyncIterator[Network]:
    made = Network(relay)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, made.serve, 0, host="127.0.0.1"))
        made.port = listeners[0].socket.getsockname()[1]
        yield made
        nursery.cancel_scope.cancel()


def settings(**websocket: Any) -> dict[str, dict[str, Any]]:
    chat = {"rooms": "chat:*", "presence": True, "history": 1000}
    return {"plugins": {"chat": chat}, "websocket": {"heartbeat": 1.0, "heartbeat_timeout": 1.0, **websocket}}


async def messages(client: Client, count: int) -> list[Any]:
    found: list[Any] = []
    with trio.fail_after(20):
        while len(found) < count:
            event = await client.receive()
            assert not isinstance(event, Joined | Left), "presence has flapped"
            if isinstance(event, Message):
                found.append(event.data)
    return found


async def test_a_cut_socket_is_opened_again_and_nothing_is_missed_or_doubled(tmp_path: Path) -> None:
    async with running_relay(tmp_path, settings()) as relay, network(relay) as net:
        authority = str(relay.certificates.authority)
        async with (
            connect(net.url, token=relay.token("ann"), ca_file=authority, resume=True) as ann,
            connect(relay.wss("/ws"), token=relay.token("bob"), ca_file=authority) as bob,
        ):
            await bob.join(ROOM)
            await ann.join(ROOM)
            with trio.fail_after(10):
                assert isinstance(await bob.receive(), Joined)
            session, said, answered = ann.session, 0, []
            for round_ in range(3):
                for _ in range(20):
                    await bob.publish(ROOM, said)
                    said += 1
                net.up = trio.Event()
                net.cut()
                async with trio.open_nursery() as nursery:

                    async def publish(data: str = f"ann {round_}") -> None:
                        answered.append(await ann.publish(ROOM, data))

                    nursery.start_soon(publish)
                    for _ in range(20):
                        await bob.publish(ROOM, said)
                        said += 1
                    net.up.set()
            assert await messages(ann, said) == list(range(said))
            assert await messages(bob, 3) == ["ann 0", "ann 1", "ann 2"]
            assert len(set(answered)) == 3
            assert ann.session == session
            assert (await bob.members(ROOM)).connections == {}
        assert "connection lost, its session waits" in relay.log


async def test_a_network_that_has_gone_deaf_is_left_and_the_session_taken_over(tmp_path: Path) -> None:
    async with running_relay(tmp_path, settings()) as relay, network(relay) as net:
        authority = str(relay.certificates.authority)
        async with (
            connect(net.url, token=relay.token("ann"), ca_file=authority, resume=True) as ann,
            connect(relay.wss("/ws"), token=relay.token("bob"), ca_file=authority) as bob,
        ):
            await bob.join(ROOM)
            await ann.join(ROOM)
            with trio.fail_after(10):
                assert isinstance(await bob.receive(), Joined)
            net.deaf = True
            for number in range(5):
                await bob.publish(ROOM, number)
            await relay.until_log("connection lost, its session waits", 15)
            net.deaf = False
            assert await messages(ann, 5) == [0, 1, 2, 3, 4]
            await ann.publish(ROOM, "here again")
            assert await messages(bob, 1) == ["here again"]


async def test_who_comes_too_late_has_no_session_and_the_others_are_told(tmp_path: Path) -> None:
    async with running_relay(tmp_path, settings(resume_window=1.0)) as relay, network(relay) as net:
        authority = str(relay.certificates.authority)
        async with connect(relay.wss("/ws"), token=relay.token("bob"), ca_file=authority) as bob:
            await bob.join(ROOM)
            with pytest.raises(Disconnected) as late:  # noqa: PT012 - the block is what ends
                async with connect(net.url, token=relay.token("ann"), ca_file=authority, resume=True) as ann:
                    await ann.join(ROOM)
                    net.up = trio.Event()
                    net.cut()
                    with trio.fail_after(20):
                        await ann.publish(ROOM, "never")
            assert late.value.code == 1006
            with trio.fail_after(10):
                assert isinstance(await bob.receive(), Joined)
                assert await bob.receive() == Left(ROOM, "ann")
            closed = await relay.until_log("session closed", subject="ann")
            assert closed["setting"] == "websocket.resume_window"
            net.up.set()


async def asks(client: PlainClient, **words: Any) -> None:
    await client.send(msgspec.json.encode(words).decode())


async def hears(client: PlainClient) -> Any:
    with trio.fail_after(10):
        return msgspec.json.decode(await client.receive())


async def test_a_ticket_opens_its_session_without_a_token_once_and_nothing_else(tmp_path: Path) -> None:
    async with running_relay(tmp_path, settings()) as relay:
        opens = partial(connect_plain, ca_file=str(relay.certificates.authority), subprotocols=["relay.v1.json"])
        async with opens(relay.wss("/ws?resume="), token=relay.token("ann")) as ann:
            hello = await hears(ann)
            await asks(ann, t="join", id=1, room=ROOM)
            joined = await hears(ann)
            await ann.abandon()
        word = hello["resume"]["ticket"]
        async with opens(relay.wss(f"/ws?resume={word}")) as ann:
            position = {"epoch": joined["epoch"], "offset": joined["offset"]}
            await asks(ann, t="resume", id=1, rooms={ROOM: position})
            again = await hears(ann)
            assert (again["session"], again["resumed"], again["subject"]) == (hello["session"], True, "ann")
            answer = await hears(ann)
            assert answer["rooms"] == {ROOM: {**position, "recovered": True}}
            with pytest.raises(ConnectionRefused) as twice:
                async with opens(relay.wss(f"/ws?resume={word}")):
                    pass
            no = twice.value
            assert (no.status, no.code, no.setting) == (404, "no_such_session", "websocket.resume_window")
            async with opens(relay.wss(f"/ws?resume={word}"), token=relay.token("ann")) as other:
                fresh = await hears(other)
                assert (fresh["resumed"], fresh["session"] != hello["session"]) == (False, True)
        # It was closed in order: so its session has ended.
        with pytest.raises(ConnectionRefused) as late:
            async with opens(relay.wss(f"/ws?resume={again['resume']['ticket']}")):
                pass
        assert late.value.code == "no_such_session"
        assert word not in relay.log
        assert word.partition(".")[2] not in relay.log
