"""Somebody sets the wall clock of a relay with many clients: an hour on, back again, an hour back. Nobody is taken for
dead, nobody loses a message; what a token says of time follows the clock.

    RELAY_CLIENTS=500 python -m pytest tests/security/test_bad_clocks.py

The relay runs with libfaketime, which changes CLOCK_REALTIME alone, as settimeofday() does.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
import trio

from tests.components import require_faketime
from tests.conftest import Figures
from tests.e2e.harness import ALL_ROOMS
from tests.security.attack import CLOSE, PING, PONG, TEXT, Socket, ask, frame, socket_to, upgrade
from tests.security.siege import RelayApart, apart, under_attack

pytestmark = pytest.mark.e2e

CLIENTS: Final = int(os.environ.get("RELAY_CLIENTS", "150"))
SHORT: Final = CLIENTS // 5
"""So many of them have a token of half an hour, the others one of three."""
HOUR: Final = 3600.0
ROOM: Final = "/rooms/echo:attack"
PATIENCE: Final = 120.0


class Clock:
    """The relay's wall clock, so many seconds beside the real one. `variables` are for the relay's environment."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0.0)
        self.variables: Mapping[str, str] = {
            "LD_PRELOAD": require_faketime(),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_CACHE_DURATION": "1",
        }

    def set(self, apart: float) -> None:
        changed = self._file.with_suffix(".new")
        changed.write_text(f"{apart:+.0f}\n")
        changed.rename(self._file)


class Client:
    """Says a number with each heartbeat of the relay's, and hears it."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self.heartbeats = 0
        self.closed: int | None = None
        self.beaten = trio.Event()
        self._said = 0
        self._heard = 0

    async def live(self) -> None:
        while True:
            opcode, payload = await self._socket.next()
            if opcode == PING:
                assert self._heard == self._said, "a message was lost"
                self.heartbeats += 1
                self._tell()
                self._said += 1
                await self._socket.send(frame(PONG, payload) + frame(TEXT, str(self._said).encode()))
            elif opcode == TEXT:
                self._heard += 1
                assert payload.decode() == str(self._heard)
            elif opcode == CLOSE:
                self.closed = int.from_bytes(payload[:2], "big")
                self._tell()
                return

    def _tell(self) -> None:
        self.beaten.set()
        self.beaten = trio.Event()


def token(relay: RelayApart, **claims: float) -> str:
    body: dict[str, Any] = {"sub": "ann", "exp": time.time() + 3 * HOUR, "relay": ALL_ROOMS, **claims}
    return jwt.encode(body, relay.token_secret.removesuffix(b"\n"), "HS256", headers={"kid": "dev"})


async def status(relay: RelayApart, **claims: float) -> tuple[int, str]:
    answer = await ask(relay, upgrade(ROOM, token(relay, **claims)))
    return answer.status, "" if answer.status == 101 else answer.json()["error"]


class Crowd:
    """All clients, who stay while the block runs."""

    def __init__(self, relay: RelayApart) -> None:
        self._relay = relay
        self._few = trio.CapacityLimiter(50)
        self.clients: list[Client] = []

    async def come(self, nursery: trio.Nursery) -> None:
        async with trio.open_nursery() as arriving:
            for number in range(CLIENTS):
                arriving.start_soon(nursery.start, self._one, HOUR / 2 if number < SHORT else 3 * HOUR)

    async def _one(self, seconds: float, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        text = self._relay.token("crowd", expires_in=seconds)
        async with AsyncExitStack() as stack:
            async with self._few:
                client = Client(await stack.enter_async_context(socket_to(self._relay, ROOM, text)))
            self.clients.append(client)
            task_status.started()
            await client.live()

    async def beat(self) -> None:
        """Waits until every client that is there has answered one more."""
        wanted = {client: client.heartbeats + 1 for client in self.clients if client.closed is None}
        for client, heartbeats in wanted.items():
            while client.closed is None and client.heartbeats < heartbeats:
                await client.beaten.wait()

    @property
    def closed(self) -> list[int]:
        return [client.closed for client in self.clients if client.closed is not None]


@asynccontextmanager
async def crowd_at(relay: RelayApart) -> AsyncIterator[Crowd]:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(relay)
        await crowd.come(nursery)
        yield crowd
        nursery.cancel_scope.cancel()


def jumps(relay: RelayApart) -> list[int]:
    """By how many hours the relay has seen its clock set, without what is less."""
    told = [line["seconds"] for line in relay.log_lines() if line["message"] == "the wall clock was set"]
    return [round(seconds / HOUR) for seconds in told if abs(seconds) > HOUR / 2]


async def test_an_hour_on_and_an_hour_back(folder: Path, figures: Figures) -> None:
    clock = Clock(folder / "clock")
    settings = {"websocket": {"heartbeat": 3.0, "heartbeat_timeout": 2.0}}
    async with apart(folder, settings, environment=clock.variables) as relay:
        counts = {"connections_closed:4401": SHORT, "handshakes_rejected:token_expired": 1,
                  "handshakes_rejected:token_not_yet_valid": 1}  # fmt: skip
        async with (
            under_attack(relay, counts, seconds=PATIENCE, tokens_last=3 * HOUR) as bystander,
            crowd_at(relay) as crowd,
        ):

            async def set_by(number: int, apart: float) -> None:
                """Sets the clock, which the relay is to have noticed the `number`th time."""
                clock.set(apart)
                while len(jumps(relay)) < number:
                    await bystander.a_word()
                await crowd.beat()

            clock.set(1.0)  # a leap second is nothing
            await crowd.beat()
            assert crowd.closed == []

            await set_by(1, HOUR)
            assert crowd.closed == [4401] * SHORT
            assert await status(relay, exp=time.time() + HOUR / 2) == (401, "token_expired")
            assert await status(relay, exp=time.time() + 2 * HOUR) == (101, "")

            await set_by(2, 0.0)
            assert await status(relay, exp=time.time() + HOUR / 2) == (101, "")

            await set_by(3, -HOUR)
            assert await status(relay, nbf=time.time() - HOUR / 2) == (401, "token_not_yet_valid")
            assert await status(relay, nbf=time.time() - 2 * HOUR) == (101, "")

            await set_by(4, 0.0)
            assert crowd.closed == [4401] * SHORT
            answered = sum(client.heartbeats for client in crowd.clients)
        assert jumps(relay) == [1, -1, -1, 1]
    figures(f"clock set by an hour, four times: {CLIENTS} clients answered {answered} heartbeats, {SHORT} got 4401")
