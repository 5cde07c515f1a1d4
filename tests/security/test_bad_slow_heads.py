"""Connections that finish TLS and then send their request head a byte at a time, from many addresses of the loopback,
each within what one address may do. Whoever comes honestly meanwhile is served as if nothing were.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.security.attack import Vanished, answer_of, ask, drip, tcp, tls, upgrade
from tests.security.siege import RelayThread, besieged, under_attack

pytestmark = pytest.mark.e2e

ROOM = "/rooms/echo:attack"
PLACES = 20


@asynccontextmanager
async def slow_heads(relay: RelayThread, addresses: list[str], each: int) -> AsyncIterator[list[trio.SSLStream]]:  # type: ignore[type-arg]
    """So many connections of each address, past TLS; the first bytes of their request have been sent."""
    async with AsyncExitStack() as stack:
        streams = []
        for _ in range(each):
            for address in addresses:
                stream = await stack.enter_async_context(tls(relay, source=address))
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: ")
                streams.append(stream)
        yield streams


def attackers(count: int) -> list[str]:
    return [f"127.0.1.{number}" for number in range(1, count + 1)]


async def test_honest_clients_get_the_places_of_slow_ones_whose_address_holds_most(folder: Path) -> None:
    with besieged(folder, {"limits": {"pending_handshakes": PLACES}}) as relay:
        counts = {"handshakes_rejected:crowded_out": range(4, 13), "handshakes_rejected:bad_request": range(PLACES)}
        async with under_attack(relay, counts), slow_heads(relay, attackers(2), 10) as slow, AsyncExitStack() as stack:
            honest = [
                await stack.enter_async_context(tls(relay, source=f"127.0.2.{number}")) for number in range(1, 5)
            ]  # all of them hold a place at once: none is given back yet
            for stream in honest:
                await stream.send_all(upgrade(ROOM, relay.token()))
                assert (await answer_of(stream)).status == 101
            answer = await answer_of(slow[0])
            assert (answer.status, answer.json()["error"]) == (503, "crowded_out")
            assert answer.json()["setting"] == "limits.pending_handshakes"


async def test_slow_ones_of_as_many_addresses_as_there_are_places_lose_theirs_after_a_grace(folder: Path) -> None:
    with besieged(folder, {"limits": {"pending_handshakes": PLACES}, "timeouts": {"head": 15.0}}) as relay:
        counts = {
            "handshakes_rejected:crowded_out": range(1, PLACES + 1),
            "handshakes_rejected:bad_request": range(PLACES),  # those that are left, when they end
        }
        async with under_attack(relay, counts), slow_heads(relay, attackers(PLACES), 1):
            for _ in range(PLACES):
                assert (await ask(relay, upgrade(ROOM, relay.token()))).status == 101


async def test_an_address_that_holds_its_share_of_full_places_is_turned_away_before_tls(folder: Path) -> None:
    with besieged(folder, {"limits": {"pending_handshakes": PLACES}}) as relay:
        counts = {"handshakes_rejected:crowded_out": range(3, 6), "handshakes_rejected:bad_request": range(PLACES + 1)}
        async with under_attack(relay, counts), slow_heads(relay, attackers(2), PLACES // 2):
            for _ in range(3):
                with pytest.raises(trio.BrokenResourceError):
                    async with tls(relay, source=attackers(1)[0]):
                        pass


async def test_an_address_whose_connections_never_finish_is_let_in_no_further_for_a_while(folder: Path) -> None:
    limits = {"slow_handshakes_per_address": 0.5, "slow_handshakes_burst": 4}
    with besieged(folder, {"limits": limits, "timeouts": {"head": 0.3, "tls": 0.3}}) as relay:
        source = attackers(1)[0]
        counts = {
            "handshakes_rejected:timeout": 3,
            "tls_failures:timeout": 2,
            "handshakes_rejected:too_many_slow": range(1, 5000),
        }
        async with under_attack(relay, counts) as bystander:
            async with AsyncExitStack() as stack:
                for _ in range(2):
                    await stack.enter_async_context(tcp(relay, source=source))
                async with slow_heads(relay, [source], 3) as slow:
                    for stream in slow:
                        assert (await answer_of(stream)).status == 408
                while (await relay.standing())["pending_handshakes"]:
                    await bystander.a_word()
            with pytest.raises(trio.BrokenResourceError):
                async with tls(relay, source=source):
                    pass
            assert (await ask(relay, upgrade(ROOM, relay.token()))).status == 101, "others are"
            with trio.fail_after(10):
                while True:  # and it is again, in a while
                    try:
                        assert (await ask(relay, upgrade(ROOM, relay.token()), source=source)).status == 101
                        break
                    except (trio.BrokenResourceError, Vanished):
                        await bystander.a_word()


async def test_a_head_that_drips_is_cut_when_its_time_is_up_however_it_drips(folder: Path) -> None:
    with besieged(folder, {"timeouts": {"head": 0.5}}) as relay:
        async with (
            under_attack(relay, {"handshakes_rejected:timeout": 1}) as bystander,
            tls(relay) as stream,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(drip, stream, upgrade(ROOM, relay.token()), bystander.a_word)
            assert (await answer_of(stream)).status == 408
            nursery.cancel_scope.cancel()


async def test_slow_ones_whose_time_is_up_together_are_cut_without_a_word_and_few_are_told_why(folder: Path) -> None:
    with besieged(folder, {"limits": {"pending_handshakes": PLACES}, "timeouts": {"head": 2.0}}) as relay:
        most = PLACES * 3 // 4
        async with (
            under_attack(relay, {"handshakes_rejected:timeout": most}),
            slow_heads(relay, attackers(3), 5) as slow,
        ):
            told = 0
            for stream in slow:
                try:
                    assert (await answer_of(stream)).status == 408
                    told += 1
                except (trio.BrokenResourceError, Vanished):
                    pass
            assert PLACES // 2 <= told < most, "when so few are left, they get an answer"
            assert (await ask(relay, upgrade(ROOM, relay.token()))).status == 101
