"""The moment of closing: whatever a client does while the server closes, it is told the code that was meant, once."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.conftest import Figures
from tests.security.attack import (
    CLOSE,
    PING,
    TEXT,
    Socket,
    close_payload,
    frame,
    reset_on_close,
    send_until_refused,
    socket_to,
    the_rest,
)
from tests.security.siege import RelayThread, besieged, folder_with, under_attack

pytestmark = pytest.mark.e2e

ROUNDS: Final = int(os.environ.get("RELAY_ROUNDS", "100"))
AT_ONCE: Final = 20
LONG: Final = 20.0 + ROUNDS / 5
"""Seconds for all of them."""

PLUGIN: Final = """
from relay.plugin.api import CloseCode, CloseReason, Message, Peer, Plugin, Room

class Closer(Plugin):
    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        if message.data.text() == "go":
            for number in range(3):
                sender.send(room, f"last words {number}")
            sender.close(CloseReason(CloseCode.REPLACED, "you were asked to go"))
        else:
            sender.send(room, message.data)
"""


@pytest.fixture(scope="module")
def closing(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayThread]:
    folder = folder_with(certificates, tmp_path_factory.mktemp("closing"), closer=PLUGIN)
    settings = {
        "plugins": {"closer": {"rooms": "closer:*"}, "chat": {"rooms": "chat:*"}},
        "limits": {"message_bytes": 4096, "control_frames_burst": 1000},
        "timeouts": {"close": 1.0},
    }
    with besieged(folder, settings) as relay:
        yield relay


async def nothing(client: Socket) -> None:
    await client.say("go")


async def pings(client: Socket) -> None:
    await client.send(frame(TEXT, b"go") + frame(PING, b"p") * 20)
    await send_until_refused(client.stream, frame(PING, b"q") * 20)


async def messages(client: Socket) -> None:
    await client.send(frame(TEXT, b"before") + frame(TEXT, b"go") + frame(TEXT, b"after") * 20)
    await send_until_refused(client.stream, frame(TEXT, b"late") * 20)


async def oversize(client: Socket) -> None:
    await client.send(frame(TEXT, b"go"))
    await send_until_refused(client.stream, frame(TEXT, b"x" * 5000))


async def rubbish(client: Socket) -> None:
    await client.send(frame(TEXT, b"go") + b"\xff" * 50)


async def half(client: Socket) -> None:
    await client.send(frame(TEXT, b"go") + frame(TEXT, b"half", fin=False) + b"\x81")


async def again(client: Socket) -> None:
    await client.send(frame(TEXT, b"go") * 5)


RACES: Final[list[Callable[[Socket], Awaitable[None]]]] = [nothing, pings, messages, oversize, rubbish, half, again]


async def in_turn(count: int, attack: Callable[[], Awaitable[None]]) -> None:
    async def one() -> None:
        async with limit:
            with trio.fail_after(10.0):
                await attack()

    limit = trio.CapacityLimiter(AT_ONCE)
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)


@pytest.mark.parametrize("race", RACES, ids=lambda race: race.__name__)
async def test_the_code_that_was_meant_arrives_whatever_the_client_does_meanwhile(
    closing: RelayThread, race: Callable[[Socket], Awaitable[None]], figures: Figures
) -> None:
    async def attack() -> None:
        async with socket_to(closing, "/rooms/closer:1") as client:
            await race(client)
            assert await client.closed() == (4409, "you were asked to go")

    async with under_attack(closing, {"connections_closed:4409": ROUNDS}, seconds=LONG) as bystander:
        await in_turn(ROUNDS, attack)
    figures(f"close race: {race.__name__:<10} {ROUNDS} of {ROUNDS} got 4409; slowest word of a bystander "
            f"{1000 * bystander.slowest:.0f} ms")  # fmt: skip


async def test_both_close_at_once_and_the_end_comes_once(closing: RelayThread) -> None:
    codes: set[int] = set()

    async def attack() -> None:
        async with socket_to(closing, "/rooms/closer:1") as client:
            await client.send(frame(TEXT, b"go") + frame(CLOSE, close_payload(1000)))
            codes.add((await client.closed())[0])

    async with under_attack(closing, seconds=LONG):
        await in_turn(ROUNDS, attack)
    assert codes == {4409}


async def test_a_reset_in_the_middle_of_a_close_leaves_nothing(closing: RelayThread) -> None:
    async def attack() -> None:
        async with socket_to(closing, "/rooms/closer:1") as client:
            await client.send(frame(TEXT, b"go") + frame(PING, b"p") * 5)
            reset_on_close(client.stream)  # type: ignore[arg-type]

    async with under_attack(closing, seconds=LONG):
        await in_turn(ROUNDS, attack)


async def test_who_never_answers_the_close_is_ended_at_the_deadline(closing: RelayThread) -> None:
    async def attack() -> None:
        async with socket_to(closing, "/rooms/closer:1") as client:
            await client.send(frame(TEXT, b"go"))
            await the_rest(client.stream)

    async with under_attack(closing, {"connections_closed:4409": 20}):
        await in_turn(20, attack)
