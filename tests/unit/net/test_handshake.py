"""The strict upgrade: a table of requests with the one status each may get, and where a token is found."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection
from wsproto.events import Request as ClientRequest

from relay.config.schema import Limits
from relay.errors import Rejected
from relay.net.handshake import Upgrade, accept_response, check_upgrade, choose_subprotocol, find_credential, is_upgrade
from relay.net.head import Headers, Request
from relay.net.http import HTTPConnection

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the example of RFC 6455 section 1.3
FIELDS = [
    ("Host", "relay.example"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", KEY),
    ("Sec-WebSocket-Version", "13"),
]
LINE = "GET /ws HTTP/1.1"


def raw(*changes: tuple[str, str | None], line: str = LINE, body: str = "") -> bytes:
    """A good request with fields changed (the name is there), added (it is not), or left out (None)."""
    fields = list(FIELDS)
    for name, value in changes:
        at = next((index for index, field in enumerate(fields) if field[0] == name), None)
        if value is None:
            fields = [field for field in fields if field[0] != name]
        elif at is None:
            fields.append((name, value))
        else:
            fields[at] = (name, value)
    return raw_fields(fields, line, body)


def raw_fields(fields: list[tuple[str, str]], line: str = LINE, body: str = "") -> bytes:
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in fields), "", body]).encode("latin-1")


def twice(name: str, value: str) -> bytes:
    return raw_fields([*FIELDS, (name, value)])


class OneRead:
    def __init__(self, data: bytes) -> None:
        self.data = data

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        data, self.data = self.data, b""
        return data

    async def send_all(self, data: bytes) -> None:
        raise AssertionError("nothing is to be sent")


async def upgrade_of(data: bytes, *, token_in_query: bool = False) -> Upgrade:
    request = await HTTPConnection(OneRead(data), Limits()).next_request()
    assert request is not None
    assert is_upgrade(request)  # every row means to be one
    return check_upgrade(request, token_in_query=token_in_query)


def request_with(*fields: tuple[str, str], target: str = "/ws") -> Request:
    return Request("GET", target, Headers([*FIELDS, *fields]))


TABLE = [
    ("as in RFC 6455", 101, raw()),
    ("names in any case", 101, raw(("Upgrade", "WebSocket"), ("Connection", "keep-alive, UPGRADE"))),
    ("Connection over two lines", 101, raw_fields([*FIELDS[:2], ("Connection", "keep-alive"), *FIELDS[2:]])),
    ("empty list members", 101, raw(("Connection", ",, Upgrade ,"), ("Sec-WebSocket-Protocol", "a,,b"))),
    ("Upgrade with an alternative", 101, raw(("Upgrade", "h2c, websocket"))),
    ("an empty body, announced", 101, raw(("Content-Length", "0"))),
    ("absolute form", 101, raw(line="GET https://relay.example/ws HTTP/1.1")),
    ("a proxy's field beyond ASCII", 101, raw(("X-City", "K\xf6ln"))),
    ("a punycode host", 101, raw(("Host", "xn--a"))),
    ("Basic credentials", 101, raw(("Authorization", "Basic YTpi"))),
    ("POST", 405, raw(line="POST /ws HTTP/1.1")),
    ("HEAD", 405, raw(line="HEAD /ws HTTP/1.1")),
    ("OPTIONS", 405, raw(line="OPTIONS /ws HTTP/1.1")),
    ("lower-case method", 405, raw(line="get /ws HTTP/1.1")),
    ("HTTP/1.0", 505, raw(line="GET /ws HTTP/1.0")),
    ("HTTP/2.0", 505, raw(line="GET /ws HTTP/2.0")),
    ("HTTP/1.2", 505, raw(line="GET /ws HTTP/1.2")),
    ("no Host", 400, raw(("Host", None))),
    ("two Hosts", 400, twice("Host", "other.example")),
    ("an empty Host", 400, raw(("Host", ""))),
    ("a Host beyond ASCII", 400, raw(("Host", "relay.\xe4xample"))),
    ("another host in the target", 400, raw(line="GET https://other.example/ws HTTP/1.1")),
    ("no Upgrade", 400, raw(("Upgrade", None))),
    ("another Upgrade", 400, raw(("Upgrade", "h2c"))),
    ("Upgrade beyond ASCII", 400, raw(("Upgrade", "websocket\xa0"))),
    ("no Connection", 400, raw(("Connection", None))),
    ("Connection without upgrade", 400, raw(("Connection", "keep-alive"))),
    ("Connection close", 400, raw(("Connection", "close"))),
    ("Connection beyond ASCII", 400, raw(("Connection", "\xdcpgrade"))),
    ("no key, and yet an upgrade", 400, raw(("Sec-WebSocket-Key", None))),
    ("two keys", 400, twice("Sec-WebSocket-Key", KEY)),
    ("an empty key", 400, raw(("Sec-WebSocket-Key", ""))),
    ("a key of 15 bytes", 400, raw(("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAA"))),
    ("a key of 17 bytes", 400, raw(("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAAA="))),
    ("a key that is not base64", 400, raw(("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZ!=="))),
    ("a key without padding", 400, raw(("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ"))),
    ("a key in another spelling", 400, raw(("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZR=="))),
    ("a key beyond ASCII", 400, raw(("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25j\xe9Q=="))),
    ("no version", 426, raw(("Sec-WebSocket-Version", None))),
    ("version 8", 426, raw(("Sec-WebSocket-Version", "8"))),
    ("versions 13 and 8", 426, raw(("Sec-WebSocket-Version", "13, 8"))),
    ("version 013", 426, raw(("Sec-WebSocket-Version", "013"))),
    ("version 13 twice", 426, twice("Sec-WebSocket-Version", "13")),
    ("a body", 400, raw(("Content-Length", "5"), body="hello")),
    ("a chunked body", 400, raw(("Transfer-Encoding", "chunked"), body="5\r\nhello\r\n0\r\n\r\n")),
    ("an empty chunked body", 400, raw(("Transfer-Encoding", "chunked"), body="0\r\n\r\n")),
    ("both framings", 400, raw(("Transfer-Encoding", "chunked"), ("Content-Length", "0"))),
    ("a subprotocol that is no token", 400, raw(("Sec-WebSocket-Protocol", "a b"))),
    ("a subprotocol beyond ASCII", 400, raw(("Sec-WebSocket-Protocol", "relay.v1.json, \xe9"))),
    ("the same subprotocol twice", 400, raw(("Sec-WebSocket-Protocol", "a, a"))),
    ("two tokens", 400, raw(("Sec-WebSocket-Protocol", "bearer.a, bearer.b"))),
    ("an empty token", 400, raw(("Sec-WebSocket-Protocol", "bearer."))),
    ("extensions beyond ASCII", 400, raw(("Sec-WebSocket-Extensions", "permessage-d\xe9flate"))),
    ("two Origins", 400, raw_fields([*FIELDS, ("Origin", "https://a"), ("Origin", "https://b")])),
    ("an Origin beyond ASCII", 400, raw(("Origin", "https://\xe4"))),
    ("two Authorizations", 400, raw_fields([*FIELDS, ("Authorization", "Bearer a"), ("Authorization", "Bearer b")])),
    ("an empty bearer", 400, raw(("Authorization", "Bearer"))),
    ("a bearer with a space", 400, raw(("Authorization", "Bearer a b"))),
    ("a bearer beyond ASCII", 400, raw(("Authorization", "Bearer a.\xe9.c"))),
    ("a token in the query", 401, raw(line="GET /ws?token=a.b.c HTTP/1.1")),
]


@pytest.mark.parametrize(("status", "data"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
async def test_each_request_gets_its_one_status(status: int, data: bytes) -> None:
    if status == 101:
        upgrade = await upgrade_of(data)
        assert accept_response(upgrade, None).startswith(b"HTTP/1.1 101 ")
        return
    with pytest.raises(Rejected) as caught:
        await upgrade_of(data)
    assert caught.value.status == status


async def test_a_refused_version_names_the_one_we_speak() -> None:
    with pytest.raises(Rejected) as caught:
        await upgrade_of(raw(("Sec-WebSocket-Version", "8")))
    assert ("Sec-WebSocket-Version", "13") in caught.value.headers


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ([("Upgrade", "websocket")], True),
        ([("Upgrade", "foo"), ("Upgrade", "x, WEBSOCKET")], True),
        ([("Sec-WebSocket-Key", "")], True),
        ([("Upgrade", "h2c"), ("Connection", "Upgrade, HTTP2-Settings")], False),
        ([("Connection", "Upgrade")], False),
        ([], False),
    ],
)
def test_only_a_websocket_is_an_upgrade(fields: list[tuple[str, str]], wanted: bool) -> None:
    assert is_upgrade(Request("GET", "/", Headers([("Host", "a"), *fields]))) is wanted


async def test_what_the_client_offers_comes_out_in_its_order_and_without_the_token() -> None:
    fields = [
        ("Sec-WebSocket-Protocol", "z, bearer.x.y.z"),
        ("Sec-WebSocket-Protocol", "a"),
        ("Sec-WebSocket-Extensions", 'permessage-deflate; client_max_window_bits, x; y="a,b"'),
        ("Origin", "https://app.example"),
    ]
    upgrade = await upgrade_of(raw_fields([*FIELDS, *fields]))
    assert (upgrade.key, upgrade.subprotocols, upgrade.token) == (KEY, ["z", "a"], "x.y.z")
    assert upgrade.origin == "https://app.example"
    assert upgrade.extensions == ['permessage-deflate; client_max_window_bits, x; y="a,b"']
    assert "x.y.z" not in repr(upgrade)


async def test_a_client_that_offers_nothing_has_nothing() -> None:
    upgrade = await upgrade_of(raw())
    assert (upgrade.subprotocols, upgrade.token, upgrade.origin, upgrade.extensions) == ([], None, None, [])


AUTHORIZATION = ("Authorization", "Bearer from.the.header")
SUBPROTOCOL = ("Sec-WebSocket-Protocol", "relay.v1.json, bearer.from.the.list")


@pytest.mark.parametrize(
    ("fields", "target", "token"),
    [
        ([AUTHORIZATION, SUBPROTOCOL], "/ws?token=from.the.query", "from.the.header"),
        ([SUBPROTOCOL], "/ws?token=from.the.query", "from.the.list"),
        ([], "/ws?token=from.the.query", "from.the.query"),
        ([("Authorization", "bEARER  a-_~+/9==")], "/ws", "a-_~+/9=="),
        ([("Authorization", "Basic YTpi"), SUBPROTOCOL], "/ws", "from.the.list"),
        ([("Authorization", "")], "/ws", None),
        ([], "/ws?tokens=a", None),
    ],
)
def test_the_token_is_taken_from_the_first_place_that_has_one(
    fields: list[tuple[str, str]], target: str, token: str | None
) -> None:
    found = find_credential(request_with(*fields, target=target), token_in_query=True)
    assert (found and found.value) == token


@pytest.mark.parametrize("target", ["/ws?token=", "/ws?token=a%20b", "/ws?token=%C3%A4", "/ws?token=a&token=b"])
def test_a_malformed_token_in_the_query_is_refused(target: str) -> None:
    with pytest.raises(Rejected) as caught:
        find_credential(request_with(target=target), token_in_query=True)
    assert caught.value.status == 400


def test_a_token_in_the_query_is_refused_by_name_when_that_is_off() -> None:
    with pytest.raises(Rejected) as caught:
        find_credential(request_with(target="/ws?token=a.b.c"))
    assert (caught.value.status, caught.value.setting) == (401, "auth.token_in_query")
    found = find_credential(request_with(AUTHORIZATION, target="/ws?token=a.b.c"))
    assert (found and found.value) == "from.the.header"


@pytest.mark.parametrize(("offered", "chosen"), [([], None), (["b"], "b"), (["x", "b", "a"], "b"), (["a", "b"], "a")])
def test_the_first_subprotocol_that_both_know_is_chosen(offered: list[str], chosen: str | None) -> None:
    assert choose_subprotocol(offered, ["a", "b"]) == chosen


def test_only_unknown_subprotocols_are_refused_with_the_known_ones() -> None:
    with pytest.raises(Rejected) as caught:
        choose_subprotocol(["x", "A"], ["a", "b"])
    assert (caught.value.status, caught.value.code) == (400, "unknown_subprotocol")
    assert "a, b" in caught.value.reason


async def test_the_answer_is_the_one_of_the_rfc() -> None:
    answer = accept_response(await upgrade_of(raw(("Sec-WebSocket-Protocol", "chat, bearer.t"))), "chat", "x-y; z=1")
    assert answer == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n"
        b"Sec-WebSocket-Extensions: x-y; z=1\r\n\r\n"
    )


async def test_a_subprotocol_that_was_not_offered_cannot_be_accepted() -> None:
    with pytest.raises(ValueError, match="not offered"):
        accept_response(await upgrade_of(raw()), "chat")


async def test_a_browser_that_offered_nothing_but_its_token_gets_that_entry_back() -> None:
    # It would fail the connection otherwise (the plain mode has no subprotocol).
    only_token = await upgrade_of(raw(("Sec-WebSocket-Protocol", "bearer.a.b.c")))
    assert b"Sec-WebSocket-Protocol: bearer.a.b.c\r\n" in accept_response(only_token, None)
    beside = await upgrade_of(raw(("Sec-WebSocket-Protocol", "bearer.a.b.c, chat")))
    assert b"bearer" not in accept_response(beside, "chat")


async def test_an_independent_client_takes_the_answer() -> None:
    client = WSConnection(ConnectionType.CLIENT)
    upgrade = await upgrade_of(client.send(ClientRequest(host="a", target="/ws", subprotocols=["x", "bearer.t", "y"])))
    client.receive_data(accept_response(upgrade, choose_subprotocol(upgrade.subprotocols, ["y"])))
    (event,) = client.events()
    assert isinstance(event, AcceptConnection)
    assert event.subprotocol == "y"


NAMES = st.sampled_from(
    ["authorization", "origin", "upgrade", "connection", "host", "content-length", "transfer-encoding"]
    + [f"sec-websocket-{name}" for name in ("key", "version", "protocol", "extensions")]
)
VALUES = st.text(st.characters(max_codepoint=255), max_size=30) | st.sampled_from(
    [KEY, "13", "websocket", "Upgrade", "Bearer \xff", "bearer.\x00", "bearer.a,bearer.b", "0", "-1", "xn--a", "\xb2"]
)


@settings(max_examples=500, deadline=None)
@given(fields=st.lists(st.tuples(NAMES, VALUES), max_size=6), keep=st.sets(st.sampled_from(FIELDS)), query=VALUES)
def test_nothing_but_a_refusal_escapes(fields: list[tuple[str, str]], keep: set[tuple[str, str]], query: str) -> None:
    # Straight into the check, with fields that no HTTP parser would let through.
    try:
        request = Request("GET", f"/?token={query}", Headers([*(field for field in FIELDS if field in keep), *fields]))
        upgrade = check_upgrade(request, token_in_query=True)
        choose_subprotocol(upgrade.subprotocols, ["relay.v1.json"])
    except Rejected as rejected:
        assert rejected.status in (400, 401, 426)  # noqa: PT017
    else:
        assert accept_response(upgrade, None).isascii()


COOKIE = ("Cookie", "theme=dark; relay=from.the.cookie; other=1")


@pytest.mark.parametrize(
    ("fields", "target", "kind", "value"),
    [
        ([AUTHORIZATION, COOKIE], "/ws?ticket=t1&token=a.b.c", "header", "from.the.header"),
        ([("Sec-WebSocket-Protocol", "bearer.a.b.c"), COOKIE], "/ws?ticket=t1", "subprotocol", "a.b.c"),
        ([COOKIE], "/ws?ticket=t1&token=a.b.c", "cookie", "from.the.cookie"),
        ([], "/ws?ticket=t1&token=a.b.c", "ticket", "t1"),
        ([], "/ws?token=a.b.c", "query", "a.b.c"),
        ([("Cookie", "relay2=a.b.c; xrelay=a.b.c; relay")], "/ws?ticket=t1", "ticket", "t1"),
        ([("Cookie", 'relay="a.b.c"')], "/ws", "cookie", "a.b.c"),
        ([("Cookie", "x=1"), ("Cookie", "relay=a.b.c")], "/ws", "cookie", "a.b.c"),
    ],
)
def test_the_credential_is_the_first_of_header_subprotocol_cookie_ticket_and_query(
    fields: list[tuple[str, str]], target: str, kind: str, value: str
) -> None:
    found = find_credential(request_with(*fields, target=target), token_in_query=True, cookie="relay")
    assert found is not None
    assert (found.kind, found.value) == (kind, value)
    assert value not in repr(found)


def test_without_the_setting_no_cookie_is_looked_at() -> None:
    assert find_credential(request_with(COOKIE, target="/ws")) is None


@pytest.mark.parametrize(
    "lines", [["relay=a.b.c; relay=d.e.f"], ["relay=a.b.c", "relay=a.b.c"], ["relay="], ["relay=a b"], ["relay=ä"]]
)
def test_a_cookie_that_is_none_or_comes_twice_is_malformed(lines: list[str]) -> None:
    fields = [("Cookie", line.encode().decode("latin-1")) for line in lines]
    with pytest.raises(Rejected) as caught:
        find_credential(request_with(*fields, target="/ws"), cookie="relay")
    assert caught.value.status == 400
