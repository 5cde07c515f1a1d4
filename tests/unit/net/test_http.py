"""One HTTP connection: requests in order, no byte lost, bodies bounded, and answers that arrive."""

from __future__ import annotations

from collections.abc import Iterable

import h11
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.config.schema import Limits
from relay.errors import Rejected
from relay.net.handshake import check_upgrade, is_upgrade
from relay.net.head import Headers, HeadScanner, read_plain
from relay.net.http import HTTPConnection, Response

LIMITS = Limits()
GET = b"GET /a HTTP/1.1\r\nHost: relay.example\r\n\r\n"
UPGRADE = (
    b"GET /ws?token=abc HTTP/1.1\r\nHost: localhost:8443\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: relay.v1.json, bearer.a.b.c\r\nOrigin: https://localhost:8443\r\n\r\n"
)


class Chunks:
    """A stream whose reads are given; it ends after them. What is sent is kept."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.chunks = [chunk for chunk in chunks if chunk]
        self.sent = b""

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.chunks.pop(0) if self.chunks else b""

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.sent += data


def connected(*chunks: bytes, tls: bool = True) -> tuple[HTTPConnection, Chunks]:
    stream = Chunks(chunks)
    return HTTPConnection(stream, LIMITS, remote="192.0.2.7", tls=tls), stream


def one_by_one(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def read_answer(data: bytes, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """The first answer in `data`, read by an independent parser: status, headers, body."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    head = client.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    return head.status_code, {name.decode(): value.decode() for name, value in head.headers}, body


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


async def test_a_client_that_still_sends_can_read_its_answer(autojump_clock: trio.testing.MockClock) -> None:
    to_server, at_server = trio.testing.lockstep_stream_one_way_pair()  # each send waits until it is read
    to_client, at_client = trio.testing.memory_stream_one_way_pair()
    connection = HTTPConnection(trio.StapledStream(to_client, at_server), LIMITS)
    begin = trio.current_time()
    answer = b""

    async def upload() -> None:
        nonlocal answer
        await to_server.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n")
        for _ in range(20):
            await to_server.send_all(b"x" * 1000)
        answer = bytes(await at_client.receive_some())
        await to_server.aclose()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            request = await connection.next_request()
            assert request is not None
            with pytest.raises(Rejected) as caught:
                await request.read_body(100)
            await connection.refuse(caught.value)
    assert read_answer(answer)[0] == 413
    assert trio.current_time() == begin  # it ended with the client, not with its time


async def test_lingering_ends_after_two_seconds(autojump_clock: trio.testing.MockClock) -> None:
    client, server = trio.testing.memory_stream_pair()
    connection = HTTPConnection(server, LIMITS)
    await client.send_all(b"bad\r\n\r\n")
    with pytest.raises(Rejected) as caught:
        await connection.next_request()
    begin = trio.current_time()
    await connection.refuse(caught.value)
    assert trio.current_time() - begin == pytest.approx(2.0)


async def test_a_body_that_made_no_sense_is_read_on_after_the_answer() -> None:
    connection, stream = connected(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"nonsense\r\n", b"more", b"and more"
    )
    request = await connection.next_request()
    assert request is not None
    with pytest.raises(Rejected):
        await request.read_body(100)
    await connection.respond(Response(400))
    assert read_answer(stream.sent)[1]["connection"] == "close"
    assert not connection.reusable
    assert stream.chunks
    await connection.finish()
    assert not stream.chunks


async def test_a_head_that_could_not_be_read_is_answered_for_the_last_time() -> None:
    connection, stream = connected(b"nonsense\r\n\r\n" + GET)
    with pytest.raises(Rejected):
        await connection.next_request()
    await connection.respond(Response(400))
    assert read_answer(stream.sent)[1]["connection"] == "close"
    assert not connection.reusable


async def test_lingering_ends_after_64_kib(autojump_clock: trio.testing.MockClock) -> None:
    connection, stream = connected(b"bad\r\n", *[b"x" * 16384] * 10)
    with pytest.raises(Rejected) as caught:
        await connection.next_request()
    await connection.refuse(caught.value)
    assert len(stream.chunks) == 6


async def test_nothing_lingers_when_everything_was_read(autojump_clock: trio.testing.MockClock) -> None:
    client, server = trio.testing.memory_stream_pair()
    connection = HTTPConnection(server, LIMITS)
    await client.send_all(GET)
    await connection.next_request()
    await connection.respond(Response(), close=True)
    begin = trio.current_time()
    await connection.finish()
    assert trio.current_time() == begin


async def test_lingering_survives_a_reset() -> None:
    client, server = trio.testing.memory_stream_pair()
    connection = HTTPConnection(server, LIMITS)
    await client.send_all(b"bad\r\n\r\n")
    with pytest.raises(Rejected):
        await connection.next_request()
    await server.aclose()
    await connection.finish()


async def test_an_answer_that_was_cut_off_is_the_last_one(autojump_clock: trio.testing.MockClock) -> None:
    client, server = trio.testing.lockstep_stream_pair()
    connection = HTTPConnection(server, LIMITS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, GET)
        await connection.next_request()
    with trio.move_on_after(1):
        await connection.respond(Response())  # nobody reads
    assert connection.answered
    assert not connection.reusable
    await connection.refuse(Rejected(503, "timeout", "too slow"))  # says nothing more: it would look like a part of it


async def test_a_client_that_does_not_read_cannot_hold_a_refusal(autojump_clock: trio.testing.MockClock) -> None:
    _client, server = trio.testing.lockstep_stream_pair()
    connection = HTTPConnection(server, LIMITS)
    begin = trio.current_time()
    await connection.refuse(Rejected(408, "timeout", "too slow"))
    assert trio.current_time() - begin <= 4


async def verdict(chunks: list[bytes]) -> tuple[object, ...]:
    """What a client would get that sends this; anything but Rejected escapes and fails the test."""
    connection, stream = connected(*chunks)
    try:
        request = await connection.next_request()
        if request is None:
            return (None,)
        if is_upgrade(request):
            upgrade = check_upgrade(request, token_in_query=True)
            return (101, upgrade.key, upgrade.token, upgrade.subprotocols, upgrade.origin)
        body = await request.read_body(1000)
        await connection.respond(Response())
        return (request.method, request.target, body, read_answer(stream.sent, request.method)[0])
    except Rejected as error:
        rejected = error
    await connection.refuse(rejected)
    assert stream.sent.startswith(b"HTTP/1.1 %d " % rejected.status)
    return (rejected.status, rejected.code, rejected.reason, rejected.setting)


SEEDS = [
    GET,
    UPGRADE,
    UPGRADE.replace(b"localhost:8443\r\nUpgrade", b"xn--a\r\nAuthorization: Bearer a.b.c\r\nUpgrade"),
    b"POST /b?c=%41 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxyz",
    b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\n\r\n",
    b"HEAD http://a/ HTTP/1.0\r\nHost: a\r\nConnection: close\r\n\r\n",
]
MUTATION = st.tuples(
    st.sampled_from(["set", "insert", "delete", "double"]),
    st.integers(0, 400),
    st.sampled_from(
        [b"\x00", b"\n", b"\r\n", b" ", b",", b":", b"%", b"\xc3\xa4", b"\xff", b"=", b"bearer.", b";", b"9"]
    )
    | st.binary(min_size=1, max_size=3),
)


def mutate(data: bytes, mutations: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, new in mutations:
        at = place % (len(data) + 1)
        if kind == "set":
            data = data[:at] + new + data[at + len(new) :]
        elif kind == "insert":
            data = data[:at] + new + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + len(new) :]
        else:  # a whole line twice
            begin = data.rfind(b"\n", 0, at) + 1
            end = data.find(b"\n", at) + 1
            data = data[:end] + data[begin:end] + data[end:]
    return data


@settings(max_examples=300, deadline=None)
@given(seed=st.sampled_from(SEEDS), mutations=st.lists(MUTATION, min_size=1, max_size=4), cut=st.integers(1, 300))
async def test_whatever_comes_the_outcome_is_the_same_however_it_is_cut(
    seed: bytes, mutations: list[tuple[str, int, bytes]], cut: int
) -> None:
    data = mutate(seed, mutations)
    whole = await verdict([data])
    assert await verdict(one_by_one(data)) == whole
    assert await verdict([data[:cut], data[cut:]]) == whole


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200))
async def test_noise_is_refused_or_ends(data: bytes) -> None:
    outcome = await verdict([data])
    assert outcome[0] in (None, 400, 431, 501, 505)


# Plain heads, which h11 does not see at once.

_NAMES = st.sampled_from(["host", "Upgrade", "x-a", "Connection", "cookie", "accept", "content-length", "expect"])
_VALUES = st.one_of(
    st.sampled_from(["", "localhost", "websocket", "Upgrade, keep-alive", "a  b\tc", " padded\t", "0", "é", "\x7f"]),
    st.text(st.characters(min_codepoint=9, max_codepoint=255), max_size=12),
)
_HEADS = st.builds(
    lambda method, target, version, fields: (
        f"{method} {target} HTTP/{version}\r\nHost: x\r\n"
        + "".join(f"{name}:{value}\r\n" for name, value in fields)
        + "\r\n"
    ).encode("latin-1"),
    st.sampled_from(["GET", "GET", "GET", "POST", "HEAD", "get"]),
    st.sampled_from(["/", "/rooms/a?b=c", "/ä", "*"]),
    st.sampled_from(["1.1", "1.1", "1.0"]),
    st.lists(st.tuples(_NAMES, _VALUES), max_size=5),
)


@settings(deadline=None, max_examples=400)
@given(head=_HEADS)
def test_what_is_read_without_h11_is_what_h11_reads(head: bytes) -> None:
    scanner = HeadScanner(8192, 64)
    try:
        end = scanner.advance(head)
    except Rejected:
        assert read_plain(head, 8192, 64) is None
        return
    plain = read_plain(head, 8192, 64)
    if end is None or plain is None:
        assert plain is None
        return
    machine = h11.Connection(h11.SERVER)
    machine.receive_data(head[:end])
    event = machine.next_event()
    assert isinstance(event, h11.Request)
    assert plain.size == end
    assert plain.headers.items() == Headers((name.decode(), value.decode()) for name, value in event.headers).items()
    assert (event.method, event.target, event.http_version) == (b"GET", plain.target.encode(), b"1.1")
    assert isinstance(machine.next_event(), h11.EndOfMessage)


def test_a_websockets_request_is_read_without_h11() -> None:
    head = (
        b"GET /rooms/a HTTP/1.1\r\nHost: localhost:8443\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer a.b\r\n\r\n"
    )
    plain = read_plain(head, 8192, 64)
    assert plain is not None
    assert plain.size == len(head)
    assert plain.headers.get("sec-websocket-version") == "13"


def test_limits_hold_for_what_is_read_without_h11() -> None:
    head = GET.replace(b"\r\n\r\n", b"\r\nX: y\r\n\r\n")
    assert read_plain(head, len(head), 99) is not None
    assert read_plain(head, len(head) - 1, 99) is None
    assert read_plain(head, len(head), head.count(b":") - 1) is None


async def test_plain_requests_one_behind_the_other_are_answered_as_any() -> None:
    stream = Chunks([GET + GET.replace(b"/a", b"/b"), GET])
    http = HTTPConnection(stream, LIMITS)
    for path in ("/a", "/b"):
        request = await http.next_request()
        assert request is not None
        assert request.path == path
        assert not http.answered
        await http.respond(Response(200, b"ok"))
        assert http.reusable
    assert stream.sent.count(b"HTTP/1.1 200") == 2
    await http.next_request()
    with pytest.raises(RuntimeError):
        await http.next_request()
