"""What the relay answers over HTTP: health, the token check, metrics, and every refused WebSocket handshake with a real
status.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import trio

from tests.e2e.clients import trio_client
from tests.e2e.harness import UPGRADE, RelayProcess, bearer, request

pytestmark = pytest.mark.e2e

V1 = UPGRADE | {"Sec-WebSocket-Protocol": "relay.v1.json"}
WITHOUT_VERSION = {name: value for name, value in UPGRADE.items() if name != "Sec-WebSocket-Version"}


async def test_a_good_handshake_is_answered_with_101(relay: RelayProcess) -> None:
    answer = await request(relay, "/rooms/lobby", UPGRADE | bearer(relay.token()))
    assert answer.status == 101
    assert answer.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 section 1.3


@pytest.mark.parametrize(
    ("path", "headers", "status", "word"),
    [
        pytest.param("/rooms/lobby", UPGRADE, 401, "token_missing", id="no token"),
        pytest.param("/rooms/lobby", UPGRADE | bearer("e30.e30.e30"), 401, "token", id="not a token"),
        pytest.param("/ws", V1, 401, "token_missing", id="no token on /ws"),
        pytest.param("/ws", UPGRADE, 400, "unknown_subprotocol", id="no subprotocol on /ws"),
        pytest.param("/nowhere", UPGRADE, 404, None, id="no such path"),
        pytest.param("/rooms/lobby", WITHOUT_VERSION, 426, "websocket_version", id="no version"),
        pytest.param(
            "/rooms/lobby", UPGRADE | {"Sec-WebSocket-Version": "8"}, 426, "websocket_version", id="old version"
        ),
        pytest.param("/rooms/lobby", UPGRADE | {"Sec-WebSocket-Key": "c2hvcnQ="}, 400, None, id="short key"),
        pytest.param("/rooms/lobby", {}, 426, "upgrade_required", id="not a handshake"),
        pytest.param("/ws", UPGRADE | {"Upgrade": "h2c"}, 400, None, id="another upgrade"),
    ],
)
async def test_a_bad_handshake_is_refused_with_its_status(
    relay: RelayProcess, path: str, headers: Mapping[str, str], status: int, word: str | None
) -> None:
    answer = await request(relay, path, headers)
    assert answer.status == status, answer
    assert len(answer.body) < 1000
    if word is not None:
        assert word in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "more", "status", "word"),
    [
        pytest.param("/rooms/nobody:serves:this", {}, 404, "no_such_room", id="no such room"),
        pytest.param("/rooms/lobby", {"Origin": "https://evil.example"}, 403, "origin", id="foreign origin"),
        pytest.param("/rooms/lobby", {"Origin": "null"}, 403, "origin", id="opaque origin"),
        pytest.param(
            "/ws", {"Sec-WebSocket-Protocol": "mqtt, soap"}, 400, "unknown_subprotocol", id="unknown subprotocol"
        ),
    ],
)
async def test_a_good_token_does_not_help_a_bad_handshake(
    relay: RelayProcess, path: str, more: Mapping[str, str], status: int, word: str
) -> None:
    answer = await request(relay, path, {**UPGRADE, **bearer(relay.token()), **more})
    assert answer.status == status, answer
    assert word in answer.json()["error"]


async def test_an_expired_token_is_refused_with_a_challenge(relay: RelayProcess) -> None:
    answer = await request(relay, "/rooms/lobby", UPGRADE | bearer(relay.token(expires_in=-60)))
    assert answer.status == 401
    assert answer.json()["error"] == "token_expired"
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_room_outside_the_grants_is_refused_with_403(relay: RelayProcess) -> None:
    answer = await request(relay, "/rooms/chat:b", UPGRADE | bearer(relay.token(join=["chat:a"])))
    assert answer.status == 403
    assert answer.json()["error"] == "forbidden"


async def test_the_page_of_the_same_origin_may_connect(relay: RelayProcess) -> None:
    headers = UPGRADE | bearer(relay.token()) | {"Origin": relay.url}
    assert (await request(relay, "/rooms/lobby", headers)).status == 101


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("internal", [False, True])
async def test_health_is_told_on_both_listeners(relay: RelayProcess, path: str, internal: bool) -> None:
    assert (await request(relay, path, internal=internal)).status == 200


async def test_metrics_are_for_the_internal_listener_only(relay: RelayProcess) -> None:
    assert (await request(relay, "/metrics")).status == 404
    answer = await request(relay, "/metrics", internal=True)
    assert answer.status == 200
    assert b"# TYPE relay_" in answer.body


async def test_the_token_check_tells_a_browser_why(relay: RelayProcess) -> None:
    assert (await request(relay, "/auth/check", bearer(relay.token("ann")))).status == 200
    refused = await request(relay, "/auth/check", bearer(relay.token("ann", expires_in=-60)))
    assert refused.status == 401
    assert refused.json()["error"] == "token_expired"


async def test_the_connections_are_counted(relay: RelayProcess) -> None:
    async def gauge() -> float:
        text = (await request(relay, "/metrics", internal=True)).body.decode()
        values = [line.split()[-1] for line in text.splitlines() if line.startswith("relay_connections ")]
        return float(values[0])

    with trio.fail_after(20):
        before = await gauge()
        async with trio_client(relay, "/rooms/echo:counted", relay.token()) as client:
            await client.say("once")
            assert await client.hear() == "once"
            assert await gauge() == before + 1
