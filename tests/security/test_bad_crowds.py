"""Too many, too fast, too slow, or no longer there: what one client or one address does is its own loss."""

from __future__ import annotations

import ssl
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from tests.e2e.harness import Overrides
from tests.security.attack import (
    ELSEWHERE,
    TEXT,
    Vanished,
    ask,
    client_hello,
    frame,
    reset_on_close,
    socket_to,
    tcp,
    upgrade,
)
from tests.security.siege import Counts, RelayApart, RelayThread, apart, besieged, under_attack

pytestmark = pytest.mark.e2e

ROOM = "/rooms/echo:attack"
STORM = 2000
AT_ONCE = 50


async def in_crowds(relay: RelayApart, count: int, begun: bytes) -> None:
    """`count` clients that connect, say something and reset the connection."""

    async def come_and_go() -> None:
        async with limit, tcp(relay) as stream:
            if begun:
                await stream.send_all(begun)
            reset_on_close(stream)

    limit = trio.CapacityLimiter(AT_ONCE)
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(come_and_go)


async def test_a_storm_of_clients_that_leave_at_once_leaves_nothing_behind(folder: Path) -> None:
    hello = client_hello(ssl.create_default_context())
    async with apart(folder) as relay:
        async with under_attack(relay, {"tls_failures:eof": range(STORM - 200, STORM - 99)}):
            await in_crowds(relay, 1400, b"")
            await in_crowds(relay, 500, hello)
            for _ in range(100):
                async with socket_to(relay) as client:
                    await client.say("and gone")
                    reset_on_close(client.stream)  # type: ignore[arg-type]
        assert (await ask(relay, upgrade(ROOM, relay.token()))).status == 101


async def test_an_address_that_knocks_too_often_is_told_when_to_come_back(folder: Path) -> None:
    limits = {"handshakes_per_address": 0.5, "handshakes_burst": 4}
    with besieged(folder, {"limits": limits}) as relay:
        async with under_attack(relay, {"handshakes_rejected:too_many_handshakes": 1}):
            for _ in range(4):
                assert (await ask(relay, upgrade(ROOM, relay.token()), source=ELSEWHERE)).status == 101
            answer = await ask(relay, upgrade(ROOM, relay.token()), source=ELSEWHERE)
            assert answer.status == 429
            assert answer.json()["setting"] == "limits.handshakes_per_address"
            assert answer.headers["retry-after"] in ("1", "2")


async def test_a_flood_from_one_address_is_turned_away_before_tls(folder: Path) -> None:
    """Saying why would cost a handshake each; the flood gets none, and everybody else is served."""
    limits = {"handshakes_per_address": 1.0, "handshakes_burst": 4, "pending_handshakes": 20}
    with besieged(folder, {"limits": limits, "timeouts": {"tls": 0.3}}) as relay:
        counts = {
            "handshakes_rejected:too_many_handshakes": range(1, 97),
            "handshakes_rejected:crowded_out": range(97),  # only where they come faster than they are turned away
            "tls_failures:eof": range(4, 31),
        }
        async with under_attack(relay, counts), AsyncExitStack() as stack:
            for _ in range(100):
                await stack.enter_async_context(tcp(relay, source=ELSEWHERE))
            assert (await ask(relay, upgrade(ROOM, relay.token()))).status == 101


@pytest.mark.parametrize(
    ("limits", "inside", "status", "code", "retry"),
    [
        pytest.param({"connections_per_address": 3}, 3, 429, "too_many_connections", "10", id="of one address"),
        pytest.param({"connections_per_subject": 2}, 2, 429, "too_many_of_subject", "10", id="of one subject"),
        pytest.param({"max_connections": 5}, 3, 503, "full", "5", id="in the process"),
    ],
)
async def test_too_many_connections_are_refused_until_one_leaves(
    folder: Path, limits: dict[str, int], inside: int, status: int, code: str, retry: str
) -> None:
    request = None
    with besieged(folder, {"limits": limits}) as relay:
        request = upgrade(ROOM, relay.token("mallory"))
        async with under_attack(relay, {f"handshakes_rejected:{code}": 1}):
            async with AsyncExitStack() as stack:
                for _ in range(inside):
                    await stack.enter_async_context(socket_to(relay, ROOM, source=ELSEWHERE))
                refused = await ask(relay, request, source=ELSEWHERE)
                assert refused.status == status
                assert refused.json()["error"] == code
                assert refused.json()["setting"] == f"limits.{next(iter(limits))}"
                assert refused.headers["retry-after"] == retry
            await gone(relay, bystanders=2)
            assert (await ask(relay, request, source=ELSEWHERE)).status == 101


async def gone(relay: RelayThread, bystanders: int) -> None:
    """Waits until nobody but the bystanders is connected."""
    while (await relay.standing())["connections"] > bystanders:
        await trio.lowlevel.checkpoint()


async def test_handshakes_that_wait_hold_up_no_listener_for_good(folder: Path) -> None:
    """More silent connections than may be pending, on two listeners at once; both serve again when they are cut."""
    settings: Overrides = {
        "server": {"listen": ["127.0.0.1:0", "127.0.0.2:0"]},
        "limits": {"pending_handshakes": 4},
        "timeouts": {"tls": 0.3},
    }
    with besieged(folder, settings) as relay:
        counts = {"tls_failures:timeout": range(1, 17), "tls_failures:eof": range(16)}
        async with under_attack(relay, counts) as bystander, AsyncExitStack() as stack:
            for address in relay.addresses * 8:
                await stack.enter_async_context(tcp(relay, to=address))
                await bystander.a_word()
            for address in relay.addresses:
                assert (await ask(relay, upgrade(ROOM, relay.token()), to=address)).status == 101


async def test_who_never_answers_a_ping_is_found_dead(folder: Path) -> None:
    with besieged(folder, {"websocket": {"heartbeat": 0.4, "heartbeat_timeout": 0.2}}) as relay:
        async with (
            under_attack(relay, {"connections_dead": 2, "connections_closed:1006": 2}),
            socket_to(relay) as silent,
            socket_to(relay) as halfway,
        ):
            await halfway.send(frame(TEXT, declared=100)[:4])
            for client in (silent, halfway):
                with pytest.raises(Vanished):
                    await client.closed()
        ends = [fields for fields in relay.logged("connection closed") if fields["subject"] == "mallory"]
        assert [fields["setting"] for fields in ends] == ["websocket.heartbeat_timeout"] * 2


@pytest.mark.parametrize("reads_again", [True, False], ids=["late", "never"])
async def test_a_slow_reader_is_closed_and_the_others_miss_nothing(folder: Path, *, reads_again: bool) -> None:
    settings: Overrides = {
        "channels": {"default": {"capacity": 65536}},
        "timeouts": {"close": 5.0 if reads_again else 0.3},
    }
    line = "x" * 8000
    with besieged(folder, settings) as relay:
        counts: Counts = {"connections_closed:4208": 1, "messages_dropped:default,feed,closed": range(1, 100)}
        async with (
            under_attack(relay, counts),
            socket_to(relay, "/rooms/feed:slow", relay.token("speaker")) as speaker,
            socket_to(relay, "/rooms/feed:slow", relay.token("fast")) as fast,
            socket_to(relay, "/rooms/feed:slow", relay.token("slow"), receive_buffer=4096) as slow,
        ):
            number = 0
            while not await is_closing(relay, "slow"):
                await speaker.say(f"{number} {line}")
                assert await fast.hear() == f"{number} {line}"
                number += 1
                assert number < 5000
            if reads_again:
                code, reason = await slow.closed()
                assert code == 4208
                assert reason.endswith("[channels.default.capacity]")
            else:
                await gone(relay, bystanders=4)
            await speaker.say("and on it goes")
            assert await fast.hear() == "and on it goes"


async def is_closing(relay: RelayThread, subject: str) -> bool:
    links = list(relay.server.state.links)
    return not any(link.connection.subject == subject and link.connection.closing is None for link in links)


RATES = {"messages_per_second": 300.0, "messages_burst": 300, "slow_down": 1.0}


async def test_who_sends_faster_than_its_rate_is_read_more_slowly(folder: Path) -> None:
    with besieged(folder, {"limits": RATES}) as relay:
        async with under_attack(relay, {"reads_put_off": range(1, 100)}), socket_to(relay) as client:
            began = trio.current_time()
            for number in range(450):
                await client.say(str(number))
            assert [await client.hear() for _ in range(450)] == [str(number) for number in range(450)]
            assert trio.current_time() - began > 0.3


@pytest.mark.parametrize(
    ("limits", "flood", "setting"),
    [
        pytest.param(RATES, frame(TEXT, b"x") * 3000, "limits.messages_per_second", id="messages"),
        pytest.param(
            {"bytes_per_second": 8192.0, "bytes_burst": 8192, "slow_down": 0.5}, frame(TEXT, b"x" * 30_000),
            "limits.bytes_per_second", id="bytes",
        ),
    ],
)  # fmt: skip
async def test_who_sends_far_faster_than_its_rate_is_closed(
    folder: Path, limits: dict[str, float], flood: bytes, setting: str
) -> None:
    with besieged(folder, {"limits": limits}) as relay:
        async with under_attack(relay, {"connections_closed:4229": 1}), socket_to(relay) as client:
            await client.send(flood)
            code, reason = await client.closed()
            assert code == 4229
            assert reason.endswith(f"[{setting}]")
