"""A relay behind a real HAProxy and a real nginx: limits and the log have the clients' addresses, and only from those
who are trusted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.e2e.harness import UPGRADE, Answer, RelayProcess, bearer, running_relay
from tests.e2e.proxies import haproxy_before, nginx_before
from tests.security.attack import Socket, answer_of, ask, head, open_socket, tcp, the_rest, tls, upgrade

pytestmark = pytest.mark.e2e

ANN, BOB = "127.0.0.11", "127.0.0.12"
ROOM = "/rooms/echo:a"
ONE_EACH = {"connections_per_address": 1}
PROXY = {"trusted": ["127.0.0.1"]}

Address = tuple[str, int]


@pytest.mark.parametrize(
    ("protocol", "options"),
    [("v1", "send-proxy"), ("v2", "send-proxy-v2"), ("any", "send-proxy"), ("any", "send-proxy-v2-ssl-cn")],
)
async def test_limits_count_the_clients_behind_haproxy_and_not_haproxy(
    haproxy: str, tmp_path: Path, protocol: str, options: str
) -> None:
    overrides = {"proxy": {**PROXY, "protocol": protocol}, "limits": ONE_EACH}
    with trio.fail_after(30):
        async with (
            running_relay(tmp_path, overrides) as relay,
            haproxy_before(haproxy, tmp_path, relay.port, options) as front,
            tls(relay, source=BOB, to=front) as bobs,
        ):
            bob = await open_socket(relay, bobs, ROOM)
            async with tls(relay, source=ANN, to=front) as stream:
                ann = await open_socket(relay, stream, ROOM, relay.token("ann"))
                await ann.say("hello")
                assert await ann.hear() == "hello"
                refused = await ask(relay, upgrade(ROOM, relay.token("ann")), source=ANN, to=front)
                assert (refused.status, refused.json()["setting"]) == (429, "limits.connections_per_address")
            assert (await relay.until_log("connection closed", subject="ann"))["address"] == ANN
            await bob.say("still here")
            assert await bob.hear() == "still here"


async def test_who_comes_without_the_proxy_is_served_too_but_its_header_is_no_header(
    haproxy: str, tmp_path: Path
) -> None:
    overrides = {"proxy": {**PROXY, "protocol": "any"}}
    with trio.fail_after(30):
        async with running_relay(tmp_path, overrides) as relay:
            assert (await ask(relay, upgrade(ROOM, relay.token()), source=ANN)).status == 101
            async with tcp(relay, source=ANN) as stream:
                await stream.send_all(b"PROXY TCP4 192.0.2.7 192.0.2.7 1 1\r\n")
                assert b"HTTP" not in await the_rest(stream)


async def test_a_trusted_peer_that_sends_no_header_is_refused_and_the_log_says_why(tmp_path: Path) -> None:
    overrides = {"proxy": {**PROXY, "protocol": "v2"}}
    with trio.fail_after(30):
        async with running_relay(tmp_path, overrides) as relay:
            async with tcp(relay) as stream:
                await stream.send_all(b"PROXY TCP4 192.0.2.7 192.0.2.7 1 1\r\n")
                assert await the_rest(stream) == b""
            line = await relay.until_log("PROXY header refused", setting="proxy.protocol")
            assert line["address"] == "127.0.0.1"


@asynccontextmanager
async def plain(relay: RelayProcess, front: Address, source: str) -> AsyncIterator[Socket]:
    """A WebSocket through nginx, which ends TLS in real life."""
    async with tcp(relay, source=source, to=front) as stream:
        yield await open_socket(relay, stream, ROOM, relay.token("ann"))


async def asked(relay: RelayProcess, front: Address, request: bytes, source: str) -> Answer:
    async with tcp(relay, source=source, to=front) as stream:
        await stream.send_all(request)
        return await answer_of(stream)


@pytest.mark.parametrize(
    ("forwarded", "header"),
    [
        ("x-forwarded-for", "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"),
        ("forwarded", 'proxy_set_header Forwarded "$http_forwarded, for=$remote_addr;proto=https";'),
    ],
)
async def test_limits_count_the_clients_behind_nginx_whatever_they_claim(
    nginx: str, tmp_path: Path, forwarded: str, header: str
) -> None:
    overrides = {
        "proxy": {**PROXY, "forwarded": forwarded}, "limits": ONE_EACH, "server": {"insecure_plaintext": True},
    }  # fmt: skip
    lies = {"X-Forwarded-For": "192.0.2.7", "Forwarded": 'for="192.0.2.7'}
    with trio.fail_after(30):
        async with (
            running_relay(tmp_path, overrides) as relay,
            nginx_before(nginx, tmp_path, relay.port, header) as front,
            plain(relay, front, BOB) as bob,
        ):
            async with plain(relay, front, ANN) as ann:
                await ann.say("hello")
                assert await ann.hear() == "hello"
                request = head(ROOM, {**UPGRADE, **bearer(relay.token("ann")), **lies})
                refused = await asked(relay, front, request, ANN)
                assert (refused.status, refused.json()["setting"]) == (429, "limits.connections_per_address")
            assert (await relay.until_log("connection closed", subject="ann"))["address"] == ANN
            await bob.say("still here")
            assert await bob.hear() == "still here"


async def test_one_connection_of_nginx_brings_many_clients_each_with_an_address_of_its_own(
    nginx: str, tmp_path: Path
) -> None:
    overrides = {
        "proxy": {**PROXY, "forwarded": "x-forwarded-for"}, "limits": ONE_EACH, "server": {"insecure_plaintext": True},
    }  # fmt: skip
    header = "proxy_set_header X-Forwarded-For $remote_addr;"
    with trio.fail_after(30):
        async with (
            running_relay(tmp_path, overrides) as relay,
            nginx_before(nginx, tmp_path, relay.port, header, keepalive=True) as front,
        ):
            check = head("/auth/check", {**bearer(relay.token("ann")), "Connection": "close"})
            for source in (ANN, BOB, ANN):
                assert (await asked(relay, front, check, source)).status == 200


async def test_a_header_of_a_client_that_is_no_proxy_is_ignored(tmp_path: Path) -> None:
    overrides = {"proxy": {**PROXY, "forwarded": "x-forwarded-for"}}
    with trio.fail_after(30):
        async with running_relay(tmp_path, overrides) as relay:
            request = head(ROOM, {**UPGRADE, **bearer(relay.token("ann")), "X-Forwarded-For": "192.0.2.7"})
            assert (await ask(relay, request, source=ANN)).status == 101
            assert (await relay.until_log("connection closed", subject="ann"))["address"] == ANN
