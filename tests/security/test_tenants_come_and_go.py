"""Tenants that a reload brings and takes out, fifty times: each works while it is there, and nothing of it stays."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio

from relay.client import Client, ConnectionRefused, Disconnected, connect
from tests.conftest import Figures
from tests.security.siege import NO_LIMITS, RelayThread, besieged

pytestmark = pytest.mark.e2e

SECRET = "the secret of the guest, which is long enough"
ROUNDS = 50

PLUGIN = '''
import trio
from relay.plugin.api import Plugin

class Busy(Plugin):
    """Has a task, a timer, a thread's worth of state and a figure of its own."""

    def __init__(self, name, settings, relay):
        super().__init__(name, settings, relay)
        self.seen = relay.counter("seen", "What was seen.")
        self.weight = bytes(100_000)
        relay.every(0.01, self.tick)
        relay.spawn(trio.sleep_forever)

    def tick(self):
        self.seen.add()

    def on_message(self, room, sender, message):
        room.broadcast(message)

    async def run(self):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
'''


def tables(folder: Path, *, guest: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "history": {"file": str(folder / "rooms.sqlite")},
        "tenants": {"stays": {}},
        "limits": NO_LIMITS,
        "logging": {"level": "info"},
    }
    if guest:
        keys = [{"algorithm": "HS256", "kid": "1", "secret": SECRET}]
        found["auth.issuers"] = {"guest": {"issuer": "https://guest.example", "keys": keys}}
        found["tenants"]["guest"] = {
            "issuers": ["guest"],
            "plugins": {
                "busy": {"rooms": "busy:*"},
                "chat": {"rooms": "chat:*", "history": 10, "durable": True, "presence": True},
            },
        }
    return found


def token() -> str:
    claims = {"iss": "https://guest.example", "sub": "ann", "exp": time.time() + 300, "relay": {"join": ["*"],
              "publish": ["*"], "history": ["*"]}}  # fmt: skip
    return jwt.encode(claims, SECRET, "HS256", headers={"kid": "1"})


def url(relay: RelayThread) -> str:
    return f"wss://localhost:{relay.port}/ws"


@asynccontextmanager
async def guest(relay: RelayThread, **more: Any) -> AsyncIterator[Client]:
    async with connect(url(relay), token=token(), ca_file=relay.certificates.authority, **more) as client:
        yield client


async def reload(relay: RelayThread, folder: Path, *, guest: bool) -> None:
    relay.configure(tables(folder, guest=guest))
    await trio.to_thread.run_sync(relay.reload)


async def standing(relay: RelayThread) -> dict[str, int]:
    there_is = await relay.standing()
    return {name: there_is[name] for name in ("tasks", "descriptors", "rooms", "connections")}


async def the_end(client: Client) -> Disconnected:
    try:
        while True:
            await client.receive()
    except Disconnected as why:
        return why


async def until_gone(relay: RelayThread, times: int) -> None:
    while len(relay.logged("tenant is gone")) < times:
        await relay.standing()


async def test_nothing_is_left_of_fifty_tenants(tmp_path: Path, figures: Figures) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "busy.py").write_text(PLUGIN)
    remains: list[weakref.ref[Any]] = []
    with trio.fail_after(60):
        with besieged(tmp_path, tables(tmp_path, guest=False)) as relay:
            with pytest.raises(ConnectionRefused) as refused:
                async with guest(relay):
                    pass
            assert refused.value.code == "token_unknown_key"
            before, offset = await standing(relay), 0
            for number in range(ROUNDS):
                await reload(relay, tmp_path, guest=True)
                tenant = relay.server.parts.tenants["guest"]
                remains += map(weakref.ref, (tenant.services.hub, *tenant.plugins))
                del tenant
                async with guest(relay, resume=number % 10 == 5) as ann:
                    await ann.join("chat:a")
                    await ann.join("busy:a")
                    await ann.publish("busy:a", "hello")
                    offset = await ann.publish("chat:a", number)
                    assert offset == number + 1, "what is on disk was found again"
                    await reload(relay, tmp_path, guest=False)
                    if number % 5 == 0:  # the others go by themselves
                        why = await the_end(ann)
                        assert (why.code, why.reason) == (1001, "this tenant is not served any more [tenants.guest]")
                await until_gone(relay, number + 1)
            with pytest.raises(ConnectionRefused):
                async with guest(relay):
                    pass
            async with connect(url(relay), token=relay.token(), ca_file=relay.certificates.authority) as bill:
                await bill.ping()  # what was read last is somebody else's
            while await standing(relay) != before:
                pass  # the last connection has just gone
            gc.collect()
            living = [ref() for ref in remains if ref() is not None]
            assert not living
            assert not relay.troubles(0)
            figures(f"{ROUNDS} tenants came and went: {len(remains)} hubs and plugins made, none left")
