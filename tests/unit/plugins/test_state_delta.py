"""The plugin `state` in rooms whose table says `delta`: what changes inside a value is all that travels."""

from __future__ import annotations

import random
from typing import Any

from plugins.state import State
from relay.rooms.merge_patch import applied
from tests.unit.session.kit import Client, open_house

ROOM = "state:board"
LONG = {"title": "Monday " * 20, "text": "some words " * 50, "zoom": 1, "by": {"ann": 1, "bob": 2}}


class Reader:
    """What a client makes of it, as docs/rooms.md says: the last value and offset of each key."""

    def __init__(self, client: Client, *, delta: bool) -> None:
        self.client = client
        self.values: dict[str, tuple[Any, int]] = {}
        self.patches = self.wholes = 0
        client.heard()
        answer: Any = None
        client.say(t="join", id=1, room=ROOM, delta=delta)
        for said in client.heard():
            if said["t"] == "ok":
                answer = said
        assert answer.get("delta", False) is delta

    def read(self) -> None:
        for said in self.client.heard():
            key = said.get("key")
            if key is None:
                continue
            value, offset = self.values.get(key, (None, 0))
            if "patch" in said:
                self.patches += 1
                assert said["base"] == offset
                self.values[key] = applied(value, said["patch"]), said["offset"]
            else:
                self.wholes += 1
                self.values[key] = said["data"], said["offset"]

    @property
    def state(self) -> dict[str, Any]:
        """What it has of each key: value and version, as the plugin's snapshot tells them."""
        return {key: value for key, (value, _) in self.values.items() if "deleted" not in value}


def board(**table: Any) -> Any:
    return open_house({"state": (State, {"rooms": "state:*", "delta": True, **table})})


async def test_a_member_that_changes_in_a_large_value_is_all_that_travels() -> None:
    async with board() as house:
        ann, bob = Reader(house.client("ann"), delta=True), house.client("bob")
        bob.say(t="join", room=ROOM)
        ann.client.say(t="publish", room=ROOM, key="page", data={"set": LONG})
        ann.read()
        bob.heard()
        bob.say(t="publish", room=ROOM, key="page", data={"patch": {"zoom": 2, "by": {"bob": 3}}})
        [said] = ann.client.heard()
        version = said["patch"].pop("version")
        assert said["patch"] == {"value": {"zoom": 2, "by": {"bob": 3}}}
        assert said["base"] == 1
        [whole] = bob.heard()
        assert whole["data"] == {
            "value": {**LONG, "zoom": 2, "by": {"ann": 1, "bob": 3}}, "version": version,
        }  # fmt: skip


async def test_what_is_deleted_or_has_a_null_comes_whole_and_patches_go_on_after_it() -> None:
    async with board() as house:
        ann = Reader(house.client("ann"), delta=True)
        for change in ({"set": LONG}, {"delete": True}, {"set": LONG}, {"set": {**LONG, "zoom": None}}, {"set": LONG}):
            ann.client.say(t="publish", room=ROOM, key="page", data=change)
            ann.read()
        assert ann.state["page"]["value"] == LONG
        assert (ann.wholes, ann.patches) == (4, 1), "from a value with a null to one without it is a patch again"
        ann.client.say(t="publish", room=ROOM, key="page", data={"patch": {"zoom": 9}})
        ann.read()
        assert ann.state["page"]["value"] == {**LONG, "zoom": 9}
        assert ann.patches == 2


async def test_readers_that_lag_or_come_and_go_end_with_what_the_plugin_has() -> None:
    dice = random.Random(7)
    async with board() as house:
        readers = [Reader(house.client(f"r{number}"), delta=number < 3) for number in range(4)]
        writer = house.client("w")
        writer.say(t="join", room=ROOM)
        for turn in range(400):
            key = dice.choice(["a", "b", "c"])
            change: dict[str, Any] = dice.choice(
                [{"patch": {"zoom": turn}}, {"patch": {"by": {"ann": turn}}}, {"set": {**LONG, "zoom": -turn}}]
                + [{"delete": True}] * (turn % 10 == 0)
            )
            writer.say(t="publish", room=ROOM, key=key, data=change)
            for number, reader in enumerate(readers):
                if dice.random() < 1 / (number + 1):  # the others lag: of each key the newest waits for them
                    reader.read()
            if turn == 200:
                readers[0].client.say(t="leave", room=ROOM)
                readers[0] = Reader(readers[0].client, delta=True)
        for key in "abc":
            writer.say(t="publish", room=ROOM, key=key, data={"patch": {"zoom": "last"}})
        for reader in readers:
            reader.read()
        writer.heard()
        entries = house.hub.rooms[ROOM].state["shelf"].entries
        for reader in readers:
            assert {key: one["version"] for key, one in reader.state.items()} == {
                key: entry.version for key, entry in entries.items()
            }
            assert reader.state == readers[3].state
        assert min(reader.patches for reader in readers[:3]) > 50
        assert readers[3].patches == 0


async def test_what_was_lost_is_asked_for_and_comes_whole() -> None:
    async with board() as house:
        ann = Reader(house.client("ann"), delta=True)
        for zoom in range(3):
            ann.client.say(t="publish", room=ROOM, key="page", data={"set": {**LONG, "zoom": zoom}})
        ann.client.heard()  # and forgotten
        ann.client.say(t="resync", id=3, room=ROOM, key="page")
        ann.read()
        assert ann.state["page"]["value"]["zoom"] == 2
        ann.client.say(t="publish", room=ROOM, key="page", data={"patch": {"zoom": 3}})
        ann.read()
        assert (ann.state["page"]["value"]["zoom"], ann.patches) == (3, 1)
