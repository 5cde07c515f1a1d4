"""Tokens and rooms at the handshake: who may not come in learns why, in the body and in WWW-Authenticate, and never
sees the token again.

Not here: the forgeries themselves, one by one (test_token_forgeries, test_token_malformed).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest

from relay.auth.refusals import TOKEN_CODES
from tests.e2e.harness import UPGRADE, bearer
from tests.security.attack import TEXT, V1_JSON, V1_MSGPACK, ask, frame, head, open_socket, socket_to, tls, upgrade
from tests.security.siege import RelayThread, besieged, under_attack
from tests.unit.auth.kit import b64, sign

pytestmark = pytest.mark.e2e

ROOM = "/rooms/echo:attack"
WRONG_SECRET = b"another secret, of sixty-four bytes, that the relay never had..."


def claims(**changes: Any) -> dict[str, Any]:
    return {"sub": "mallory", "exp": time.time() + 300, "relay": {"join": ["*"]}, **changes}


def signed(relay: RelayThread, payload: Mapping[str, Any], **header: Any) -> str:
    """Rightly signed, whatever it says."""
    secret = relay.token_secret.removesuffix(b"\n")
    return jwt.encode(dict(payload), secret, "HS256", headers={"kid": "dev", **header})


def forged(payload: Mapping[str, Any], **header: Any) -> str:
    return jwt.encode(dict(payload), WRONG_SECRET, "HS256", headers={"kid": "dev", **header})


def tokens(relay: RelayThread) -> dict[str, tuple[str, str | None]]:
    """name: (code, token)."""
    good = relay.token()
    body = good.split(".")
    unsigned = b64(b'{"alg":"none","typ":"JWT"}')
    return {
        "none": ("token_missing", None),
        "no JWT": ("token_malformed", "opaque"),
        "four parts": ("token_malformed", good + ".x"),
        "an empty signature": ("token_malformed", f"{body[0]}.{body[1]}."),
        "alg none": ("token_wrong_algorithm", f"{unsigned}.{body[1]}.AAAA"),
        "another secret": ("token_bad_signature", forged(claims())),
        "another payload": ("token_bad_signature", f"{body[0]}.{b64(json.dumps(claims()).encode())}.{body[2]}"),
        "an unknown kid": ("token_unknown_key", forged(claims(), kid="../../etc/passwd")),
        "another algorithm": ("token_wrong_algorithm", sign(claims(), "RS256", kid="dev")),
        "a critical extension": ("token_unsupported", signed(relay, claims(), crit=["x"], x=1)),
        "expired": ("token_expired", signed(relay, claims(exp=time.time() - 60))),
        "not yet valid": ("token_not_yet_valid", signed(relay, claims(nbf=time.time() + 60))),
        "without an end": ("token_no_expiry", signed(relay, {"sub": "mallory"})),
        "an absurd time": ("token_bad_claim", signed(relay, claims(exp=10**400))),
        "for others": ("token_wrong_audience", signed(relay, claims(aud="another"))),
        "without a subject": ("token_no_subject", signed(relay, {"exp": time.time() + 300})),
        "a subject that breaks lines": ("token_bad_subject", signed(relay, claims(sub="a\nb"))),
        "grants of no kind": ("token_bad_grants", signed(relay, claims(relay=["*"]))),
    }


def secrets_of(token: str) -> list[str]:
    return [part for part in token.split(".") if len(part) > 16]


@pytest.mark.parametrize("by", ["header", "subprotocol"])
async def test_a_bad_token_is_refused_with_its_reason_and_a_challenge(relay: RelayThread, by: str) -> None:
    bad = tokens(relay)
    counts: dict[str, int] = {}
    for code, _ in bad.values():
        counts[f"handshakes_rejected:{code}"] = counts.get(f"handshakes_rejected:{code}", 0) + 1
    async with under_attack(relay, counts):
        for name, (code, token) in bad.items():
            carried = {"Sec-WebSocket-Protocol": f"bearer.{token}"} if by == "subprotocol" else bearer(token or "")
            answer = await ask(relay, head(ROOM, UPGRADE | ({} if token is None else carried)))
            assert answer.status == 401, name
            told = answer.json()
            assert told["error"] == code, name
            assert len(told["reason"]) > 10
            assert told.get("setting") == TOKEN_CODES[code][1], name
            assert answer.headers["www-authenticate"].startswith('Bearer realm="relay"')
            assert ("error=" in answer.headers["www-authenticate"]) == (token is not None)
            if token is not None and len(token) > 20:
                shown = answer.body.decode() + str(answer.headers)
                assert not [part for part in secrets_of(token) if part in shown]
    assert not [part for _, token in bad.values() for part in secrets_of(token or "") if part in relay.log]


async def test_a_token_that_cannot_be_one_is_a_bad_request(relay: RelayThread) -> None:
    async with under_attack(relay, {"handshakes_rejected:bad_request": 3}):
        for credentials in ("Bearer", "Bearer a b", "Bearer \xe9"):
            answer = await ask(relay, head(ROOM, UPGRADE | {"Authorization": credentials}))
            assert answer.status == 400


async def test_a_token_in_the_query_names_the_setting_that_forbids_it(relay: RelayThread) -> None:
    async with under_attack(relay, {"handshakes_rejected:unauthorized": 1}):
        answer = await ask(relay, upgrade(f"{ROOM}?token={relay.token()}"))
        assert answer.status == 401
        assert answer.json()["setting"] == "auth.token_in_query"


async def test_a_forbidden_room_and_an_unknown_one_look_the_same_to_who_may_not_join(relay: RelayThread) -> None:
    token = relay.token(join=["echo:mine"])
    async with under_attack(relay, {"handshakes_rejected:forbidden": 2}):
        forbidden = await ask(relay, upgrade("/rooms/echo:other", token))
        unknown = await ask(relay, upgrade("/rooms/nobody:serves:this", token))
        assert forbidden.status == unknown.status == 403
        assert forbidden.body == unknown.body


async def test_a_room_that_nobody_serves_is_told_to_who_may_join_it(relay: RelayThread) -> None:
    async with under_attack(relay, {"handshakes_rejected:no_such_room": 1}):
        answer = await ask(relay, upgrade("/rooms/nobody:serves:this", relay.token()))
        assert answer.status == 404
        assert answer.json()["setting"] == "plugins"


async def test_a_room_of_two_others_is_closed_to_a_third_with_4403(relay: RelayThread) -> None:
    """The plugin says no, behind the 101."""
    async with under_attack(relay, {"connections_closed:4403": 1}):
        async with socket_to(relay, "/rooms/direct:ann:bob", relay.token("mallory")) as client:
            code, reason = await client.closed()
        assert code == 4403
        assert "two others" in reason


async def test_where_a_browser_must_be_told_a_refusal_is_a_close_frame(folder: Path) -> None:
    with besieged(folder, {"websocket": {"accept_then_close": True}}) as relay:
        expected = {
            (ROOM, relay.token(expires_in=-60)): (4401, "token_expired", "auth.leeway"),
            ("/rooms/nobody", relay.token()): (4404, "no_such_room", "plugins"),
            (ROOM, relay.token(join=["lobby"])): (4403, "forbidden", None),
        }
        counts = {f"handshakes_rejected:{code}": 1 for _, code, _ in expected.values()}
        async with under_attack(relay, counts):
            for (path, token), (close_code, word, setting) in expected.items():
                async with tls(relay) as stream:
                    client = await open_socket(relay, stream, path, token)
                    code, reason = await client.closed()
                assert code == close_code
                assert reason.startswith(word)
                assert setting is None or reason.endswith(f"[{setting}]")


async def test_a_bad_token_for_a_live_connection_is_refused_and_changes_nothing(relay: RelayThread) -> None:
    bad = [token for name, (_, token) in tokens(relay).items() if token is not None]
    bad += [relay.token("another subject"), "\u2028", "", "a" * 9000]
    counts = {"requests_refused:unauthorized": len(bad) - 1, "requests_refused:forbidden": 1}
    async with under_attack(relay, counts), socket_to(relay, "/ws", subprotocol=V1_JSON) as client:
        assert json.loads(await client.hear())["t"] == "hello"
        for number, token in enumerate(bad):
            await client.say(json.dumps({"t": "auth", "id": number, "token": token}))
            answer = json.loads(await client.hear())
            assert answer["t"] == "error"
            assert answer["id"] == number
            assert answer["code"] in ("unauthorized", "forbidden")
        await client.say(json.dumps({"t": "ping", "id": "still here"}))
        assert json.loads(await client.hear())["id"] == "still here"


@pytest.mark.parametrize(
    ("subject", "query", "protocol", "status", "code"),
    [
        pytest.param("owner", "session=made-up&channels=urgent", V1_JSON, 404, "no_such_session", id="none such"),
        pytest.param("thief", "session={0}&channels=urgent", V1_JSON, 404, "no_such_session", id="another's"),
        pytest.param("owner", "session={0}&channels=urgent", V1_MSGPACK, 400, "other_protocol", id="another codec"),
        pytest.param("owner", "session={0}&channels=control", V1_JSON, 400, "no_such_channel", id="the relay's own"),
        pytest.param("owner", "session={0}&channels=nope", V1_JSON, 400, "no_such_channel", id="no such channel"),
        pytest.param("owner", "session={0}", V1_JSON, 400, "no_such_channel", id="no channel"),
        pytest.param("owner", "session={0}&session={0}", V1_JSON, 400, "bad_request", id="two of them"),
    ],
)
async def test_a_second_socket_joins_only_a_session_of_its_own_subject(
    relay: RelayThread, subject: str, query: str, protocol: str, status: int, code: str
) -> None:
    async with (
        under_attack(relay, {f"handshakes_rejected:{code}": 1}),
        socket_to(relay, "/ws", relay.token("owner"), subprotocol=V1_JSON) as client,
    ):
        session = json.loads(await client.hear())["session"]
        path = f"/ws?{query.format(session)}"
        answer = await ask(relay, upgrade(path, relay.token(subject), protocol))
        assert answer.status == status
        assert answer.json()["error"] == code
        await client.say('{"t":"ping"}')
        assert json.loads(await client.hear())["t"] == "pong"


async def test_the_second_socket_of_a_session_that_ends_ends_with_it(relay: RelayThread) -> None:
    async with under_attack(relay, {"requests_refused:bad_request": 1}), tls(relay) as second:
        async with socket_to(relay, "/ws", relay.token("owner"), subprotocol=V1_JSON) as first:
            session = json.loads(await first.hear())["session"]
            path = f"/ws?session={session}&channels=urgent"
            leg = await open_socket(relay, second, path, relay.token("owner"), V1_JSON)
            await leg.send(frame(TEXT, b'{"t":"ping"}') * 3 + frame(TEXT, b"noise"))
            await first.say('{"t":"ping","id":1}')
            while json.loads(await first.hear()).get("id") != 1:
                pass
        code, _ = await leg.closed()
        assert code in (1000, 1001)
