"""What strangers write ends up in the log as one line each, readable and harmless; a token ends up nowhere."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Final

import jwt
import pytest

from tests.e2e.harness import ALL_ROOMS, UPGRADE, bearer, request
from tests.security.attack import V1_JSON, Vanished, answer_of, frame, head, open_socket, the_rest, tls, upgrade
from tests.security.siege import RelayApart, apart

pytestmark = pytest.mark.e2e

KEY: Final = "key-of-the-log-tests"
SETTINGS: Final = {"internal": {"api_keys": [KEY]}, "limits": {"auth_failures": 0}, "auth": {"token_in_query": True}}
NASTY: Final = [
    'forged"}\r\n{"level":"error","message":"all is lost',
    "\x1b[2J\x1b]0;owned\x07",
    "\u202egnp.exe",
    "a\u2028b\u2029c\x85d",
    "\x00\x08\x7f",
    "x" * 100_000,
    "%s %d {0} ${jndi:ldap://x}",
]
LINE_BYTES: Final = 8192


def lines_of(relay: RelayApart) -> list[dict[str, object]]:
    """Every line of the log, each strictly JSON; without what could move a cursor or end a line."""
    found = []
    for line in relay.log.split("\n"):
        if line:
            assert len(line.encode()) <= LINE_BYTES, line[:200]
            assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", line), repr(line[:200])
            found.append(json.loads(line))
    return found


async def test_what_strangers_write_forges_no_line(folder: Path) -> None:
    async with apart(folder, SETTINGS) as relay:
        for text in NASTY:
            quoted = "".join(f"%{byte:02x}" for byte in text[:1000].encode())
            for sent in (
                head(f"/rooms/{quoted}", UPGRADE | bearer(relay.token())),
                head(f"/{quoted}?{quoted}={quoted}"),
                upgrade("/rooms/lobby", text.replace("\r\n", "").encode("ascii", "ignore").decode()[:3000] or "x"),
                head("/rooms/lobby", UPGRADE | {"User-Agent": text.encode()[:4000].decode("latin-1")}),
                head("/rooms/lobby", UPGRADE | {"Origin": text.encode()[:4000].decode("latin-1")}),
            ):
                async with tls(relay) as stream:
                    await stream.send_all(sent)
                    try:
                        await answer_of(stream)
                    except Vanished:
                        pass
            claims = {"sub": text[:200], "exp": time.time() + 300, "relay": ALL_ROOMS, "jti": text[:100]}
            token = jwt.encode(claims, relay.token_secret.removesuffix(b"\n"), "HS256", headers={"kid": "dev"})
            assert (await request(relay, "/rooms/lobby", UPGRADE | bearer(token))).status in (101, 401)
            async with tls(relay) as stream:
                client = await open_socket(relay, stream, "/ws", subprotocol=V1_JSON)
                for said in (
                    {"t": text}, {"t": "join", "id": 1, "room": text}, {"t": "join", "id": text, "room": "lobby"},
                    {"t": "publish", "room": "lobby", "data": 1, "channel": text, "id": 2},
                ):  # fmt: skip
                    await client.send(frame(1, json.dumps(said).encode()[:60000]))
                await client.send(
                    frame(8, (1000).to_bytes(2, "big") + text.encode()[:60].decode(errors="ignore").encode())
                )
                await the_rest(client.stream)
        await relay.until_log("connection closed", code=1000)
        found = lines_of(relay)
        assert len(found) > 4 * len(NASTY)
        assert {line["level"] for line in found} <= {"debug", "info", "warning"}
        assert not any(line.get("message") == "all is lost" for line in found)
        decisions = await request(relay, "/api/v1/decisions?limit=1000", bearer(KEY), internal=True)
        assert not re.search(rb"[\x00-\x1f\x7f]", decisions.body)
        assert "\u202e" not in decisions.body.decode()


async def test_no_piece_of_a_token_or_a_payload_is_found_anywhere(folder: Path) -> None:
    async with apart(folder, SETTINGS) as relay:
        good, expired = relay.token("ann"), relay.token("bob", expires_in=-60)
        foreign = jwt.encode({"sub": "eve", "exp": time.time() + 99}, "s" * 64, "HS256", headers={"kid": "dev"})
        answers = b""
        for token in (good, expired, foreign, good[:-4] + "AAAA", good[:100]):
            for headers, path in (
                (UPGRADE | bearer(token), "/rooms/lobby"),
                (UPGRADE | {"Sec-WebSocket-Protocol": f"bearer.{token}"}, "/rooms/lobby"),
                (UPGRADE, f"/rooms/lobby?token={token}"),
                (UPGRADE, f"/rooms/lobby?access_token={token}"),
                (bearer(token), "/auth/check"),
                (bearer(token), f"/nowhere?token={token}"),
                ({"Origin": "https://evil.example"} | UPGRADE | bearer(token), f"/rooms/lobby?token={token}"),
            ):
                answers += (await request(relay, path, headers)).body
        async with tls(relay) as stream:
            client = await open_socket(relay, stream, "/ws", subprotocol=V1_JSON)
            for token in (expired, foreign, good):
                await client.say(json.dumps({"t": "auth", "id": 1, "token": token}))
                await client.say(
                    json.dumps({"t": "publish", "room": "nobody:1", "data": "the secret payload", "id": 2})
                )
                await client.say(
                    json.dumps({"t": "publish", "room": "lobby", "data": {"secret payload": 1}, "chanel": 1})
                )
                await client.say('{"t":"publish","room":"lobby","data":"the secret payload')
            await client.send(frame(8, b"\x03\xe8"))
            answers += await the_rest(client.stream)
        await relay.until_log("connection closed", code=1000)
        decisions = await request(relay, "/api/v1/decisions?limit=1000", bearer(KEY), internal=True)
        metrics = await request(relay, "/metrics", internal=True)
        connections = await request(relay, "/api/v1/connections", bearer(KEY), internal=True)
        everything = relay.log + (decisions.body + metrics.body + connections.body + answers).decode("latin-1")
        for token in (good, expired, foreign):
            for start in range(0, len(token) - 16):
                assert token[start : start + 16] not in everything, token[start : start + 16]
        assert "secret payload" not in everything
        assert KEY not in everything
        assert b"token_expired" in decisions.body
        lines_of(relay)
