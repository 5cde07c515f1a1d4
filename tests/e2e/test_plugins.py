"""Plugins in a real relay: they hear of connections, have pages, and are exchanged while clients stay connected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.clients import TrioClient, trio_client
from tests.e2e.harness import UPGRADE, Answer, RelayProcess, bearer, request, running_relay

pytestmark = pytest.mark.e2e

PATIENCE = 40.0
KEY = "k" * 32

FIRST = """
from relay.plugin.api import Arrival, Message, Peer, Plugin, Refused, Room, WebRequest, call, route


class Scores(Plugin):
    version = 1

    def __init__(self, *args):
        super().__init__(*args)
        self.here = set()

    def on_connect(self, arrival: Arrival) -> None:
        if arrival.subject == "mallory":
            raise Refused("banned", "you know why")
        self.here.add(arrival.subject)

    def on_disconnect(self, arrival: Arrival, code: int) -> None:
        self.here.discard(arrival.subject)

    @call
    def add(self, room: Room, caller: Peer, points: int) -> dict:
        room.state["points"] = room.state.get("points", 0) + points
        return {"points": room.state["points"], "version": self.version}

    @route("GET", "/board", public=True)
    def board(self, request: WebRequest) -> dict:
        return {room.name: room.state.get("points", 0) for room in self.relay.rooms()}

    @route("POST", "/say")
    async def say(self, request: WebRequest) -> None:
        if not request.body:
            raise Refused("bad_request", "say something")
        self.relay.publish("scores:a", {"from": request.subject, "said": request.json(), "n": request.query.get("n")})

    @route("GET", "/here")
    def who(self, request: WebRequest) -> list:
        return sorted(self.here)

    @route("GET", "/bug", public=True)
    def bug(self, request: WebRequest) -> None:
        raise RuntimeError("a page's bug")
"""

SECOND = (
    FIRST.replace("version = 1", "version = 2")
    + """
    def on_reload(self, before: Plugin) -> None:
        self.here = before.here
"""
)


def scores_relay(folder: Path) -> dict[str, Any]:
    (folder / "plugins").mkdir()
    (folder / "plugins" / "scores.py").write_text(FIRST)
    return {"plugins": {"scores": {"rooms": "scores:*"}}, "internal": {"api_keys": [KEY]}}


async def ask(client: TrioClient, **words: Any) -> Any:
    await client.say(json.dumps({**words, "id": 1}))
    while True:
        said = json.loads(await client.hear())
        if said.get("id") == 1:
            return said


async def reload(relay: RelayProcess) -> Answer:
    return await request(
        relay, "/api/v1/plugins/scores/reload", bearer(KEY) | {"Content-Length": "0"}, method="POST", internal=True
    )


async def test_a_plugin_is_exchanged_and_nobody_is_dropped(tmp_path: Path) -> None:
    overrides = scores_relay(tmp_path)
    file = tmp_path / "plugins" / "scores.py"
    with trio.fail_after(PATIENCE):
        async with (
            running_relay(tmp_path, overrides) as relay,
            trio_client(relay, "/ws", relay.token("ann"), ["relay.v1.json"]) as ann,
        ):
            await ask(ann, t="join", room="scores:a")
            add = {"t": "call", "room": "scores:a", "method": "add", "data": {"points": 5}}
            assert (await ask(ann, **add))["data"] == {"points": 5, "version": 1}
            file.write_text(SECOND)
            done = await reload(relay)
            assert done.status == 200, done
            assert (await ask(ann, **add))["data"] == {"points": 10, "version": 2}, "the room's state stays"
            here = await request(relay, "/plugins/scores/here", bearer(relay.token("bob")))
            assert here.json() == ["ann"], "and so does what on_reload took over"

            for broken, told in (
                (SECOND.replace("class Scores", "klass Scores"), "scores.py:5"),
                (SECOND.replace("def on_connect", "def on_conect"), "did you mean `on_connect`"),
                (SECOND.replace("self.here = before.here", "self.here = before.heer"), "no attribute 'heer'"),
            ):
                file.write_text(broken)
                refused = await reload(relay)
                assert refused.status == 409
                assert told in refused.json()["reason"]
                assert (await ask(ann, **add))["data"]["version"] == 2
            listed = await request(relay, "/api/v1/plugins", bearer(KEY), internal=True)
            [one] = listed.json()["plugins"]
            assert (one["name"], one["rooms"], one["off"]) == ("scores", 1, False)


async def test_a_plugin_may_refuse_a_connection_before_it_is_one(tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE):
        async with running_relay(tmp_path, scores_relay(tmp_path)) as relay:
            async with trio_client(relay, "/ws", relay.token("ann"), ["relay.v1.json"]):
                asked = UPGRADE | bearer(relay.token("mallory")) | {"Sec-WebSocket-Protocol": "relay.v1.json"}
                refused = await request(relay, "/ws", asked)
                assert (refused.status, refused.json()["error"]) == (403, "banned")
                assert refused.json()["setting"] == "plugins.scores"
                here = await request(relay, "/plugins/scores/here", bearer(relay.token("bob")))
                assert here.json() == ["ann"]
            await relay.until_log("connection closed", subject="ann")
            here = await request(relay, "/plugins/scores/here", bearer(relay.token("bob")))
            assert here.json() == []


async def test_pages_are_served_to_whom_they_are_for(tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            running_relay(tmp_path, scores_relay(tmp_path)) as relay,
            trio_client(relay, "/ws", relay.token("ann"), ["relay.v1.json"]) as ann,
        ):
            await ask(ann, t="join", room="scores:a")
            assert (await request(relay, "/plugins/scores/board")).json() == {"scores:a": 0}
            token = bearer(relay.token("bob"))
            assert (await request(relay, "/plugins/scores/say", token, method="POST")).status == 400
            for path in ("/plugins/scores/say", "/plugins/scores/nowhere", "/plugins/none/x"):
                assert (await request(relay, path, method="POST")).status == 401, "nothing is said without a token"
            assert (await request(relay, "/plugins/scores/nowhere", token)).status == 404
            assert (await request(relay, "/plugins/scores/say", token)).status == 405
            bug = await request(relay, "/plugins/scores/bug")
            assert (bug.status, bug.json()["error"]) == (500, "internal")
            assert b"a page's bug" not in bug.body
