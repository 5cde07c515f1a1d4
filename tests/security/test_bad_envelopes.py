"""Messages of relay.v1 that are none: each gets an `error`, with its id if that can be read, and the connection lives.

What only a receiver could stumble over (a document that another format cannot say) reaches it all the same, as
something it can read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.security.attack import BINARY, TEXT, V1_JSON, V1_MSGPACK, Socket, frame, socket_to
from tests.security.siege import RelayThread, besieged, folder_with, under_attack

pytestmark = pytest.mark.e2e

DEEP = 100_000
pack = msgspec.msgpack.encode


@pytest.fixture(scope="module")
def roomy(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayThread]:
    """A relay that takes messages large enough to be deep."""
    folder = folder_with(certificates, tmp_path_factory.mktemp("roomy"))
    with besieged(folder, {"limits": {"message_bytes": 1 << 20}}) as relay:
        yield relay


@asynccontextmanager
async def json_client(relay: RelayThread, subject: str = "mallory") -> AsyncIterator[Socket]:
    async with socket_to(relay, "/ws", relay.token(subject), subprotocol=V1_JSON) as client:
        assert (await heard(client))["t"] == "hello"
        yield client


@asynccontextmanager
async def msgpack_client(relay: RelayThread, subject: str = "mallory") -> AsyncIterator[Socket]:
    async with socket_to(relay, "/ws", relay.token(subject), subprotocol=V1_MSGPACK) as client:
        assert (await heard(client))["t"] == "hello"
        yield client


async def heard(client: Socket) -> dict[str, Any]:
    """The next message, in either codec."""
    opcode, payload = await client.next()
    found = msgspec.json.decode(payload) if opcode == TEXT else msgspec.msgpack.decode(payload)
    assert isinstance(found, dict)
    return found


async def tell(client: Socket, message: Mapping[str, Any] | str | bytes) -> None:
    """A message as JSON, or text and bytes as they are."""
    if isinstance(message, bytes):
        await client.send(frame(BINARY, message))
    else:
        await client.say(message if isinstance(message, str) else json.dumps(message))


def publish(data: str, room: str = "lobby") -> str:
    """With any text in the place of the data."""
    return f'{{"t":"publish","id":7,"room":"{room}","data":{data}}}'


JSON_CASES = {
    "nothing": ("", "bad_request", None),
    "white space": ("  \n", "bad_request", None),
    "not JSON": ("hello", "bad_request", None),
    "half an object": ('{"t":"ping","id":7', "bad_request", None),
    "two objects": ('{"t":"ping","id":7}{"t":"ping","id":8}', "bad_request", None),
    "null": ("null", "bad_request", None),
    "a number": ("42", "bad_request", None),
    "a string": ('"ping"', "bad_request", None),
    "an array": ('[{"t":"ping"}]', "bad_request", None),
    "no type": ('{"id":7}', "bad_request", 7),
    "a type of no kind": ('{"t":{},"id":7}', "bad_request", 7),
    "an unknown type": ('{"t":"sudo","id":7}', "unknown_type", 7),
    "a type of the server's": ('{"t":"hello","id":7}', "unknown_type", 7),
    "an unknown key": ('{"t":"ping","id":7,"admin":true}', "bad_request", 7),
    "a missing key": ('{"t":"join","id":7}', "bad_request", 7),
    "a room that is a number": ('{"t":"join","id":7,"room":1}', "bad_request", 7),
    "a room that is an array": ('{"t":"join","id":7,"room":["lobby"]}', "bad_request", 7),
    "a room too long": (f'{{"t":"join","id":7,"room":"{"x" * 300}"}}', "bad_room", 7),
    "a room with a NUL": ('{"t":"join","id":7,"room":"a\\u0000b"}', "bad_room", 7),
    "a star inside a part": ('{"t":"join","id":7,"room":"chat:a*b"}', "bad_room", 7),
    "a lone surrogate": ('{"t":"join","id":7,"room":"\\ud800"}', "bad_request", None),
    "an unserved room": ('{"t":"join","id":7,"room":"nobody:serves:this"}', "no_such_room", 7),
    "a room not joined": ('{"t":"leave","id":7,"room":"lobby"}', "not_joined", 7),
    "a channel that is none": (publish("1").replace('"data"', '"channel":"nope","data"'), "no_such_channel", 7),
    "the relay's own channel": (publish("1").replace('"data"', '"channel":"control","data"'), "forbidden", 7),
    "a fraction to begin with": ('{"t":"join","id":7,"room":"lobby","last":1.5}', "bad_request", 7),
    "a position of no kind": ('{"t":"join","id":7,"room":"lobby","since":"yesterday"}', "bad_request", 7),
    "a time that runs backwards": ('{"t":"call","id":7,"room":"lobby","method":"x","timeout":-1}', "bad_request", 7),
    "a call of nobody": ('{"t":"call","id":7,"room":"lobby","method":"x"}', "not_joined", 7),
    "a token that is none": ('{"t":"auth","id":7,"token":"x"}', "unauthorized", 7),
    "an id that is a list": ('{"t":"ping","id":[7]}', "bad_request", None),
    "an id that is a fraction": ('{"t":"ping","id":1e400}', "bad_request", None),
    "an id of 5,000 digits": (f'{{"t":"ping","id":{"9" * 5000}}}', "bad_request", None),
    "data with a lone surrogate": (publish('"\\ud800"'), "bad_request", None),
    "NaN": (publish("NaN"), "bad_request", None),
    "a deep array": (publish("[" * DEEP + "]" * DEEP), "bad_request", None),
    "a deep object": (publish('{"a":' * DEEP + "1" + "}" * DEEP), "bad_request", None),
    "a deep array without an end": (publish("[" * DEEP), "bad_request", None),
    "a deep envelope": ("[" * DEEP, "bad_request", None),
    "a key of a thousand quotes": ('{"' + '\\"' * 1000 + '":1}', "bad_request", None),
}  # fmt: skip


@pytest.mark.parametrize("case", JSON_CASES)
async def test_malformed_json_is_answered_with_an_error(roomy: RelayThread, case: str) -> None:
    sent, code, request = JSON_CASES[case]
    async with under_attack(roomy, {f"requests_refused:{code}": 1}), json_client(roomy) as client:
        await client.say(sent)
        error = await heard(client)
        assert error["t"] == "error"
        assert error["code"] == code
        assert error["id"] == request
        assert len(error["message"]) < 300
        await tell(client, {"t": "ping", "id": "alive"})
        assert await heard(client) == {"t": "pong", "id": "alive"}


DATA = pack({"t": "publish", "room": "lobby", "data": 1})[:-1]
"""A publish up to its data."""
MSGPACK_CASES = {
    "nothing": (b"", "bad_request"),
    "nil": (b"\xc0", "bad_request"),
    "an array": (pack([{"t": "ping"}]), "bad_request"),
    "half a map": (pack({"t": "ping", "id": 7})[:-1], "bad_request"),
    "more behind it": (pack({"t": "ping"}) + b"\xc0", "bad_request"),
    "an unknown type": (pack({"t": "sudo"}), "unknown_type"),
    "a room that is not UTF-8": (pack({"t": "join", "room": "xxxx"}).replace(b"xxxx", b"x\xff\xfex"), "bad_request"),
    "a room that is binary": (pack({"t": "join", "room": b"lobby"}), "bad_request"),
    "numbers as keys": (pack({1: "ping"}), "bad_request"),
    "four billion elements": (DATA + b"\xdd\xff\xff\xff\xff", "bad_request"),
    "four billion bytes": (DATA + b"\xc6\xff\xff\xff\xff", "bad_request"),
    "a deep array": (DATA + b"\x91" * DEEP + b"\xc0", "bad_request"),
    "a deep envelope": (b"\x91" * DEEP, "bad_request"),
    "an extension": (pack({"t": "join", "room": msgspec.msgpack.Ext(5, b"lobby")}), "bad_request"),
    "an id that is NaN": (b"\x82\xa1t\xa4ping\xa2id\xcb\x7f\xf8\0\0\0\0\0\0", "bad_request"),
    "a part of nothing": (b"\xc1", "bad_part"),
    "a part of noise": (b"\xc1" + b"\xff" * 40, "bad_part"),
    "a part of four gigabytes": (b"\xc1\x01\0\0" + struct.pack(">III", 1, 0, 0xFFFFFFFF), "too_large"),
    "a part without a beginning": (b"\xc1\0\0\0" + struct.pack(">III", 1, 0, 10) + b"x", "bad_part"),
    "parts with an envelope of noise": (b"\xc1\x03\0\x02" + struct.pack(">III", 1, 0, 1) + b"\xff\xff1", "bad_request"),
}  # fmt: skip


@pytest.mark.parametrize("case", MSGPACK_CASES)
async def test_malformed_msgpack_is_answered_with_an_error(roomy: RelayThread, case: str) -> None:
    sent, code = MSGPACK_CASES[case]
    async with under_attack(roomy, {f"requests_refused:{code}": 1}), msgpack_client(roomy) as client:
        await tell(client, sent)
        error = await heard(client)
        assert error["t"] == "error"
        assert error["code"] == code
        await tell(client, pack({"t": "ping", "id": "alive"}))
        assert await heard(client) == {"t": "pong", "id": "alive"}


@pytest.mark.parametrize(
    ("protocol", "sent"),
    [
        pytest.param(V1_JSON, frame(BINARY, b'{"t":"ping"}'), id="binary on json"),
        pytest.param(V1_MSGPACK, frame(TEXT, b'{"t":"ping"}'), id="text on msgpack"),
    ],
)
async def test_the_wrong_kind_of_frame_is_closed_with_1003(relay: RelayThread, protocol: str, sent: bytes) -> None:
    async with (
        under_attack(relay, {"connections_closed:1003": 1}),
        socket_to(relay, "/ws", subprotocol=protocol) as client,
    ):
        assert (await heard(client))["t"] == "hello"
        await client.send(sent)
        bye = await heard(client)
        assert bye["t"] == "bye"
        assert bye["code"] == 1003
        code, reason = await client.closed()
        assert code == 1003
        assert reason.startswith("relay.v1.")


async def test_a_thousand_refusals_are_a_thousand_answers(relay: RelayThread) -> None:
    async with under_attack(relay, {"requests_refused:unknown_type": 1000}), json_client(relay) as client:
        await client.send(b"".join(frame(TEXT, b'{"t":"sudo","id":%d}' % number) for number in range(1000)))
        assert [(await heard(client))["id"] for _ in range(1000)] == list(range(1000))


# What one format takes and another cannot say, said to all of them.

POISON_JSON = {
    "a huge integer": "9" * 400,
    "an integer beyond 64 bits": str(1 << 64),
    "a huge exponent": "1e999",
    "a key twice": '{"a":1,"a":2}',
    "a hundred arrays": "[" * 100 + "]" * 100,
    "five hundred arrays": "[" * 500 + "]" * 500,
    "nine hundred arrays": "[" * 900 + "]" * 900,
    "a line separator": '"\u2028"',
    "an empty string": '""',
}
POISON_MSGPACK = {
    "NaN": pack(float("nan")),
    "infinity": pack(float("inf")),
    "text that is not UTF-8": b"\xa2\xff\xfe",
    "binary": pack(b"\xff\xfe"),
    "an extension": pack(msgspec.msgpack.Ext(5, b"x")),
    "a timestamp of no time": b"\xc7\x0c\xff" + b"\xff" * 12,
    "a map by arrays": b"\x81\x91\x01\x01",
    "a map by nil": b"\x81\xc0\x01",
    "five hundred arrays": b"\x91" * 500 + b"\xc0",
    "nine hundred arrays": b"\x91" * 900 + b"\xc0",
    "an integer of 64 bits": pack((1 << 64) - 1),
}


@asynccontextmanager
async def one_of_each(relay: RelayThread, room: str) -> AsyncIterator[tuple[Socket, Socket, Socket]]:
    """Members of a room that speak JSON, msgpack and nothing but the payload."""
    async with (
        json_client(relay, "json") as by_json,
        msgpack_client(relay, "msgpack") as by_msgpack,
        socket_to(relay, f"/rooms/{room}", relay.token("plain")) as plain,
    ):
        await tell(by_json, {"t": "join", "id": 1, "room": room})
        while (await heard(by_json))["t"] != "ok":
            pass
        await tell(by_msgpack, pack({"t": "join", "id": 1, "room": room}))
        while (await heard(by_msgpack))["t"] != "ok":
            pass
        yield by_json, by_msgpack, plain


async def everybody_got_something(clients: tuple[Socket, Socket, Socket], speaker: Socket) -> None:
    """From what is published to what comes behind it, each receiver can read everything."""
    for client in clients:
        if client is speaker:
            continue
        opcode, payload = await client.next()
        if client is clients[2]:
            assert opcode == BINARY or payload.decode() is not None
            continue
        message = msgspec.json.decode(payload) if opcode == TEXT else msgspec.msgpack.decode(payload)
        while message["t"] in ("joined", "left"):
            message = await heard(client)
        assert message["t"] == "message"


@pytest.mark.parametrize("case", POISON_JSON)
async def test_what_only_json_can_say_reaches_everybody_somehow(roomy: RelayThread, case: str) -> None:
    async with under_attack(roomy), one_of_each(roomy, "feed:poison") as clients:
        speaker = clients[0]
        await tell(speaker, publish(POISON_JSON[case], "feed:poison"))
        assert (await heard(speaker))["t"] == "ok"
        await everybody_got_something(clients, speaker)


@pytest.mark.parametrize("case", POISON_MSGPACK)
async def test_what_only_msgpack_can_say_reaches_everybody_somehow(roomy: RelayThread, case: str) -> None:
    async with under_attack(roomy), one_of_each(roomy, "feed:poison") as clients:
        speaker = clients[1]
        envelope = pack({"t": "publish", "id": 7, "room": "feed:poison", "data": 1})
        await tell(speaker, envelope[:-1] + POISON_MSGPACK[case])
        assert (await heard(speaker))["t"] == "ok"
        await everybody_got_something(clients, speaker)


async def test_poison_in_the_history_and_in_an_answer_hurts_nobody(roomy: RelayThread) -> None:
    """A feed remembers its last messages, and its plugin hands out the very last one."""
    async with under_attack(roomy), one_of_each(roomy, "feed:well") as (by_json, by_msgpack, _):
        for number, data in enumerate(POISON_MSGPACK.values()):
            envelope = pack({"t": "publish", "id": 100 + number, "room": "feed:well", "data": 1})
            await tell(by_msgpack, envelope[:-1] + data)
        while (await heard(by_msgpack)).get("id") != 100 + len(POISON_MSGPACK) - 1:
            pass
        for number in range(len(POISON_MSGPACK)):
            await tell(by_json, {"t": "history", "id": number, "room": "feed:well", "last": 1000})
        await tell(by_json, {"t": "call", "id": "last", "room": "feed:well", "method": "last"})
        answered: set[object] = set()
        while len(answered) <= len(POISON_MSGPACK):
            answer = await heard(by_json)
            assert answer["t"] in ("ok", "message")
            answered.add(answer.get("id"))
            answered.discard(None)
        async with socket_to(roomy, "/rooms/feed:well?last=1000", roomy.token("late")) as late:
            for _ in range(10):  # as many as the room remembers
                await late.next()
