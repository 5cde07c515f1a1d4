"""The API of a real relay: who is there, what was decided, closing, publishing; and that it is shut without a key."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.components import ROOT
from tests.e2e.clients import trio_client
from tests.e2e.harness import UPGRADE, Answer, RelayProcess, bearer, request, running_relay

pytestmark = pytest.mark.e2e

KEY = "a-key-that-opens-the-api"
PLUGINS = {"chat": {"rooms": ["lobby", "chat:*"], "history": 10}}


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """One for all tests here; each has subjects and rooms of its own."""
    overrides = {"internal": {"api_keys": [KEY]}, "plugins": PLUGINS}
    relay = RelayProcess(tmp_path_factory.mktemp("api"), overrides)
    relay.start()
    yield relay
    relay.stop()


async def ask(relay: RelayProcess, path: str, body: Any = None, *, method: str | None = None) -> Answer:
    method = method or ("GET" if body is None else "POST")
    data = b"" if body is None else json.dumps(body).encode()
    headers = bearer(KEY)
    return await request(relay, f"/api/v1{path}", headers, method=method, internal=True, body=data)


async def get(relay: RelayProcess, path: str) -> Any:
    answer = await ask(relay, path)
    assert answer.status == 200, answer
    return answer.json()


async def test_it_is_on_the_internal_listener_only_and_needs_a_key(relay: RelayProcess) -> None:
    assert (await request(relay, "/api/v1/info", bearer(KEY))).status == 404
    answer = await request(relay, "/api/v1/info", internal=True)
    assert (answer.status, answer.json()["error"]) == (401, "api_key_missing")
    answer = await request(relay, "/api/v1/info", bearer("x" * 24), internal=True)
    assert (answer.status, answer.json()["error"]) == (401, "api_key_wrong")
    info = await get(relay, "/info")
    assert (info["ready"], info["config"]) == (True, str(relay.config_path))


async def test_connections_and_rooms_are_told(relay: RelayProcess) -> None:
    async with trio_client(relay, "/rooms/lobby", relay.token("ann")) as ann:
        await ann.say("hello")
        while not (found := await get(relay, "/connections?subject=ann"))["connections"]:
            await trio.lowlevel.checkpoint()
        [connection] = found["connections"]
        assert (connection["rooms"], connection["address"], connection["protocol"]) == (["lobby"], "127.0.0.1", "plain")
        assert await get(relay, f"/connections/{connection['session']}") == connection | {
            "idle": pytest.approx(connection["idle"], abs=5.0),
            "messages_in": 1,
        }
        assert (await get(relay, "/connections?room=chat:1"))["count"] == 0
        [room] = (await get(relay, "/rooms"))["rooms"]
        assert (room["room"], room["members"], room["plugin"]) == ("lobby", 1, "chat")
        assert (await get(relay, "/rooms/lobby"))["sessions"][0]["subject"] == "ann"
    assert (await ask(relay, "/rooms/nobody")).status == 404
    assert (await ask(relay, "/connections/nobody")).status == 404


async def test_a_server_publishes_and_its_message_has_no_sender(relay: RelayProcess) -> None:
    async with trio_client(relay, "/rooms/chat:server", relay.token("ann")) as ann:
        answer = await ask(relay, "/publish", {"room": "chat:server", "data": {"n": 1}})
        assert answer.json() == answer.json() | {"room": "chat:server", "offset": 1, "members": 1, "duplicate": False}
        with trio.fail_after(5):
            assert json.loads(await ann.connection.get_message()) == {"n": 1}
        first = await ask(relay, "/publish", {"room": "chat:server", "base64": "AAE=", "idempotency": "once"})
        again = await ask(relay, "/publish", {"room": "chat:server", "base64": "AAE=", "idempotency": "once"})
        assert again.json() == {**first.json(), "duplicate": True}
        with trio.fail_after(5):
            assert await ann.connection.get_message() == b"\x00\x01"
        last = await ask(relay, "/publish", {"room": "chat:server", "data": "last"})
        assert last.json()["offset"] == 3
        with trio.fail_after(5):
            assert await ann.connection.get_message() == "last"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"room": "nobody:1", "data": 1}, 404, "no_such_room"),
        ({"room": "chat: 1", "data": 1}, 400, "bad_room"),
        ({"room": "lobby"}, 400, "bad_request"),
        ({"room": "lobby", "data": 1, "base64": ""}, 400, "bad_request"),
        ({"room": "lobby", "base64": "?"}, 400, "bad_request"),
        ({"room": "lobby", "data": 1, "channel": "none"}, 400, "no_such_channel"),
        ({"room": "lobby", "data": 1, "channel": "control"}, 400, "no_such_channel"),
        ({"room": "lobby", "data": 1, "chanel": "bulk"}, 400, "bad_request"),
        ({"room": "lobby", "data": 1, "ttl": -1}, 400, "bad_request"),
        ({"room": "lobby", "data": "x" * 300_000, "channel": "urgent"}, 413, "too_large"),
    ],
)
async def test_what_cannot_be_published_says_why(relay: RelayProcess, body: Any, status: int, code: str) -> None:
    answer = await ask(relay, "/publish", body)
    assert (answer.status, answer.json()["error"]) == (status, code)
    assert (await get(relay, f"/rooms?prefix={body['room']}".replace(" ", "%20")))["count"] == 0, "an empty room stays"


async def test_a_connection_is_closed_and_the_decision_is_kept(relay: RelayProcess) -> None:
    async with trio_client(relay, "/rooms/lobby", relay.token("ann")) as ann:
        while not (found := await get(relay, "/connections?subject=ann"))["connections"]:
            await trio.lowlevel.checkpoint()
        session = found["connections"][0]["session"]
        answer = await ask(relay, f"/connections/{session}/close", {"reason": "too loud"})
        assert answer.json() == {"closed": 1}
        with trio.fail_after(5), pytest.raises(Exception, match="4403"):
            await ann.connection.get_message()
    await relay.until_log("connection closed", session=session)
    [decision] = (await get(relay, f"/decisions?session={session}"))["decisions"]
    assert (decision["kind"], decision["code"], decision["detail"]) == ("closed", "4403", "too loud")
    assert (decision["subject"], decision["room"], decision["address"]) == ("ann", "lobby", "127.0.0.1")


async def test_all_connections_of_a_subject_are_closed(relay: RelayProcess) -> None:
    async with (
        trio_client(relay, "/rooms/lobby", relay.token("ann")) as one,
        trio_client(relay, "/rooms/chat:1", relay.token("ann")) as two,
        trio_client(relay, "/rooms/lobby", relay.token("bob")) as other,
    ):
        while (await get(relay, "/connections?subject=bob"))["count"] < 1:
            await trio.lowlevel.checkpoint()
        answer = await ask(relay, "/subjects/ann/close", {"code": 1001, "reconnect_after": 3})
        assert answer.json() == {"closed": 2}
        for client in (one, two):
            with trio.fail_after(5), pytest.raises(Exception, match="1001"):
                await client.connection.get_message()
        await ask(relay, "/publish", {"room": "lobby", "data": "still here"})
        with trio.fail_after(5):
            assert await other.hear() == "still here"
    assert (await ask(relay, "/subjects/ann/close", {})).json() == {"closed": 0}
    assert (await ask(relay, "/subjects/ann/close", {"code": 4999})).status == 400


async def test_refused_handshakes_are_kept_with_the_setting_and_where_it_stands(relay: RelayProcess) -> None:
    token = relay.token("eve", join=["lobby"])
    for _ in range(3):
        assert (await request(relay, "/rooms/chat:1", UPGRADE | bearer(token))).status == 403
    await request(relay, "/rooms/lobby", UPGRADE | bearer(token) | {"Origin": "https://evil.example"})
    await request(relay, "/rooms/lobby", UPGRADE | bearer("e30.e30.e30"))
    found = await get(relay, "/decisions?kind=rejected")
    assert [one["code"] for one in found["decisions"]] == ["token_malformed", "origin", "forbidden"]
    forbidden = found["decisions"][2]
    assert (forbidden["count"], forbidden["subject"], forbidden["room"]) == (3, "eve", "chat:1")
    assert found["settings"]["auth.allowed_origins"] == {"where": "default", "value": ["self"]}
    assert (await ask(relay, "/decisions?kind=nonsense")).status == 400
    assert (await get(relay, "/decisions?code=origin&limit=1"))["count"] == 1


async def test_a_failed_tls_handshake_is_kept(relay: RelayProcess) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", relay.port)
    await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
    with trio.fail_after(5), contextlib.suppress(trio.BrokenResourceError):  # it may end with a reset
        while await stream.receive_some():
            pass
    await stream.aclose()
    [decision] = (await get(relay, "/decisions?kind=tls"))["decisions"]
    assert (decision["code"], decision["address"]) == ("tls_protocol", "127.0.0.1")
    assert "HTTP" in decision["detail"]


async def test_keys_come_from_a_file_that_a_reload_reads_again(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the dashboard\nfirst-key-of-the-api\n\n")
    async with running_relay(tmp_path, {"internal": {"api_keys_file": str(file)}}) as relay:

        async def status(key: str) -> int:
            return (await request(relay, "/api/v1/info", bearer(key), internal=True)).status

        assert await status("first-key-of-the-api") == 200
        file.write_text("short\n")
        relay.process.send_signal(signal.SIGHUP)
        refused = await relay.until_log("reload refused, everything stays as it was")
        assert f"{file}:1: internal.api_keys_file: the key is too short" in refused["problems"]
        assert await status("first-key-of-the-api") == 200
        file.write_text("second-key-of-the-api\n")
        relay.process.send_signal(signal.SIGHUP)
        reloaded = await relay.until_log("reloaded")
        assert not reloaded.get("needs_restart")
        assert await status("first-key-of-the-api") == 401
        assert await status("second-key-of-the-api") == 200
        assert "key-of-the-api" not in relay.log


DOC = (ROOT / "docs" / "api.md").read_text()
EXAMPLES = re.findall(r"```http\n(\w+) (\S+)\n(.*?)```\n```json\n(.*?)```", DOC, re.DOTALL)


def shape(value: Any) -> Any:
    """What a document is made of: the keys of its objects, the kinds of its values."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


async def test_the_examples_of_the_docs_are_answered_as_they_say(tmp_path: Path) -> None:
    assert len(EXAMPLES) > 6
    async with running_relay(tmp_path, {"internal": {"api_keys": [KEY]}}) as relay:
        for _ in range(3):
            headers = UPGRADE | bearer(relay.token()) | {"Origin": "https://evil.example"}
            await request(relay, "/rooms/lobby", headers)
        async with trio_client(relay, "/rooms/lobby", relay.token("ann")):
            while not (await get(relay, "/connections?room=lobby"))["count"]:
                await trio.lowlevel.checkpoint()
            for method, path, body, expected in EXAMPLES:
                sent = json.loads(body) if body.strip() else None
                answer = await ask(relay, path.removeprefix("/api/v1"), sent, method=method)
                assert shape(answer.json()) == shape(json.loads(expected)), f"{method} {path}"


def test_the_docs_list_every_route() -> None:
    from relay.counters import Counters
    from relay.front.api import Api, ApiKeys
    from relay.front.api_plugins import PluginRoutes
    from relay.front.api_revocations import RevocationRoutes
    from relay.front.api_routes import Operations

    api = Api(Counters(), lambda: ApiKeys(()))
    Operations(None, None).add_to(api)  # type: ignore[arg-type]
    RevocationRoutes(None).add_to(api)  # type: ignore[arg-type]
    PluginRoutes(list, print).add_to(api)
    listed = set(re.findall(r"^\| `(\w+ /api/v1/[^`?]*)", DOC, re.MULTILINE))
    assert listed == {f"{route.method} {route.pattern}" for route in api.routes}
