"""Large messages through a real relay: whole where they must be, in parts where they can be, and overtaken by urgent
ones.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import trio

from relay.client import Client, Message, PlainClient, Progress, Refused, Withdrawn, connect, connect_plain
from tests.e2e.harness import RelayProcess, running_relay

pytestmark = pytest.mark.e2e

PATIENCE = 40.0
MIB = 1 << 20


def patiently(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Under a deadline."""

    @wraps(test)
    async def timed(**arguments: Any) -> None:
        with trio.fail_after(PATIENCE):
            await test(**arguments)

    return timed


def v1(relay: RelayProcess, subject: str, codec: Any = "json", **options: Any) -> AbstractAsyncContextManager[Client]:
    url, authority = relay.wss("/ws"), relay.certificates.authority
    options = {"max_message_bytes": 32 * MIB, **options}
    return connect(url, token=relay.token(subject), ca_file=authority, codec=codec, **options)


def plain(relay: RelayProcess, subject: str, room: str) -> AbstractAsyncContextManager[PlainClient]:
    url, authority = relay.wss(f"/rooms/{room}"), relay.certificates.authority
    return connect_plain(url, token=relay.token(subject), ca_file=authority, max_message_bytes=32 * MIB)


async def message(client: Client) -> Message:
    """The next message; who comes and goes, and progress, are passed over."""
    async for event in client:
        if isinstance(event, Message):
            return event
    raise AssertionError("the session has ended")


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("data", [bytes(range(256)) * 250, "grüße, " * 6000], ids=["binary", "text"])
@patiently
async def test_a_large_message_of_a_plain_client_comes_in_parts_as_it_was(
    relay: RelayProcess, codec: str, data: str | bytes
) -> None:
    room = "chat:from-plain"
    async with v1(relay, "ann", codec, progress=True) as ann, plain(relay, "bob", room) as bob:
        await ann.join(room)
        await bob.send(data)
        event = await ann.receive()
        while not isinstance(event, Progress):
            event = await ann.receive()
        assert event.size == len(data if isinstance(data, bytes) else data.encode())
        heard = await message(ann)
        assert (heard.data, heard.sender) == (data, "bob")


@pytest.mark.parametrize(
    "data",
    [{"rows": [["x" * 50, 1.5, None]] * 50_000}, "ü" * MIB, bytes(range(256)) * 12_000],
    ids=["document", "text", "binary"],
)
@pytest.mark.parametrize(("one", "other"), [("json", "msgpack"), ("msgpack", "json")])
@patiently
async def test_a_large_message_is_the_same_in_both_codecs(relay: RelayProcess, one: str, other: str, data: Any) -> None:
    room = "chat:codecs"
    async with v1(relay, "ann", one) as ann, v1(relay, "bob", other) as bob, v1(relay, "cat", one) as cat:
        for client in (ann, bob, cat):
            await client.join(room)
        offset = await ann.publish(room, data, channel="bulk", key="k")
        for client in (bob, cat):
            heard = await message(client)
            assert heard.data == data
            assert (heard.sender, heard.offset, heard.channel, heard.key) == ("ann", offset, "bulk", "k")


@patiently
async def test_a_plain_client_gets_whole_what_was_sent_in_parts(relay: RelayProcess) -> None:
    room = "chat:to-plain"
    data = bytes(range(256)) * 8000
    async with v1(relay, "ann") as ann, plain(relay, "bob", room) as bob:
        await ann.join(room)
        await ann.publish(room, data, channel="bulk")
        await ann.publish(room, "after", channel="bulk")
        await ann.publish(room, b"few", channel="bulk")
        assert [await bob.receive() for _ in range(3)] == [data, "after", b"few"]


@patiently
async def test_who_asks_for_whole_messages_gets_them_whole(relay: RelayProcess) -> None:
    room = "chat:whole"
    data = b"x" * MIB
    async with (
        v1(relay, "ann") as ann,
        v1(relay, "bob", "json", parts=False, progress=True) as bob,
        v1(relay, "cat", "msgpack", parts=False, progress=True) as cat,
    ):
        for client in (ann, bob, cat):
            await client.join(room)
        await ann.publish(room, data, channel="bulk")
        events = [[await client.receive()] for client in (bob, cat)]
        for client, heard in zip((bob, cat), events, strict=True):
            while not isinstance(heard[-1], Message):
                heard.append(await client.receive())
            assert not any(isinstance(event, Progress) for event in heard)
        assert events[0][-1].data == base64.b64encode(data).decode()
        assert events[1][-1].data == data
        await bob.publish(room, "y" * 20_000)
        assert (await message(ann)).data == "y" * 20_000


@patiently
async def test_progress_grows_up_to_the_size_and_the_message_follows(relay: RelayProcess) -> None:
    room = "chat:progress"
    size = 4 * MIB
    async with v1(relay, "ann") as ann, v1(relay, "bob", progress=True) as bob:
        await ann.join(room)
        await bob.join(room)
        steps: list[int] = []
        async with trio.open_nursery() as nursery:

            async def publish() -> None:
                upload = ann.upload(room, b"x" * size, channel="bulk", key="film")
                sent = [sent async for sent in upload]
                assert sent == sorted(set(sent))
                assert sent[-1] == size
                await upload.wait()

            nursery.start_soon(publish)
            async for event in bob:
                if isinstance(event, Progress):
                    assert (event.room, event.size, event.key, event.channel) == (room, size, "film", "bulk")
                    steps.append(event.received)
                elif isinstance(event, Message):
                    assert len(event.data) == size
                    break
        assert steps == sorted(set(steps))
        assert steps[-1] == size


@patiently
async def test_what_is_cancelled_is_heard_by_nobody_and_the_sender_stays(relay: RelayProcess) -> None:
    room = "chat:cancel"
    async with v1(relay, "ann") as ann, v1(relay, "bob", progress=True) as bob:
        await ann.join(room)
        await bob.join(room)
        upload = ann.upload(room, b"x" * 15 * MIB, channel="bulk")
        async for sent in upload:
            if sent > 2 * MIB:
                break
        assert upload.cancel()
        with pytest.raises(Withdrawn):
            await upload.wait()
        assert upload.sent < upload.size
        await ann.publish(room, "still here")
        events = [await bob.receive()]
        while not isinstance(events[-1], Message):
            events.append(await bob.receive())
        assert events[-1].data == "still here"
        assert not any(isinstance(event, Progress) for event in events)


@patiently
async def test_a_newer_message_of_the_same_key_is_heard_instead_of_the_older(relay: RelayProcess) -> None:
    room = "chat:supersede"
    async with v1(relay, "ann") as ann, v1(relay, "bob") as bob:
        await ann.join(room)
        await bob.join(room)
        older = ann.upload(room, b"o" * 15 * MIB, channel="bulk", key="k")
        async for sent in older:
            if sent:
                break
        await ann.publish(room, b"n" * MIB, channel="bulk", key="k")
        with pytest.raises(Withdrawn, match="superseded"):
            await older.wait()
        assert (await message(bob)).data == b"n" * MIB


@patiently
async def test_an_urgent_message_passes_a_large_one_on_its_way_in_and_on_its_way_out(relay: RelayProcess) -> None:
    """Heard while the large one is still being sent to the relay; and heard between its parts by who gets both."""
    room = "chat:urgent"
    size = 7 * MIB
    async with v1(relay, "ann") as ann, v1(relay, "bob", progress=True) as bob, v1(relay, "cat") as cat:
        for client in (ann, bob, cat):
            await client.join(room)
        upload = ann.upload(room, b"x" * 15 * MIB, channel="bulk")
        async for sent in upload:
            if sent:
                break
        await ann.publish(room, "in", channel="urgent")
        assert (await message(bob)).data == "in"
        assert upload.cancel(), "the large one was sent before the urgent one was heard"

        upload = ann.upload(room, b"x" * size, channel="bulk")
        order: list[Any] = []
        async for event in bob:
            if isinstance(event, Progress) and not order:
                order.append("begun")
                await cat.publish(room, "out", channel="urgent")
            elif isinstance(event, Message):
                order.append(event.data if isinstance(event.data, str) else len(event.data))
                if order[-1] == size:
                    break
        await upload.wait()
        assert order == ["begun", "out", size]


@patiently
async def test_a_message_over_the_limit_is_refused_while_it_is_being_sent(tmp_path: Path) -> None:
    limits = {"parted_message_bytes": MIB, "parted_bytes": 2 * MIB}
    async with running_relay(tmp_path, {"limits": limits}) as relay, v1(relay, "ann") as ann:
        await ann.join("chat:a")
        upload = ann.upload("chat:a", b"x" * 64 * MIB)
        with pytest.raises(Refused) as caught:
            await upload.wait()
        assert (caught.value.code, caught.value.setting) == ("too_large", "limits.parted_message_bytes")
        assert upload.sent < upload.size
        assert await ann.publish("chat:a", b"x" * MIB, channel="bulk") == 1
        uploads = [ann.upload("chat:a", bytes([number]) * MIB, channel="bulk") for number in range(5)]
        refused = []
        for upload in uploads:
            try:
                await upload.wait()
            except Refused as no:
                refused.append((no.code, no.setting))
        assert set(refused) <= {("too_large", "limits.parted_bytes")}
        await ann.ping()


@patiently
async def test_files_are_announced_handed_around_and_fetched(tmp_path: Path) -> None:
    data = bytes(range(256)) * 12_000
    async with (
        running_relay(tmp_path, {"plugins.files": {"rooms": "files:*"}}) as relay,
        v1(relay, "ann") as ann,
        v1(relay, "bob", "msgpack", progress=True) as bob,
    ):
        await ann.join("files:a")
        await bob.join("files:a")
        await ann.publish("files:a", data, channel="bulk", key="film.mp4")
        about = {"file": "film.mp4", "size": len(data), "from": "ann"}
        assert (await message(bob)).data == about
        event = await bob.receive()
        assert isinstance(event, Progress)
        assert (event.key, event.size) == ("film.mp4", len(data))
        assert (await message(bob)).data == data
        async with v1(relay, "late") as late:
            await late.join("files:a")
            assert await late.call("files:a", "list") == [about]
            assert await late.call("files:a", "get", "film.mp4") == about
            fetched = await message(late)
            assert (fetched.data, fetched.key, fetched.sender) == (data, "film.mp4", None)


@patiently
async def test_players_hear_moves_and_where_the_others_are(tmp_path: Path) -> None:
    async with (
        running_relay(tmp_path, {"plugins.game": {"rooms": "game:*", "ticks": 50.0}}) as relay,
        v1(relay, "ann") as ann,
        v1(relay, "bob") as bob,
    ):
        await ann.join("game:a")
        await ann.publish("game:a", {"at": [1.5, 2]})
        await bob.join("game:a")
        snapshot = await message(bob)
        assert (snapshot.channel, snapshot.data["positions"]) == ("bulk", {"ann": [1.5, 2]})
        await ann.publish("game:a", {"at": [3, 4]})
        await ann.publish("game:a", {"move": "jump"}, channel="urgent")
        heard = {}
        while {"urgent", "state"} - set(heard):
            one = await message(bob)
            heard[one.channel] = one.data
            if heard.get("state") == {"at": [1.5, 2]}:
                del heard["state"]  # told with the first tick, and then again what is newer
        assert heard == {"urgent": {"move": "jump"}, "state": {"at": [3, 4]}}
