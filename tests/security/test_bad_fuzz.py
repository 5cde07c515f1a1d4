"""Seeded noise: mutated requests and random frames over real TLS. Whatever is sent, what comes back is well-formed."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import h11
import pytest
import trio

from relay.auth.refusals import TOKEN_CODES
from tests.security.attack import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    V1_JSON,
    V1_MSGPACK,
    Socket,
    Vanished,
    answer_of,
    close_payload,
    frame,
    open_socket,
    send_until_refused,
    tls,
    upgrade,
)
from tests.security.siege import RelayThread, besieged, folder_with, under_attack

pytestmark = pytest.mark.e2e

ROUNDS = 300
AT_ONCE = 15
STATUSES = {101, 200, 400, 401, 403, 404, 405, 408, 426, 431, 501, 505}
CODES = {1002, 1003, 1007, 1008, 1009}
OWN_CODES = [1000, 1001, 3000, 4999]  # what the noise itself may close with: that is answered with the same
NO_CODES = [999, 1005, 1006, 1015, 1100, 2999, 65535]

REFUSALS = [
    "bad_request", "http_version", "websocket_version", "too_many_fields", "head_too_large", "timeout", "origin",
    "method_not_allowed", "unknown_subprotocol", "not_found", "bad_room", "no_such_room", "transfer_encoding",
    "unauthorized", *TOKEN_CODES,
]  # fmt: skip
DEEP = b"[" * 200
SPLINTERS = [
    b"\r\n", b"\n", b"\r", b"\0", b":", b" ", b"\t", b",", b"\xff", b"%00", b"%", b"?token=", b"#", b"\r\n\r\n",
    b"Host: a\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n",
    b"HTTP/1.0", b"bearer.x", b"relay.v1.json",
    b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=abc\r\n",
    b"X" * 5000, b"A: b\r\n" * 70, b"\x16\x03\x01",
]  # fmt: skip


@pytest.fixture(scope="module", params=["epoll", "portable"])
def fuzzed(
    request: pytest.FixtureRequest, certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RelayThread]:
    """Short deadlines, so that what is not whole is soon over. Both pollers, half of the noise each."""
    short = {"head": 0.5, "http_idle": 0.5, "http_request": 0.5, "close": 0.5}
    settings = {"timeouts": short, "server": {"poller": request.param}, "limits": {"message_bytes": 4096}}
    with besieged(folder_with(certificates, tmp_path_factory.mktemp("fuzzed")), settings) as relay:
        yield relay


def mutated(noise: random.Random, request: bytes) -> bytes:
    """One to four changes anywhere in it."""
    data = bytearray(request)
    for _ in range(noise.randint(1, 4)):
        at = noise.randrange(len(data))
        match noise.randrange(6):
            case 0:
                data[at] = noise.randrange(256)
            case 1:
                data[at:at] = noise.choice(SPLINTERS)
            case 2:
                del data[at : at + noise.randint(1, 30)]
            case 3:
                data[at:at] = data[at : at + noise.randint(1, 60)]
            case 4:
                lines = bytes(data).split(b"\r\n")
                noise.shuffle(lines)
                data[:] = b"\r\n".join(lines)
            case _:
                data[at] ^= 1 << noise.randrange(8)
    return bytes(data)


def random_frames(noise: random.Random) -> bytes:
    """Frames of every kind, right and wrong; now and then bare noise."""
    sent = b""
    for _ in range(noise.randint(1, 8)):
        payload = noise.choice([b"", b"hello", b'{"t":"ping","id":1}', noise.randbytes(noise.randint(0, 300)), DEEP])
        mask = noise.randbytes(4)
        kind = noise.random()
        if kind < 0.6:
            sent += frame(noise.choice([TEXT, BINARY, PING]), payload[:125], fin=noise.random() < 0.9, mask=mask)
        elif kind < 0.7:
            sent += frame(CLOSE, close_payload(noise.choice(OWN_CODES + NO_CODES), "bye"), mask=mask)
        elif kind < 0.8:
            sent += frame(noise.choice([TEXT, BINARY]), payload, declared=noise.choice([4097, 1 << 20, 1 << 62]))
        elif kind < 0.9:
            opcode, reserved = noise.randrange(16), noise.randrange(8)
            sent += frame(opcode, payload, fin=noise.random() < 0.5, reserved=reserved, mask=noise.choice([mask, None]))
        else:
            sent += noise.randbytes(noise.randint(1, 50))
    return sent


def cut(noise: random.Random, data: bytes) -> list[bytes]:
    """The same bytes in up to four writes."""
    places = sorted(noise.randrange(len(data) + 1) for _ in range(noise.randrange(4)))
    pieces = [data[start:stop] for start, stop in zip([0, *places], [*places, len(data)], strict=True)]
    return [piece for piece in pieces if piece]


async def many(attack: Callable[[random.Random], Awaitable[None]], seed: str) -> None:
    async def one(number: int) -> None:
        async with limit:
            try:
                with trio.fail_after(5.0):
                    await attack(random.Random(f"{seed} {number}"))
            except BaseException as problem:
                problem.add_note(f"noise {seed} {number}")
                raise

    limit = trio.CapacityLimiter(AT_ONCE)
    async with trio.open_nursery() as nursery:
        for number in range(ROUNDS // 2):
            nursery.start_soon(one, number)


async def test_a_mutated_request_gets_a_well_formed_answer_or_none(fuzzed: RelayThread) -> None:
    request = upgrade("/rooms/echo:fuzz", fuzzed.token(), V1_JSON)
    statuses: set[int] = set()

    async def attack(noise: random.Random) -> None:
        async with tls(fuzzed) as stream:
            try:
                for piece in cut(noise, mutated(noise, request)):
                    await stream.send_all(piece)
                answer = await answer_of(stream)
            except (Vanished, trio.BrokenResourceError):  # it may have gone on to a second request, or half of one
                return
            except h11.RemoteProtocolError as problem:
                problem.add_note("the answer is malformed")
                raise
            statuses.add(answer.status)
            if answer.status >= 400:
                assert set(answer.json()) <= {"error", "reason", "setting"}

    counts = {f"handshakes_rejected:{code}": range(ROUNDS) for code in REFUSALS}
    async with under_attack(fuzzed, counts):
        await many(attack, "request")
    assert statuses <= STATUSES
    assert len(statuses) > 4


@pytest.mark.parametrize("subprotocol", [None, V1_JSON, V1_MSGPACK], ids=["plain", "json", "msgpack"])
async def test_random_frames_get_answers_a_close_code_or_silence(fuzzed: RelayThread, subprotocol: str | None) -> None:
    seen: set[int] = set()

    async def attack(noise: random.Random) -> None:
        async with tls(fuzzed) as stream:
            client = await open_socket(fuzzed, stream, "/rooms/echo:fuzz", subprotocol=subprotocol)
            for piece in cut(noise, random_frames(noise)):
                await send_until_refused(stream, piece)
            try:  # what is not whole would wait for more: there is no more
                stream.transport_stream.socket.shutdown(trio.socket.SHUT_WR)
            except OSError:  # the noise held a close frame, and was answered
                pass
            seen.add(await last_word(client))

    counts = {f"requests_refused:{code}": range(10 * ROUNDS) for code in ("bad_request", "unknown_type", "bad_part")}
    async with under_attack(fuzzed, counts):
        await many(attack, f"frames {subprotocol}")
    assert seen <= CODES | {0, *OWN_CODES}
    assert seen >= {0, 1000, 1002, 1009}


async def last_word(client: Socket) -> int:
    """The close code, behind which nothing may come; 0: the server ended without one."""
    try:
        while True:
            opcode, payload = await client.next()
            if opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big")
                with pytest.raises(Vanished):
                    await client.next()
                return code
    except Vanished:
        return 0
