"""relay.v1 from the client's side: each request finds its answer, each event its reader."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from relay.client import (
    Bye,
    Client,
    Expiring,
    Gap,
    Joined,
    Left,
    Message,
    Position,
    Refusal,
    Refused,
    Renamed,
    connect,
)
from tests.unit.client.server import HELLO, Peer, obliging, relay_v1, wired

WORDS: dict[str, Any] = {"room": "lobby", "data": {"text": "hi"}, "from": "bob", "offset": 7, "at": 1.5}


async def test_hello_is_read_before_the_body_runs():
    async with wired(obliging) as url, connect(url, token="t") as relay:
        assert (relay.session, relay.subject, relay.expires) == ("s1", "ann", 1_790_000_000.0)
        assert tuple(relay.channels) == ("control", "urgent", "default")
        assert relay.limits == {"limits.message_bytes": 65536}
        assert relay.version == "0.1.0"


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_requests_say_what_the_protocol_says(codec: Any):
    heard: list[dict[str, Any]] = []
    options: dict[str, Any] = {"channel": "urgent", "key": "k", "to": "bob", "echo": True}

    async def script(peer: Peer) -> None:
        await relay_v1(peer, codec)
        while (asked := await peer.asked()) is not None:
            heard.append(asked)
            await peer.say({"t": "pong" if asked["t"] == "ping" else "ok", "id": asked["id"]})

    async with wired(script) as url, connect(url, codec=codec) as relay:
        await relay.join("lobby")
        await relay.join("lobby", last=5, members=True)
        await relay.join("lobby", since=Position("e1", 41))
        await relay.publish("lobby", None)
        await relay.publish("lobby", [1], **options)
        await relay.call("lobby", "move", {"to": "e4"}, timeout=2.5)
        await relay.presence("lobby")
        await relay.history("lobby", last=3, before=9)
        await relay.publish("lobby", 1, once="k-1")
        await relay.auth("new.token")
        await relay.ping()
        await relay.leave("lobby")
    assert heard == [
        {"t": "join", "id": 1, "room": "lobby"},
        {"t": "join", "id": 2, "room": "lobby", "last": 5, "members": True},
        {"t": "join", "id": 3, "room": "lobby", "since": {"epoch": "e1", "offset": 41}},
        {"t": "publish", "id": 4, "room": "lobby", "data": None},
        {
            "t": "publish",
            "id": 5,
            "room": "lobby",
            "data": [1],
            "channel": "urgent",
            "key": "k",
            "to": "bob",
            "echo": True,
        },
        {"t": "call", "id": 6, "room": "lobby", "method": "move", "data": {"to": "e4"}, "timeout": 2.5},
        {"t": "presence", "id": 7, "room": "lobby"},
        {"t": "history", "id": 8, "room": "lobby", "last": 3, "before": 9},
        {"t": "publish", "id": 9, "room": "lobby", "data": 1, "once": "k-1"},
        {"t": "auth", "id": 10, "token": "new.token"},
        {"t": "ping", "id": 11},
        {"t": "leave", "id": 12, "room": "lobby"},
    ]


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_the_relay_s_own_decoder_understands_every_request(codec: Any):
    from relay.protocols.relay_v1 import RelayV1Json, RelayV1Msgpack

    protocol = RelayV1Json() if codec == "json" else RelayV1Msgpack()
    kinds: list[str] = []

    async def script(peer: Peer) -> None:
        await relay_v1(peer, codec)
        while (raw := await peer.hear()) is not None:
            opcode, data = (1, raw.encode()) if isinstance(raw, str) else (2, bytes(raw))
            command = protocol.decode(opcode, data, "")
            kinds.append(type(command).__name__)
            await peer.say({"t": "pong" if kinds[-1] == "Ping" else "ok", "id": command.id})

    async with wired(script) as url, connect(url, codec=codec) as relay:
        await relay.join("lobby", last=5, since=Position("e", 1), members=True)
        await relay.publish("lobby", [1], channel="urgent", key="k", to="bob", echo=True)
        await relay.call("lobby", "move", {"to": "e4"}, timeout=2)
        await relay.presence("lobby")
        await relay.history("lobby", last=3, since=Position("e", 1))
        await relay.auth("new.token")
        await relay.ping()
        await relay.leave("lobby")
    assert kinds == ["Join", "Publish", "Call", "Presence", "History", "Auth", "Ping", "Leave"]


async def test_answers_are_given_as_values():
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        answers = [
            {"epoch": "e9", "offset": 7, "recovered": True, "messages": [WORDS | {"t": "message"}], "members": ["bob"]},
            {"offset": 8},
            {"data": [1, 2]},
            {"members": ["ann", "bob"]},
            {"expires": 1_800_000_000.5},
        ]
        for answer in answers:
            asked = await peer.asked()
            await peer.say({"t": "ok", "id": asked["id"], "of_tomorrow": 1} | answer)
        await peer.hear()

    async with wired(script) as url, connect(url) as relay:
        room = await relay.join("lobby", last=1, members=True)
        assert (room.epoch, room.offset, room.recovered, room.members) == ("e9", 7, True, ["bob"])
        assert room.messages == [Message("lobby", {"text": "hi"}, "bob", 7, at=1.5)]
        assert room.position == Position("e9", 7)
        assert await relay.publish("lobby", "x") == 8
        assert await relay.call("lobby", "sum") == [1, 2]
        assert await relay.presence("lobby") == ["ann", "bob"]
        assert await relay.auth("t") == 1_800_000_000.5
        assert relay.expires == 1_800_000_000.5


async def test_answers_find_who_asked_in_any_order():
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        asked = [await peer.asked() for _ in range(3)]
        for one in reversed(asked):
            await peer.say({"t": "ok", "id": one["id"], "data": one["method"]})
        await peer.hear()

    found: dict[str, Any] = {}

    async def ask(relay: Client, method: str) -> None:
        found[method] = await relay.call("lobby", method)

    async with wired(script) as url, connect(url) as relay, trio.open_nursery() as nursery:
        for method in "abc":
            nursery.start_soon(ask, relay, method)
    assert found == {"a": "a", "b": "b", "c": "c"}


async def test_a_refusal_carries_code_words_setting_and_time():
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        asked = await peer.asked()
        no = {"code": "rate_limited", "message": "too fast", "retry_after": 1.5, "limit": "limits.messages_per_second"}
        await peer.say({"t": "error", "id": asked["id"]} | no)
        await peer.hear()

    async with wired(script) as url, connect(url) as relay:
        with pytest.raises(Refused) as caught:
            await relay.publish("lobby", "x")
    no = caught.value
    assert (no.code, no.message, no.retry_after, no.setting) == (
        "rate_limited",
        "too fast",
        1.5,
        "limits.messages_per_second",
    )


async def test_events_are_typed_and_come_in_order():
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        await peer.say(WORDS | {"t": "message", "channel": "urgent", "key": "k"})
        await peer.say({"t": "joined", "room": "lobby", "subject": "eve"})
        await peer.say({"t": "left", "room": "lobby", "subject": "eve"})
        await peer.say({"t": "gap", "room": "lobby", "from": 3, "to": 5, "reason": "full"})
        await peer.say({"t": "of_tomorrow", "room": 7})
        await peer.say({"t": "expiring", "in": 30})
        await peer.say({"t": "error", "id": None, "code": "bad_request", "message": "?"})
        await peer.say({"t": "bye", "code": 1000, "reason": "done", "reconnect": None})
        await peer.close(1000, "done")

    async with wired(script) as url, connect(url) as relay:
        events = [event async for event in relay]
    assert events == [
        Message("lobby", {"text": "hi"}, "bob", 7, "urgent", "k", at=1.5),
        Joined("lobby", "eve"),
        Left("lobby", "eve"),
        Gap("lobby", 3, 5, "full"),
        Expiring(30),
        Refusal("bad_request", "?"),
        Bye(1000, "done"),
    ]


async def test_publishing_without_confirmation_waits_for_nothing():
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        first = await peer.asked()
        assert first == {"t": "publish", "room": "lobby", "data": "x"}
        await peer.hear()

    async with wired(script) as url, connect(url) as relay:
        assert await relay.publish("lobby", "x", confirm=False) is None


async def test_bytes_in_one_message_are_themselves_in_msgpack_and_base64_in_json():
    heard: list[Any] = []

    async def script(peer: Peer, codec: str) -> None:
        await relay_v1(peer, codec)
        asked = await peer.asked()
        heard.append(asked["data"])
        await peer.say({"t": "ok", "id": asked["id"]})
        await peer.hear()

    for codec in ("json", "msgpack"):

        async def one(peer: Peer, codec: str = codec) -> None:
            await script(peer, codec)

        async with wired(one) as url, connect(url, codec=codec) as relay:  # type: ignore[arg-type]
            await relay.publish("lobby", b"\x00\xff", parts=False)
    assert heard == ["AP8=", b"\x00\xff"]


async def test_an_answer_to_a_cancelled_request_goes_nowhere(autojump_clock: MockClock):
    release = trio.Event()

    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        first = await peer.asked()
        second = await peer.asked()
        await peer.say({"t": "error", "id": first["id"], "code": "timeout"})
        await peer.say({"t": "ok", "id": first["id"]})
        await peer.say({"t": "ok", "id": second["id"], "data": "second"})
        await peer.close(1000)

    async with wired(script) as url, connect(url) as relay:
        with trio.move_on_after(0.01):
            await relay.call("lobby", "first")
        release.set()
        assert await relay.call("lobby", "second") == "second"
        assert [event async for event in relay] == []


async def test_unread_events_are_bounded_and_their_loss_is_told_by_room():
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        for offset in range(1, 9):
            room = "a" if offset % 2 else "b"
            await peer.say({"t": "message", "room": room, "data": offset, "offset": offset})
        asked = await peer.asked()
        await peer.say({"t": "ok", "id": asked["id"]})
        await peer.close(1000)

    async with wired(script) as url, connect(url, buffer=3) as relay:
        await relay.presence("a")
        events = [event async for event in relay]
    assert events[:2] == [Gap("a", 1, 5, "client_buffer"), Gap("b", 2, 4, "client_buffer")]
    assert [event.data for event in events[2:] if isinstance(event, Message)] == [6, 7, 8]


async def test_an_unknown_codec_is_a_value_error():
    with pytest.raises(ValueError, match="'json' or 'msgpack'"):
        async with connect("ws://127.0.0.1:1", codec="xml"):  # type: ignore[arg-type]
            pass


def test_the_client_knows_all_that_the_relay_says():
    from relay.client.codec import understood
    from relay.errors import CloseCode, CloseReason
    from relay.model import Kind, Payload
    from relay.model import Message as Published
    from relay.protocols.base import Hello
    from relay.protocols.relay_v1 import RelayV1Json

    relay = RelayV1Json()
    message = Published("lobby", Payload(Kind.JSON, b"[1]"), "bob", offset=3)
    hello = Hello(**{name: value for name, value in HELLO.items() if name != "t"})
    said = [
        relay.hello(hello),
        relay.message(message),
        relay.ok(1, {"epoch": "e", "offset": 3, "recovered": True, "messages": [message], "members": []}),
        relay.error(2, Refused("forbidden", retry_after=1.0, setting="x")),
        relay.pong(3),
        relay.joined("lobby", "bob"),
        relay.left("lobby", "bob"),
        relay.gap("lobby", 1, 2, "full"),
        relay.expiring(3.0),
        relay.bye(CloseReason(CloseCode.GOING_AWAY, "restart", "server.drain", 1.0, 2.0)),
    ]
    for frame in said:
        assert frame is not None
        text = frame[2:] if frame[1] < 126 else frame[4:]
        words = understood("json", text)
        assert words is not None
        assert words.__struct_config__.tag == msgspec.json.decode(text)["t"]


async def test_a_new_name_and_a_farewell_are_not_lost_to_a_program_that_does_not_read():
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        await peer.say({"t": "renamed", "room": "a", "to": "b"})
        for offset in range(1, 9):
            await peer.say({"t": "message", "room": "b", "data": offset, "offset": offset})
        await peer.say({"t": "bye", "code": 1000, "reason": "done", "reconnect": None})
        asked = await peer.asked()
        await peer.say({"t": "ok", "id": asked["id"]})
        await peer.close(1000)

    async with wired(script) as url, connect(url, buffer=3) as relay:
        await relay.presence("a")
        events = [event async for event in relay]
    assert events == [
        Gap("b", 1, 7, "client_buffer"), Renamed("a", "b"), Message("b", 8, offset=8), Bye(1000, "done"),
    ]  # fmt: skip
