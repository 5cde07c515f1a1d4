"""The task of a newcomer that has one (it asks for a page, a plugin is asked, it is a guest, it is told why not) is
cancelled at each place where it waits: whatever it held is given back, and the next client is served.

A drain that has run out of time cancels so, and nobody chooses where.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing

from relay.config.loader import load
from relay.front.errands import Errands, Job
from relay.server import Running, Server
from tests.conftest import Figures
from tests.e2e.harness import Overrides, RelayProcess
from tests.security.attack import TEXT, V1_JSON, Vanished, answer_of, close_payload, frame, head, tls, upgrade
from tests.security.siege import NO_LIMITS

pytestmark = pytest.mark.e2e

PATIENCE: Final = 60.0
ROOM: Final = "/rooms/chat:attack"
MOST: Final = 200  # places where one connection waits

PLUGIN: Final = """
import trio
import trio.testing
from relay.plugin.api import Plugin

class Waits(Plugin):
    async def on_connect(self, arrival):
        await trio.lowlevel.checkpoint()
        await trio.sleep(0)

    async def on_join(self, room, peer):
        await trio.sleep(0)

    async def on_message(self, room, sender, message):
        await trio.sleep(0)
        room.broadcast(message, sender=sender, echo=True)
"""


class Sweep(trio.abc.Instrument):
    """Cancels one task when it has waited `at` times."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.waits = 0
        self.task: trio.lowlevel.Task | None = None
        self.scope = trio.CancelScope()
        self.ended = trio.Event()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            if self.waits == self.at:
                self.scope.cancel()
            self.waits += 1


class Relay(RelayProcess):
    """In this very loop."""

    server: Server

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        ready = trio.Event()

        def listening(running: Running) -> None:
            self.port = running.addresses[0][1]
            ready.set()

        self.server = Server(partial(load, self.config_path, environ={}))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.server.run, listening)
            await ready.wait()
            yield
            nursery.cancel_scope.cancel()

    def standing(self) -> dict[str, int]:
        """What is there while nobody is connected."""
        state, tenant = self.server.state, self.server.state.tenants[""]
        return {
            "links": len(state.links),
            "guests": len(state.guests),
            "on their way in": len(state.pending),
            "addresses": state.addresses.connections,
            "sessions": len(tenant.services.sessions),
            "subjects": len(tenant.subjects),
            "rooms": len(tenant.services.hub.rooms),
            "connections": tenant.services.counters.connections,
            "descriptors": len(os.listdir("/proc/self/fd")),
        }


Client = Callable[[Relay], Awaitable[None]]


async def a_session(relay: Relay) -> None:
    async with tls(relay) as stream:
        await stream.send_all(upgrade("/ws", relay.token(), V1_JSON))
        await answer_of(stream)
        words: list[dict[str, Any]] = [
            {"t": "join", "id": 1, "room": "waits:a"},
            {"t": "publish", "id": 2, "room": "waits:a", "data": "x" * 9000},
            {"t": "leave", "id": 3, "room": "waits:a"},
        ]
        for word in words:
            await stream.send_all(frame(TEXT, json.dumps(word).encode()))
            await stream.receive_some()
        await stream.send_all(frame(8, close_payload(1000)))
        while await stream.receive_some():
            pass


async def a_page(relay: Relay) -> None:
    async with tls(relay) as stream:
        for path in ("/healthz", "/nowhere"):
            await stream.send_all(head(path))
            await answer_of(stream)
        await stream.send_all(head("/healthz", {"Connection": "close"}))
        while await stream.receive_some():
            pass


async def nobody_we_know(relay: Relay) -> None:
    async with tls(relay) as stream:
        await stream.send_all(upgrade(ROOM, relay.token(expires_in=-1000.0)))
        await answer_of(stream)
        while await stream.receive_some():
            pass


async def a_guest(relay: Relay) -> None:
    """Its token comes in the first message."""
    async with tls(relay) as stream:
        await stream.send_all(upgrade("/ws", None, V1_JSON))
        await answer_of(stream)
        await stream.send_all(frame(TEXT, json.dumps({"t": "auth", "id": 1, "token": relay.token()}).encode()))
        await stream.receive_some()
        await stream.send_all(frame(8, close_payload(1000)))
        while await stream.receive_some():
            pass


async def one_that_stops_in_the_middle(relay: Relay) -> None:
    async with tls(relay) as stream:
        await stream.send_all(upgrade(ROOM, relay.token())[:-10])


@pytest.mark.parametrize(
    "client", [a_session, a_page, nobody_we_know, a_guest, one_that_stops_in_the_middle], ids=lambda one: one.__name__
)
async def test_nothing_is_left_of_a_connection_that_is_cancelled_anywhere(
    folder: Path, client: Client, monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    (folder / "plugins" / "waits.py").write_text(PLUGIN)
    settings: Overrides = {
        "limits": NO_LIMITS,
        "auth": {"deferred": {"enabled": True}},
        "plugins": {"chat": {"rooms": ["chat:*"]}, "waits": {"rooms": ["waits:*"]}},
    }
    sweeps: list[Sweep] = []
    begin = Errands.begin

    def watched(self: Errands, job: Job) -> None:
        async def watch() -> None:
            sweep = sweeps[-1]
            sweep.task = trio.lowlevel.current_task()
            try:
                with sweep.scope:
                    await job()
            finally:
                sweep.task = None
                sweep.ended.set()

        begin(self, watch)

    monkeypatch.setattr(Errands, "begin", watched)
    relay = Relay(folder, settings)
    with trio.fail_after(PATIENCE):
        async with relay.serving():
            before = relay.standing()
            for at in range(MOST):
                sweep = Sweep(at)
                sweeps.append(sweep)
                trio.lowlevel.add_instrument(sweep)
                try:
                    await client(relay)
                except (trio.BrokenResourceError, Vanished):
                    pass
                await sweep.ended.wait()
                trio.lowlevel.remove_instrument(sweep)
                for _ in range(100):  # a session goes on without a task
                    await trio.testing.wait_all_tasks_blocked(0.001)
                    if relay.standing() == before:
                        break
                assert relay.standing() == before, f"cancelled at {at}"
                if sweep.waits <= at:
                    break
            assert not sweep.scope.cancelled_caught, "it was never let go to its end"
    assert at > 0
    figures(f"{client.__name__}: cancelled at each of {at} places")
