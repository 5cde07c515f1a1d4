"""Plugins in processes of their own: the same API, and whatever they do, the relay and other rooms go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.clients import TrioClient, trio_client
from tests.e2e.harness import RelayProcess, bearer, request, running_relay

pytestmark = pytest.mark.e2e

PATIENCE = 60.0

PLUGIN = """
import os, time
import trio
from typing import Annotated
from msgspec import Meta
from relay.plugin import api
from relay.plugin.api import Message, Payload, Peer, Plugin, Refused, Room, WebRequest, call, route


class Far(Plugin):
    class Settings(api.Settings, frozen=True):
        greeting: str = "hello"

    def __init__(self, *args):
        super().__init__(*args)
        self.said = self.relay.counter("far_said", "Messages.", ["how"])

    def on_open(self, room: Room) -> None:
        if room.name.endswith(":closed"):
            raise Refused("shut", "this room stays closed")
        room.state["lines"] = 0

    async def on_join(self, room: Room, peer: Peer) -> None:
        await trio.lowlevel.checkpoint()
        if peer.subject == "mallory":
            raise Refused("banned", "not you", retry_after=3)
        peer.send(room, f"{self.settings.greeting} {peer.subject}")

    def on_leave(self, room: Room, peer: Peer) -> None:
        room.broadcast({"gone": peer.subject, "still": sorted(p.subject for p in room.peers())})

    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        match message.data.value():
            case "die":
                os._exit(3)
            case "spin":
                while True:
                    pass
            case "bug":
                raise RuntimeError("a bug far away")
            case "kick me":
                room.kick(sender, "as you wish")
            case "later":
                self.relay.after(0.05, room.broadcast, "it is later")
            case "eat":
                self.eaten = bytearray(1 << 40)
            case _:
                room.state["lines"] += 1
                self.said.add(1, "plainly")
                room.broadcast(message, sender=sender)

    @call
    def count(self, room: Room, caller: Peer, plus: Annotated[int, Meta(ge=0)] = 0) -> dict:
        return {"lines": room.state["lines"] + plus, "here": len(room), "ann": "ann" in room, "pid": os.getpid()}

    @route("GET", "/hi", public=True)
    async def hi(self, request: WebRequest) -> dict:
        return {"hi": request.query.get("who")}
"""

NEAR = """
from relay.plugin.api import Message, Peer, Plugin, Room


class Near(Plugin):
    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        sender.send(room, message.data)
"""


def far_relay(folder: Path) -> dict[str, Any]:
    (folder / "plugins").mkdir()
    (folder / "plugins" / "far.py").write_text(PLUGIN)
    (folder / "plugins" / "near.py").write_text(NEAR)
    far = {"rooms": "far:*", "isolate": "process", "greeting": "welcome", "memory_bytes": 4 << 30, "presence": True}
    return {"plugins": {"far": far, "near": {"rooms": "near:*"}}}


async def until(client: TrioClient, wanted: Callable[[Any], bool]) -> Any:
    while True:
        said = json.loads(await client.hear())
        if wanted(said):
            return said


async def ask(client: TrioClient, **words: Any) -> Any:
    await client.say(json.dumps({**words, "id": 1}))
    return await until(client, lambda said: said.get("id") == 1)


def v1(relay: RelayProcess, subject: str) -> Any:
    return trio_client(relay, "/ws", relay.token(subject), ["relay.v1.json"])


async def joined(client: TrioClient, room: str) -> Any:
    """A process may still be starting: then the client is told to come back."""
    while True:
        answer = await ask(client, t="join", room=room)
        if answer.get("code") != "unavailable":
            return answer
        await trio.sleep(0.1)


async def test_the_same_class_works_in_a_process_of_its_own(tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            running_relay(tmp_path, far_relay(tmp_path)) as relay,
            v1(relay, "ann") as ann,
            v1(relay, "bob") as bob,
        ):
            assert (await joined(ann, "far:a"))["t"] == "ok"
            await bob.say(json.dumps({"t": "join", "room": "far:a", "id": 2}))
            greeted = await until(bob, lambda said: said["t"] == "message")
            assert (greeted["data"], greeted["room"]) == ("welcome bob", "far:a")
            assert (await ask(ann, t="publish", room="far:a", data={"x": 1}))["t"] == "ok"
            heard = await until(bob, lambda said: said["t"] == "message")
            assert (heard["data"], heard["from"], heard["offset"]) == ({"x": 1}, "ann", 1)
            counted = (await ask(bob, t="call", room="far:a", method="count", data={"plus": 10}))["data"]
            assert (counted["lines"], counted["here"], counted["ann"]) == (11, 2, True)
            assert counted["pid"] != relay.process.pid
            wrong = await ask(bob, t="call", room="far:a", method="count", data={"plus": -1})
            assert (wrong["code"], "plus" in wrong["message"]) == ("bad_request", True)
            bug = await ask(ann, t="publish", room="far:a", data="bug")
            assert bug["code"] == "internal"
            while "a bug far away" not in relay.log:  # noqa: ASYNC110 - another process writes it
                await trio.sleep(0.01)
            async with v1(relay, "mallory") as mallory:
                banned = await ask(mallory, t="join", room="far:a")
                assert (banned["code"], banned["retry_after"]) == ("banned", 3)
                assert (await ask(mallory, t="join", room="far:closed"))["code"] == "shut"
            await ask(ann, t="publish", room="far:a", data="later")
            await until(bob, lambda said: said.get("data") == "it is later")
            await ask(bob, t="publish", room="far:a", data="kick me")
            gone = await until(ann, lambda said: said.get("t") == "message" and "gone" in said["data"])
            assert gone["data"] == {"gone": "bob", "still": ["ann"]}
            assert (await request(relay, "/plugins/far/hi?who=you")).json() == {"hi": "you"}
            metrics = (await request(relay, "/metrics", internal=True)).body.decode()
            assert 'relay_plugin_far_said_total{how="plainly",plugin="far"} 1.0' in metrics


async def test_a_room_that_is_renamed_is_the_same_room_far_away(tmp_path: Path) -> None:
    key = "a-key-for-the-operator"
    config = far_relay(tmp_path) | {"internal": {"api_keys": [key]}}
    with trio.fail_after(PATIENCE):
        async with running_relay(tmp_path, config) as relay, v1(relay, "ann") as ann, v1(relay, "bob") as bob:
            assert (await joined(ann, "far:a"))["t"] == "ok"
            await joined(bob, "far:a")
            assert (await ask(ann, t="publish", room="far:a", data="one"))["t"] == "ok"
            body = json.dumps({"to": "far:b"}).encode()
            way = "/api/v1/rooms/far:a/rename"
            renamed = await request(relay, way, bearer(key), method="POST", internal=True, body=body)
            assert renamed.status == 200
            assert (await ask(ann, t="publish", room="far:b", data="two"))["t"] == "ok"
            await until(bob, lambda said: said.get("data") == "two")
            counted = (await ask(bob, t="call", room="far:b", method="count"))["data"]
            assert (counted["lines"], counted["here"]) == (2, 2)


@pytest.mark.parametrize("how", ["die", "spin", "eat"])
async def test_whatever_it_does_the_relay_goes_on_and_it_comes_back(tmp_path: Path, how: str) -> None:
    overrides = far_relay(tmp_path)
    overrides["timeouts"] = {"hook": 2.0}
    with trio.fail_after(PATIENCE):
        async with running_relay(tmp_path, overrides) as relay, v1(relay, "ann") as ann, v1(relay, "bob") as bob:
            await joined(ann, "far:a")
            await ask(bob, t="join", room="near:b")
            before = (await ask(ann, t="call", room="far:a", method="count"))["data"]
            await ann.say(json.dumps({"t": "publish", "room": "far:a", "data": how, "id": 9}))
            for number in range(20):  # while that one dies, hangs or grows, others are served
                await bob.say(json.dumps({"t": "publish", "room": "near:b", "data": number}))
                echo = await until(bob, lambda said: said["t"] == "message")
                assert echo["data"] == number
            refused = await until(ann, lambda said: said.get("id") == 9)
            assert refused["code"] in ("unavailable", "timeout", "internal")
            while True:
                answer = await ask(ann, t="call", room="far:a", method="count")
                if answer["t"] == "ok" and (how == "eat" or answer["data"]["pid"] != before["pid"]):
                    break
                await trio.sleep(0.1)
            assert (answer["data"]["here"], answer["data"]["ann"]) == (1, True), "it was told again who is there"


GUARD = """
from relay.plugin.api import Message, Peer, Plugin, Room, call


class Guard(Plugin):
    def on_joined(self, room: Room, peer: Peer) -> None:
        room.tell(f"{peer.subject} is one of {len(room)}")

    def filter_joined(self, room: Room, peer: Peer) -> None:
        room.tell(f"the guard sees {peer.subject}")

    @call
    def may(self, room: Room, caller: Peer) -> bool:
        return room.may_publish(caller)
"""


async def test_it_hears_who_is_in_and_has_methods_where_it_filters(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "guard.py").write_text(GUARD)
    (tmp_path / "plugins" / "near.py").write_text(NEAR)
    guard = {"rooms": "guard:*", "filters": "near:*", "isolate": "process"}
    async with running_relay(tmp_path, {"plugins": {"guard": guard, "near": {"rooms": "near:*"}}}) as relay:
        with trio.fail_after(PATIENCE):
            async with v1(relay, "ann") as ann:
                await joined(ann, "guard:a")
                while (await ask(ann, t="call", room="guard:a", method="may")).get("code") == "unavailable":  # noqa: ASYNC110
                    await trio.sleep(0.1)
                await ask(ann, t="leave", room="guard:a")
                await joined(ann, "guard:a")
                await until(ann, lambda said: said.get("data") == "ann is one of 1")
                assert (await ask(ann, t="call", room="guard:a", method="may"))["data"] is True
                await joined(ann, "near:a")
                await until(ann, lambda said: said.get("data") == "the guard sees ann")
                assert (await ask(ann, t="call", room="near:a", method="guard.may"))["data"] is True
                assert (await ask(ann, t="call", room="near:a", method="may"))["code"] == "no_such_method"
