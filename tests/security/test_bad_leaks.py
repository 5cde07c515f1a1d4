"""The same attack again and again: after hundreds there is no task, descriptor, object or memory more than before.

RELAY_ROUNDS=5000 makes it a soak; the figures are printed at the end of the run.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.conftest import Figures
from tests.e2e.harness import bearer, request
from tests.security.attack import (
    BINARY,
    CONTINUATION,
    PING,
    TEXT,
    V1_JSON,
    Vanished,
    answer_of,
    client_hello,
    frame,
    head,
    open_socket,
    reset_on_close,
    send_until_refused,
    tcp,
    tls,
    upgrade,
)
from tests.security.siege import RelayApart, RelayThread, apart, besieged, folder_with

pytestmark = pytest.mark.e2e

ROUNDS: Final = int(os.environ.get("RELAY_ROUNDS", "60"))
"""Attackers in one block."""
BLOCKS: Final = 8
AT_ONCE: Final = 30
FEW: Final = 12
"""Objects of one class that may be more by chance: a cache that is not full yet, a timer that was called off."""
MAY_GROW: Final = 4 << 20
"""Bytes that the process may have grown over the second half: the allocator's pages. One connection has 30 KB."""
SETTINGS: Final = {
    "internal": {"recent_decisions": 50, "api_keys": ["key-of-the-leak-tests"]},
    "auth": {"cache_tokens": 20},
    "limits": {"auth_failures": 0},
    "timeouts": {"tls": 1.0, "head": 1.0, "close": 0.5},
}
HELLO: Final = client_hello(ssl.create_default_context())
PART: Final = b"\xc1\x01\x00\x02" + (7).to_bytes(4, "big") + bytes(4) + (60000).to_bytes(4, "big") + b"{}" + b"x" * 3000

Relay = RelayApart | RelayThread
Attack = Callable[[Relay, int], Awaitable[None]]


@pytest.fixture(scope="module")
def attacked(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayThread]:
    with besieged(folder_with(certificates, tmp_path_factory.mktemp("attacked")), SETTINGS) as relay:
        yield relay


async def leave_at_once(relay: Relay, number: int) -> None:
    async with tcp(relay) as stream:
        reset_on_close(stream)


async def leave_with_half_a_hello(relay: Relay, number: int) -> None:
    async with tcp(relay) as stream:
        await stream.send_all(HELLO[: number % len(HELLO)])
        reset_on_close(stream)


async def leave_with_half_a_head(relay: Relay, number: int) -> None:
    request_ = upgrade("/rooms/echo:leak", relay.token())
    async with tls(relay) as stream:
        await stream.send_all(request_[: number % len(request_)])


async def try_a_bad_token(relay: Relay, number: int) -> None:
    async with tls(relay) as stream:
        await stream.send_all(upgrade("/rooms/echo:leak", f"e30.e30.{number}"))
        assert (await answer_of(stream)).status == 401


async def ask_for_pages(relay: Relay, number: int) -> None:
    async with tls(relay) as stream:
        await stream.send_all(head(f"/nothing/{number}") + head("/healthz") + head("/auth/check"))
        assert (await answer_of(stream)).status == 404


async def be_reset(relay: Relay, number: int) -> None:
    async with tls(relay) as stream:
        client = await open_socket(relay, stream, "/rooms/echo:leak")
        await client.say("here")
        reset_on_close(stream)


async def break_a_rule(relay: Relay, number: int) -> None:
    async with tls(relay) as stream:
        client = await open_socket(relay, stream, "/rooms/echo:leak")
        await client.send(frame(TEXT, b"half", fin=False) + frame(CONTINUATION, b"\xff"))
        assert (await client.closed())[0] == 1007


async def join_many_rooms(relay: Relay, number: int) -> None:
    async with tls(relay) as stream:
        client = await open_socket(relay, stream, "/ws", relay.token(f"subject {number}"), subprotocol=V1_JSON)
        for room in range(20):
            name = f"echo:leak:{number}:{room}"
            await client.say(json.dumps({"t": "join", "id": room, "room": name, "members": True}))
            await client.say(json.dumps({"t": "publish", "room": name, "data": "x" * 500, "echo": True}))
        while '"id":19' not in (await client.hear()):
            pass
        reset_on_close(stream)


async def leave_parts_behind(relay: Relay, number: int) -> None:
    async with tls(relay) as stream:
        client = await open_socket(relay, stream, "/ws", subprotocol=V1_JSON)
        await client.send(frame(BINARY, PART) + frame(TEXT, b"frag", fin=False))
        await client.send(frame(PING, b"1"))
        while (await client.next())[0] != 10:
            pass


async def flood_with_pings(relay: Relay, number: int) -> None:
    async with tls(relay) as stream:
        client = await open_socket(relay, stream, "/rooms/echo:leak")
        await send_until_refused(stream, frame(PING, b"x" * 100) * 300)
        try:
            assert (await client.closed())[0] == 1008
        except Vanished:
            pass


async def knock_at_the_api(relay: Relay, number: int) -> None:
    answer = await request(relay, f"/api/v1/rooms/{number}", bearer(f"wrong-key-number-{number}"), internal=True)
    assert answer.status == 401
    found = await request(relay, "/api/v1/decisions?limit=1000", bearer("key-of-the-leak-tests"), internal=True)
    assert found.status == 200


ATTACKS: Final[list[Attack]] = [
    leave_at_once, leave_with_half_a_hello, leave_with_half_a_head, try_a_bad_token, ask_for_pages, be_reset,
    break_a_rule, join_many_rooms, leave_parts_behind, flood_with_pings, knock_at_the_api,
]  # fmt: skip


async def many(relay: Relay, attacks: Sequence[Attack], first: int) -> None:
    """ROUNDS attackers, of each kind in turn."""

    async def one(number: int) -> None:
        async with limit:
            await attacks[number % len(attacks)](relay, number)

    limit = trio.CapacityLimiter(AT_ONCE)
    with trio.fail_after(60 + ROUNDS / 5):
        async with trio.open_nursery() as nursery:
            for number in range(first, first + ROUNDS):
                nursery.start_soon(one, number)


async def settled(relay: Relay, before: dict[str, int]) -> None:
    """Waits until no task, descriptor, connection or room is left; fails with what is."""
    left = dict.fromkeys(before, 0)
    with trio.move_on_after(10.0):
        while left:
            await trio.sleep(0.02)
            now = await relay.standing()
            left = {key: now[key] - before[key] for key in before if now[key] > before[key]}
    assert not left, f"left behind: {left}"


def objects(relay: RelayThread) -> Counter[str]:
    """How many objects there are of each of the relay's classes, and of sockets. Timers that were called off stay in
    their heap for a while, and hold nothing.
    """
    for logger in (logging.getLogger(), logging.getLogger("relay")):
        for handler in logger.handlers:  # pytest's too: a record with an exception holds all that it went through
            getattr(handler, "records", []).clear()
    relay.records.clear()
    gc.collect()
    found = (type(one) for one in gc.get_objects())
    return Counter(one.__qualname__ for one in found if one.__module__.startswith(("relay", "ssl", "socket", "h11")))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_no_object_is_left_of_an_attack(attacked: RelayThread, attack: Attack) -> None:
    before = await attacked.standing()
    await many(attacked, [attack], 0)
    await settled(attacked, before)
    first = objects(attacked)
    await many(attacked, [attack], ROUNDS)
    await settled(attacked, before)
    grown = {name: count - first[name] for name, count in objects(attacked).items() if count > first[name] + FEW}
    grown.pop("Timer", None)
    assert not grown, f"more after {ROUNDS} further attackers: {grown}"


async def test_memory_does_not_grow_with_the_number_of_attackers(folder: Path, figures: Figures) -> None:
    """In a process of its own, all kinds mixed. What a C library keeps, no count of objects shows."""
    async with apart(folder, SETTINGS) as relay:
        await request(relay, "/metrics", internal=True)
        before = await relay.standing()
        sizes = []
        for block in range(BLOCKS):
            await many(relay, ATTACKS, block * ROUNDS)
            await settled(relay, before)
            sizes.append(relay.memory())
        grown, over = sizes[-1] - sizes[BLOCKS // 2], (BLOCKS - 1 - BLOCKS // 2) * ROUNDS
        figures(
            f"{BLOCKS * ROUNDS} attackers of {len(ATTACKS)} kinds: {sizes[0] >> 20} MiB after the first {ROUNDS}, "
            f"{sizes[-1] >> 20} MiB at the end, {grown / 1024:+.0f} KiB over the last {over}; nothing left"
        )
        assert grown < MAY_GROW, sizes
        assert not relay.troubles(0), relay.troubles(0)
