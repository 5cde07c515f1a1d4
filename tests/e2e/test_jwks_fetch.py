"""Fetching key sets from a real https server on loopback that rotates, fails, dawdles, floods and lies.

The clock runs a hundred times faster than the wall's, so that cooldowns of half a minute pass while real sockets work.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from cryptography.hazmat.primitives.asymmetric import ed25519
from jwt.algorithms import OKPAlgorithm
from trio.testing import MockClock as Clock

from relay.auth.jwks import JwksCache
from relay.config import schema
from relay.errors import ConfigError
from relay.net.jwks_fetch import JwksFetcher

pytestmark = pytest.mark.e2e

Answer = Callable[[trio.SSLStream[trio.SocketStream]], Awaitable[None]]
DEADLINE = 2000.0  # of the fast clock: 20 s


@pytest.fixture
def fast_clock() -> Clock:
    """Has to stand among a test's own arguments: that is where its clock is looked for."""
    return Clock(rate=100.0)


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def key_set(*kids: str) -> bytes:
    keys = [OKPAlgorithm.to_jwk(ed25519.Ed25519PrivateKey.generate().public_key(), as_dict=True) for _ in kids]
    return json.dumps({"keys": [{**key, "kid": kid} for key, kid in zip(keys, kids, strict=True)]}).encode()


def answer(body: bytes, status: str = "200 OK", *fields: str) -> Answer:
    async def send(stream: trio.SSLStream[trio.SocketStream]) -> None:
        head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "", ""])
        await stream.send_all(head.encode() + body)

    return send


async def flood(stream: trio.SSLStream[trio.SocketStream]) -> None:
    """A hundred megabytes, chunked, so that no header says so beforehand."""
    await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    for _ in range(1600):
        await stream.send_all(chunk)


async def silence(stream: trio.SSLStream[trio.SocketStream]) -> None:
    await trio.sleep_forever()


async def drip(stream: trio.SSLStream[trio.SocketStream]) -> None:
    """A byte now and then: no single read takes long, the whole takes for ever."""
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        await stream.send_all(b" ")
        await trio.sleep(1.0)


class Issuer:
    """The stand-in: it answers every request with `answer`, and counts them."""

    def __init__(self, ca_file: Path) -> None:
        self.ca_file = str(ca_file)
        self.url = ""
        self.answer: Answer = answer(key_set("a"))
        self.requests: list[bytes] = []
        self.sent_all = 0

    async def serve(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                data = await stream.receive_some()
                if not data:
                    return
                head += data
            self.requests.append(head)
            await self.answer(stream)
            self.sent_all += 1
            await stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    def settings(self, **changes: Any) -> schema.JWKS:
        usual = {"url": self.url, "ca_file": self.ca_file, "refresh": 300.0, "cooldown": 30.0, "timeout": 500.0}
        return schema.JWKS(**{**usual, **changes})


@pytest.fixture
async def issuer(tmp_path: Path) -> AsyncIterator[Issuer]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    found = Issuer(tmp_path / "ca.pem")
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_ssl_over_tcp, found.serve, 0, context, host="127.0.0.1")
        listeners = await nursery.start(serve)
        port = listeners[0].transport_listener.socket.getsockname()[1]
        found.url = f"https://127.0.0.1:{port}/keys"
        yield found
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def fetching(settings: schema.JWKS) -> AsyncIterator[tuple[JwksCache, JwksFetcher]]:
    cache = JwksCache(settings, jitter=lambda: 0.0)
    fetcher = JwksFetcher(cache, settings)
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetcher.keep_fresh)
            yield cache, fetcher
            # A handshake cut in its middle leaves its socket to the garbage collector, which would be loud about it.
            await until(lambda: not cache.statistics().fetching)
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for is a count in a cache that knows no events
        await trio.sleep(1.0)


async def failure(cache: JwksCache) -> str:
    """The next failure's text."""
    before = cache.statistics().failures
    await until(lambda: cache.statistics().failures > before)
    return cache.statistics().last_error


async def test_keys_are_there_soon_after_the_start(fast_clock: Clock, issuer: Issuer) -> None:
    async with fetching(issuer.settings()) as (cache, fetcher):
        assert await fetcher.wait_for_kid("a")
        assert cache.knows("a")
        assert await fetcher.wait_for_kid(None)
    assert issuer.requests[0].startswith(b"GET /keys HTTP/1.1\r\n")
    assert b"accept-encoding: identity" in issuer.requests[0].lower()


async def test_rotated_keys_replace_the_old_ones_at_the_next_refresh(fast_clock: Clock, issuer: Issuer) -> None:
    async with fetching(issuer.settings(refresh=60.0)) as (cache, fetcher):
        await fetcher.wait_for_kid("a")
        began = trio.current_time()
        issuer.answer = answer(key_set("b"))
        await until(lambda: cache.knows("b"))
        assert trio.current_time() - began >= 10.0  # of 60: on a busy machine the fast clock has run on meanwhile
        assert not cache.knows("a")


async def test_a_new_kid_is_fetched_as_soon_as_the_cooldown_allows(fast_clock: Clock, issuer: Issuer) -> None:
    async with fetching(issuer.settings(refresh=1e6)) as (cache, fetcher):
        await fetcher.wait_for_kid("a")
        issuer.answer = answer(key_set("a", "b"))
        assert not await fetcher.wait_for_kid("b")  # too soon: not even asked
        assert len(issuer.requests) == 1
        await until(lambda: cache.knows("b"))  # but it comes by itself at the end of the cooldown
        assert len(issuer.requests) == 2
        await trio.sleep(40.0)
        issuer.answer = answer(key_set("a", "b", "c"))
        assert await fetcher.wait_for_kid("c")  # late enough: this handshake waits for its key
        assert len(issuer.requests) == 3


async def test_a_flood_of_unknown_kids_makes_one_fetch_per_cooldown(fast_clock: Clock, issuer: Issuer) -> None:
    async with fetching(issuer.settings(refresh=1e6)) as (_, fetcher):
        await fetcher.wait_for_kid("a")
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def ask(number: int) -> None:
                while trio.current_time() - began < 100.0:
                    assert not await fetcher.wait_for_kid(f"made-up-{number}")
                    await trio.sleep(1.0)

            for number in range(20):
                nursery.start_soon(ask, number)
        took = trio.current_time() - began
    assert 2 <= len(issuer.requests) <= 2 + took / 30.0


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (answer(b"", "500 Internal Server Error"), "status 500"),
        (answer(b"", "404 Not Found"), "status 404"),
        (answer(b"", "302 Found", "Location: http://127.0.0.1/keys"), "redirects are not followed"),
        (answer(b"", "302 Found", "Location: /other"), "redirects are not followed"),
        (answer(b"<html>maintenance</html>"), "not JSON"),
        (answer(b'{"keys": []}'), "no usable key"),
        (answer(b'{"keys": [{"kty":"oct","k":"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE","alg":"HS256"}]}'), "1 oct"),
        (answer(key_set("b"), "200 OK", "Content-Encoding: gzip"), "Content-Encoding"),
        (flood, "more than 262144 bytes"),
    ],
    ids=["500", "404", "redirect-to-http", "redirect", "html", "empty", "secret", "compressed", "flood"],
)
async def test_a_bad_answer_leaves_the_keys_as_they_are(
    fast_clock: Clock, issuer: Issuer, bad: Answer, why: str
) -> None:
    async with fetching(issuer.settings(refresh=31.0)) as (cache, fetcher):
        assert await fetcher.wait_for_kid("a")
        keys = cache.keys
        issuer.answer = bad
        assert why in await failure(cache)
        assert cache.keys is keys
        issuer.answer = answer(key_set("b"))
        await until(lambda: cache.knows("b"))


async def test_a_flood_is_not_read_to_its_end(fast_clock: Clock, issuer: Issuer) -> None:
    issuer.answer = flood
    async with fetching(issuer.settings()) as (cache, _):
        assert "more than 262144 bytes" in await failure(cache)
    assert issuer.sent_all == 0


async def test_what_is_not_http_is_not_quoted(fast_clock: Clock, issuer: Issuer) -> None:
    async def garbage(stream: trio.SSLStream[trio.SocketStream]) -> None:
        await stream.send_all(b"\x00\xffsecret of another service\r\n\r\n")

    issuer.answer = garbage
    async with fetching(issuer.settings()) as (cache, _):
        assert await failure(cache) == "RemoteProtocolError"


@pytest.mark.parametrize("slow", [silence, drip])
async def test_a_slow_answer_is_given_up_after_the_timeout(fast_clock: Clock, issuer: Issuer, slow: Answer) -> None:
    issuer.answer = slow
    async with fetching(issuer.settings(timeout=50.0)) as (cache, fetcher):
        assert not await fetcher.wait_for_kid("a")
        await until(lambda: cache.statistics().failures)
        assert cache.statistics().last_error == "no answer within 50 s"


async def test_an_authority_that_is_not_trusted_is_refused_and_old_keys_stay(
    fast_clock: Clock, issuer: Issuer, tmp_path: Path
) -> None:
    async with fetching(issuer.settings(refresh=1e6)) as (cache, fetcher):
        assert await fetcher.wait_for_kid("a")
        requests = len(issuer.requests)
        trustme.CA().cert_pem.write_to_path(issuer.ca_file)
        await fetcher.wait_for_kid("b")  # asks for the next fetch
        assert "CERTIFICATE_VERIFY_FAILED" in await failure(cache)
        assert len(issuer.requests) == requests
        assert cache.knows("a")


async def test_without_a_ca_file_the_system_does_not_trust_the_stand_in(fast_clock: Clock, issuer: Issuer) -> None:
    async with fetching(issuer.settings(ca_file="")) as (cache, _):
        assert "CERTIFICATE_VERIFY_FAILED" in await failure(cache)
    assert not issuer.requests


async def test_a_ca_file_that_is_gone_is_named(fast_clock: Clock, issuer: Issuer, tmp_path: Path) -> None:
    async with fetching(issuer.settings(ca_file=str(tmp_path / "gone.pem"))) as (cache, _):
        assert "auth.jwks.ca_file cannot be used: No such file" in await failure(cache)


async def test_a_server_that_is_down_costs_nothing_but_a_failure(fast_clock: Clock, issuer: Issuer) -> None:
    async with fetching(issuer.settings(url="https://127.0.0.1:1/keys")) as (cache, fetcher):
        assert not await fetcher.wait_for_kid("a")
        assert "cannot connect" in cache.statistics().last_error


async def test_waiting_for_a_key_does_not_outlive_the_timeout_when_nobody_fetches(fast_clock: Clock) -> None:
    settings = schema.JWKS(url="https://127.0.0.1:1/keys", timeout=20.0)
    fetcher = JwksFetcher(JwksCache(settings), settings)
    with trio.fail_after(DEADLINE):
        assert not await fetcher.wait_for_kid("a")


def test_keys_are_not_fetched_in_the_clear() -> None:
    settings = schema.JWKS(url="http://127.0.0.1:1/keys")
    with pytest.raises(ConfigError, match="https only"):
        JwksFetcher(JwksCache(settings), settings)
