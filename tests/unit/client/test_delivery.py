"""To one subject, with the knowledge that it arrived; and what is said on the other side."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from relay.client import (
    Client,
    Confirm,
    Delivery,
    Forbidden,
    Gap,
    Message,
    NoSuchMethod,
    NoSuchSubject,
    RateLimited,
    Refused,
    TimedOut,
    Unavailable,
    connect,
)
from relay.client.errors import REFUSALS
from relay.errors import ERROR_CODES
from tests.unit.client.server import Peer, relay_v1, wired

TAXI = {"t": "message", "room": "r", "data": "taxi", "from": "ann", "to": "bob", "offset": 4}
CONFIRM = {"t": "confirm", "room": "r", "offset": 4}


class Relay:
    """Says what it is told to, and notes what it is told: `acks`, each a (room, offset), answered."""

    def __init__(self) -> None:
        self.acks: list[tuple[str, int]] = []
        self.peer: Peer
        self.there = trio.Event()

    async def __call__(self, peer: Peer) -> None:
        await relay_v1(peer)
        self.peer = peer
        self.there.set()
        while (asked := await peer.asked()) is not None:
            if asked["t"] == "ack":
                self.acks.append((asked["room"], asked["offset"]))
            await peer.say({"t": "ok", "id": asked["id"]})

    async def say(self, *words: dict[str, Any]) -> None:
        await self.there.wait()
        for one in words:
            await self.peer.say(one)


async def test_it_is_asked_for_and_answered_with_who_has_it() -> None:
    asked: list[dict[str, Any]] = []

    async def script(peer: Peer) -> None:
        await relay_v1(peer, limits={"part_bytes": 200, "message_bytes": 1000})
        asked.append(await peer.asked())
        await peer.say({"t": "ok", "id": asked[0]["id"], "offset": 12, "delivered": 2})
        await peer.hear()  # a part
        await peer.say({"t": "ok", "id": 2, "offset": 13, "delivered": 1})
        await peer.hear()

    async with wired(script) as url, connect(url) as relay:
        assert await relay.deliver("direct:bob", "taxi", to="bob", timeout=3.5, key="k") == Delivery(12, "bob", 2)
        large = "x" * 150
        assert await relay.deliver("direct:bob", large, to="bob") == Delivery(13, "bob", 1)
    words = {"room": "direct:bob", "to": "bob", "data": "taxi", "key": "k", "confirm": 3.5}
    assert asked == [{"t": "publish", "id": 1, **words}]


@pytest.mark.parametrize(
    ("code", "kind"),
    [("timeout", TimedOut), ("no_such_subject", NoSuchSubject), ("rate_limited", RateLimited), ("slow_mode", Refused)],
)
async def test_a_refusal_has_a_type(code: str, kind: type[Refused]) -> None:
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        request = 0
        while await peer.hear() is not None:
            request += 1
            await peer.say({"t": "error", "id": request, "code": code, "message": "?", "retry_after": 2.0})

    async with wired(script) as url, connect(url) as relay:
        for ask in (
            lambda: relay.deliver("r", 1, to="bob"),
            lambda: relay.call("r", "m"),
            lambda: relay.publish("r", b"in a part"),
        ):
            with pytest.raises(Refused) as caught:
                await ask()
            assert type(caught.value) is kind
            assert (caught.value.code, caught.value.retry_after) == (code, 2.0)


def test_types_are_for_codes_that_there_are() -> None:
    assert REFUSALS.keys() <= ERROR_CODES.keys()
    assert issubclass(NoSuchMethod, Refused)
    assert REFUSALS["plugin_off"] is Unavailable
    assert REFUSALS["unauthorized"] is Forbidden


async def test_it_is_confirmed_when_the_program_comes_for_the_next_event(autojump_clock: MockClock) -> None:
    server = Relay()
    async with wired(server) as url, connect(url) as bob:
        await server.say(TAXI, CONFIRM)
        message = await bob.receive()
        assert isinstance(message, Message)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.acks == [], "it is not done with it yet"
        await server.say({"t": "message", "room": "r", "data": "next"})
        following = await bob.receive()
        assert isinstance(following, Message)
        assert following.data == "next"
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.acks == [("r", 4)]


async def test_a_program_that_waits_confirms_at_once_and_a_second_question_is_not_answered_twice(
    autojump_clock: MockClock,
) -> None:
    server = Relay()
    async with wired(server) as url, connect(url) as bob, trio.open_nursery() as nursery:

        async def listen() -> None:
            async for _ in bob:
                pass

        nursery.start_soon(listen)
        await server.say(TAXI, CONFIRM, CONFIRM)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.acks == [("r", 4)]
        nursery.cancel_scope.cancel()


async def test_what_the_program_never_got_is_not_confirmed(autojump_clock: MockClock) -> None:
    server = Relay()
    async with wired(server) as url, connect(url, buffer=2) as bob:
        await server.say(TAXI, CONFIRM, *({"t": "message", "room": "r", "data": number} for number in range(2)))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await bob.receive() == Gap("r", 4, 4, "client_buffer")
        for _ in range(2):
            assert isinstance(await bob.receive(), Message)
        await server.say({"t": "confirm", "room": "r", "offset": 77}, {"t": "joined", "room": "r", "subject": "eve"})
        await bob.receive()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.acks == []


async def test_a_program_may_confirm_by_itself(autojump_clock: MockClock) -> None:
    server = Relay()
    async with wired(server) as url, connect(url, auto_ack=False) as bob:
        await server.say(TAXI, CONFIRM)
        assert isinstance(await bob.receive(), Message)
        confirm = await bob.receive()
        assert confirm == Confirm("r", 4)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.acks == []
        await bob.ack(confirm.room, confirm.offset)
        assert server.acks == [("r", 4)]


async def test_a_message_of_a_room_that_was_renamed_meanwhile_is_confirmed_as_it_was_asked_for(
    autojump_clock: MockClock,
) -> None:
    server = Relay()
    async with wired(server) as url, connect(url) as bob:
        await joined(bob, "r")
        await server.say(
            {"t": "renamed", "room": "r", "to": "s"}, TAXI, CONFIRM, {"t": "count", "room": "s", "count": 1}
        )
        events = [await bob.receive() for _ in range(3)]
        assert [event.room for event in events if isinstance(event, Message)] == ["s"]
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.acks == [("r", 4)]


async def joined(client: Client, room: str) -> None:
    """As if the relay had said more than `ok`."""
    await client.join(room)
    client._where.joined(room, "e", 0)
