"""A second socket of the Python client's session with a real relay over TLS, and fewer fields around the data."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from relay import client as library
from relay.client import Client, ConnectionRefused, Message, SecondSocket, connect
from tests.components import ROOT
from tests.e2e.harness import RelayProcess, request

pytestmark = pytest.mark.e2e

PATIENCE = 40.0
SECTION = re.compile(r"^## A second socket\n.*?\n\n((?:    [^\n]*\n|\n)+)", re.MULTILINE | re.DOTALL)


def v1(relay: RelayProcess, subject: str, **options: Any) -> Any:
    authority = relay.certificates.authority
    return connect(relay.wss("/ws"), token=relay.token(subject), ca_file=authority, **options)


async def heard(client: Client, count: int) -> list[Message]:
    found: list[Message] = []
    while len(found) < count:
        event = await client.receive()
        if isinstance(event, Message):
            found.append(event)
    return found


async def connections(relay: RelayProcess) -> int:
    text = (await request(relay, "/metrics", internal=True)).body.decode()
    (count,) = re.findall(r"^relay_connections (\d+)", text, re.MULTILINE)
    return int(count)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    while not await holds():
        await trio.lowlevel.checkpoint()


async def lose(second: SecondSocket) -> None:
    """The network takes the socket away, without a word."""
    assert second._socket is not None
    await second._socket.abandon()


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_both_sockets_bring_what_is_said_and_the_session_outlives_the_second(
    relay: RelayProcess, codec: str
) -> None:
    room = f"chat:second-{codec}"
    with trio.fail_after(PATIENCE):
        before = await connections(relay)
        async with v1(relay, "ann", codec=codec) as ann, v1(relay, "bob") as bob:
            await ann.join(room)
            await bob.join(room)
            second = await ann.open_socket("urgent")
            assert await connections(relay) == before + 3
            for number in range(20):
                await bob.publish(room, number, channel="urgent" if number % 2 else None)
            got = await heard(ann, 20)
            assert [one.data for one in got if one.channel == "urgent"] == list(range(1, 20, 2))
            assert [one.data for one in got if one.channel is None] == list(range(0, 20, 2))

            await lose(second)
            await until(lambda: _lost(second))
            await bob.publish(room, "still here", channel="urgent")
            assert [one.data for one in await heard(ann, 1)] == ["still here"]
            await until(lambda: _open(second))
            assert await connections(relay) == before + 3
            await bob.publish(room, "here again", channel="urgent")
            assert [one.data for one in await heard(ann, 1)] == ["here again"]

            await second.close()
            await until(lambda: _fewer(relay, before + 3))
            await bob.publish(room, "on the first", channel="urgent")
            assert [one.data for one in await heard(ann, 1)] == ["on the first"]


async def _lost(second: SecondSocket) -> bool:
    return second.lost is not None


async def _open(second: SecondSocket) -> bool:
    return second.open


async def _fewer(relay: RelayProcess, count: int) -> bool:
    return await connections(relay) < count


async def test_what_cannot_be_had_is_said_by_the_relay(relay: RelayProcess) -> None:
    with trio.fail_after(PATIENCE):
        async with v1(relay, "ann") as ann:
            for channels, code in ((("no such",), "no_such_channel"), (("control",), "no_such_channel")):
                with pytest.raises(ConnectionRefused) as caught:
                    await ann.open_socket(*channels)
                assert caught.value.code == code
            for _ in range(3):
                await ann.open_socket("urgent")
            with pytest.raises(ConnectionRefused) as caught:
                await ann.open_socket("urgent")
            assert (caught.value.code, caught.value.setting) == ("too_many_sockets", "limits.sockets_per_session")


async def test_the_example_of_the_docs_hears_a_room_by_two_sockets(relay: RelayProcess) -> None:
    found = SECTION.search((ROOT / "docs" / "client-python.md").read_text())
    assert found is not None
    names: dict[str, Any] = dict(vars(library))
    exec(textwrap.dedent(found[1]), names)
    got: list[Any] = []
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery, v1(relay, "bob") as bob:

            async def handle(message: Message) -> None:
                got.append(message.data)
                if len(got) == 2:
                    nursery.cancel_scope.cancel()

            url, authority = relay.wss("/ws"), relay.certificates.authority
            nursery.start_soon(names["listen"], url, relay.token("ann"), authority, handle)
            await bob.join("lobby")
            await until(lambda: _has(bob, "ann"))
            await bob.publish("lobby", "urgent", channel="urgent")
            await bob.publish("lobby", "usual")
            await trio.sleep_forever()
    assert sorted(got) == ["urgent", "usual"]


async def _has(client: Client, subject: str) -> bool:
    return subject in await client.presence("lobby")


async def test_a_client_names_the_fields_it_wants(relay: RelayProcess, tmp_path: Path) -> None:
    room = "chat:fields"
    with trio.fail_after(PATIENCE):
        async with v1(relay, "ann", fields=["key"]) as ann, v1(relay, "bob") as bob:
            await ann.join(room)
            await bob.join(room)
            await ann.open_socket("urgent")
            await bob.publish(room, "x", key="k", channel="urgent")
            await bob.publish(room, "y" * 40_000, key="k")
            got = [(one.data, one.key, one.sender, one.offset, one.at) for one in await heard(ann, 2)]
            assert sorted(got) == [("x", "k", None, 0, 0.0), ("y" * 40_000, "k", None, 0, 0.0)]
        with pytest.raises(ConnectionRefused) as caught:
            async with v1(relay, "ann", fields=["colour"]):
                pass
        assert (caught.value.status, caught.value.code) == (400, "no_such_field")
