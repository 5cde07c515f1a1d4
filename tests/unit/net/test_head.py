"""The request head: exact limits, strict grammar, and a verdict that does not depend on how the bytes were cut."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import Rejected
from relay.net.head import Headers, HeadScanner, Request, read_plain

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"


def verdict(data: bytes, step: int, max_bytes: int = 256, max_fields: int = 8) -> tuple[object, ...]:
    """What the scanner says when the bytes come `step` at a time."""
    scanner = HeadScanner(max_bytes, max_fields)
    buffer = bytearray()
    try:
        for at in range(0, len(data), step):
            buffer += data[at : at + step]
            if (end := scanner.advance(buffer)) is not None:
                return ("complete", end)
    except Rejected as rejected:
        return (rejected.status, rejected.code, rejected.reason)
    return ("incomplete",)


def head_of(size: int) -> bytes:
    return GET + b"X: " + b"x" * (size - len(GET) - 7) + b"\r\n\r\n"


def head_with(fields: int) -> bytes:
    return GET + b"".join(b"X-%d: y\r\n" % number for number in range(fields - 1)) + b"\r\n"


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Breaks off what does not end: a regular expression looks at signals too."""

    def ring(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("ending", [b"", b"\x80", b"x \x80", b"x" * 1000 + b"\x80"])
@pytest.mark.parametrize("blank", [b" ", b"\t", b" x", b" \t"])
def test_a_field_costs_as_much_as_it_is_long_whatever_is_in_it(blank: bytes, ending: bytes) -> None:
    """By the square of its length it would be minutes; a head of the largest size allowed was a third of a second."""
    scanner = HeadScanner(1 << 20, 8)
    with alarm(10):
        head = GET + b"X:" + blank * 250_000 + ending + b"\r\n\r\n"
        assert scanner.advance(head) is not None
        read_plain(head, 1 << 20, 8)


def request(target: str, method: str = "GET", host: str = "a") -> Request:
    return Request(method, target, Headers([("Host", host)]))


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize(("size", "fits"), [(8191, True), (8192, True), (8193, False), (9000, False)])
def test_a_head_may_have_exactly_as_many_bytes_as_the_limit_says(size: int, fits: bool, step: int) -> None:
    data = head_of(size)
    assert len(data) == size
    expected = ("complete", size) if fits else (431, "head_too_large", "the request head exceeds 8192 bytes")
    assert verdict(data, step, 8192, 64) == expected


@pytest.mark.parametrize("step", [1, 10_000])
@pytest.mark.parametrize(("fields", "fits"), [(63, True), (64, True), (65, False), (200, False)])
def test_a_head_may_have_exactly_as_many_fields_as_the_limit_says(fields: int, fits: bool, step: int) -> None:
    outcome = verdict(head_with(fields), step, 8192, 64)
    assert outcome[0] == ("complete" if fits else 431)


def test_an_endless_line_is_refused_as_soon_as_it_exceeds_the_limit() -> None:
    assert verdict(b"GET /" + b"a" * 252, 1)[0] == 431
    assert verdict(b"GET /" + b"a" * 251, 1) == ("incomplete",)


def test_what_follows_the_head_is_not_counted() -> None:
    data = head_of(256)
    assert verdict(data + b"body" * 1000, 10_000) == ("complete", 256)


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (400, b"\r\nGET / HTTP/1.1\r\n"),
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"),  # a TLS ClientHello
        (400, b" GET / HTTP/1.1\r\n"),
        (400, b"GET / HTTP/1.1\n"),
        (400, b"GET / HTTP/1.1\r\r\n"),
        (400, b"GET /\r HTTP/1.1\r\n"),
        (400, b"GET /\r\n"),
        (400, b"GET  / HTTP/1.1\r\n"),
        (400, b"GET / HTTP/1.1 \r\n"),
        (400, b"GET / http/1.1\r\n"),
        (400, b"GET / HTTP/11\r\n"),
        (400, b"GET /\xc3\xa4 HTTP/1.1\r\n"),
        (400, b"G\x00T / HTTP/1.1\r\n"),
        (400, b"GET\t/\tHTTP/1.1\r\n"),
        (505, b"GET / HTTP/0.9\r\n"),
        (505, b"GET / HTTP/1.2\r\n"),
        (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (400, GET + b"X: y\rHost: b\r\n"),
        (400, GET + b" folded\r\n"),
        (400, GET + b"\tfolded\r\n"),
        (400, GET + b"Host: b\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nX: y\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        (400, GET + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n"),
        (400, GET + b"Content-Length: 1, 1\r\n\r\n"),
        (400, GET + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (400, GET + b"transfer-ENCODING: chunked\r\ncontent-LENGTH: 0\r\n\r\n"),
        (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (501, GET + b"Transfer-Encoding: gzip\r\n\r\n"),
        (501, GET + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
        (501, GET + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (501, GET + b"Transfer-Encoding: \x0bchunked\r\n\r\n"),
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(status: int, data: bytes) -> None:
    assert verdict(data, 1)[0] == status
    assert verdict(data, 1) == verdict(data, len(data))


def test_http_1_0_needs_no_host() -> None:
    data = b"GET / HTTP/1.0\r\n\r\n"
    assert verdict(data, 1) == ("complete", len(data))


@given(
    data=st.lists(
        st.sampled_from(
            [GET, b"GET / HTTP/1.0\r\n", b"\r\n", b"\n", b"\r", b" ", b"X: y\r\n", b"Host: b", b"a" * 90, b"\xff"]
        )
        | st.binary(max_size=4),
        max_size=12,
    ).map(b"".join),
    step=st.integers(1, 40),
)
def test_the_verdict_does_not_depend_on_how_the_bytes_were_cut(data: bytes, step: int) -> None:
    assert verdict(data, 1) == verdict(data, step) == verdict(data, max(len(data), 1))


def test_header_names_are_found_in_lower_case_whatever_was_sent() -> None:
    headers = Headers([("X-One", "a, b"), ("x-one", ",c ,"), ("Y", "")])
    assert headers.get("x-one") == "a, b, ,c ,"
    assert headers.getlist("x-one") == ["a, b", ",c ,"]
    assert headers.elements("x-one") == ["a", "b", "c"]
    assert headers.get("y") == ""
    assert headers.get("z") is None
    assert headers.getlist("z") == headers.elements("z") == []
    assert "x-one" in headers
    assert list(headers) == ["x-one", "y"]


def test_path_and_query_are_decoded() -> None:
    asked = request("/rooms/caf%C3%A9%20x?token=a%2Bb&q=1+2&q=&flag&=x&&%C3%A4=%25")
    assert asked.path == "/rooms/café x"
    assert asked.query == {"token": ["a+b"], "q": ["1 2", ""], "flag": [""], "": ["x"], "ä": ["%"]}
    assert asked.parameter("token") == "a+b"
    assert asked.parameter("absent") is None
    with pytest.raises(Rejected, match="more than once"):
        asked.parameter("q")


def test_a_token_in_the_query_is_not_shown_by_repr() -> None:
    assert "secret" not in repr(request("/ws?token=secret"))


@pytest.mark.parametrize(
    "target",
    [
        "/%",
        "/%2",
        "/%zz",
        "/%00",
        "/%0d%0a",
        "/%7f",
        "/%ff",
        "/%c3",
        "/%ed%a0%80",
        "/?a=%00",
        "/?%ff=a",
        "/?a=%c0%80",
        "/a#b",
        "a",
        "*",
        "",
        "?a",
        "a:443",
        "ftp://a/",
        "://a/",
        "http://b/",
        "http:///",
        "http://a@b/",
        "http://a:1/",
    ],
)
def test_a_target_that_is_not_clean_text_is_refused(target: str) -> None:
    with pytest.raises(Rejected) as caught:
        request(target)
    assert (caught.value.status, caught.value.code) == (400, "bad_request")


@pytest.mark.parametrize(
    ("target", "path"),
    [("http://a/x?y=1", "/x"), ("HTTPS://A/x?y=1", "/x"), ("http://a?y=1", "/"), ("//b/x?y=1", "//b/x")],
)
def test_the_absolute_form_is_taken_when_it_names_the_same_host(target: str, path: str) -> None:
    asked = request(target)
    assert (asked.host, asked.path, asked.query) == ("a", path, {"y": ["1"]})


def test_the_asterisk_is_for_options_only() -> None:
    assert request("*", "OPTIONS").path == "*"


@pytest.mark.parametrize("host", ["a", "a.example:8443", "xn--a", "127.0.0.1", "[::1]:443", "a_b", ""])
def test_a_host_may_be_a_name_or_an_address_with_a_port(host: str) -> None:
    assert request("/", host=host).host == host


@pytest.mark.parametrize(
    "host", ["a b", "ä", "a,b", "a/b", "u@a", "a:", "a:x", "a:123456", "[::1", "::1", "a%41", "\xff"]
)
def test_any_other_host_is_refused(host: str) -> None:
    with pytest.raises(Rejected, match="Host"):
        request("/", host=host)


async def test_a_request_without_a_body_reads_as_empty() -> None:
    assert await request("/").read_body(0) == b""


@pytest.mark.parametrize(
    "request_head",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n",
    ],
)
def test_whatever_is_more_than_a_plain_get_is_left_to_a_real_parser(request_head: bytes) -> None:
    assert HeadScanner(1000, 10).advance(request_head) == len(request_head)
    assert read_plain(request_head, 1000, 10) is None
