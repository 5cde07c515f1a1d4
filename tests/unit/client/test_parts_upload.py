"""Messages that leave in parts: which do, what passes between them, and how an upload can end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from relay.client import Disconnected, Refusal, Refused, Withdrawn, connect
from relay.model import Kind, Payload
from relay.protocols.parts import CANCEL, FIRST, HEADER, LAST, Part
from relay.protocols.relay_v1 import RelayV1Json, RelayV1Msgpack
from tests.unit.client.parts import Listener
from tests.unit.client.server import Peer, relay_v1, serving

CODECS: Any = pytest.mark.parametrize("codec", ["json", "msgpack"])
LARGE = 100_000
VAST = 40_000_000
"""More than the buffers between two sockets take."""


def listening(
    script: Callable[[Listener], Awaitable[None]], codec: str = "json", **hello: Any
) -> Callable[[Peer], Awaitable[None]]:
    """A relay that says hello, does as `script` says, and stays until the client closes."""

    async def serve(peer: Peer) -> None:
        await relay_v1(peer, codec, **hello)
        listener = Listener(peer)
        await script(listener)
        while await listener.hear() is not None:
            pass

    return serve


async def answering(listener: Listener) -> None:
    """Answers whatever comes in parts."""
    while (heard := await listener.whole()) is not None:
        words, payload = heard
        await listener.peer.say({"t": "ok", "id": words["id"], "offset": len(payload)})


async def reads_nothing(listener: Listener) -> None:
    await trio.sleep_forever()


@CODECS
@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"\xc1" * LARGE, "binary"), ("ü" * LARGE, "text"), (["x" * 99] * 1000, None), (b"\0" * 16_385, "binary")],
)
async def test_a_large_message_leaves_in_parts_with_its_words_in_the_first(codec: Any, data: Any, kind: str) -> None:
    heard: list[tuple[dict[str, Any], bytes]] = []

    async def script(listener: Listener) -> None:
        words, payload = await listener.whole()
        heard.append((words, payload))
        assert len(listener.parts) > 1
        assert max(HEADER.size + len(part.envelope) + len(part.data) for part in listener.parts) == 16384
        await listener.peer.say({"t": "ok", "id": words["id"], "offset": 8})

    options: dict[str, Any] = {"channel": "bulk", "key": "k", "to": "bob", "echo": True, "ttl": 60.0}
    async with serving(listening(script, codec)) as url, connect(url, codec=codec) as relay:
        assert await relay.publish("lobby", data, **options) == 8
    ((words, payload),) = heard
    assert words == {"t": "publish", "id": 1, "room": "lobby", "kind": kind or codec, **options}
    assert Payload(Kind[(kind or codec).upper()], payload).value() == data


@CODECS
async def test_the_relay_s_own_decoder_understands_the_envelope(codec: Any) -> None:
    protocol = RelayV1Json() if codec == "json" else RelayV1Msgpack()
    commands: list[Any] = []

    async def script(listener: Listener) -> None:
        for _ in range(2):
            words, payload = await listener.whole()
            envelope = next(part.envelope for part in reversed(listener.parts) if part.flags & FIRST)
            commands.append(protocol.parted(envelope, payload))
            await listener.peer.say({"t": "ok", "id": words["id"]})

    async with serving(listening(script, codec)) as url, connect(url, codec=codec) as relay:
        await relay.publish("lobby", ["x" * LARGE], channel="bulk", key="k", to="bob", echo=True, ttl=3)
        await relay.publish("lobby", b"x" * LARGE)
    first, second = commands
    assert (first.room, first.channel, first.key, first.to, first.echo, first.ttl) == (
        "lobby", "bulk", "k", "bob", True, 3,
    )  # fmt: skip
    assert first.data.value() == ["x" * LARGE]
    assert second.data.value() == b"x" * LARGE


@pytest.mark.parametrize("data", [b"", b"\x00\xff"])
async def test_bytes_leave_as_they_are_in_json_too_however_few(data: bytes) -> None:
    heard: list[Any] = []

    async def script(listener: Listener) -> None:
        words, payload = await listener.whole()
        heard.extend([words["kind"], payload, len(listener.parts)])
        await listener.peer.say({"t": "ok", "id": words["id"]})

    async with serving(listening(script)) as url, connect(url) as relay:
        await relay.publish("lobby", data)
    assert heard == ["binary", data, 1]


@pytest.mark.parametrize(
    ("limits", "size"),
    [
        ({"message_bytes": 65536, "part_bytes": 4096}, 4096),
        ({"message_bytes": 2000, "part_bytes": 4096}, 2000),
        ({"message_bytes": 65536}, 16384),
    ],
)
async def test_parts_are_as_large_as_the_relay_says_and_never_larger_than_a_message(
    limits: dict[str, float], size: int
) -> None:
    heard: list[int] = []

    async def script(listener: Listener) -> None:
        words, _ = await listener.whole()
        heard.append(max(HEADER.size + len(part.envelope) + len(part.data) for part in listener.parts))
        await listener.peer.say({"t": "ok", "id": words["id"]})

    async with serving(listening(script, limits=limits)) as url, connect(url) as relay:
        await relay.publish("lobby", "\0" * 17_000)
    assert heard == [size]


@pytest.mark.parametrize(
    ("parts", "limits", "session"),
    [(False, {}, True), (True, {"parted_message_bytes": 0}, True), (True, {}, False)],
    ids=["asked", "switched off at the relay", "switched off for the session"],
)
async def test_a_message_leaves_whole_when_asked_to_or_where_there_are_no_parts(
    parts: bool, limits: dict[str, float], session: bool
) -> None:
    heard: list[Any] = []

    async def script(listener: Listener) -> None:
        heard.append(await listener.hear())
        await listener.peer.say({"t": "ok", "id": heard[0]["id"]})

    async with serving(listening(script, limits=limits)) as url, connect(url, parts=session) as relay:
        await relay.publish("lobby", "x" * LARGE, parts=parts)
        if parts:
            with pytest.raises(Refused, match="bad_part"):
                relay.upload("lobby", "x")
    assert heard[0]["data"] == "x" * LARGE


async def test_a_small_message_that_grows_in_json_leaves_in_parts() -> None:
    """Sixteen thousand bytes, but each of them is six in JSON: the relay would close on it."""
    heard: list[int] = []

    async def script(listener: Listener) -> None:
        words, payload = await listener.whole()
        heard.append(len(payload))
        await listener.peer.say({"t": "ok", "id": words["id"]})

    async with serving(listening(script)) as url, connect(url) as relay:
        await relay.publish("lobby", "\x01" * 16_000)
    assert heard == [16_000]


@CODECS
async def test_an_urgent_message_passes_between_the_parts_of_a_large_one(codec: Any) -> None:
    order: list[str] = []

    async def script(listener: Listener) -> None:
        while (heard := await listener.hear()) is not None:
            if not isinstance(heard, Part):
                order.append(heard["channel"])
                await listener.peer.say({"t": "ok", "id": heard["id"]})
            elif heard.flags & LAST:
                order.append("bulk")
                await listener.peer.say({"t": "ok", "id": 1})

    async with serving(listening(script, codec)) as url, connect(url, codec=codec) as relay:
        upload = relay.upload("lobby", b"x" * VAST, channel="bulk")
        async for sent in upload:
            if sent:
                break
        for _ in range(5):
            await relay.publish("lobby", "now", channel="urgent")
        assert upload.sent < upload.size
        assert order == ["urgent"] * 5
        assert upload.cancel()


async def test_many_uploads_take_turns_and_hold_nobody_up_for_more_than_a_part() -> None:
    heard: list[int | str] = []

    async def script(listener: Listener) -> None:
        await go.wait()
        while (message := await listener.hear()) is not None:
            heard.append(message.stream if isinstance(message, Part) else "urgent")
            if len(heard) == 20:
                enough.set()
            if not isinstance(message, Part):
                await listener.peer.say({"t": "ok", "id": message["id"]})

    go, enough = trio.Event(), trio.Event()
    async with serving(listening(script, "msgpack")) as url, connect(url, codec="msgpack") as relay:
        uploads = [relay.upload("lobby", b"x" * VAST) for _ in range(8)]
        await trio.testing.wait_all_tasks_blocked(0.01)  # the buffers between us are full
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.publish, "lobby", "now")
            await trio.testing.wait_all_tasks_blocked(0.01)
            waiting = sum(upload.sent for upload in uploads) // 16_000
            go.set()
        await enough.wait()
        parts = [one for one in heard if one != "urgent"]
        assert set(parts[:8]) == set(range(8))
        assert parts[8:16] == parts[:8]
        assert heard.index("urgent") <= waiting + 3
        for upload in uploads:
            upload.cancel()


async def test_progress_of_an_upload_ends_at_its_size() -> None:
    async with serving(listening(answering)) as url, connect(url) as relay:
        upload = relay.upload("lobby", b"x" * LARGE)
        assert upload.size == LARGE
        steps = [sent async for sent in upload]
        assert steps == sorted(set(steps))
        assert steps[-1] == upload.sent == LARGE
        assert await upload.wait() == LARGE
        assert upload.over
        assert not upload.cancel()
        assert await upload.wait() == LARGE


async def test_a_cancelled_upload_tells_the_relay_and_the_connection_lives_on() -> None:
    heard: list[Part | dict[str, Any] | None] = []

    async def script(listener: Listener) -> None:
        await go.wait()
        while (message := await listener.hear()) is not None:
            heard.append(message)
            if isinstance(message, dict):
                await listener.peer.say({"t": "pong", "id": message["id"]})

    go = trio.Event()
    async with serving(listening(script)) as url, connect(url) as relay:
        upload = relay.upload("lobby", b"x" * VAST)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert upload.cancel()
        assert not upload.cancel()
        with pytest.raises(Withdrawn, match="cancelled"):
            await upload.wait()
        go.set()
        await relay.ping()
        assert 0 < upload.sent < upload.size
        assert relay._exchange._waiting == {}
    cancelled = [one for one in heard if isinstance(one, Part) and one.flags & CANCEL]
    assert [one.stream for one in cancelled] == [0]
    assert not any(isinstance(one, Part) and one.flags & LAST for one in heard)


async def test_an_upload_cancelled_before_its_first_part_says_nothing() -> None:
    heard: list[Any] = []

    async def script(listener: Listener) -> None:
        heard.append(await listener.hear())
        await listener.peer.say({"t": "pong", "id": heard[0]["id"]})

    async with serving(listening(script)) as url, connect(url) as relay:
        assert relay.upload("lobby", b"x" * LARGE).cancel()
        await relay.ping()
    assert [message["t"] for message in heard] == ["ping"]


async def test_a_cancelled_publish_withdraws_the_message_and_not_the_connection() -> None:
    parts: list[Part] = []

    async def script(listener: Listener) -> None:
        await go.wait()
        listener.parts = parts
        while (message := await listener.hear()) is not None:
            if isinstance(message, dict):
                await listener.peer.say({"t": "pong", "id": message["id"]})

    go = trio.Event()
    async with serving(listening(script)) as url, connect(url) as relay:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.publish, "lobby", b"x" * VAST)
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        go.set()
        await relay.ping()
    assert parts[-1].flags == CANCEL


@pytest.mark.parametrize("newer", [b"x" * LARGE, "small"])
async def test_a_newer_message_of_the_same_key_supersedes_an_upload(newer: bytes | str) -> None:
    async def script(listener: Listener) -> None:
        await go.wait()
        while (message := await listener.hear()) is not None:
            if isinstance(message, dict):
                await listener.peer.say({"t": "ok", "id": message["id"]})
            elif message.flags & FIRST:
                streams[message.stream] = listener.words(message.envelope)["id"]
            elif message.flags & LAST:
                await listener.peer.say({"t": "ok", "id": streams[message.stream]})

    go = trio.Event()
    streams: dict[int, int] = {}
    async with serving(listening(script)) as url, connect(url) as relay:
        older = relay.upload("lobby", b"x" * VAST, key="k")
        others = [
            relay.upload("lobby", b"x" * LARGE, key="l"),
            relay.upload("hall", b"x" * LARGE, key="k"),
            relay.upload("lobby", b"x" * LARGE),
        ]
        await trio.testing.wait_all_tasks_blocked(0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: relay.publish("lobby", newer, key="k"))
            with pytest.raises(Withdrawn, match="superseded by a newer message of the same key"):
                await older.wait()
            go.set()
            for other in others:
                await other.wait()


async def test_a_refusal_stops_an_upload_that_is_under_way() -> None:
    parts: list[Part] = []

    async def script(listener: Listener) -> None:
        listener.parts = parts
        first = await listener.hear()
        assert isinstance(first, Part)
        words = listener.words(first.envelope)
        limit = "limits.parted_message_bytes"
        await listener.peer.say({"t": "error", "id": words["id"], "code": "too_large", "message": "no", "limit": limit})
        while not isinstance(message := await listener.hear(), dict):
            assert message is not None
        await listener.peer.say({"t": "pong", "id": message["id"]})

    async with serving(listening(script)) as url, connect(url) as relay:
        with pytest.raises(Refused) as caught:
            await relay.publish("lobby", b"x" * VAST)
        assert (caught.value.code, caught.value.setting) == ("too_large", "limits.parted_message_bytes")
        await relay.ping()
    assert parts[-1].flags == CANCEL
    assert sum(len(part.data) for part in parts) < VAST


async def test_without_confirmation_nothing_but_the_sending_is_waited_for() -> None:
    async def script(listener: Listener) -> None:
        words, payload = await listener.whole()
        assert words == {"t": "publish", "room": "lobby", "kind": "binary"}
        assert len(payload) == LARGE
        await listener.peer.say({"t": "error", "id": None, "code": "forbidden", "message": "no"})

    async with serving(listening(script)) as url, connect(url) as relay:
        assert await relay.publish("lobby", b"x" * LARGE, confirm=False) is None
        assert await relay.receive() == Refusal("forbidden", "no")


async def test_who_waits_for_an_upload_learns_that_the_relay_is_gone() -> None:
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        await peer.hear()
        await peer.say({"t": "bye", "code": 1001, "reason": "restart", "reconnect": {"after": 2}})

    async with serving(script) as url, connect(url) as relay:
        uploads = [relay.upload("lobby", b"x" * VAST) for _ in range(3)]
        for upload in uploads:
            with pytest.raises(Disconnected, match="1001: restart") as caught:
                await upload.wait()
            assert caught.value.reconnect_after == 2
        with pytest.raises(Disconnected, match="1001"):
            await relay.upload("lobby", b"late").wait()


async def test_leaving_the_block_ends_uploads_that_are_under_way() -> None:
    with trio.fail_after(8):
        async with serving(listening(answering)) as url:
            async with connect(url) as client:
                upload = client.upload("lobby", b"x" * VAST)
            with pytest.raises(Disconnected, match="1000"):
                await upload.wait()
            assert [sent async for sent in upload][-1:] in ([], [upload.sent])
            with pytest.raises(Disconnected, match="1000"):
                await client.publish("lobby", b"x" * LARGE)


async def test_what_cannot_be_encoded_and_what_is_named_too_long_is_said_at_once() -> None:
    async with serving(listening(answering)) as url, connect(url) as relay:
        with pytest.raises(TypeError):
            relay.upload("lobby", object())
        with pytest.raises(ValueError, match="too long for a message in parts"):
            await relay.publish("lobby", b"x", key="k" * 70_000)
        assert relay._exchange._waiting == {}
