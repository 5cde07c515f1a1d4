"""Durable rooms of a real relay: killed without warning, it comes back with all that it had answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed

from tests.e2e.clients import TrioClient, trio_client
from tests.e2e.harness import RelayProcess

pytestmark = pytest.mark.e2e

PATIENCE = 90.0
ROUNDS = 3
READERS = 100
KEY = "k" * 32


def durable_relay(folder: Path) -> RelayProcess:
    chat = {"rooms": ["chat:*"], "history": 5000, "durable": True}
    overrides = {
        "history": {"file": str(folder / "rooms.db"), "sync": "normal"},
        "plugins": {"chat": chat},
        "internal": {"api_keys": [KEY]},
        "limits": {"handshakes_per_address": 0.0, "connections_per_address": 0, "connections_per_subject": 0},
    }
    return RelayProcess(folder, overrides)


async def ask(client: TrioClient, **request: Any) -> Any:
    """A request and its answer; what else comes is passed over."""
    await client.say(json.dumps({**request, "id": "ask"}))
    while True:
        said = json.loads(await client.hear())
        if said.get("id") == "ask":
            return said


async def publish_until_killed(relay: RelayProcess, texts: list[str], kill_after: int) -> dict[str, int]:
    """The offset of each text that was answered, by text. The relay is killed in the middle."""
    answered: dict[str, int] = {}
    async with trio_client(relay, "/ws", relay.token("ann"), ["relay.v1.json"]) as client:
        await ask(client, t="join", room="chat:d")
        async with trio.open_nursery() as nursery:

            async def publish() -> None:
                try:
                    for text in texts:
                        await client.say(json.dumps({"t": "publish", "room": "chat:d", "data": text, "id": text}))
                except ConnectionClosed:
                    pass

            nursery.start_soon(publish)
            try:
                while True:
                    said = json.loads(await client.hear())
                    if said["t"] == "ok":
                        answered[said["id"]] = said["offset"]
                        if len(answered) == kill_after:
                            relay.process.kill()
            except ConnectionClosed:
                nursery.cancel_scope.cancel()
    return answered


async def test_what_was_answered_survives_kill_9(tmp_path: Path) -> None:
    relay = durable_relay(tmp_path)
    answered: dict[str, int] = {}
    epoch = ""
    with trio.fail_after(PATIENCE):
        try:
            for turn in range(ROUNDS):
                await trio.to_thread.run_sync(relay.start)
                texts = [f"{turn}.{number}" for number in range(1000)]
                answered |= await publish_until_killed(relay, texts, kill_after=100 + 37 * turn)
                await relay.until_exit()
                relay.stop()
            await trio.to_thread.run_sync(relay.start)
            async with trio_client(relay, "/ws", relay.token("bob"), ["relay.v1.json"]) as client:
                newest = await ask(client, t="history", room="chat:d", last=1)
                epoch = newest["epoch"]
                found: dict[str, int] = {}
                position = 0
                while position < newest["offset"]:
                    since = {"epoch": epoch, "offset": position}
                    page = await ask(client, t="history", room="chat:d", since=since)
                    if not page["recovered"]:  # more than one answer carries: from the newest page back
                        break
                    found |= {message["data"]: message["offset"] for message in page["messages"]}
                    position = page["messages"][-1]["offset"]
                before: int | None = None
                while position < newest["offset"]:
                    page = await ask(
                        client, t="history", room="chat:d", last=500, **({"before": before} if before else {})
                    )
                    found |= {message["data"]: message["offset"] for message in page["messages"]}
                    before = page["messages"][0]["offset"]
                    if not page["more"]:
                        break
        finally:
            await trio.to_thread.run_sync(relay.stop)
    assert len(answered) >= ROUNDS * 100
    assert {text: found.get(text) for text in answered} == answered
    assert sorted(found.values()) == list(range(1, len(found) + 1)), "no number was given twice, none is missing"


async def test_what_the_api_was_answered_survives_too_and_is_known_again(tmp_path: Path) -> None:
    relay = durable_relay(tmp_path)
    with trio.fail_after(PATIENCE):
        try:
            await trio.to_thread.run_sync(relay.start)
            offsets = [await published(relay, number) for number in range(20)]
            relay.process.kill()
            await relay.until_exit()
            relay.stop()
            await trio.to_thread.run_sync(relay.start)
            assert [await published(relay, number) for number in range(21)] == [
                *((offset, True) for offset, _ in offsets),
                (21, False),
            ]
        finally:
            await trio.to_thread.run_sync(relay.stop)


async def published(relay: RelayProcess, number: int) -> tuple[int, bool]:
    """(offset, whether it was known)."""
    body = json.dumps({"room": "chat:api", "data": number, "idempotency": f"key-{number}"}).encode()
    stream = await trio.open_tcp_stream("127.0.0.1", relay.internal_port)
    async with stream:
        head = f"POST /api/v1/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}"
        await stream.send_all(f"{head}\r\nConnection: close\r\n\r\n".encode() + body)
        answer = b""
        while more := await stream.receive_some():
            answer += bytes(more)
    said = json.loads(answer.split(b"\r\n\r\n", 1)[1])
    return said["offset"], said["duplicate"]


async def test_all_recover_at_once_after_a_restart_without_a_gap(tmp_path: Path) -> None:
    relay = durable_relay(tmp_path)
    with trio.fail_after(PATIENCE):
        try:
            await trio.to_thread.run_sync(relay.start)
            async with trio_client(relay, "/ws", relay.token("ann"), ["relay.v1.json"]) as client:
                joined = await ask(client, t="join", room="chat:d")
                for number in range(50):
                    await ask(client, t="publish", room="chat:d", data=number, once=str(number))
            await trio.to_thread.run_sync(relay.stop)
            await trio.to_thread.run_sync(relay.start)
            whole: list[list[int]] = []

            async def come_back(number: int) -> None:
                async with trio_client(relay, "/ws", relay.token(f"reader{number}"), ["relay.v1.json"]) as reader:
                    since = {"epoch": joined["epoch"], "offset": number % 50}
                    answer = await ask(reader, t="join", room="chat:d", since=since)
                    assert answer["recovered"] is True
                    whole.append([number % 50, *(message["offset"] for message in answer["messages"])])

            async with trio.open_nursery() as nursery:
                for number in range(READERS):
                    nursery.start_soon(come_back, number)
            assert len(whole) == READERS
            assert all(offsets == list(range(offsets[0], 51)) for offsets in whole)
            async with trio_client(relay, "/ws", relay.token("ann"), ["relay.v1.json"]) as client:
                again = await ask(client, t="publish", room="chat:d", data=7, once="7")
                assert (again["offset"], again["duplicate"]) == (8, True)
        finally:
            await trio.to_thread.run_sync(relay.stop)
