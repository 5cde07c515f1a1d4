"""Shared state in a real relay: two who change it and one who only reads what has changed agree in the end."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import trio

from relay.rooms.merge_patch import applied
from tests.e2e.clients import TrioClient, trio_client
from tests.e2e.harness import running_relay

pytestmark = pytest.mark.e2e

ROOM = "state:board"
CHANGES = 300
VALUE = {"text": "some words " * 100, "zoom": 0, "marks": {}}


class Mirror:
    """The room's values as one client has them; with `delta` as docs/rooms.md says."""

    def __init__(self, client: TrioClient) -> None:
        self.client = client
        self.values: dict[str, tuple[Any, int]] = {}
        self.bytes = self.patches = self.asked = 0

    async def join(self, *, delta: bool) -> None:
        await self.client.say(json.dumps({"t": "join", "id": 1, "room": ROOM, "delta": delta}))

    async def until(self, marks: dict[str, str]) -> None:
        """Reads until every key has its last mark."""
        with trio.fail_after(60):
            while {key: value["value"].get("mark") for key, (value, _) in self.values.items()} != marks:
                text = await self.client.hear()
                said = json.loads(text)
                if said["t"] == "message" and "key" in said:
                    self.bytes += len(text)
                    await self._take(said)

    async def _take(self, said: dict[str, Any]) -> None:
        key = said["key"]
        value, offset = self.values.get(key, (None, 0))
        if said["offset"] < offset:
            return
        if "patch" not in said:
            self.values[key] = said["data"], said["offset"]
        elif said["base"] == offset:
            self.patches += 1
            self.values[key] = applied(value, said["patch"]), said["offset"]
        else:
            self.asked += 1
            await self.client.say(json.dumps({"t": "resync", "room": ROOM, "key": key}))


async def test_what_has_changed_is_enough_to_know_everything(tmp_path: Path) -> None:
    table = {"rooms": "state:*", "delta": True}
    async with (
        running_relay(tmp_path, {"plugins": {"state": table}}) as relay,
        trio_client(relay, "/ws", relay.token("delta"), ["relay.v1.json"]) as one,
        trio_client(relay, "/ws", relay.token("whole"), ["relay.v1.json"]) as two,
        trio_client(relay, "/ws", relay.token("ann"), ["relay.v1.json"]) as ann,
        trio_client(relay, "/ws", relay.token("bob"), ["relay.v1.json"]) as bob,
    ):
        delta, whole = Mirror(one), Mirror(two)
        await delta.join(delta=True)
        await whole.join(delta=False)
        for mirror in (delta, whole):
            while "state" not in json.loads(await mirror.client.hear()).get("data", {}):
                pass  # the snapshot: it is in the room

        async def write(client: TrioClient, seed: int) -> None:
            dice = random.Random(seed)
            for key in ("a", "b"):
                await client.say(json.dumps({"t": "publish", "room": ROOM, "key": key, "data": {"set": VALUE}}))
            for number in range(CHANGES):
                patch = dice.choice([{"zoom": number}, {"marks": {str(seed): number}}, {"marks": {str(seed): None}}])
                change = {"t": "publish", "room": ROOM, "key": dice.choice("ab"), "data": {"patch": patch}}
                await client.say(json.dumps(change))

        async with trio.open_nursery() as nursery:
            for seed, client in enumerate((ann, bob)):
                nursery.start_soon(write, client, seed)
        for key in ("a", "b"):
            change = {"t": "publish", "room": ROOM, "key": key, "data": {"patch": {"mark": "last"}}, "id": key}
            for client in (ann, bob):
                await client.say(json.dumps(change))
        marks = dict.fromkeys("ab", "last")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(delta.until, marks)
            nursery.start_soon(whole.until, marks)
        for mirror in (delta, whole):  # the second of the two who said "last" may still be under way
            await mirror.client.say(
                json.dumps({"t": "call", "id": "v", "room": ROOM, "method": "get", "data": {"key": "a"}})
            )
        with trio.fail_after(30):
            while (said := json.loads(await whole.client.hear())).get("id") != "v":
                if "key" in said:
                    await whole._take(said)
            while (said := json.loads(await delta.client.hear())).get("id") != "v":
                if "key" in said:
                    await delta._take(said)
        assert delta.values["a"][0]["value"] == whole.values["a"][0]["value"] == said["data"]["value"]
        assert delta.patches > 0
        assert delta.asked == 0
        assert whole.patches == 0
