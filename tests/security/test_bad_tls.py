"""What is no TLS, bad TLS, or TLS that never comes: the connection ends, and nobody else notices."""

from __future__ import annotations

import random
import ssl
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.security.attack import (
    client_hello,
    drip,
    head,
    reset_on_close,
    send_until_refused,
    socket_to,
    tcp,
    the_rest,
    tls,
)
from tests.security.siege import RelayThread, apart, under_attack

pytestmark = pytest.mark.e2e

ALERT = 21
HANDSHAKE_FAILURE, PROTOCOL_VERSION, DECODE_ERROR = 40, 70, 50  # RFC 8446 section 6


def client_context(change: Callable[[ssl.SSLContext], object]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        change(context)
    return context


def only_tls_1_1(context: ssl.SSLContext) -> None:
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1


def only_cbc(context: ssl.SSLContext) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA:AES128-SHA")


HELLO = client_hello(ssl.create_default_context())
NOISE = random.Random(1).randbytes(4096)


def said(data: bytes) -> int | None:
    """The alert in an answer of at most one TLS record; None for no answer at all."""
    if not data:
        return None
    assert data[0] == ALERT, data
    assert len(data) == 7
    return data[6]


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(NOISE, id="random bytes"),
        pytest.param(b"\0" * 4096, id="zeros"),
        pytest.param(head("/healthz"), id="plain HTTP"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another protocol"),
        pytest.param(b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + NOISE[:64], id="an SSL 2 hello"),
        pytest.param(HELLO[:5] + NOISE[: len(HELLO) - 5], id="a record full of noise"),
        pytest.param(HELLO[:60] + b"\xff" * (len(HELLO) - 60), id="a hello that breaks off into noise"),
        pytest.param(b"\x16\x03\x01\xff\xff" + NOISE, id="a record too long"),
        pytest.param(b"\x17\x03\x03\x00\x05hello", id="data before a handshake"),
        pytest.param(b"\x15\x03\x03\x00\x02\x02\x28", id="an alert"),
    ],
)
async def test_what_is_no_handshake_ends_the_connection(relay: RelayThread, garbage: bytes) -> None:
    async with under_attack(relay, {"tls_failures:protocol": 1}), tcp(relay) as stream:
        await stream.send_all(garbage)
        said(await the_rest(stream))


@pytest.mark.parametrize(
    ("change", "alert"),
    [
        pytest.param(only_tls_1_1, PROTOCOL_VERSION, id="TLS 1.1"),
        pytest.param(only_cbc, HANDSHAKE_FAILURE, id="no common cipher"),
    ],
)
async def test_what_cannot_be_agreed_on_is_told_by_an_alert(
    relay: RelayThread, change: Callable[[ssl.SSLContext], object], alert: int
) -> None:
    async with under_attack(relay, {"tls_failures:protocol": 1}), tcp(relay) as stream:
        await stream.send_all(client_hello(client_context(change)))
        assert said(await the_rest(stream)) == alert


@pytest.mark.parametrize(
    "begun",
    [pytest.param(b"", id="nothing"), pytest.param(HELLO[:100], id="half a hello"), pytest.param(HELLO, id="a hello")],
)
async def test_a_handshake_that_stops_is_cut_at_the_deadline(impatient: RelayThread, begun: bytes) -> None:
    async with under_attack(impatient, {"tls_failures:timeout": 1}), tcp(impatient) as stream:
        await stream.send_all(begun or b"\x16")
        await the_rest(stream)


async def test_a_hello_byte_by_byte_is_cut_at_the_deadline(impatient: RelayThread) -> None:
    async with under_attack(impatient, {"tls_failures:timeout": 1}) as bystander, tcp(impatient) as stream:
        began = trio.current_time()
        await drip(stream, HELLO, bystander.a_word)  # all of it would take five seconds
        assert 0.25 < trio.current_time() - began < 2


@pytest.mark.parametrize("begun", [b"", HELLO[:100], HELLO], ids=["nothing", "half a hello", "a hello"])
@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_who_leaves_before_the_handshake_is_done_is_forgotten_at_once(
    relay: RelayThread, begun: bytes, *, reset: bool
) -> None:
    async with under_attack(relay, {"tls_failures:eof": 1}), tcp(relay) as stream:
        if begun:
            await stream.send_all(begun)
        if reset:
            reset_on_close(stream)


async def test_a_handshake_whose_second_half_is_noise_is_ended(relay: RelayThread) -> None:
    async with under_attack(relay, {"tls_failures:protocol": 1}), tcp(relay) as stream:
        await stream.send_all(HELLO)
        assert await stream.receive_some()  # the server's part
        await send_until_refused(stream, b"\x17\x03\x03\x00\x40" + NOISE[:64])
        await the_rest(stream)


async def test_noise_behind_a_good_handshake_ends_that_connection_alone(relay: RelayThread) -> None:
    async with under_attack(relay, {"connections_closed:1006": 1}), socket_to(relay) as client:
        assert isinstance(client.stream, trio.SSLStream)
        raw = client.stream.transport_stream
        await raw.send_all(b"\x17\x03\x03\x00\x40" + NOISE[:64])
        await the_rest(raw)


async def test_silence_behind_a_good_handshake_is_ended_by_the_next_deadline(impatient: RelayThread) -> None:
    async with under_attack(impatient, {"handshakes_rejected:timeout": 1}), tls(impatient) as stream:
        assert b" 408 " in await the_rest(stream)


async def test_a_server_name_that_is_not_ascii_ends_the_handshake_without_a_traceback(folder: Path) -> None:
    """Python's ssl decodes the name where a certificate is chosen by it, and prints what it cannot raise."""
    another = {"certificate": "certs/server.pem", "key": "certs/server-key.pem", "names": ["other.example"]}
    async with (
        apart(folder, {"tls": {"sni": [another]}}) as relay,
        under_attack(relay, {"tls_failures:protocol": 1}),
        tcp(relay) as stream,
    ):
        await stream.send_all(HELLO.replace(b"localhost", b"local\xffost"))
        assert said(await the_rest(stream)) is not None
