"""One HTTP connection: requests in order, no byte lost, bodies bounded, and each answered."""

from __future__ import annotations

import pytest

from relay.errors import Rejected
from relay.net.handshake import is_upgrade
from relay.net.http import Response
from tests.unit.net.http_kit import GET, UPGRADE, connected, one_by_one, read_answer


async def test_a_request_comes_out_as_it_was_sent() -> None:
    connection, _ = connected(b"POST /a%20b?c=d HTTP/1.1\r\nHost: x:1\r\nX-City: K\xf6ln\r\nContent-Length: 0\r\n\r\n")
    request = await connection.next_request()
    assert request is not None
    assert (request.method, request.target, request.path, request.query) == ("POST", "/a%20b?c=d", "/a b", {"c": ["d"]})
    assert (request.http_version, request.remote, request.host) == ("1.1", "192.0.2.7", "x:1")
    assert request.headers.get("x-city") == "Köln"
    assert await request.read_body(0) == b""


async def test_a_connection_that_ends_before_a_byte_has_no_request() -> None:
    connection, _ = connected()
    assert await connection.next_request() is None


async def test_a_connection_that_ends_within_the_head_is_a_bad_request() -> None:
    connection, stream = connected(GET[:-1])
    with pytest.raises(Rejected) as caught:
        await connection.next_request()
    await connection.refuse(caught.value)
    status, headers, body = read_answer(stream.sent)
    assert status == 400
    assert headers["connection"] == "close"
    assert body == b'{"error":"bad_request","reason":"the connection ended within the request head"}'


async def test_requests_that_come_glued_are_answered_one_after_the_other() -> None:
    post = b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxyz"
    chunked = (
        b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;e=f\r\nhe\r\n3\r\nllo\r\n0\r\nT: t\r\n\r\n"
    )
    for chunks in ([GET + post + chunked + GET], one_by_one(GET + post + chunked + GET)):
        connection, _ = connected(*chunks)
        seen = []
        while (request := await connection.next_request()) is not None:
            seen.append((request.path, await request.read_body(5)))
            await connection.respond(Response(204))
            assert connection.reusable
        assert seen == [("/a", b""), ("/b", b"xyz"), ("/c", b"hello"), ("/a", b"")]


async def test_the_next_request_cannot_be_had_before_this_one_is_answered() -> None:
    connection, _ = connected(GET + GET)
    await connection.next_request()
    with pytest.raises(RuntimeError):
        await connection.next_request()


@pytest.mark.parametrize("head", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("limit", [8, 9])
async def test_a_body_may_have_exactly_as_many_bytes_as_the_limit_says(head: bytes, limit: int) -> None:
    body = b"123456789" if b"Length" in head else b"4\r\n1234\r\n5\r\n56789\r\n0\r\n\r\n"
    connection, stream = connected(b"POST / HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n" + body)
    request = await connection.next_request()
    assert request is not None
    if limit == 9:
        assert await request.read_body(limit, "api.body_bytes") == b"123456789"
        return
    with pytest.raises(Rejected) as caught:
        await request.read_body(limit, "api.body_bytes")
    assert (caught.value.status, caught.value.setting) == (413, "api.body_bytes")
    await connection.refuse(caught.value)
    status, headers, _ = read_answer(stream.sent)
    assert (status, headers["connection"]) == (413, "close")
    assert not connection.reusable


async def test_a_body_that_is_declared_too_large_is_refused_before_it_is_read() -> None:
    connection, stream = connected(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\nExpect: 100-continue\r\n\r\n", b"unread"
    )
    request = await connection.next_request()
    assert request is not None
    with pytest.raises(Rejected, match="413"):
        await request.read_body(100)
    assert stream.chunks == [b"unread"]
    assert stream.sent == b""


async def test_a_client_that_waits_is_told_to_continue() -> None:
    connection, stream = connected(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n", b"hi"
    )
    request = await connection.next_request()
    assert request is not None
    assert stream.sent == b""
    assert await request.read_body(2) == b"hi"
    assert stream.sent.startswith(b"HTTP/1.1 100 ")


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 5\r\n\r\nhi",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhi",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nhiXX0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 9000,
    ],
)
async def test_a_body_that_is_cut_off_or_badly_framed_is_refused(rest: bytes) -> None:
    connection, stream = connected(b"POST / HTTP/1.1\r\nHost: a\r\n" + rest)
    request = await connection.next_request()
    assert request is not None
    with pytest.raises(Rejected) as caught:
        await request.read_body(100)
    assert caught.value.status in (400, 431)
    await connection.refuse(caught.value)
    assert read_answer(stream.sent)[0] == caught.value.status


@pytest.mark.parametrize("value", [b"-1", b"+1", b"0x1", b"", b"1 1", b"9" * 21])
async def test_a_content_length_that_is_not_a_number_is_refused(value: bytes) -> None:
    connection, _ = connected(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + value + b"\r\n\r\n")
    with pytest.raises(Rejected) as caught:
        await connection.next_request()
    assert caught.value.status == 400


async def test_a_body_nobody_read_ends_the_connection() -> None:
    connection, stream = connected(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
    await connection.next_request()
    assert connection.body_pending
    await connection.respond(Response())
    assert not connection.reusable
    assert read_answer(stream.sent)[1]["connection"] == "close"


@pytest.mark.parametrize(
    ("head", "reusable"),
    [
        (b"GET / HTTP/1.1\r\nHost: a", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Close", False),
        (b"GET / HTTP/1.0", False),
    ],
)
async def test_the_connection_is_kept_unless_the_client_closes_or_is_old(head: bytes, reusable: bool) -> None:
    connection, stream = connected(head + b"\r\n\r\n")
    await connection.next_request()
    await connection.respond(Response(body=b"x"))
    assert connection.reusable is reusable
    assert ("connection" in read_answer(stream.sent)[1]) is not reusable


async def test_head_gets_the_head_of_what_get_would_get() -> None:
    connection, stream = connected(GET.replace(b"GET", b"HEAD") + GET)
    for _ in range(2):
        await connection.next_request()
        await connection.respond(Response(body=b"hello"))
    head, _, rest = stream.sent.partition(b"\r\n\r\n")
    assert b"Content-Length: 5" in head
    assert rest.startswith(b"HTTP/1.1 200")
    assert read_answer(rest)[2] == b"hello"


async def test_a_bad_head_request_is_answered_without_a_body() -> None:
    connection, stream = connected(b"HEAD /%ff HTTP/1.1\r\nHost: a\r\n\r\n")
    with pytest.raises(Rejected) as caught:
        await connection.next_request()
    await connection.refuse(caught.value)
    assert stream.sent.startswith(b"HTTP/1.1 400 ")
    assert stream.sent.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_content_has_neither_a_body_nor_its_length(status: int) -> None:
    connection, stream = connected(GET)
    await connection.next_request()
    await connection.respond(Response(status, b"ignored"))
    got, headers, body = read_answer(stream.sent)
    assert (got, body) == (status, b"")
    assert "content-length" not in headers


async def test_every_answer_is_dated_and_guarded() -> None:
    connection, stream = connected(GET)
    await connection.next_request()
    await connection.respond(Response.json({"a": 1}, headers=[("X-A", "b")]))
    status, headers, body = read_answer(stream.sent)
    assert (status, body) == (200, b'{"a":1}')
    assert headers.pop("date").endswith(" GMT")
    assert headers == {
        "content-length": "7",
        "content-type": "application/json",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "strict-transport-security": "max-age=31536000",
        "x-a": "b",
    }


@pytest.mark.parametrize(
    ("host", "tls", "demanded"),
    [
        (b"relay.example", True, True),
        (b"relay.example:8443", True, True),
        (b"relay.example", False, False),
        (b"localhost:8443", True, False),
        (b"LOCALHOST", True, False),
        (b"a.localhost", True, False),
        (b"127.0.0.1:8443", True, False),
        (b"[::1]:8443", True, False),
        (b"[::1]", True, False),
    ],
)
async def test_https_is_demanded_for_names_that_mean_one_server(host: bytes, tls: bool, demanded: bool) -> None:
    connection, stream = connected(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", tls=tls)
    await connection.next_request()
    await connection.respond(Response())
    assert ("strict-transport-security" in read_answer(stream.sent)[1]) is demanded


def test_a_refusal_becomes_a_short_answer() -> None:
    response = Response.from_rejected(
        Rejected(429, "too_many", "slow down", retry_after=0.2, setting="limits.handshakes_per_address")
    )
    assert response.status == 429
    assert response.body == b'{"error":"too_many","reason":"slow down","setting":"limits.handshakes_per_address"}'
    assert sorted(response.headers) == [("Cache-Control", "no-store"), ("Retry-After", "1")]


def test_a_refusal_for_want_of_a_token_names_the_scheme() -> None:
    plain = Response.from_rejected(Rejected(401, "unauthorized", "no token"))
    assert ("WWW-Authenticate", "Bearer") in plain.headers
    own = Response.from_rejected(
        Rejected(401, "unauthorized", "expired", headers=(("WWW-Authenticate", 'Bearer error="invalid_token"'),))
    )
    assert [value for name, value in own.headers if name == "WWW-Authenticate"] == ['Bearer error="invalid_token"']


@pytest.mark.parametrize("header", [("X-A", "b\r\nX-C: d"), ("X A", "b"), ("X-A", "ä"), ("", "b"), ("X-A", "b\n")])
def test_a_header_that_cannot_be_sent_is_refused_where_it_is_made(header: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        Response(headers=[header])


@pytest.mark.parametrize("cut", [0, 1, 20, len(UPGRADE) - 1, len(UPGRADE)])
async def test_bytes_behind_an_upgrade_are_kept_for_the_websocket(cut: int) -> None:
    frames = b"\x81\x85abcd\x09\x07\x0f\x08\x0e"
    data = UPGRADE + frames
    connection, _ = connected(data[:cut], data[cut:])
    assert await connection.next_request() is not None
    early = connection.take_early() + b"".join([await connection._stream.receive_some()])
    assert early == frames
    assert connection.take_early() == b""


async def test_an_upgrade_can_follow_another_request() -> None:
    connection, _ = connected(GET + UPGRADE + b"early")
    await connection.next_request()
    await connection.respond(Response())
    request = await connection.next_request()
    assert request is not None
    assert is_upgrade(request)
    assert connection.take_early() == b"early"


async def test_an_upgrade_that_is_refused_is_answered_like_any_request() -> None:
    connection, stream = connected(UPGRADE + GET)
    await connection.next_request()
    await connection.respond(Response(401))
    assert connection.reusable
    request = await connection.next_request()
    assert request is not None
    assert request.path == "/a"
    assert read_answer(stream.sent)[0] == 401
