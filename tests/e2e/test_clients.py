"""Real clients of four makes talk in one room: in plain mode, and in relay.v1.json on sockets of their own."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.browser import chromium
from tests.e2e.clients import Client, chromium_client, node_client, trio_client, websockets_client
from tests.e2e.harness import RelayProcess

pytestmark = [pytest.mark.e2e, pytest.mark.chromium, pytest.mark.node]

PATIENCE = 60.0
"""Seconds for a whole test: a browser on a busy machine starts slowly."""


class Four:
    """The four clients, connected to the same path, by name."""

    def __init__(self, relay: RelayProcess, node: tuple[str, Path], chromium_path: str, profile: Path) -> None:
        self._relay = relay
        self._node = node
        self._chromium_path = chromium_path
        self._profile = profile
        self._stack = AsyncExitStack()

    async def connect(self, path: str, subprotocols: tuple[str, ...] = ()) -> dict[str, Client]:
        relay, enter = self._relay, self._stack.enter_async_context
        browser = await enter(chromium(self._chromium_path, self._profile, relay.certificates.certificate))
        tab = await browser.tab(relay.url + "/")
        return {
            "chromium": await chromium_client(tab, relay, path, relay.token("chromium"), subprotocols),
            "node": await enter(node_client(self._node, relay, path, relay.token("node"), subprotocols)),
            "trio": await enter(trio_client(relay, path, relay.token("trio"), subprotocols)),
            "websockets": await enter(websockets_client(relay, path, relay.token("websockets"), subprotocols)),
        }

    async def __aenter__(self) -> Four:
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> bool | None:
        return await self._stack.__aexit__(*exception)


@pytest.fixture
def four(relay: RelayProcess, node: tuple[str, Path], chromium_path: str, tmp_path: Path) -> Four:
    return Four(relay, node, chromium_path, tmp_path / "profile")


async def answer(client: Client, kind: str) -> dict[str, Any]:
    """The next object of that type; who comes and goes is passed over, anything else is a failure."""
    while True:
        said: dict[str, Any] = json.loads(await client.hear())
        if said["t"] == kind:
            return said
        assert said["t"] in ("joined", "left"), said


async def test_four_makes_of_client_talk_in_one_room_in_plain_mode(four: Four) -> None:
    with trio.fail_after(PATIENCE):
        async with four:
            clients = await four.connect("/rooms/chat:four-plain")
            assert {client.subprotocol for client in clients.values()} == {""}
            for speaker, client in clients.items():
                await client.say(f"hello, this is {speaker} – grüß Gott 👋")
                for listener, other in clients.items():
                    if listener != speaker:
                        assert await other.hear() == f"hello, this is {speaker} – grüß Gott 👋"


async def test_four_makes_of_client_talk_in_one_room_in_relay_v1_json(four: Four) -> None:
    with trio.fail_after(PATIENCE):
        async with four:
            clients = await four.connect("/ws", ("relay.v1.json",))
            for name, client in clients.items():
                assert client.subprotocol == "relay.v1.json"
                hello = await answer(client, "hello")
                assert hello["subject"] == name
                await client.say(json.dumps({"t": "join", "id": 1, "room": "chat:four-v1"}))
                assert (await answer(client, "ok"))["id"] == 1
            for speaker, client in clients.items():
                await client.say(json.dumps({"t": "publish", "id": 2, "room": "chat:four-v1", "data": {"by": speaker}}))
                assert (await answer(client, "ok"))["id"] == 2
                for listener, other in clients.items():
                    if listener != speaker:
                        message = await answer(other, "message")
                        assert message["room"] == "chat:four-v1"
                        assert message["from"] == speaker
                        assert message["data"] == {"by": speaker}


async def test_a_plain_client_and_a_relay_v1_client_hear_each_other(relay: RelayProcess) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            trio_client(relay, "/rooms/chat:mixed", relay.token("plain")) as plain,
            websockets_client(relay, "/ws", relay.token("v1"), ["relay.v1.json"]) as v1,
        ):
            await answer(v1, "hello")
            await v1.say(json.dumps({"t": "join", "id": "j", "room": "chat:mixed"}))
            await answer(v1, "ok")
            await plain.say("over to you")
            assert (await answer(v1, "message"))["data"] == "over to you"
            await v1.say(json.dumps({"t": "publish", "room": "chat:mixed", "data": "and back"}))
            assert await plain.hear() == "and back"


async def test_binary_stays_binary_and_text_stays_text(relay: RelayProcess) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            trio_client(relay, "/rooms/chat:kinds", relay.token("ann")) as ann,
            websockets_client(relay, "/rooms/chat:kinds", relay.token("bob")) as bob,
        ):
            await ann.connection.send_message(b"\x00\xff" * 1000)
            assert await bob.connection.recv() == b"\x00\xff" * 1000
            await bob.connection.send("text")
            assert await ann.connection.get_message() == "text"
