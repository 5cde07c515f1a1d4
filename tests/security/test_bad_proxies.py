"""Addresses that are made up: PROXY headers and headers about the client, from those whose word does not count, and bad
ones from those whose word does. Attackers come from another address of the loopback than everybody else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.harness import UPGRADE, Answer, bearer
from tests.security.attack import (
    ELSEWHERE,
    answer_of,
    ask,
    drip,
    head,
    open_socket,
    reset_on_close,
    send_until_refused,
    tcp,
    the_rest,
    tls,
    upgrade,
)
from tests.security.siege import RelayThread, besieged, folder_with, under_attack

pytestmark = pytest.mark.e2e

ROOM = "/rooms/echo:attack"
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + IPv4Address("192.0.2.7").packed * 2 + b"\x10\0\x01\xbb"
PROXY_AT = "127.0.0.3"
"""Where the trusted proxy of these tests is."""


@pytest.fixture(scope="module")
def proxied(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayThread]:
    overrides: dict[str, Any] = {
        "proxy": {"trusted": [PROXY_AT], "protocol": "any", "forwarded": "x-forwarded-for"},
        "timeouts": {"proxy": 0.3, "close": 0.3},
    }
    with besieged(folder_with(certificates, tmp_path_factory.mktemp("proxied")), overrides) as relay:
        yield relay


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
async def test_a_client_that_is_no_proxy_cannot_smuggle_a_header_in(proxied: RelayThread, header: bytes) -> None:
    async with under_attack(proxied, {"tls_failures:protocol": 1}), tcp(proxied, source=ELSEWHERE) as stream:
        await stream.send_all(header)
        assert b"HTTP" not in await the_rest(stream)


async def test_without_tls_a_smuggled_header_is_a_bad_request(folder: Path) -> None:
    overrides: dict[str, Any] = {
        "proxy": {"trusted": [PROXY_AT], "protocol": "v1"}, "server": {"insecure_plaintext": True},
    }  # fmt: skip
    with besieged(folder, overrides) as relay:
        async with tcp(relay, source=ELSEWHERE) as stream:
            await stream.send_all(V1 + upgrade(ROOM, relay.token()))
            assert (await answer_of(stream)).status == 400
        assert relay.server.counters.rejected["bad_request"] == 1


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
async def test_inside_tls_a_header_is_a_bad_request(proxied: RelayThread, header: bytes) -> None:
    async with under_attack(proxied, {"handshakes_rejected:bad_request": 1}):
        assert (await ask(proxied, header + upgrade(ROOM, proxied.token()), source=ELSEWHERE)).status == 400


async def test_a_second_header_is_not_taken_for_one(proxied: RelayThread) -> None:
    async with under_attack(proxied, {"tls_failures:protocol": 1}), tcp(proxied, source=PROXY_AT) as stream:
        await stream.send_all(V1 + V2)
        assert b"HTTP" not in await the_rest(stream)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n", b"PROXY " + b"x" * 200, V2[:12] + b"\x21\x11\xff\xff",
        V1[:-2] + b"\n", b"\0" * 600, b"PROXY TCP4 127.0.0.1\r\n",
    ],
    ids=lambda data: repr(data[:24]),
)  # fmt: skip
async def test_a_bad_header_of_a_proxy_ends_that_connection_alone(proxied: RelayThread, garbage: bytes) -> None:
    async with under_attack(proxied, {"proxy_failures:malformed": 1}), tcp(proxied, source=PROXY_AT) as stream:
        await send_until_refused(stream, garbage)
        assert await the_rest(stream) == b""


async def test_a_header_that_never_ends_is_cut_at_the_deadline(proxied: RelayThread) -> None:
    async with (
        under_attack(proxied, {"proxy_failures:timeout": 1}) as bystander,
        tcp(proxied, source=PROXY_AT) as stream,
    ):
        await drip(stream, V1[:-1] + b"x" * 60, bystander.a_word)


async def test_proxies_that_connect_and_leave_cost_nothing(proxied: RelayThread) -> None:
    async with under_attack(proxied, {"proxy_failures:eof": 200}):
        for number in range(200):
            async with tcp(proxied, source=PROXY_AT) as stream:
                await stream.send_all(V2[: number % len(V2)])
                if number % 2:
                    reset_on_close(stream)


async def test_the_proxys_own_address_has_no_limit_but_its_clients_have(folder: Path) -> None:
    overrides: dict[str, Any] = {
        "proxy": {"trusted": [PROXY_AT], "protocol": "v1"}, "limits": {"connections_per_address": 3},
    }  # fmt: skip
    with besieged(folder, overrides) as relay:
        async with under_attack(relay, {"handshakes_rejected:too_many_connections": 1}), AsyncExitStack() as stack:
            for number in range(8):
                client = V1.replace(b"192.0.2.7", b"192.0.2.%d" % (number // 2))
                await stack.enter_async_context(_behind_proxy(relay, client))
            third = await stack.enter_async_context(_behind_proxy(relay, V1.replace(b"192.0.2.7", b"192.0.2.0")))
            assert third.status == 101
            fourth = await stack.enter_async_context(_behind_proxy(relay, V1.replace(b"192.0.2.7", b"192.0.2.0")))
            assert (fourth.status, fourth.json()["setting"]) == (429, "limits.connections_per_address")


async def test_addresses_in_headers_of_clients_change_nothing(folder: Path) -> None:
    overrides: dict[str, Any] = {
        "proxy": {"trusted": [PROXY_AT], "forwarded": "x-forwarded-for"}, "limits": {"connections_per_address": 1},
    }  # fmt: skip
    lies = ("192.0.2.7", "127.0.0.1", PROXY_AT, f"192.0.2.7, {PROXY_AT}", "", "::1, unknown", "x" * 1000)
    with besieged(folder, overrides) as relay:
        async with tls(relay, source=ELSEWHERE) as stream:
            await open_socket(relay, stream, ROOM)
            for lie in lies:
                request = head(ROOM, {**UPGRADE, **bearer(relay.token()), "X-Forwarded-For": lie, "Forwarded": lie})
                assert (await ask(relay, request, source=ELSEWHERE)).status == 429
        assert relay.server.counters.rejected["too_many_connections"] == len(lies)


@asynccontextmanager
async def _behind_proxy(relay: RelayThread, header: bytes, fields: Mapping[str, str] = {}) -> AsyncIterator[Answer]:
    """The answer to a handshake that came with this header; the connection stays for as long as the block runs."""
    async with tcp(relay, source=PROXY_AT) as raw:
        await raw.send_all(header)
        stream = trio.SSLStream(raw, relay.ssl_context, server_hostname="localhost", https_compatible=True)
        await stream.send_all(head(ROOM, {**UPGRADE, **bearer(relay.token()), **fields}))
        yield await answer_of(stream)


async def test_a_denied_client_does_not_come_in_through_a_trusted_proxy(folder: Path) -> None:
    overrides: dict[str, Any] = {
        "proxy": {"trusted": [PROXY_AT], "protocol": "v1", "forwarded": "x-forwarded-for"},
        "limits": {"allow_addresses": ["127.0.0.1", "192.0.2.0/28"], "deny_addresses": ["192.0.2.7"]},
    }
    itself = b"PROXY UNKNOWN\r\n"
    with besieged(folder, overrides) as relay:
        async with under_attack(relay, {"handshakes_rejected:address_denied": 2}):
            async with tcp(relay, source=PROXY_AT) as stream:
                await stream.send_all(V1)
                assert await the_rest(stream) == b""
            async with _behind_proxy(relay, itself, {"X-Forwarded-For": "192.0.2.8, 192.0.2.7"}) as answer:
                assert (answer.status, answer.json()["error"]) == (403, "address_denied")
            async with _behind_proxy(relay, itself, {"X-Forwarded-For": "192.0.2.7, 192.0.2.8"}) as answer:
                assert answer.status == 101
