"""Compression turned against the relay: bombs, broken streams, offers that make no sense.

A bomb is small on the wire and large in memory (RFC 7692 section 8). What it costs here is looked at from outside: the
peak of the process's memory.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.harness import UPGRADE, bearer
from tests.security.attack import BINARY, CLOSE, CONTINUATION, TEXT, Socket, answer_of, ask, frame, head, tls
from tests.security.siege import RelayApart, RelayThread, apart, besieged, folder_with, under_attack

pytestmark = pytest.mark.e2e

RSV1 = 4
OFFER = "permessage-deflate; client_max_window_bits"
TAIL = b"\x00\x00\xff\xff"
KIB = 1024
CROWD = 100


@pytest.fixture(scope="module", params=[False, True], ids=["shared", "contexts"])
def packed(
    request: pytest.FixtureRequest, certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RelayThread]:
    settings = {"websocket": {"deflate": True, "deflate_context": request.param}, "timeouts": {"close": 2.0}}
    with besieged(folder_with(certificates, tmp_path_factory.mktemp("packed")), settings) as relay:
        yield relay


@asynccontextmanager
async def deflating(relay: Any, offer: str = OFFER, path: str = "/rooms/echo:attack") -> AsyncIterator[Socket]:
    """A socket that has agreed on compression."""
    async with tls(relay) as stream:
        headers = {**UPGRADE, **bearer(relay.token("mallory")), "Sec-WebSocket-Extensions": offer}
        await stream.send_all(head(path, headers))
        answer = await answer_of(stream)
        assert answer.status == 101, answer
        assert answer.headers["sec-websocket-extensions"].startswith("permessage-deflate")
        yield Socket(stream, answer.body)


def pack(data: bytes) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, -12)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


@cache
def bomb(mebibytes: int) -> bytes:
    """Zeros, as small as deflate makes them: a thousandth."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(1 << 20)
    return b"".join(stream.compress(zeros) for _ in range(mebibytes)) + stream.flush(zlib.Z_SYNC_FLUSH)


TOO_LARGE = (1009, "message larger than 65536 bytes [limits.message_bytes]")


@pytest.mark.parametrize(
    ("frames", "closed"),
    [
        pytest.param([frame(BINARY, pack(bytes(65537)), reserved=RSV1)], TOO_LARGE, id="one byte too many"),
        pytest.param([frame(TEXT, pack(b"a" * 10_000_000), reserved=RSV1)], TOO_LARGE, id="10 MB of text"),
        pytest.param(
            [frame(BINARY, pack(bytes(60000)), fin=False, reserved=RSV1), frame(CONTINUATION, b"\xff" * 20)],
            None,
            id="a stream that goes wrong in its second fragment",
        ),
        pytest.param([frame(TEXT, b"\xff" * 20, reserved=RSV1)], None, id="no deflate at all"),
        pytest.param([frame(TEXT, pack(b"\xff\xfe"), reserved=RSV1)], (1007, "text is not UTF-8"), id="bad UTF-8"),
        pytest.param([frame(9, b"x", reserved=RSV1)], (1002, "reserved bit set"), id="a compressed ping"),
        pytest.param(
            [frame(TEXT, b"\0", fin=False, reserved=RSV1), frame(CONTINUATION, b"\0", reserved=RSV1)],
            (1002, "reserved bit set"),
            id="a continuation compressed by itself",
        ),
        pytest.param([frame(TEXT, declared=1 << 40, reserved=RSV1)], TOO_LARGE, id="a terabyte, compressed"),
    ],
)
async def test_what_cannot_be_inflated_ends_its_own_connection(
    packed: RelayThread, frames: list[bytes], closed: tuple[int, str] | None
) -> None:
    code = 1007 if closed is None else closed[0]
    async with under_attack(packed, {f"connections_closed:{code}": 1}), deflating(packed) as client:
        await client.send(frame(TEXT, b"good"))
        await client.send(b"".join(frames))
        assert await client.hear() == "good"
        found = await client.closed()
        assert found == closed if closed else (found[0], found[1][:25]) == (1007, "compressed data is broken")


async def test_a_compressed_message_of_just_the_limit_is_no_attack(packed: RelayThread) -> None:
    async with under_attack(packed), deflating(packed) as client:
        for text in ("a" * 65536, "é" * 32768):
            data = pack(text.encode())
            await client.send(frame(TEXT, data[:9], fin=False, reserved=RSV1) + frame(CONTINUATION, data[9:]))
            first, size = await client._take(2)
            assert first == 0x80 | RSV1 << 4 | TEXT
            size = int.from_bytes(await client._take(2), "big") if size == 126 else size
            inflated = zlib.decompressobj(-15).decompress(await client._take(size) + TAIL)
            assert inflated.decode() == text


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate; client_max_window_bits=abc",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; unknown",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "x-webkit-deflate-frame",
        ", ".join(["permessage-deflate; a"] * 200),
    ],
)
async def test_an_offer_that_cannot_be_accepted_is_declined(packed: RelayThread, offer: str) -> None:
    headers = {**UPGRADE, **bearer(packed.token("mallory")), "Sec-WebSocket-Extensions": offer}
    async with under_attack(packed):
        answer = await ask(packed, head("/rooms/echo:attack", headers))
        assert answer.status == 101
        assert "sec-websocket-extensions" not in answer.headers


@pytest.mark.parametrize("offer", ["permessage-deflate;", "=", 'permessage-deflate; a="', "a b", ";" * 4000])
async def test_what_is_no_offer_at_all_is_400(packed: RelayThread, offer: str) -> None:
    headers = {**UPGRADE, **bearer(packed.token("mallory")), "Sec-WebSocket-Extensions": offer}
    async with under_attack(packed, {"handshakes_rejected:bad_request": 1}):
        answer = await ask(packed, head("/rooms/echo:attack", headers))
        assert (answer.status, answer.json()["error"]) == (400, "bad_request")


def peak(relay: RelayApart) -> int:
    """The most memory the process has ever had in RAM, KiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{relay.process.pid}/status").read_text())
    assert found is not None
    return int(found[1])


RELAXED = {"message_bytes": 1 << 20}


@pytest.mark.parametrize("context", [False, True], ids=["shared", "contexts"])
async def test_half_a_gibibyte_of_zeros_costs_one_message_of_memory(folder: Path, context: bool) -> None:
    settings = {"websocket": {"deflate": True, "deflate_context": context}, "limits": RELAXED}
    async with (
        apart(folder, settings) as relay,
        under_attack(relay, {"connections_closed:1009": 1}),
        deflating(relay) as client,
    ):
        before = peak(relay)
        await client.send(frame(BINARY, bomb(512), reserved=RSV1))  # 0.5 MB on the wire
        code, reason = await client.closed()
        assert (code, reason) == (1009, "message larger than 1048576 bytes [limits.message_bytes]")
        assert peak(relay) - before < 6 * KIB


async def test_a_crowd_of_bombs_costs_each_no_more_than_its_bytes(folder: Path) -> None:
    """All inflate a whole message, then one byte more; none is told before all have sent."""
    almost, rest = pack(bytes(65536)), pack(bytes(65537))
    settings = {"websocket": {"deflate": True, "deflate_context": True}}
    async with apart(folder, settings) as relay, under_attack(relay, {"connections_closed:1009": CROWD}):
        async with trio.open_nursery() as nursery:
            ready = 0
            fire = trio.Event()

            async def one(number: int) -> None:
                nonlocal ready
                async with deflating(relay, path=f"/rooms/chat:bomb-{number}") as client:
                    await client.send(frame(BINARY, almost, reserved=RSV1))
                    ready += 1
                    if ready == CROWD:
                        fire.set()
                    await fire.wait()
                    await client.send(frame(BINARY, rest, reserved=RSV1))
                    while (got := await _next(client))[0] != CLOSE:
                        pass
                    assert got[1][:2] == (1009).to_bytes(2, "big")

            before = peak(relay)
            for number in range(CROWD):
                nursery.start_soon(one, number)
        assert peak(relay) - before < CROWD * 200  # connection, TLS, both contexts: KiB each


async def _next(client: Socket) -> tuple[int, bytes]:
    """As `Socket.next`, where frames may be compressed."""
    first, size = await client._take(2)
    if size >= 126:
        size = int.from_bytes(await client._take(2 if size == 126 else 8), "big")
    return first & 15, await client._take(size)
