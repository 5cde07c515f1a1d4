"""A token's life on a live connection, over real TLS: its end, its renewal, its revocation."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio

from tests.components import ROOT
from tests.e2e.clients import TrioClient, closed, trio_client
from tests.e2e.harness import ALL_ROOMS, UPGRADE, RelayProcess, bearer, request, running_relay

pytestmark = pytest.mark.e2e

PATIENCE = 40.0
V1 = ["relay.v1.json"]


def token(relay: RelayProcess, subject: str = "ann", expires_in: float = 300.0, **claims: Any) -> str:
    """A token with further claims, such as jti."""
    body = {"sub": subject, "iat": time.time(), "exp": time.time() + expires_in, "relay": ALL_ROOMS, **claims}
    return jwt.encode(body, relay.token_secret.removesuffix(b"\n"), "HS256", headers={"kid": "dev"})


async def told(client: TrioClient, kind: str) -> Any:
    """The next of what the server says of that kind."""
    while True:
        said = json.loads(await client.hear())
        if said["t"] == kind:
            return said


def revoke(path: Path, **entry: Any) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(entry) + "\n")
    beside.replace(path)


async def test_a_session_ends_with_its_token_unless_it_is_renewed(tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            running_relay(tmp_path, {"auth": {"leeway": 0.0}}) as relay,
            trio_client(relay, "/ws", token(relay, "ann", 2.0), V1) as ann,
            trio_client(relay, "/ws", token(relay, "bob", 2.0), V1) as bob,
        ):
            hello = await told(ann, "hello")
            expiring = await told(ann, "expiring")
            assert 0 < expiring["in"] < 1
            await ann.say(json.dumps({"t": "auth", "id": 1, "token": token(relay, "ann", 300.0)}))
            assert (await told(ann, "ok"))["expires"] > hello["expires"] + 200
            expires = (await told(bob, "hello"))["expires"]
            reason = await closed(bob)
            assert (reason.code, reason.reason) == (4401, "the token has expired")
            late = time.time() - expires
            assert late < 1.0, f"closed {late:.3f} s after exp"
            await ann.say(json.dumps({"t": "ping", "id": 2}))
            assert (await told(ann, "pong"))["id"] == 2


async def test_where_the_policy_is_to_listen_an_expired_session_hears_on(tmp_path: Path) -> None:
    auth = {"leeway": 0.0, "on_expiry": "read_only", "read_only_for": 600.0}
    with trio.fail_after(PATIENCE):
        async with (
            running_relay(tmp_path, {"auth": auth}) as relay,
            trio_client(relay, "/ws", token(relay, "ann", 1.0), V1) as ann,
            trio_client(relay, "/rooms/lobby", token(relay, "bob")) as bob,
        ):
            await ann.say(json.dumps({"t": "join", "id": 1, "room": "lobby"}))
            await told(ann, "ok")
            error = await told(ann, "error")
            assert (error["id"], error["code"], error["limit"]) == (None, "unauthorized", "auth.on_expiry")
            await ann.say(json.dumps({"t": "publish", "id": 2, "room": "lobby", "data": "no"}))
            assert (await told(ann, "error"))["id"] == 2
            await bob.say("still heard")
            assert (await told(ann, "message"))["data"] == "still heard"
            await ann.say(json.dumps({"t": "auth", "id": 3, "token": token(relay, "ann")}))
            assert (await told(ann, "ok"))["id"] == 3
            await ann.say(json.dumps({"t": "publish", "room": "lobby", "data": "yes"}))
            assert await bob.hear() == "yes"


async def test_a_revocation_in_the_file_ends_sessions_and_keeps_the_token_out(tmp_path: Path) -> None:
    path = tmp_path / "revoked.jsonl"
    with trio.fail_after(PATIENCE):
        async with running_relay(tmp_path, {"auth": {"revocation_file": path.name}}) as relay:
            stolen, good = token(relay, jti="stolen"), token(relay, jti="good")
            async with (
                trio_client(relay, "/ws", stolen, V1) as thief,
                trio_client(relay, "/rooms/lobby", stolen) as plain,
                trio_client(relay, "/ws", good, V1) as ann,
            ):
                for client in (thief, ann):
                    await told(client, "hello")
                begun = trio.current_time()
                revoke(path, jti="stolen")
                assert (await told(thief, "bye"))["code"] == 4401
                for client in (thief, plain):
                    reason = await closed(client)
                    assert (reason.code, reason.reason) == (4401, "the token was revoked [auth.revocation_file]")
                took = trio.current_time() - begun
                assert took < 2.0, f"closed {took:.3f} s after the file was written"
                answer = await request(relay, "/rooms/lobby", UPGRADE | bearer(stolen))
                assert (answer.status, answer.json()["error"]) == (401, "token_revoked")
                assert answer.json()["setting"] == "auth.revocation_file"
                assert (await request(relay, "/auth/check", bearer(stolen))).json()["error"] == "token_revoked"
                await ann.say(json.dumps({"t": "auth", "id": 1, "token": stolen}))
                assert (await told(ann, "error"))["message"] == "token_revoked: the token was revoked"
                await ann.say(json.dumps({"t": "ping", "id": 2}))
                assert (await told(ann, "pong"))["id"] == 2


async def test_a_broken_revocation_file_changes_nothing_and_says_where_it_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "revoked.jsonl"
    with trio.fail_after(PATIENCE):
        async with running_relay(tmp_path, {"auth": {"revocation_file": path.name}}) as relay:
            revoke(path, subject="ann")
            await relay.until_log("revocations read", entries=1)
            path.write_text('{"subject": "bob"}\njti:7\n')
            line = await relay.until_log("revocations not read, those of before stay in force")
            assert f"{path}:2: " in str(line["problems"])
            assert (await request(relay, "/auth/check", bearer(token(relay, "ann")))).status == 401
            assert (await request(relay, "/auth/check", bearer(token(relay, "bob")))).status == 200


async def test_the_further_sockets_of_a_session_end_with_its_token(tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            running_relay(tmp_path, {"auth": {"leeway": 0.0}}) as relay,
            trio_client(relay, "/ws", token(relay, "ann", 2.0), V1) as first,
        ):
            session = (await told(first, "hello"))["session"]
            path = f"/ws?session={session}&channels=urgent"
            async with trio_client(relay, path, token(relay, "ann", 300.0), V1) as second:
                assert (await closed(first)).code == 4401
                assert (await closed(second)).code == 4401


async def test_the_further_sockets_of_a_session_need_no_token_of_their_own_once_they_are_open(tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            running_relay(tmp_path, {"auth": {"leeway": 0.0}}) as relay,
            trio_client(relay, "/ws", token(relay, "ann", 300.0), V1) as first,
        ):
            session = (await told(first, "hello"))["session"]
            path = f"/ws?session={session}&channels=urgent"
            short = token(relay, "ann", 1.0)
            async with trio_client(relay, path, short, V1) as second:
                while (await request(relay, "/auth/check", bearer(short))).status != 401:
                    await trio.lowlevel.checkpoint()
                await second.say(json.dumps({"t": "ping", "id": 1}))
                assert (await told(first, "pong"))["id"] == 1


async def test_a_reload_with_another_policy_holds_for_live_sessions(tmp_path: Path) -> None:
    auth = {"leeway": 0.0, "on_expiry": "read_only", "read_only_for": 0.0}
    with trio.fail_after(PATIENCE):
        async with (
            running_relay(tmp_path, {"auth": auth}) as relay,
            trio_client(relay, "/ws", token(relay, "ann", 1.0), V1) as ann,
        ):
            assert (await told(ann, "error"))["limit"] == "auth.on_expiry"
            relay.configure({"auth": {**auth, "on_expiry": "close"}})
            relay.process.send_signal(signal.SIGHUP)
            await relay.until_log("reloaded")
            assert (await closed(ann)).code == 4401


# The API.

KEY = "a-key-that-opens-the-api"


async def ask(relay: RelayProcess, method: str, query: str = "", body: Any = None) -> tuple[int, Any]:
    data = b"" if body is None else json.dumps(body).encode()
    path = f"/api/v1/revocations{query}"
    answer = await request(relay, path, bearer(KEY), method=method, internal=True, body=data)
    return answer.status, answer.json()


async def test_what_is_revoked_by_the_api_ends_at_once_and_is_not_forgotten_by_a_restart(tmp_path: Path) -> None:
    overrides = {
        "auth": {"revocation_file": "revoked.jsonl", "max_lifetime": 3600.0},
        "internal": {"api_keys": [KEY], "listen": ["127.0.0.1:0"]},
    }
    with trio.fail_after(2 * PATIENCE):
        async with running_relay(tmp_path, overrides) as relay:
            old = token(relay)
            async with (
                trio_client(relay, "/ws", old, V1) as ann,
                trio_client(relay, "/ws", token(relay, "bob"), V1) as bob,
            ):
                for client in (ann, bob):
                    await told(client, "hello")
                now = time.time()
                status, answer = await ask(relay, "POST", body={"subject": "ann", "issued_before": now, "for": 600})
                assert (status, answer["closed"], answer["kept"]) == (200, 1, True)
                assert answer["revoked"]["until"] == pytest.approx(now + 600, abs=10)
                assert (await closed(ann)).code == 4401
                await bob.say(json.dumps({"t": "ping", "id": 1}))
                assert (await told(bob, "pong"))["id"] == 1
            assert (await request(relay, "/auth/check", bearer(old))).json()["error"] == "token_revoked"
            newer = token(relay, iat=now + 1)
            assert (await request(relay, "/auth/check", bearer(newer))).status == 200
        async with running_relay(tmp_path, overrides) as relay:
            relay.token_secret = (tmp_path / "certs/token-secret").read_bytes()
            assert (await request(relay, "/auth/check", bearer(token(relay, iat=now - 1)))).status == 401
            status, answer = await ask(relay, "GET")
            assert (status, answer["count"], answer["revocations"][0]["subject"]) == (200, 1, "ann")
            conditions = f"?subject=ann&issued_before={answer['revocations'][0]['issued_before']!r}"
            assert (await ask(relay, "DELETE", "?subject=ann"))[0] == 404
            status, answer = await ask(relay, "DELETE", conditions)
            assert (status, answer["kept"], answer["undone"]["subject"]) == (200, True, "ann")
            assert (await ask(relay, "GET"))[1]["count"] == 0
            assert (await request(relay, "/auth/check", bearer(token(relay, iat=now - 1)))).status == 200
        assert (tmp_path / "revoked.jsonl").read_text() == ""


async def test_the_api_says_why_it_revokes_nothing(tmp_path: Path) -> None:
    overrides = {"auth": {"max_revocations": 1}, "internal": {"api_keys": [KEY], "listen": ["127.0.0.1:0"]}}
    with trio.fail_after(PATIENCE):
        async with running_relay(tmp_path, overrides) as relay:
            for body, reason in (
                ({}, "it names no token"),
                ({"jti": "1", "for": 5, "until": 4e9}, "not both"),
                ({"jti": "1", "until": 5}, "over already"),
                ({"sub": "ann"}, "unknown field `sub`"),
                ({"jti": "x" * 300}, "jti is not a text"),
                ({"issued_before": "now"}, "Expected `float"),
                ({"jti": "1", "for": 0}, "`float` > 0"),
            ):
                status, answer = await ask(relay, "POST", body=body)
                assert (status, answer["error"]) == (400, "bad_request"), body
                assert reason in answer["reason"]
            for query, reason in (("", "it names no token"), ("?issued_before=now", "not a time"), ("?sub=a", "sub")):
                status, answer = await ask(relay, "DELETE", query)
                assert (status, answer["error"]) == (400, "bad_request"), query
                assert reason in answer["reason"]
            status, answer = await ask(relay, "POST", body={"jti": "1"})
            assert (status, answer["kept"]) == (200, False)
            assert "auth.revocation_file" in answer["problem"]
            status, answer = await ask(relay, "POST", body={"jti": "2"})
            assert (status, answer["error"], answer["setting"]) == (
                507, "too_many_revocations", "auth.max_revocations"
            )  # fmt: skip


async def run(relay: RelayProcess, *arguments: str) -> tuple[int, str, str]:
    """`relay revoke` with the relay's configuration: status, output, errors."""
    url = ["--url", relay.internal_url, "-c", str(relay.config_path)]
    done = await trio.run_process(
        [sys.executable, "-m", "relay", "revoke", *arguments, *url],
        capture_stdout=True, capture_stderr=True, check=False, cwd=relay.folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_the_command_revokes_lists_and_takes_back(tmp_path: Path) -> None:
    overrides = {"auth": {"revocation_file": "r.jsonl"}, "internal": {"api_keys": [KEY], "listen": ["127.0.0.1:0"]}}
    with trio.fail_after(2 * PATIENCE):
        async with (
            running_relay(tmp_path, overrides) as relay,
            trio_client(relay, "/rooms/lobby", token(relay, jti="x1")) as ann,
        ):
            await relay.until_log("listening")
            status, out, err = await run(relay, "--jti", "x1")
            assert (status, err) == (0, "")
            assert out == "revoked: jti x1, for good; 1 session closed\n"
            assert (await closed(ann)).code == 4401
            status, out, _ = await run(relay, "--subject", "bob", "--issued-before", "2026-11-24", "--for", "7d")
            assert status == 0
            assert out.startswith("revoked: subject bob, issued before 2026-11-2")
            assert out.endswith("0 sessions closed\n")
            status, out, _ = await run(relay, "--list")
            assert [line.split(",")[0] for line in out.splitlines()] == [
                "subject bob", "jti x1", "2 of at most 100000 revocations"
            ]  # fmt: skip
            status, out, _ = await run(relay, "--undo", "--jti", "x1")
            assert (status, out) == (0, "taken back: jti x1, for good\n")
            status, _, err = await run(relay, "--undo", "--jti", "x1")
            assert status == 1
            assert err.startswith("no_such_revocation: ")
            assert (await request(relay, "/auth/check", bearer(token(relay, jti="x1")))).status == 200
