"""Routes, and the loop around them: deadlines, refusals, bugs, keep-alive, and the way out to a WebSocket."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from relay.config.schema import Limits, Timeouts
from relay.errors import Rejected
from relay.net.http import HTTPConnection, Request, Response
from relay.net.routes import Router, serve_requests

TIMEOUTS = Timeouts(head=5, http_idle=15, http_request=30)
UPGRADE = b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def get(path: str, method: str = "GET", fields: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode()


async def hello(request: Request) -> Response:
    await trio.lowlevel.checkpoint()
    return Response(body=b"hello")


async def echo(request: Request) -> Response:
    return Response(body=await request.read_body(10))


async def refuse(request: Request) -> Response:
    raise Rejected(429, "too_many", "later", retry_after=3, setting="limits.x")


async def fail(request: Request) -> Response:
    raise ZeroDivisionError("the secret is swordfish")


async def fail_in_a_group(request: Request) -> Response:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail, request)
    raise AssertionError("not reached")


async def send_nonsense(request: Request) -> Response:
    response = Response()
    response.headers.append(("X-Secret-swordfish", "\xe4"))
    return response


async def hang(request: Request) -> Response:
    await trio.sleep_forever()
    raise AssertionError("not reached")


def router() -> Router:
    routes = Router()
    routes.add("GET", "/hello", hello)
    routes.add("POST", "/echo", echo)
    routes.add("OPTIONS", "/echo", hello)
    for path, handler in (
        ("/refuse", refuse),
        ("/fail", fail),
        ("/group", fail_in_a_group),
        ("/nonsense", send_nonsense),
        ("/hang", hang),
    ):
        routes.add("GET", path, handler)
    return routes


class Peer:
    """The client's end, and the server's loop in a task beside the test."""

    def __init__(
        self, stream: trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]
    ) -> None:
        self.stream = stream
        self.result: Request | None = None
        self.ended = trio.Event()

    async def say(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(self) -> str:
        """What the server has said when it has nothing more to say."""
        with trio.fail_after(40):
            await trio.testing.wait_all_tasks_blocked()
            return bytes(await self.stream.receive_some()).decode()

    async def serve(self, connection: HTTPConnection, upgrades: bool) -> None:
        request = await connection.next_request()
        assert request is not None
        self.result = await serve_requests(connection, request, router(), TIMEOUTS, upgrades=upgrades)
        self.ended.set()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with trio.open_nursery() as nursery:
        yield start(nursery)
        nursery.cancel_scope.cancel()


def start(nursery: trio.Nursery, *, upgrades: bool = True) -> Peer:
    client, server = trio.testing.memory_stream_pair()
    peer = Peer(client)
    nursery.start_soon(peer.serve, HTTPConnection(server, Limits()), upgrades)
    return peer


async def test_a_known_path_is_answered_by_its_handler(peer: Peer) -> None:
    await peer.say(get("/hello?x=y"))
    assert (await peer.answer()).endswith("\r\n\r\nhello")


async def test_get_answers_head_too(peer: Peer) -> None:
    await peer.say(get("/hello", "HEAD"))
    answer = await peer.answer()
    assert answer.startswith("HTTP/1.1 200 ")
    assert "Content-Length: 5" in answer
    assert answer.endswith("\r\n\r\n")


@pytest.mark.parametrize("path", ["/", "/hello/", "/Hello", "//hello", "/hello/../hello", "/nothing"])
async def test_any_other_path_is_not_found(peer: Peer, path: str) -> None:
    await peer.say(get(path))
    answer = await peer.answer()
    assert answer.startswith("HTTP/1.1 404 ")
    assert '{"error":"not_found",' in answer


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [("/hello", "DELETE", "GET, HEAD"), ("/hello", "OPTIONS", "GET, HEAD"), ("/echo", "GET", "OPTIONS, POST")],
)
async def test_another_method_is_told_which_are_allowed(peer: Peer, path: str, method: str, allowed: str) -> None:
    await peer.say(get(path, method))
    answer = await peer.answer()
    assert answer.startswith("HTTP/1.1 405 ")
    assert f"\r\nAllow: {allowed}\r\n" in answer


async def test_options_goes_to_the_handler_of_the_path(peer: Peer) -> None:
    await peer.say(get("/echo", "OPTIONS"))
    assert (await peer.answer()).endswith("hello")


def test_a_route_cannot_be_taken_twice() -> None:
    with pytest.raises(ValueError, match="GET /hello"):
        router().add("GET", "/hello", hello)


async def test_a_handler_that_refuses_is_answered_with_its_status_and_the_connection_goes_on(peer: Peer) -> None:
    await peer.say(get("/refuse") + get("/hello"))
    answer = await peer.answer()
    assert answer.startswith("HTTP/1.1 429 ")
    assert "\r\nRetry-After: 3\r\n" in answer
    assert '{"error":"too_many","reason":"later","setting":"limits.x"}' in answer
    assert answer.endswith("hello")


@pytest.mark.parametrize("path", ["/fail", "/group"])
async def test_a_bug_in_a_handler_is_a_500_without_detail_and_one_log_entry(
    peer: Peer, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    await peer.say(get(f"{path}?token=abc") + get("/hello"))
    answer = await peer.answer()
    assert answer.startswith("HTTP/1.1 500 ")
    assert "swordfish" not in answer
    assert "ZeroDivision" not in answer
    assert answer.endswith("hello")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == f"handler of GET {path} failed"
    assert record.exc_info is not None
    assert "abc" not in caplog.text


async def test_a_header_that_cannot_be_sent_is_a_bug_of_the_handler(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    await peer.say(get("/nonsense") + get("/hello"))
    answer = await peer.answer()
    assert answer.startswith("HTTP/1.1 500 ")
    assert "swordfish" not in answer
    assert answer.endswith("hello")
    assert len(caplog.records) == 1


async def test_many_requests_are_served_on_one_connection(autojump_clock: trio.testing.MockClock, peer: Peer) -> None:
    for number in range(20):
        body = str(number).encode()
        await peer.say(get("/echo", "POST", f"Content-Length: {len(body)}\r\n") + body)
        assert (await peer.answer()).endswith(f"\r\n\r\n{number}")
        await trio.sleep(14)


async def test_a_body_beyond_the_limit_is_answered_and_ends_the_connection(
    autojump_clock: trio.testing.MockClock, peer: Peer
) -> None:
    await peer.say(get("/echo", "POST", "Content-Length: 11\r\n") + b"12345678901")
    answer = await peer.answer()
    assert answer.startswith("HTTP/1.1 413 ")
    assert "\r\nConnection: close\r\n" in answer
    await peer.ended.wait()


@pytest.mark.parametrize("ending", [b"Connection: close\r\n", b""])
async def test_the_loop_ends_when_the_client_wants_that_or_goes(
    autojump_clock: trio.testing.MockClock, peer: Peer, ending: bytes
) -> None:
    await peer.say(get("/hello", fields=ending.decode()))
    await peer.answer()
    begin = trio.current_time()
    if not ending:
        await peer.stream.send_eof()
    await peer.ended.wait()
    assert peer.result is None
    assert trio.current_time() == begin


async def test_a_silent_client_is_left_after_the_idle_time(autojump_clock: trio.testing.MockClock, peer: Peer) -> None:
    await peer.say(get("/hello"))
    await peer.answer()
    begin = trio.current_time()
    await peer.ended.wait()
    assert trio.current_time() - begin == pytest.approx(TIMEOUTS.http_idle)


async def test_a_head_that_does_not_end_is_refused_in_time(autojump_clock: trio.testing.MockClock, peer: Peer) -> None:
    await peer.say(get("/hello"))
    await peer.answer()
    await trio.sleep(10)
    await peer.say(b"G")
    begin = trio.current_time()
    answer = await peer.answer()
    assert trio.current_time() - begin == pytest.approx(TIMEOUTS.head)
    assert answer.startswith("HTTP/1.1 408 ")
    assert '"setting":"timeouts.head"' in answer
    await peer.ended.wait()


async def test_a_malformed_second_request_is_answered(autojump_clock: trio.testing.MockClock, peer: Peer) -> None:
    await peer.say(get("/hello") + b"nonsense\r\n\r\n")
    answer = await peer.answer()
    assert "hello" in answer
    assert "HTTP/1.1 400 " in answer
    await peer.ended.wait()


async def test_a_handler_that_hangs_is_a_503(autojump_clock: trio.testing.MockClock, peer: Peer) -> None:
    await peer.say(get("/hang"))
    answer = await peer.answer()
    assert trio.current_time() == pytest.approx(TIMEOUTS.http_request)
    assert answer.startswith("HTTP/1.1 503 ")
    assert '"setting":"timeouts.http_request"' in answer
    await peer.ended.wait()


async def test_a_body_that_does_not_come_is_a_408(autojump_clock: trio.testing.MockClock, peer: Peer) -> None:
    await peer.say(get("/echo", "POST", "Content-Length: 5\r\n") + b"12")
    answer = await peer.answer()
    assert answer.startswith("HTTP/1.1 408 ")
    await peer.ended.wait()


async def test_a_connection_that_breaks_within_a_body_is_no_bug_of_the_handler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        data = get("/echo", "POST", "Content-Length: 5\r\n")

        async def receive_some(self) -> bytes:
            await trio.lowlevel.checkpoint()
            data, self.data = self.data, b""
            if not data:
                raise trio.BrokenResourceError
            return data

        async def send_all(self, data: bytes) -> None:
            raise trio.BrokenResourceError

    connection = HTTPConnection(Broken(), Limits())
    request = await connection.next_request()
    assert request is not None
    with pytest.raises(trio.BrokenResourceError):
        await serve_requests(connection, request, router(), TIMEOUTS)
    assert not caplog.records


async def test_a_websocket_request_is_handed_back_unanswered(peer: Peer) -> None:
    await peer.say(get("/hello") + UPGRADE)
    assert (await peer.answer()).endswith("hello")
    await peer.ended.wait()
    assert peer.result is not None
    assert peer.result.path == "/ws"


async def test_where_there_are_no_websockets_it_is_a_request_like_any_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        peer = start(nursery, upgrades=False)
        await peer.say(UPGRADE + get("/hello"))
        answer = await peer.answer()
        assert answer.startswith("HTTP/1.1 404 ")
        assert answer.endswith("hello")
        nursery.cancel_scope.cancel()
