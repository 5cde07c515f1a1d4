"""Requests that are no requests, and handshakes that are none: each gets its status, its reason and its config key."""

from __future__ import annotations

import random

import pytest

from tests.e2e.harness import UPGRADE, bearer
from tests.security.attack import CLOSE, ask, close_payload, frame, head, socket_to, upgrade
from tests.security.siege import RelayThread, under_attack

pytestmark = pytest.mark.e2e

ROOM = "/rooms/echo:attack"
NOISE = random.Random(2).randbytes(3000)
FULL = "GET / HTTP/1.1\r\nHost: localhost\r\n"


def but(**changes: str | None) -> bytes:
    """The good request with other headers; None takes one away."""
    headers: dict[str, str | None] = {**UPGRADE, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return head(ROOM, {name: value for name, value in headers.items() if value is not None})


def with_lines(*lines: str) -> bytes:
    """The good request with more lines at its end."""
    return upgrade(ROOM)[:-2] + "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n"


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        pytest.param(b"\0" + NOISE, 400, "bad_request", id="random bytes"),
        pytest.param(b"\r\n\r\n" + upgrade(ROOM), 400, "bad_request", id="empty lines in front"),
        pytest.param(b"GET\r\n\r\n", 400, "bad_request", id="no request line"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "http_version", id="HTTP/2"),
        pytest.param(head(ROOM, UPGRADE, version="2.0"), 505, "http_version", id="version 2.0"),
        pytest.param(head(ROOM, UPGRADE, version="0.9"), 505, "http_version", id="version 0.9"),
        pytest.param(head(ROOM, UPGRADE, version="1.0"), 505, "http_version", id="version 1.0"),
        pytest.param(head(ROOM, UPGRADE, version="1.1x"), 400, "bad_request", id="version 1.1x"),
        pytest.param(upgrade(ROOM).replace(b"\r\n", b"\n"), 400, "bad_request", id="bare line feeds"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, "bad_request", id="no Host"),
        pytest.param(with_lines("Host: other"), 400, "bad_request", id="two Hosts"),
        pytest.param(with_lines(" folded"), 400, "bad_request", id="a folded field"),
        pytest.param(with_lines("X : y"), 400, "bad_request", id="a space before the colon"),
        pytest.param(with_lines("no colon"), 400, "bad_request", id="no colon"),
        pytest.param(with_lines("X: a\0b"), 400, "bad_request", id="a NUL in a field"),
        pytest.param(with_lines("Content-Length: 5") + b"hello", 400, "bad_request", id="an upgrade with a body"),
        pytest.param(with_lines("Transfer-Encoding: chunked") + b"0\r\n\r\n", 400, "bad_request", id="a chunked body"),
        pytest.param(
            with_lines("Transfer-Encoding: chunked", "Content-Length: 5"), 400, "bad_request", id="two framings"
        ),
        pytest.param(with_lines("Content-Length: 5", "Content-Length: 6"), 400, "bad_request", id="two lengths"),
        pytest.param(with_lines("Transfer-Encoding: gzip"), 501, "transfer_encoding", id="an unknown coding"),
        pytest.param(but(Sec_WebSocket_Version="8"), 426, "websocket_version", id="an old version"),
        pytest.param(but(Sec_WebSocket_Version=None), 426, "websocket_version", id="no version"),
        pytest.param(with_lines("Sec-WebSocket-Version: 8"), 426, "websocket_version", id="two versions"),
        pytest.param(but(Sec_WebSocket_Key="c2hvcnQ="), 400, "bad_request", id="a short key"),
        pytest.param(with_lines(f"Sec-WebSocket-Key: {'A' * 22}=="), 400, "bad_request", id="two keys"),
        pytest.param(but(Upgrade="h2c"), 400, "bad_request", id="another upgrade"),
        pytest.param(but(Connection="close"), 400, "bad_request", id="no Connection: upgrade"),
        pytest.param(head(ROOM, UPGRADE, method="POST"), 405, "method_not_allowed", id="POST"),
        pytest.param(head(ROOM, UPGRADE, method="GE\x7fT"), 400, "bad_request", id="no method"),
        pytest.param(head(ROOM, UPGRADE | {"Host": "xn--a\xff"}), 400, "bad_request", id="a Host beyond ASCII"),
        pytest.param(but(Sec_WebSocket_Protocol="\xff"), 400, "bad_request", id="a subprotocol beyond ASCII"),
        pytest.param(but(Sec_WebSocket_Protocol="a, a"), 400, "bad_request", id="a subprotocol twice"),
        pytest.param(but(Origin="https://localhost\xff"), 400, "bad_request", id="an origin beyond ASCII"),
        pytest.param(with_lines("Origin: https://a", "Origin: https://b"), 400, "bad_request", id="two origins"),
        pytest.param(but(Sec_WebSocket_Extensions="\xe9"), 400, "bad_request", id="an extension beyond ASCII"),
        pytest.param(head("/%zz", UPGRADE), 400, "bad_request", id="a bad percent"),
        pytest.param(head("/rooms/%ff", UPGRADE), 400, "bad_request", id="a path that is not UTF-8"),
        pytest.param(head("/rooms/a%00b", UPGRADE), 400, "bad_request", id="a NUL in the path"),
        pytest.param(head("http://evil.example/ws", UPGRADE), 400, "bad_request", id="another host as target"),
        pytest.param(head("/ws?token=a&token=b", UPGRADE), 400, "bad_request", id="two tokens"),
        pytest.param(head("/nowhere", UPGRADE), 404, "not_found", id="an unknown path"),
    ],
)  # fmt: skip
async def test_a_malformed_request_gets_its_status(relay: RelayThread, request_: bytes, status: int, code: str) -> None:
    async with under_attack(relay, {f"handshakes_rejected:{code}": 1}):
        answer = await ask(relay, request_)
        assert answer.status == status, answer
        assert answer.json()["error"] == code
        assert answer.headers["connection"].lower() in ("close", "upgrade, close", "upgrade")
        if status == 405:
            assert answer.headers["allow"] == "GET"
        if status == 426:
            assert answer.headers["sec-websocket-version"] == "13"


async def test_a_parameter_given_twice_is_refused_before_the_101(relay: RelayThread) -> None:
    async with under_attack(relay, {"handshakes_rejected:bad_request": 1}):
        answer = await ask(relay, upgrade(f"{ROOM}?last=1&last=2", relay.token()))
        assert answer.status == 400
        assert "last" in answer.json()["reason"]


FIELD = "X-Much: much\r\n"


@pytest.mark.parametrize(
    ("request_", "code", "setting"),
    [
        pytest.param(f"{FULL}X: {'x' * 9000}\r\n\r\n", "head_too_large", "limits.head_bytes", id="one long field"),
        pytest.param(f"GET /{'x' * 9000} HTTP/1.1\r\n", "head_too_large", "limits.head_bytes", id="a long target"),
        pytest.param("GET /" + "x" * 9000, "head_too_large", "limits.head_bytes", id="a line without an end"),
        pytest.param(f"{FULL}{FIELD * 64}\r\n", "too_many_fields", "limits.head_fields", id="65 fields"),
        pytest.param(f"{FULL}{FIELD * 2000}", "too_many_fields", "limits.head_fields", id="fields without an end"),
        pytest.param(
            f"{FULL}Sec-WebSocket-Protocol: {',' * 60_000}\r\n\r\n", "head_too_large", "limits.head_bytes", id="commas"
        ),
    ],
)
async def test_an_oversized_head_is_refused_as_soon_as_it_is_too_large(
    relay: RelayThread, request_: str, code: str, setting: str
) -> None:
    async with under_attack(relay, {f"handshakes_rejected:{code}": 1}):
        answer = await ask(relay, request_.encode())
        assert answer.status == 431
        assert answer.json() == {"error": code, "reason": answer.json()["reason"], "setting": setting}


@pytest.mark.parametrize(("size", "status"), [(8192, 101), (8193, 431)])
async def test_the_limit_of_the_head_is_exact(relay: RelayThread, size: int, status: int) -> None:
    code = {} if status == 101 else {"handshakes_rejected:head_too_large": 1}
    async with under_attack(relay, code):
        good = upgrade(ROOM, relay.token())
        padded = good[:-2] + b"X: " + b"x" * (size - len(good) - 5) + b"\r\n\r\n"
        assert len(padded) == size
        assert (await ask(relay, padded)).status == status


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True), ("https://localhost", True), ("HTTPS://LOCALHOST", True), ("https://localhost:443", True),
        ("null", False), ("", False), ("http://localhost", False), ("https://localhost:444", False),
        ("https://localhost.evil.example", False), ("https://evil.example/localhost", False),
        ("https://localhost@evil.example", False), ("https://evil.example", False), ("https://xn--a", False),
        ("https://localhost https://evil.example", False), ("file://", False),
        ("https://127.0.0.1", False),
    ],
)  # fmt: skip
async def test_only_pages_of_the_relay_itself_may_connect(
    relay: RelayThread, origin: str | None, *, allowed: bool
) -> None:
    headers = UPGRADE | bearer(relay.token()) | ({} if origin is None else {"Origin": origin})
    async with under_attack(relay, {} if allowed else {"handshakes_rejected:origin": 1}):
        answer = await ask(relay, head(ROOM, headers))
        assert answer.status == (101 if allowed else 403)
        if not allowed:
            assert answer.json()["setting"] == "auth.allowed_origins"


@pytest.mark.parametrize(
    ("path", "offered", "known"),
    [("/ws", "mqtt, soap", "relay.v1.json"), (ROOM, "mqtt", "relay.v1.msgpack"), ("/ws", None, "relay.v1.json")],
)
async def test_an_unknown_subprotocol_is_told_the_known_ones(
    relay: RelayThread, path: str, offered: str | None, known: str
) -> None:
    headers = UPGRADE | bearer(relay.token()) | ({} if offered is None else {"Sec-WebSocket-Protocol": offered})
    async with under_attack(relay, {"handshakes_rejected:unknown_subprotocol": 1}):
        answer = await ask(relay, head(path, headers))
        assert answer.status == 400
        assert known in answer.json()["reason"]


@pytest.mark.parametrize("name", ["", ":", "a::b", "x" * 256, "%E2%80%AE", "a%20b", "*", "%7Bsub%7D", "a%C2%85"])
async def test_an_impossible_room_is_refused_with_the_reason(relay: RelayThread, name: str) -> None:
    async with under_attack(relay, {"handshakes_rejected:bad_room": 1}):
        answer = await ask(relay, upgrade(f"/rooms/{name}", relay.token()))
        assert answer.status == 400
        assert answer.json()["setting"] == "limits.room_name_bytes"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404), ("GET", "/metrics", 404), ("GET", "/../../etc/passwd", 404), ("OPTIONS", "*", 404),
        ("POST", "/healthz", 405), ("DELETE", "/readyz", 405), ("BREW", "/healthz", 405),
    ],
)  # fmt: skip
async def test_unknown_paths_and_methods_are_told_so_and_counted(
    relay: RelayThread, method: str, path: str, status: int
) -> None:
    async with under_attack(relay, {f"http_requests:{status}": 1}):
        answer = await ask(relay, head(path, {"Connection": "close"}, method=method))
        assert answer.status == status
        assert "traceback" not in answer.body.decode().lower()


async def test_a_close_code_of_the_clients_own_is_no_label_of_its_own(relay: RelayThread) -> None:
    async with under_attack(relay, {"connections_closed:4000": 3, "connections_closed:3000": 1}):
        for code in (4000, 4555, 4999, 3141):
            async with socket_to(relay) as client:
                await client.send(frame(CLOSE, close_payload(code, "mine")))
                assert (await client.closed())[0] == code
