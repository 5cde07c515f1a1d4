"""Messages that come in parts: joined, bounded, with their progress told to those who ask."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.events import BytesMessage

from relay.client import Disconnected, Event, Gap, Message, Progress, connect
from relay.client.inbox import Inbox
from relay.client.incoming import Incoming
from relay.protocols.parts import FIRST, LAST, Part, encode_part
from tests.unit.client.parts import cancellation, cut, send_part, send_parts
from tests.unit.client.server import Peer, relay_v1, serving

CODECS: Any = pytest.mark.parametrize("codec", ["json", "msgpack"])
WORDS: dict[str, Any] = {"from": "bob", "offset": 7, "channel": "bulk", "key": "k", "to": "ann", "at": 1.5}


async def events(url: str, **options: Any) -> list[Event]:
    """All that a client is told until the relay closes with 1000."""
    async with connect(url, **options) as relay:
        return [event async for event in relay]


def closing(codec: str, *parts: tuple[int, bytes, int, dict[str, Any]]) -> Any:
    """A relay that sends messages in parts and closes."""

    async def script(peer: Peer) -> None:
        await relay_v1(peer, codec)
        for stream, payload, size, words in parts:
            await send_parts(peer, stream, payload, size, **words)
        await peer.close(1000)

    return script


@CODECS
@pytest.mark.parametrize(
    ("kind", "payload", "data"),
    [
        ("binary", bytes(range(256)) * 100, bytes(range(256)) * 100),
        ("text", "grüße".encode() * 1000, "grüße" * 1000),
        ("json", msgspec.json.encode({"a": [1] * 1000}), {"a": [1] * 1000}),
        ("msgpack", msgspec.msgpack.encode({"a": b"x" * 5000}), {"a": b"x" * 5000}),
        ("binary", b"", b""),
    ],
)
async def test_a_message_in_parts_arrives_as_one(codec: str, kind: str, payload: bytes, data: Any) -> None:
    async with serving(closing(codec, (0, payload, 1000, WORDS | {"kind": kind}))) as url:
        (message,) = await events(url, codec=codec)
    assert message == Message("lobby", data, "bob", 7, "bulk", "k", "ann", 1.5)


async def test_other_messages_pass_between_the_parts() -> None:
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        first, second = (cut(peer, stream, bytes([stream]) * 2500, 1000, offset=stream) for stream in (1, 2))
        for one, other in zip(first, second, strict=True):
            await send_part(peer, one)
            await peer.say({"t": "message", "room": "lobby", "data": "urgent", "offset": one.position + 100})
            await send_part(peer, other)
        await peer.close(1000)

    async with serving(script) as url:
        heard = [event.offset for event in await events(url) if isinstance(event, Message)]
    assert heard == [100, 1100, 1, 2100, 2]


async def test_progress_is_told_to_those_who_ask_and_ends_with_the_message() -> None:
    told = trio.Event()

    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        for part in cut(peer, 3, b"x" * 2500, 1000, offset=9, key="k", channel="bulk"):
            await send_part(peer, part)
            await told.wait()
        await peer.close(1000)

    async with serving(script) as url, connect(url, progress=True) as relay:
        assert await relay.receive() == Progress("lobby", 3, 1000, 2500, "k", "bulk", 9)
        told.set()
        heard = [event async for event in relay]
    assert isinstance(heard[-1], Message)
    assert heard[-2] == Progress("lobby", 3, 2500, 2500, "k", "bulk", 9)


@CODECS
async def test_what_is_cancelled_never_arrives_and_only_those_who_ask_hear_of_it(codec: str) -> None:
    async def script(peer: Peer) -> None:
        await relay_v1(peer, codec)
        await send_part(peer, cut(peer, 5, b"x" * 2500, 1000)[0])
        await send_part(peer, cancellation(5))
        await send_parts(peer, 6, b"next", 1000)
        await peer.close(1000)

    async with serving(script) as url:
        assert await events(url, codec=codec) == [Message("lobby", b"next")]
        *_, cancelled, whole, message = await events(url, codec=codec, progress=True)
    assert cancelled == Progress("lobby", 5, 1000, 2500, cancelled=True)
    assert (whole, message) == (Progress("lobby", 6, 4, 4), Message("lobby", b"next"))


async def test_a_message_over_the_limit_is_a_gap_and_the_rest_of_it_is_passed_over() -> None:
    large, fits = (1, b"x" * 5001, 1000, {"offset": 4}), (2, b"x" * 5000, 1000, {"offset": 5})
    async with serving(closing("json", large, fits)) as url:
        told = await events(url, max_message_bytes=5000)
    assert told == [Gap("lobby", 4, 4, "client_limit"), Message("lobby", b"x" * 5000, offset=5)]


async def test_all_that_is_not_whole_is_bounded_together() -> None:
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        halves = [cut(peer, stream, b"x" * 20000, 19000, offset=stream) for stream in range(1, 6)]
        for number in (0, 1):
            for half in halves:
                await send_part(peer, half[number])
        await peer.close(1000)

    async with serving(script) as url:
        gap, *messages = await events(url, max_message_bytes=20000)
    assert gap == Gap("lobby", 5, 5, "client_limit")
    assert [event.offset for event in messages if isinstance(event, Message)] == [1, 2, 3, 4]


async def test_their_number_is_bounded_too() -> None:
    parts = Incoming("json", 1 << 20, progress=False)
    told = []
    for stream in range(20):
        envelope = msgspec.json.encode({"room": "lobby", "kind": "text", "offset": stream})
        told += parts.add(encode_part(Part(FIRST, stream, 0, 10, envelope, b"x")))
    assert told == [Gap("lobby", stream, stream, "client_limit") for stream in range(16, 20)]


@pytest.mark.parametrize(
    ("kind", "payload"), [("json", b"{broken"), ("text", b"\xff"), ("later", b"?"), ("msgpack", b"\xc1")]
)
async def test_a_document_that_is_broken_inside_is_a_gap_because_its_publisher_is_to_blame(
    kind: str, payload: bytes
) -> None:
    async with serving(closing("json", (1, payload, 10, {"kind": kind, "offset": 3}))) as url:
        assert await events(url) == [Gap("lobby", 3, 3, "unreadable")]


@pytest.mark.parametrize(
    "raw",
    [
        b"\xc1",
        b"\xc1\x01\x00\x00" + bytes(12),
        encode_part(Part(FIRST | LAST, 1, 0, 1, b"nonsense", b"x")),
        encode_part(Part(FIRST, 1, 0, 9, b'{"room":"a","kind":"text"}', b"x"))[:20],
    ],
)
async def test_a_part_that_makes_no_sense_ends_the_session_with_1002(raw: bytes) -> None:
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        await peer.send(BytesMessage(data=raw))
        await peer.hear()

    async with serving(script) as url, connect(url) as relay:
        with pytest.raises(Disconnected, match=r"1002: the server does not speak relay\.v1"):
            await relay.receive()


async def test_a_missing_part_ends_the_session_with_1002() -> None:
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        first, _, third = cut(peer, 1, b"x" * 30, 10)
        await send_part(peer, first)
        await send_part(peer, third)
        await peer.hear()

    async with serving(script) as url, connect(url) as relay:
        with pytest.raises(Disconnected, match=r"1002: .* a part is missing"):
            await relay.receive()


@pytest.mark.parametrize(("path", "asked"), [("/ws", "/ws?parts=0"), ("/ws?a=1", "/ws?a=1&parts=0")])
async def test_who_does_not_want_parts_says_so_in_the_address(path: str, asked: str) -> None:
    seen: list[str] = []

    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        seen.append(peer.request.target)
        await peer.hear()

    async with serving(script) as url:
        async with connect(url + path, parts=False):
            pass
        async with connect(url + path):
            pass
    assert seen == [asked, path]


async def test_unread_progress_takes_one_place_however_often_it_changes() -> None:
    inbox = Inbox(3)
    inbox.put(Message("a", 1, offset=1))
    for received in range(100):
        inbox.put(Progress("a", 7, received, 100))
    inbox.put(Message("a", 2, offset=2))
    assert [await inbox.get() for _ in range(3)] == [
        Message("a", 1, offset=1),
        Progress("a", 7, 99, 100),
        Message("a", 2, offset=2),
    ]


async def test_progress_that_is_dropped_unread_is_no_loss() -> None:
    inbox = Inbox(1)
    inbox.put(Progress("a", 7, 1, 100))
    inbox.put(Progress("a", 8, 2, 100))
    inbox.put(Message("a", 1, offset=1))
    inbox.end()
    assert [await inbox.get() for _ in range(2)] == [Message("a", 1, offset=1), None]


Order = list[tuple[int, int]]


@settings(max_examples=100, deadline=None)
@given(
    payloads=st.lists(st.binary(max_size=300), min_size=1, max_size=5),
    size=st.integers(1, 100),
    turns=st.lists(st.integers(0, 4), max_size=200),
    codec=st.sampled_from(["json", "msgpack"]),
)
def test_parts_of_many_messages_in_any_order_always_make_these_messages(
    payloads: list[bytes], size: int, turns: list[int], codec: Literal["json", "msgpack"]
) -> None:
    class Speaker:
        binary = codec == "msgpack"

    queues = [cut(Speaker(), stream, payload, size, offset=stream) for stream, payload in enumerate(payloads)]  # type: ignore[arg-type]
    incoming = Incoming(codec, 300, progress=True)
    heard: dict[int, bytes] = {}
    last: dict[int, int] = {}
    for turn in [*turns, *(number for number, queue in enumerate(queues) for _ in queue)]:
        if turn < len(queues) and queues[turn]:
            for event in incoming.add(encode_part(queues[turn].pop(0))):
                if isinstance(event, Message):
                    heard[event.offset] = event.data
                else:
                    assert isinstance(event, Progress)
                    assert event.received >= last.get(event.stream, 0)
                    last[event.stream] = event.received
    assert heard == dict(enumerate(payloads))
    assert last == {stream: len(payload) for stream, payload in enumerate(payloads)}
