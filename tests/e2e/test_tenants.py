"""Tenants through a real relay: two issuers with the same key id, the same subjects and the same rooms, over TLS."""

from __future__ import annotations

import json
import re
import signal
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from tests.e2e.harness import UPGRADE, Answer, RelayProcess, _exchange, bearer, request, running_relay

pytestmark = pytest.mark.e2e

SECRETS = {name: f"the secret of {name}, which is long enough" for name in ("acme", "globex")}
KEY = "a-key-of-the-operator-s"
HOST = {"acme": "acme.test", "globex": "localhost", "shared": "shared.test", "": "localhost"}
ROOM = "chat:lobby"


def issuer(name: str) -> dict[str, Any]:
    return {
        "issuer": f"https://{name}.example",
        "keys": [{"algorithm": "HS256", "kid": "1", "secret": SECRETS[name]}],
    }


def overrides(**tenants: Any) -> dict[str, Any]:
    return {
        "auth.issuers": {name: issuer(name) for name in ("acme", "globex")},
        "internal": {"listen": ["127.0.0.1:0"], "api_keys": [KEY]},
        "tenants": {
            "acme": {
                "issuers": ["acme"],
                "hosts": ["acme.test", "*.acme.test"],
                "allowed_origins": ["https://app.acme.test"],
                "limits": {"max_connections": 3, "rooms": 2},
            },
            "globex": {
                "issuers": ["globex"],
                "plugins": {"chat": {"rooms": "chat:*", "history": 5, "presence": True}},
            },
            "shared": {"hosts": ["shared.test"]},
            **tenants,
        },
    }


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[RelayProcess]:
    async with running_relay(tmp_path, overrides()) as found:
        yield found


def token(relay: RelayProcess, of: str, subject: str = "ann", /, **claims: Any) -> str:
    made = {"sub": subject, "exp": time.time() + 300, "relay": {"join": ["*"], "publish": ["*"]}, **claims}
    if of in SECRETS:
        made["iss"] = f"https://{of}.example"
        return jwt.encode(made, SECRETS[of], "HS256", headers={"kid": "1"})
    made |= {"tenant": of} if of else {}
    return jwt.encode(made, relay.token_secret.removesuffix(b"\n"), "HS256", headers={"kid": "dev"})


async def connect(relay: RelayProcess, asked_for: str) -> trio.SSLStream[trio.SocketStream]:
    """TLS with the name `asked_for`, for which the relay's one certificate is not made out."""
    context = ssl.create_default_context(cafile=str(relay.certificates.authority))
    context.check_hostname = False
    tcp = await trio.open_tcp_stream("127.0.0.1", relay.port)
    return trio.SSLStream(tcp, context, server_hostname=asked_for, https_compatible=True)


async def handshake(
    relay: RelayProcess, path: str, token: str, host: str, *, asked_for: str = "", origin: str = ""
) -> Answer:
    """What a WebSocket handshake gets at `host`."""
    with trio.fail_after(10):
        stream = await connect(relay, asked_for or host)
        try:
            fields = [("Host", host), *UPGRADE.items(), *bearer(token).items()]
            fields += [("Origin", origin)] if origin else []
            fields += [("Sec-WebSocket-Protocol", "relay.v1.json")] if path.startswith("/ws") else []
            return await _exchange(stream, "GET", path, fields, b"")
        finally:
            await trio.aclose_forcefully(stream)


class Talker:
    """A relay.v1.json client. What is no answer to it stands in `heard`."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection
        self.heard: list[dict[str, Any]] = []
        self._ids = 0

    async def ask(self, t: str, **fields: Any) -> dict[str, Any]:
        self._ids += 1
        await self.connection.send_message(json.dumps({"t": t, "id": self._ids, **fields}))
        with trio.fail_after(5):
            while True:
                message: dict[str, Any] = json.loads(await self.connection.get_message())
                if message.pop("id", None) == self._ids:
                    return message
                self.heard.append(message)

    async def hello(self) -> dict[str, Any]:
        with trio.fail_after(5):
            found: dict[str, Any] = json.loads(await self.connection.get_message())
        assert found["t"] == "hello"
        return found

    def messages(self) -> list[Any]:
        return [message["data"] for message in self.heard if message["t"] == "message"]


@asynccontextmanager
async def talker(
    relay: RelayProcess, tenant: str, subject: str = "ann", path: str = "/ws"
) -> AsyncIterator[tuple[Talker, dict[str, Any]]]:
    stream = await connect(relay, HOST[tenant])
    headers = [(name.encode(), value.encode()) for name, value in bearer(token(relay, tenant, subject)).items()]
    async with trio.open_nursery() as nursery:
        try:
            connection = await wrap_client_stream(
                nursery, stream, HOST[tenant], path, subprotocols=["relay.v1.json"], extra_headers=headers
            )
            found = Talker(connection)
            yield found, await found.hello()
            await connection.aclose()
        finally:
            await trio.aclose_forcefully(stream)


async def reloaded(relay: RelayProcess, tables: dict[str, Any], said: str = "reloaded") -> dict[str, Any]:
    relay.configure(tables)
    relay.process.send_signal(signal.SIGHUP)
    return await relay.until_log(said)


async def test_the_same_people_in_the_same_rooms_of_two_tenants_do_not_meet(relay: RelayProcess):
    async with (
        talker(relay, "acme") as (ann, _),
        talker(relay, "acme", "bob") as (bob, _),
        talker(relay, "globex") as (other, _),
        talker(relay, "") as (nobody, _),
    ):
        everybody = ann, bob, other, nobody
        joined = [await one.ask("join", room=ROOM) for one in everybody]
        assert joined[0]["epoch"] == joined[1]["epoch"] != joined[2]["epoch"] != joined[3]["epoch"]
        assert (await ann.ask("publish", room=ROOM, data="for acme"))["offset"] == 1
        assert (await other.ask("publish", room=ROOM, data="for globex"))["offset"] == 1
        members = [(await one.ask("presence", room=ROOM))["members"] for one in everybody]
        assert members == [["ann", "bob"], ["ann", "bob"], ["ann"], ["ann"]]
        told = [(await one.ask("history", room=ROOM))["messages"] for one in everybody]
        assert [[message["data"] for message in messages] for messages in told] == [
                ["for acme"], ["for acme"], ["for globex"], [],
            ]  # fmt: skip
        assert [one.messages() for one in everybody] == [[], ["for acme"], [], []]


async def test_a_session_cannot_be_joined_or_renewed_from_another_tenant(relay: RelayProcess):
    async with talker(relay, "globex") as (ann, hello):
        path = f"/ws?channels=urgent&session={hello['session']}"
        assert (await handshake(relay, path, token(relay, "globex"), "localhost")).status == 101
        foreign = await handshake(relay, path, token(relay, "acme"), "acme.test")
        made_up = await handshake(relay, path + "x", token(relay, "acme"), "acme.test")
        assert (foreign.status, foreign.body) == (404, made_up.body)
        for tenant in ("acme", ""):
            refused = await ann.ask("auth", token=token(relay, tenant))
            assert (refused["t"], refused["code"]) == ("error", "unauthorized")
        assert (await ann.ask("auth", token=token(relay, "globex")))["t"] == "ok"


async def test_at_a_tenant_s_host_everybody_else_is_told_what_a_token_without_the_grant_is_told(relay: RelayProcess):
    async with talker(relay, "acme") as (ann, _):
        assert (await ann.ask("join", room=ROOM))["t"] == "ok"
        no_grants = {"relay": {"join": ["chat:mine"]}}
        answers = [
            await handshake(relay, f"/rooms/{ROOM}", token(relay, "acme", **no_grants), "acme.test"),
            await handshake(relay, "/rooms/chat:empty", token(relay, "acme", **no_grants), "acme.test"),
            await handshake(relay, "/rooms/nobody:serves", token(relay, "acme", **no_grants), "acme.test"),
            await handshake(relay, f"/rooms/{ROOM}", token(relay, "globex"), "acme.test"),
            await handshake(relay, "/rooms/chat:empty", token(relay, "globex"), "acme.test"),
            await handshake(relay, "/rooms/nobody:serves", token(relay, ""), "acme.test"),
            await handshake(relay, f"/rooms/{ROOM}", token(relay, "acme"), "localhost"),
        ]
        assert {(answer.status, answer.body) for answer in answers} == {(403, answers[0].body)}
        for answer in answers[:-1]:  # at localhost no browser is asked to insist on TLS
            assert answer.headers | {"date": ""} == answers[0].headers | {"date": ""}
        said = await relay.until_log(
            "handshake refused", reason="a token of tenant globex at a host that is not its own"
        )
        assert said["code"] == "forbidden"


async def test_hosts_are_compared_as_names(relay: RelayProcess):
    for host in ("acme.test", "ACME.test:8443", "acme.test.", "eu.acme.test", "localhost"):
        status = (await handshake(relay, f"/rooms/{ROOM}", token(relay, "acme"), host, asked_for="acme.test")).status
        assert status == (421 if host == "localhost" else 101), host
    for host in ("a.b.acme.test", "notacme.test", "acme.test.evil.example"):
        assert (await handshake(relay, f"/rooms/{ROOM}", token(relay, "acme"), host)).status == 403


async def test_the_name_in_tls_and_the_host_must_be_of_one_tenant(relay: RelayProcess):
    answer = await handshake(relay, "/ws", token(relay, "acme"), "acme.test", asked_for="shared.test")
    assert (answer.status, answer.json()["error"]) == (421, "misdirected")
    assert (await handshake(relay, "/ws", token(relay, "acme"), "acme.test", asked_for="eu.acme.test")).status == 101


async def test_an_issuer_of_several_tenants_says_which_one_a_token_is_for(relay: RelayProcess):
    assert (await handshake(relay, "/ws", token(relay, "shared"), "shared.test")).status == 101
    assert (await handshake(relay, "/ws", token(relay, ""), "shared.test")).status == 403
    assert (await handshake(relay, "/ws", token(relay, "shared"), "localhost")).status == 403
    for name in ("acme", "nobody"):  # acme has an issuer of its own: [auth] cannot sign for it
        stolen = token(relay, "", tenant=name)
        answer = await handshake(relay, "/ws", stolen, HOST.get(name, "localhost"))
        assert (answer.status, answer.json()["error"]) == (401, "token_wrong_tenant")


async def test_the_claim_of_an_issuer_with_one_tenant_changes_nothing(relay: RelayProcess):
    assert (await handshake(relay, "/ws", token(relay, "acme", tenant="shared"), "acme.test")).status == 101
    assert (await handshake(relay, "/ws", token(relay, "acme", tenant="shared"), "shared.test")).status == 403


async def test_a_tenant_has_limits_of_its_own(relay: RelayProcess):
    async with talker(relay, "acme") as (ann, _), talker(relay, "acme", "bob") as (bob, _):
        assert (await ann.ask("join", room="chat:1"))["t"] == "ok"
        assert (await bob.ask("join", room="chat:2"))["t"] == "ok"
        refused = await ann.ask("join", room="chat:3")
        assert (refused["code"], refused["limit"]) == ("too_many_open_rooms", "tenants.acme.limits.rooms")
        async with talker(relay, "acme", "cid"):
            full = await handshake(relay, "/ws", token(relay, "acme"), "acme.test")
            assert (full.status, full.json()["setting"]) == (503, "tenants.acme.limits.max_connections")
            async with talker(relay, "globex") as (other, _):
                for number in range(3):
                    assert (await other.ask("join", room=f"chat:{number}"))["t"] == "ok"
    assert (await handshake(relay, "/ws", token(relay, "acme"), "acme.test")).status == 101


async def test_whoever_is_refused_hears_which_table_decided(relay: RelayProcess):
    own = {"message_bytes": 1000, "connections_per_subject": 1}
    await reloaded(relay, overrides(shared={"hosts": ["shared.test"], "limits": own}))
    async with talker(relay, "shared") as (ann, _):
        again = await handshake(relay, "/ws", token(relay, "shared"), "shared.test")
        assert (again.status, again.json()["setting"]) == (429, "tenants.shared.limits.connections_per_subject")
        not_its_own = await ann.ask("join", room="chat:" + "x" * 300)
        assert (not_its_own["code"], not_its_own["limit"]) == ("bad_room", "limits.room_name_bytes")
        await ann.connection.send_message("x" * 1001)
        bye = json.loads(await ann.connection.get_message())
        assert (bye["code"], bye["limit"]) == (1009, "tenants.shared.limits.message_bytes")
    line = await relay.until_log("connection closed", code=1009)
    assert line["setting"] == "tenants.shared.limits.message_bytes"
    answer = await request(relay, "/api/v1/decisions?kind=closed", bearer(KEY), internal=True)
    assert answer.json()["decisions"][0]["setting"] == "tenants.shared.limits.message_bytes"
    where = answer.json()["settings"]["tenants.shared.limits.message_bytes"]
    assert where["value"] == 1000
    assert "config.toml:" in where["where"]


async def test_a_tenant_has_origins_of_its_own(relay: RelayProcess):
    async def status(tenant: str, origin: str) -> int:
        host = HOST[tenant]
        return (await handshake(relay, f"/rooms/{ROOM}", token(relay, tenant), host, origin=origin)).status

    assert await status("acme", "https://app.acme.test") == 101
    assert await status("acme", "https://acme.test") == 403
    assert await status("globex", "https://app.acme.test") == 403
    assert await status("globex", "https://localhost") == 101


async def test_a_tenant_with_plugin_tables_has_just_those(relay: RelayProcess):
    async with talker(relay, "globex") as (other, _), talker(relay, "acme") as (ann, _):
        assert (await other.ask("join", room="feed:news"))["code"] == "no_such_room"
        assert (await ann.ask("join", room="feed:news"))["t"] == "ok"


async def test_metrics_and_the_api_tell_tenants_apart(relay: RelayProcess):
    async with talker(relay, "acme") as (ann, _), talker(relay, "globex") as (other, _):
        await ann.ask("join", room=ROOM)
        await other.ask("join", room=ROOM)
        await ann.ask("publish", room=ROOM, data="hi")
        page = (await request(relay, "/metrics", internal=True)).body.decode()
        for line in (
            'relay_connections{tenant="acme"} 1.0',
            'relay_connections{tenant="globex"} 1.0',
            'relay_connections{tenant="shared"} 0.0',
            'relay_connections{tenant=""} 0.0',
            'relay_rooms{tenant="globex"} 1.0',
            'relay_messages_published_total{tenant="acme"} 1.0',
            'relay_messages_published_total{tenant="globex"} 0.0',
            'relay_protocol_connections{protocol="relay.v1.json",tenant="acme"} 1.0',
            "relay_ready 1.0",
        ):
            assert line in page.splitlines(), line

        async def api(path: str, method: str = "GET", **body: Any) -> Answer:
            sent = json.dumps(body).encode() if body else b""
            return await request(relay, f"/api/v1{path}", bearer(KEY), internal=True, method=method, body=sent)

        assert (await api("/info")).json()["tenants"] == ["acme", "globex", "shared"]
        assert (await api(f"/rooms/{ROOM}")).status == 404
        assert (await api(f"/rooms/{ROOM}?tenant=acme")).json()["offset"] == 1
        assert (await api("/connections?tenant=globex")).json()["count"] == 1
        assert (await api("/connections")).json()["count"] == 2
        assert (await api("/rooms?tenant=nobody")).json()["error"] == "no_such_tenant"
        said = await api("/publish", "POST", tenant="globex", room=ROOM, data="operator")
        assert said.json()["members"] == 1
        assert (await api("/subjects/ann/close", "POST", reason="x")).json()["closed"] == 0
        assert (await api("/subjects/ann/close?tenant=globex", "POST", reason="x")).json()["closed"] == 1
        assert (await ann.ask("ping"))["t"] == "pong"
        assert ann.messages() == []


async def test_auth_check_judges_as_the_handshake_does(relay: RelayProcess):
    async def check(tenant: str, host: str) -> Answer:
        stream = await connect(relay, host)
        try:
            headers = [("Host", host), *bearer(token(relay, tenant)).items()]
            return await _exchange(stream, "GET", "/auth/check", headers, b"")
        finally:
            await trio.aclose_forcefully(stream)

    assert (await check("acme", "acme.test")).json()["subject"] == "ann"
    assert (await check("globex", "acme.test")).status == 403
    assert (await check("acme", "localhost")).status == 403


def with_initech(**table: Any) -> dict[str, Any]:
    SECRETS["initech"] = "the secret of initech, which is long enough"
    found = overrides(initech={"issuers": ["initech"], **table})
    found["auth.issuers"]["initech"] = issuer("initech")
    return found


async def test_a_reload_changes_limits_and_brings_a_tenant_that_is_served_at_once(relay: RelayProcess):
    async with talker(relay, "globex") as (other, _):
        changed = with_initech(limits={"rooms": 1}, plugins={"chat": {"rooms": "chat:*", "history": 3}})
        changed["tenants"]["acme"]["limits"] = {"max_connections": 1}
        assert (await reloaded(relay, changed))["needs_restart"] == ""
        async with talker(relay, "acme"):
            assert (await handshake(relay, "/ws", token(relay, "acme"), "acme.test")).status == 503
        HOST["initech"] = "localhost"
        async with talker(relay, "initech") as (ann, _), talker(relay, "initech", "bob") as (bob, _):
            for one in (ann, bob, other):
                assert (await one.ask("join", room=ROOM))["t"] == "ok"
            assert (await ann.ask("publish", room=ROOM, data="new here"))["offset"] == 1
            assert (await bob.ask("ping"))["t"] == "pong"
            assert (bob.messages(), other.messages()) == (["new here"], [])
            assert (await ann.ask("join", room="feed:news"))["code"] == "no_such_room"
            refused = await ann.ask("join", room="chat:2")
            assert (refused["code"], refused["limit"]) == ("too_many_open_rooms", "tenants.initech.limits.rooms")
            page = (await request(relay, "/metrics", internal=True)).body.decode()
            assert 'relay_connections{tenant="initech"} 2.0' in page.splitlines()
            info = await request(relay, "/api/v1/info", bearer(KEY), internal=True)
            assert info.json()["tenants"] == ["acme", "globex", "shared", "initech"]


async def test_a_tenant_that_is_taken_out_ends_and_the_others_do_not_notice(relay: RelayProcess):
    async with talker(relay, "acme") as (ann, _), talker(relay, "globex") as (other, _):
        assert (await ann.ask("join", room=ROOM))["t"] == "ok"
        assert (await other.ask("join", room=ROOM))["t"] == "ok"
        changed = overrides()
        del changed["tenants"]["acme"], changed["auth.issuers"]["acme"]
        changed["server"] = {"drain_spread": 5.0}
        assert (await reloaded(relay, changed))["needs_restart"] == ""
        bye = json.loads(await ann.connection.get_message())
        assert (bye["t"], bye["code"], bye["reason"]) == ("bye", 1001, "this tenant is not served any more")
        assert bye["limit"] == "tenants.acme"
        assert 0 <= bye["reconnect"]["after"] <= 5.0
        with pytest.raises(ConnectionClosed) as closed, trio.fail_after(5):
            await ann.connection.get_message()
        assert (closed.value.reason.code, closed.value.reason.reason) == (1001, f"{bye['reason']} [tenants.acme]")
        assert (await relay.until_log("tenant is gone"))["tenant"] == "acme"
        assert (await handshake(relay, "/ws", token(relay, "acme"), "acme.test")).status == 401
        assert (await other.ask("publish", room=ROOM, data="still here"))["offset"] == 1
        page = (await request(relay, "/metrics", internal=True)).body.decode()
        assert 'tenant="acme"' not in page
        missing = await request(relay, "/api/v1/rooms?tenant=acme", bearer(KEY), internal=True)
        assert missing.json()["error"] == "no_such_tenant"
    assert (await reloaded(relay, overrides(), "tenant is served"))["tenant"] == "acme"
    async with talker(relay, "acme") as (ann, _):
        assert (await ann.ask("join", room=ROOM))["offset"] == 0, "what was remembered in memory went with it"


async def test_a_new_tenant_with_a_fault_changes_nothing_and_every_fault_is_told_with_its_line(relay: RelayProcess):
    async with talker(relay, "acme") as (ann, _):
        bad = with_initech(plugins={"nope": {"rooms": "x:*"}, "chat": {"rooms": "chat:*", "hostory": 3}})
        bad["tenants"]["globex"] = {"issuers": ["globex"], "limits": {"rooms": 1}}
        bad["tenants"]["umbrella"] = {"hosts": ["umbrella.test"], "plugins": {"nada": {"rooms": "y:*"}}}
        del bad["tenants"]["acme"], bad["auth.issuers"]["acme"]
        refused = await reloaded(relay, bad, "reload refused, everything stays as it was")
        for told in (
            "tenants.initech.plugins.nope: no plugin named 'nope'",
            "tenants.initech.plugins.chat.hostory: ",
            "tenants.umbrella.plugins.nada: no plugin named 'nada'",
        ):
            found = re.search(rf"config\.toml:(\d+): {re.escape(told)}", refused["problems"])
            assert found is not None, refused["problems"]
            line = relay.config_path.read_text().splitlines()[int(found[1]) - 1]
            assert line.startswith("initech" if "initech" in told else "umbrella")
        assert (await ann.ask("join", room=ROOM))["t"] == "ok"
        assert (await handshake(relay, "/ws", token(relay, "initech"), "localhost")).status == 401
        async with talker(relay, "globex") as (other, _):
            for number in range(3):
                assert (await other.ask("join", room=f"chat:{number}"))["t"] == "ok"


async def test_hosts_that_a_reload_brings_are_compared_with_the_name_in_tls(tmp_path: Path):
    tables = overrides()
    for table in tables["tenants"].values():
        table.pop("hosts", None)
    async with running_relay(tmp_path, tables) as relay:
        assert (await handshake(relay, "/ws", token(relay, "acme"), "acme.test", asked_for="shared.test")).status == 101
        await reloaded(relay, overrides())
        answer = await handshake(relay, "/ws", token(relay, "acme"), "acme.test", asked_for="shared.test")
        assert (answer.status, answer.json()["error"]) == (421, "misdirected")
