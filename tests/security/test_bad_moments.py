"""The right bytes at the wrong moment: too slowly, too early, too many of them before anybody was let in."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ed25519
from jwt.algorithms import OKPAlgorithm

from relay.ops.memory import resident_bytes
from tests.e2e.harness import ALL_ROOMS
from tests.security.attack import (
    CONTINUATION,
    TEXT,
    Socket,
    answer_of,
    drip,
    frame,
    head,
    reset_on_close,
    send_until_refused,
    the_rest,
    tls,
    upgrade,
)
from tests.security.siege import RelayThread, besieged, under_attack

pytestmark = pytest.mark.e2e

ROOM = "/rooms/echo:attack"
MANY = 64 * 1024 * 1024


async def test_a_head_byte_by_byte_is_answered_with_408_at_the_deadline(impatient: RelayThread) -> None:
    async with under_attack(impatient, {"handshakes_rejected:timeout": 1}) as bystander, tls(impatient) as stream:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip, stream, upgrade(ROOM, impatient.token()), bystander.a_word)
            answer = await answer_of(stream)
            nursery.cancel_scope.cancel()
        assert answer.status == 408
        assert answer.json()["setting"] == "timeouts.head"
        assert trio.current_time() - began < 2


async def test_a_second_request_that_stops_halfway_is_answered_with_408(impatient: RelayThread) -> None:
    async with under_attack(impatient, {"http_requests:408": 1}), tls(impatient) as stream:
        await stream.send_all(head("/healthz"))
        assert (await answer_of(stream)).status == 200
        await stream.send_all(b"GET /healthz HT")
        assert (await answer_of(stream)).json()["setting"] == "timeouts.head"


async def test_a_body_that_never_comes_holds_nobody(impatient: RelayThread) -> None:
    async with under_attack(impatient, {"http_requests:405": 1}), tls(impatient) as stream:
        await stream.send_all(head("/healthz", {"Content-Length": "1000000"}, method="POST"))
        answer = await answer_of(stream)
        assert answer.status == 405
        assert answer.headers["connection"] == "close"


async def test_who_asks_nothing_more_is_let_go_without_a_word(impatient: RelayThread) -> None:
    async with under_attack(impatient), tls(impatient) as stream:
        await stream.send_all(head("/healthz"))
        assert (await answer_of(stream)).status == 200
        assert await the_rest(stream) == b""


async def test_pipelined_requests_are_answered_one_by_one(relay: RelayThread) -> None:
    async with under_attack(relay, {"http_requests:404": 200}), tls(relay) as stream:
        await stream.send_all(head("/nowhere") * 199 + head("/nowhere", {"Connection": "close"}))
        assert (await the_rest(stream)).count(b"HTTP/1.1 404 ") == 200


async def test_a_head_without_an_end_is_cut_off_while_it_is_sent(relay: RelayThread) -> None:
    async with under_attack(relay, {"handshakes_rejected:too_many_fields": 1}), tls(relay) as stream:
        await send_until_refused(stream, head("/")[:-2] + b"X-Much: much\r\n" * 500_000)
        assert b" 101 " not in await the_rest(stream)


# Frames before the 101.


@pytest.mark.parametrize("cut", [0, 1, 5, 40], ids=lambda cut: f"{cut} bytes later")
async def test_frames_glued_to_the_request_are_kept(relay: RelayThread, cut: int) -> None:
    """Also when the last of them is not whole yet."""
    frames = frame(TEXT, b"one") + frame(TEXT, b"tw", fin=False) + frame(CONTINUATION, b"o") + frame(TEXT, b"x" * 50)
    early, late = frames[: len(frames) - cut], frames[len(frames) - cut :]
    async with under_attack(relay), tls(relay) as stream:
        await stream.send_all(upgrade(ROOM, relay.token()) + early)
        answer = await answer_of(stream)
        assert answer.status == 101
        client = Socket(stream, answer.body)
        await client.send(late)
        assert [await client.hear() for _ in range(3)] == ["one", "two", "x" * 50]


async def test_a_bad_frame_glued_to_the_request_is_told_behind_the_101(relay: RelayThread) -> None:
    async with under_attack(relay, {"connections_closed:1002": 1}), tls(relay) as stream:
        await stream.send_all(upgrade(ROOM, relay.token()) + frame(TEXT, b"one", mask=None))
        answer = await answer_of(stream)
        assert answer.status == 101
        assert await Socket(stream, answer.body).closed() == (1002, "frame not masked")


async def test_frames_behind_a_refused_request_do_not_eat_the_answer(relay: RelayThread) -> None:
    async with under_attack(relay, {"handshakes_rejected:token_missing": 1}), tls(relay) as stream:
        await stream.send_all(upgrade(ROOM) + frame(TEXT, b"x" * 10_000))
        assert (await answer_of(stream)).status == 401


# An issuer whose keys are slow to come: until they are there, the handshake stands between request and answer.


class SlowIssuer:
    """Serves its key set when `release` is set, not before."""

    def __init__(self, folder: Path) -> None:
        self.release = trio.Event()
        self.asked = trio.Event()
        self._key = ed25519.Ed25519PrivateKey.generate()
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(folder / "certs" / "server.pem", folder / "certs" / "server-key.pem")

    def token(self) -> str:
        claims = {"sub": "late", "exp": time.time() + 300, "relay": ALL_ROOMS}
        return jwt.encode(claims, self._key, "EdDSA", headers={"kid": "late"})

    async def listen(self, nursery: trio.Nursery) -> str:
        listeners = await nursery.start(
            partial(trio.serve_ssl_over_tcp, self._serve, 0, self._context, host="127.0.0.1")
        )
        return f"https://localhost:{listeners[0].transport_listener.socket.getsockname()[1]}/keys"

    async def _serve(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        async with stream:
            assert await stream.receive_some()
            self.asked.set()
            await self.release.wait()
            key = OKPAlgorithm.to_jwk(self._key.public_key(), as_dict=True) | {"kid": "late"}
            body = json.dumps({"keys": [key]}).encode()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def slow_issuer(
    folder: Path, auth_timeout: float, *, guests: bool = False
) -> AsyncIterator[tuple[RelayThread, SlowIssuer]]:
    """A relay that waits for its issuer, which is asked at start. `guests`: tokens may come in the first message."""
    issuer = SlowIssuer(folder)
    async with trio.open_nursery() as nursery:
        url = await issuer.listen(nursery)
        jwks = {"url": url, "ca_file": str(folder / "certs" / "ca.pem")}
        auth = {"jwks": jwks, "deferred": {"enabled": guests}}
        with besieged(folder, {"auth": auth, "timeouts": {"auth": auth_timeout}}) as relay:
            await issuer.asked.wait()
            yield relay, issuer
            issuer.release.set()
        nursery.cancel_scope.cancel()


async def test_frames_between_the_request_and_its_101_are_kept(folder: Path) -> None:
    said = [f"early {number}" for number in range(20)]
    async with slow_issuer(folder, 10.0) as (relay, issuer), under_attack(relay), tls(relay) as stream:
        await stream.send_all(upgrade(ROOM, issuer.token()) + frame(TEXT, said[0].encode()))
        for text in said[1:]:
            await stream.send_all(frame(TEXT, text.encode()))
        issuer.release.set()
        answer = await answer_of(stream)
        assert answer.status == 101
        client = Socket(stream, answer.body)
        assert [await client.hear() for _ in said] == said


async def test_a_flood_before_the_101_waits_in_the_kernel(folder: Path) -> None:
    rejected = {"handshakes_rejected:token_unknown_key": 1}
    async with slow_issuer(folder, 0.5) as (relay, issuer), under_attack(relay, rejected), tls(relay) as stream:
        before = resident_bytes()
        await stream.send_all(upgrade(ROOM, issuer.token()))
        chunk = frame(TEXT, b"x" * 65000)
        sent = 0
        try:
            while sent < MANY:
                await stream.send_all(chunk)
                sent += len(chunk)
        except trio.BrokenResourceError:  # it was refused, with all that unread
            pass
        after = resident_bytes()
        assert sent < MANY // 4
        assert before is not None
        assert after is not None
        assert after - before < MANY // 4


# The same for a token in the first message: what comes behind it waits, in order and in the kernel.


async def test_frames_between_a_guests_token_and_its_session_are_kept(folder: Path) -> None:
    said = [f"early {number}" for number in range(20)]
    async with slow_issuer(folder, 10.0, guests=True) as (relay, issuer), under_attack(relay), tls(relay) as stream:
        await stream.send_all(upgrade(ROOM))
        answer = await answer_of(stream)
        assert answer.status == 101
        client = Socket(stream, answer.body)
        await client.send(frame(TEXT, issuer.token().encode()) + frame(TEXT, said[0].encode()) + b"\x81")
        await client.send(frame(TEXT, said[1].encode())[1:])
        for text in said[2:]:
            await client.say(text)
        issuer.release.set()
        assert [await client.hear() for _ in said] == said


async def test_a_guests_flood_while_keys_are_fetched_waits_in_the_kernel(folder: Path) -> None:
    rejected = {"handshakes_rejected:token_unknown_key": 1, "guests_ended:token_unknown_key": 1}
    async with (
        slow_issuer(folder, 0.5, guests=True) as (relay, issuer), under_attack(relay, rejected), tls(relay) as stream
    ):  # fmt: skip
        before = resident_bytes()
        await stream.send_all(upgrade(ROOM))
        assert (await answer_of(stream)).status == 101
        await stream.send_all(frame(TEXT, issuer.token().encode()))
        chunk = frame(TEXT, b"x" * 65000)
        sent = 0
        try:
            while sent < MANY:
                await stream.send_all(chunk)
                sent += len(chunk)
        except trio.BrokenResourceError:
            pass
        after = resident_bytes()
        assert sent < MANY // 4
        assert before is not None
        assert after is not None
        assert after - before < MANY // 4


async def test_guests_that_leave_while_keys_are_fetched_leave_nothing(folder: Path) -> None:
    moved = {"guests_ended:admitted": 10}
    async with slow_issuer(folder, 10.0, guests=True) as (relay, issuer), under_attack(relay, moved):
        for number in range(10):
            async with tls(relay) as stream:
                await stream.send_all(upgrade(ROOM))
                assert (await answer_of(stream)).status == 101
                await stream.send_all(frame(TEXT, issuer.token().encode()))
                if number % 2:
                    reset_on_close(stream)
        issuer.release.set()
