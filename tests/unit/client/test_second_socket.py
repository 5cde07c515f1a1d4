"""A second socket of a session: events of both come out of one client, and the loss of it is not the session's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trio
import trio.testing
from wsproto.events import RejectConnection, Request

import relay.client.second
from relay.client import Client, ConnectionRefused, Disconnected, Message, Progress, SecondSocket, connect
from tests.unit.client.parts import cut, send_part
from tests.unit.client.server import Peer, relay_v1, serving

Then = Callable[[Peer], Awaitable[None]]


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay.client.second, "FIRST_DELAY", 0.01)


async def until_closed(peer: Peer) -> None:
    while await peer.hear() is not None:
        pass


class Server:
    """Sends `session?=` to the scripts of further sockets, one after the other, and all else to the first one."""

    def __init__(self, *seconds: Then, first: Then = until_closed, **hello: Any) -> None:
        self.seconds = list(seconds)
        self.first = first
        self.hello = hello
        self.asked: list[dict[str, list[str]]] = []
        self.tokens: list[str] = []
        self.main: Peer

    async def __call__(self, peer: Peer) -> None:
        request = await peer.next()
        if request is None:  # the session ended while this socket was being opened
            return
        assert isinstance(request, Request)
        peer.request = request
        peer._events.insert(0, request)
        query = parse_qs(urlsplit(request.target).query)
        if "session" not in query:
            self.main = peer
            await relay_v1(peer, **self.hello)
            await self.first(peer)
            return
        self.asked.append(query)
        self.tokens.append(peer.header("authorization"))
        if not self.seconds:  # opened once more, while the test ends
            await trio.sleep_forever()
        then = self.seconds.pop(0)
        if then is not refuse:
            await peer.accept("relay.v1.json")
        await then(peer)


async def refuse(peer: Peer) -> None:
    await peer.next()
    await peer.send(RejectConnection(status_code=404, headers=[(b"content-length", b"0")], has_body=False))


def saying(*offsets: int, then: Then = until_closed) -> Then:
    async def script(peer: Peer) -> None:
        for offset in offsets:
            await peer.say({"t": "message", "room": "lobby", "data": "x", "offset": offset})
        await then(peer)

    return script


async def lose(peer: Peer) -> None:
    await trio.aclose_forcefully(peer.stream)


async def offsets(client: Client, count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        event = await client.receive()
        if isinstance(event, Message):
            found.append(event.offset)
    return found


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await trio.testing.wait_all_tasks_blocked(0.001)


async def test_its_channels_and_the_session_are_named_and_its_events_come_with_the_others():
    server = Server(saying(1, 2))
    async with serving(server) as url, connect(f"{url}/ws", token="t") as client:
        second = await client.open_socket("urgent", "state")
        assert (second.open, second.channels, second.lost) == (True, ("urgent", "state"), None)
        assert await offsets(client, 2) == [1, 2]
        await server.main.say({"t": "message", "room": "lobby", "data": "x", "offset": 3})
        assert await offsets(client, 1) == [3]
    assert server.asked == [{"session": ["s1"], "channels": ["urgent,state"]}]
    assert server.tokens == ["Bearer t"]
    assert not second.open


async def test_it_asks_for_the_same_wire_format_as_the_first():
    server = Server(until_closed)
    async with serving(server) as url, connect(f"{url}/ws?a=1", parts=False, fields=["key", "offset"]) as client:
        await client.open_socket("urgent")
        assert urlsplit(server.main.request.target).query == "a=1&parts=0&fields=key,offset"
    assert server.asked == [
        {"a": ["1"], "session": ["s1"], "channels": ["urgent"], "parts": ["0"], "fields": ["key,offset"]}
    ]


async def test_a_socket_that_cannot_be_had_is_an_error_and_the_session_lives():
    server = Server(refuse, saying(1))
    async with serving(server) as url, connect(f"{url}/ws") as client:
        with pytest.raises(ConnectionRefused) as caught:
            await client.open_socket("urgent")
        assert caught.value.status == 404
        await client.open_socket("urgent")
        assert await offsets(client, 1) == [1]
    assert len(server.asked) == 2, "what failed at first is not tried again behind one's back"


@pytest.mark.parametrize("end", [lose, lambda peer: peer.close(1011)], ids=["lost", "closed"])
async def test_when_it_is_lost_the_session_goes_on_and_it_is_opened_again_with_the_newest_token(end: Then):
    ended = trio.Event()

    async def first(peer: Peer) -> None:
        asked = await peer.asked()
        await peer.say({"t": "ok", "id": asked["id"], "expires": 5.0})
        await until_closed(peer)

    async def wait(peer: Peer) -> None:
        await ended.wait()
        await end(peer)

    server = Server(saying(1, then=wait), refuse, saying(2), first=first)
    async with serving(server) as url, connect(f"{url}/ws", token="old") as client:
        second = await client.open_socket("urgent")
        await client.auth("new")
        ended.set()
        assert await offsets(client, 2) == [1, 2]
        assert isinstance(second.lost, ConnectionRefused), "the last attempt but one"
        assert second.open
    assert server.tokens == ["Bearer old", "Bearer new", "Bearer new"]


async def test_it_can_be_closed_and_stays_closed_and_the_session_lives():
    code = 0

    async def note_the_end(peer: Peer) -> None:
        nonlocal code
        await until_closed(peer)
        code = peer.close_code

    server = Server(saying(1, then=note_the_end))
    async with serving(server) as url, connect(f"{url}/ws") as client:
        second = await client.open_socket("urgent")
        assert await offsets(client, 1) == [1]
        await second.close()
        await second.close()
        assert (second.open, code, client.closed) == (False, 1000, None)
        await server.main.say({"t": "message", "room": "lobby", "data": "x", "offset": 2})
        assert await offsets(client, 1) == [2]
    assert len(server.asked) == 1


async def test_it_can_be_closed_while_it_waits_to_be_opened_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(relay.client.second, "FIRST_DELAY", 1000.0)
    async with serving(Server(lose)) as url, connect(f"{url}/ws") as client:
        second = await client.open_socket("urgent")
        await until(lambda: not second.open)
        await second.close()
        assert isinstance(second.lost, Disconnected)


async def test_it_ends_with_the_session():
    over = trio.Event()

    async def first(peer: Peer) -> None:
        await over.wait()
        await peer.close(4208, "too slow")

    async with serving(Server(until_closed, first=first)) as url, connect(f"{url}/ws") as client:
        second = await client.open_socket("urgent")
        over.set()
        with pytest.raises(Disconnected):
            await client.receive()
        await until(lambda: not second.open)
        with pytest.raises(Disconnected, match="4208"):
            await client.open_socket("urgent")


async def test_parts_of_both_sockets_are_kept_apart_and_those_of_a_lost_one_are_given_up():
    go = trio.Event()

    async def first(peer: Peer) -> None:
        await go.wait()
        for part in cut(peer, 0, b"1" * 300, 100, offset=1):
            await send_part(peer, part)
        await until_closed(peer)

    async def half(peer: Peer) -> None:
        for part in cut(peer, 0, b"2" * 300, 100, offset=2)[:2]:
            await send_part(peer, part)
        await go.wait()
        await lose(peer)

    async with serving(Server(half, until_closed, first=first)) as url, connect(f"{url}/ws", progress=True) as client:
        await client.open_socket("urgent")
        event = await client.receive()
        assert isinstance(event, Progress)
        number = event.stream
        go.set()
        heard: list[Any] = []
        while not any(isinstance(one, Message) for one in heard) or not any(
            isinstance(one, Progress) and one.cancelled for one in heard
        ):
            heard.append(await client.receive())
        assert [one.data for one in heard if isinstance(one, Message)] == [b"1" * 300]
        assert [one.stream for one in heard if isinstance(one, Progress) and one.cancelled] == [number]
        assert {one.stream for one in heard if isinstance(one, Progress)} == {0, number}


async def test_who_gives_up_waiting_for_it_leaves_nothing_behind():
    async def script(peer: Peer) -> None:
        request = await peer.next()
        if request is None:
            return
        assert isinstance(request, Request)
        peer._events.insert(0, request)
        if b"session" in request.target.encode():
            await trio.sleep_forever()
        await relay_v1(peer)
        await until_closed(peer)

    async with serving(script) as url, connect(f"{url}/ws") as client:
        with trio.move_on_after(0.05):
            await client.open_socket("urgent")
        assert all(isinstance(second, SecondSocket) and not second.open for second in client._hearing.seconds)
        assert client.closed is None
