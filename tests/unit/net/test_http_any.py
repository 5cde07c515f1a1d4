"""Whatever bytes come as HTTP: the outcome is the same however they are cut, and with h11 and without."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import Rejected
from relay.net.handshake import check_upgrade, is_upgrade
from relay.net.head import Headers, HeadScanner, read_plain
from relay.net.http import HTTPConnection, Response
from tests.unit.net.http_kit import GET, LIMITS, UPGRADE, Chunks, connected, one_by_one, read_answer


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
