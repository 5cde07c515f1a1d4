"""The bare WebSocket client: what it sends and receives, and that every way of failing says what failed."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from relay.client import ConnectFailed, ConnectionRefused, Disconnected, connect_plain
from relay.client.dial import Target
from tests.unit.client.server import Peer, serving

REFUSED = b"""HTTP/1.1 401 Unauthorized\r
Content-Type: application/json\r
%s\r
\r
{"error":"token_expired","reason":"the token expired 3 minutes ago","setting":"auth.leeway"}"""
BODY = REFUSED.split(b"\r\n\r\n")[1]


async def echo(peer: Peer) -> None:
    await peer.accept()
    while (message := await peer.hear()) is not None:
        await peer.send(TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message))


def answering(data: bytes, *, wait: bool = False):
    """A server that reads the request and answers these bytes."""

    async def script(peer: Peer) -> None:
        await peer.next()
        await peer.stream.send_all(data)
        if wait:
            await trio.sleep_forever()

    return script


async def test_text_and_binary_go_there_and_back():
    async with serving(echo) as url, connect_plain(url) as client:
        await client.send("grüße")
        assert await client.receive() == "grüße"
        await client.send(b"\x00\xff")
        assert await client.receive() == b"\x00\xff"
        await client.send("x" * 300_000)
        assert await client.receive() == "x" * 300_000


async def test_the_token_travels_in_the_authorization_header_and_nowhere_else():
    seen: list[tuple[str, str, str]] = []

    async def script(peer: Peer) -> None:
        await peer.accept("b")
        seen.append((peer.header("authorization"), peer.header("x-trace"), peer.request.target))
        assert list(peer.request.subprotocols) == ["a", "b"]
        await peer.hear()

    async with serving(script) as url:
        path = f"{url}/rooms/lobby?x=1"
        async with connect_plain(path, token="abc.def", subprotocols=["a", "b"], headers=[("X-Trace", "7")]) as client:
            assert client.subprotocol == "b"
    assert seen == [("Bearer abc.def", "7", "/rooms/lobby?x=1")]


async def test_iteration_ends_with_a_normal_close():
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.send(TextMessage(data="one"))
        await peer.send(TextMessage(data="two"))
        await peer.close(1000)

    async with serving(script) as url, connect_plain(url) as client:
        assert [message async for message in client] == ["one", "two"]
        assert client.closed is not None
        assert client.closed.code == 1000


@pytest.mark.parametrize(("code", "retry"), [(4401, False), (4208, True), (1001, True), (4000, False)])
async def test_code_and_reason_of_the_close_frame_are_told(code: int, retry: bool):
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.close(code, "because")

    async with serving(script) as url, connect_plain(url) as client:
        with pytest.raises(Disconnected) as caught:
            async for _ in client:
                pass
        assert (caught.value.code, caught.value.reason, caught.value.retry) == (code, "because", retry)
        with pytest.raises(Disconnected, match=f"{code}: because"):
            await client.send("too late")


async def test_a_connection_that_just_ends_is_1006():
    async def script(peer: Peer) -> None:
        await peer.accept()

    async with serving(script) as url, connect_plain(url) as client:
        with pytest.raises(Disconnected, match="1006: the connection was lost"):
            await client.receive()


async def test_our_code_and_reason_reach_the_server():
    told: list[tuple[int, str | None]] = []

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.hear()
        told.append((peer.close_code, peer.close_reason))

    async with serving(script) as url, connect_plain(url) as client:
        await client.close(4000, "ä" * 100)
        await client.close()
        with pytest.raises(Disconnected, match="4000"):
            await client.receive()
    assert told == [(4000, "ä" * 61)]


async def test_the_body_s_exception_comes_out_as_it_was_raised():
    def fail() -> None:
        try:
            raise ValueError("first")
        except ValueError:
            raise KeyError("mine") from None

    async with serving(echo) as url:
        with pytest.raises(KeyError) as caught:
            async with connect_plain(url):
                fail()
        assert caught.value.args == ("mine",)
        assert isinstance(caught.value.__context__, ValueError)


async def test_an_exception_group_of_the_body_is_left_alone():
    async with serving(echo) as url:
        with pytest.raises(ExceptionGroup) as caught:
            async with connect_plain(url), trio.open_nursery():
                raise KeyError("mine")
        assert isinstance(caught.value.exceptions[0], KeyError)


async def test_cancellation_leaves_at_once_even_if_the_server_is_silent():
    async def script(peer: Peer) -> None:
        await peer.accept()
        await trio.sleep_forever()

    async with serving(script) as url:
        started = trio.current_time()
        with trio.move_on_after(0.05):
            async with connect_plain(url) as client:
                await client.receive()
        assert trio.current_time() - started < 2


async def test_a_server_that_does_not_answer_the_close_is_dropped_after_a_while(monkeypatch: pytest.MonkeyPatch):
    async def script(peer: Peer) -> None:
        await peer.accept()
        await trio.sleep_forever()

    monkeypatch.setattr("relay.client.plain.CLOSE_SECONDS", 0.05)
    async with serving(script) as url:
        with trio.fail_after(2):
            async with connect_plain(url):
                pass


async def test_a_server_that_pings_while_we_close_neither_breaks_nor_delays_us():
    async def script(peer: Peer) -> None:
        await peer.accept()
        event = await peer.next()
        assert isinstance(event, CloseConnection)
        await peer.stream.send_all(b"\x89\x00")
        await trio.sleep_forever()

    async with serving(script) as url:
        with trio.fail_after(2):
            async with connect_plain(url):
                pass


async def test_pings_are_answered_while_the_user_does_not_receive():
    async def script(peer: Peer) -> None:
        await peer.accept()
        for number in range(10):
            await peer.send(TextMessage(data=str(number)))
        await peer.send(Ping(payload=b"there?"))
        event = await peer.next()
        ponged.append(type(event).__name__)
        answered.set()
        await peer.hear()

    answered = trio.Event()
    ponged: list[str] = []
    async with serving(script) as url, connect_plain(url):
        await answered.wait()
    assert ponged == ["Pong"]


async def test_a_send_cancelled_half_way_ends_the_connection_rather_than_corrupt_it():
    async def script(peer: Peer) -> None:
        await peer.accept()
        await trio.sleep_forever()

    async with serving(script) as url, connect_plain(url) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, b"x" * 8_000_000)
            await trio.testing.wait_all_tasks_blocked(0.05)
            nursery.cancel_scope.cancel()
        with pytest.raises(Disconnected, match="a send was cancelled half way"):
            await client.send("next")


async def test_a_send_cancelled_before_it_began_does_no_harm():
    async with serving(echo) as url, connect_plain(url) as client:
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.send("never")
        assert scope.cancelled_caught
        await client.send("next")
        assert await client.receive() == "next"


@pytest.mark.parametrize("message", ["x" * 1001, "é" * 501, b"x" * 1001])
async def test_a_message_over_the_limit_ends_the_connection_with_1009(message: str | bytes):
    async with serving(echo) as url, connect_plain(url, max_message_bytes=1000) as client:
        await client.send(message)
        with pytest.raises(Disconnected, match="1009"):
            await client.receive()


async def test_a_message_at_the_limit_is_received():
    async with serving(echo) as url, connect_plain(url, max_message_bytes=1000) as client:
        await client.send("é" * 500)
        assert await client.receive() == "é" * 500


async def test_a_masked_frame_from_the_server_is_a_broken_protocol():
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.stream.send_all(b"\x81\x85abcdhello")
        await trio.sleep_forever()

    async with serving(script) as url, connect_plain(url) as client:
        with pytest.raises(Disconnected, match="1002"):
            await client.receive()


@pytest.mark.parametrize("framing", [b"Content-Length: %d" % len(BODY), b"Connection: close"])
async def test_a_refused_handshake_tells_status_code_reason_and_setting(framing: bytes):
    async with serving(answering(REFUSED % framing)) as url:
        with pytest.raises(ConnectionRefused) as caught:
            async with connect_plain(url):
                pass
    refused = caught.value
    assert (refused.status, refused.code, refused.setting) == (401, "token_expired", "auth.leeway")
    assert refused.reason == "the token expired 3 minutes ago"
    assert str(refused) == "HTTP 401 token_expired: the token expired 3 minutes ago [auth.leeway]"


async def test_retry_after_is_told_in_seconds():
    answer = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nfull"
    async with serving(answering(answer)) as url:
        with pytest.raises(ConnectionRefused) as caught:
            async with connect_plain(url):
                pass
    assert (caught.value.status, caught.value.reason, caught.value.retry_after) == (503, "full", 7.0)


async def test_a_redirect_is_not_followed_but_told():
    answer = b"HTTP/1.1 301 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    async with serving(answering(answer)) as url:
        with pytest.raises(ConnectionRefused, match="moved to /elsewhere"):
            async with connect_plain(url):
                pass


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: d3Jvbmc=\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: \xff\r\nConnection: \xe9\r\nSec-WebSocket-Accept: x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"\x00" * 70_000,
    ],
)
async def test_an_answer_that_is_no_websocket_fails_at_once_with_words(answer: bytes):
    async with serving(answering(answer)) as url:
        with trio.fail_after(2), pytest.raises(ConnectFailed, match=r"127\.0\.0\.1"):
            async with connect_plain(url):
                pass


async def test_a_server_that_never_answers_fails_after_the_timeout():
    async with serving(answering(b"", wait=True)) as url:
        with pytest.raises(ConnectFailed, match=r"did not answer within 0\.05 s"):
            async with connect_plain(url, connect_timeout=0.05):
                pass


async def test_nobody_listening_is_told_in_the_system_s_words():
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(ConnectFailed, match=r"Connection refused \(is the relay running\?\)"):
        async with connect_plain(f"ws://127.0.0.1:{port}"):
            pass


async def test_a_close_that_comes_with_the_101_is_a_disconnect():
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.send(CloseConnection(code=4401, reason="token expired"))

    async with serving(script) as url, connect_plain(url) as client:
        with pytest.raises(Disconnected, match="4401: token expired"):
            await client.receive()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_wss_with_the_authority_given(authority: trustme.CA, tls: ssl.SSLContext, tmp_path: Path):
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with serving(echo, tls) as url, connect_plain(url, ca_file=tmp_path / "ca.pem") as client:
        await client.send("secret")
        assert await client.receive() == "secret"


async def test_an_unknown_authority_is_named_as_the_cause(tls: ssl.SSLContext):
    async with serving(echo, tls) as url:
        with pytest.raises(ConnectFailed, match=r"not trusted: .* \(give its authority as ca_file"):
            async with connect_plain(url):
                pass


async def test_tls_to_a_plain_server_hints_at_ws():
    async def script(peer: Peer) -> None:
        await peer.stream.receive_some()
        await peer.stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(script) as url:
        with pytest.raises(ConnectFailed, match=r"no TLS with 127.*does it speak ws:// without TLS\?"):
            async with connect_plain(url.replace("ws:", "wss:")):
                pass


async def test_a_client_certificate_that_cannot_be_used_is_named_and_needs_tls(tmp_path: Path):
    pair = (tmp_path / "client.pem", tmp_path / "client-key.pem")
    with pytest.raises(ConnectFailed, match=r"cannot use the client certificate .*client\.pem with .*-key\.pem"):
        async with connect_plain("wss://127.0.0.1:1", client_certificate=pair):
            pass
    with pytest.raises(ValueError, match="for wss://"):
        async with connect_plain("ws://127.0.0.1:1", client_certificate=pair):
            pass


async def test_a_missing_authority_file_is_named(tmp_path: Path):
    with pytest.raises(ConnectFailed, match=r"no\.pem"):
        async with connect_plain("wss://127.0.0.1:1", ca_file=tmp_path / "no.pem"):
            pass


@pytest.mark.parametrize(
    "url", ["http://x", "wss://", "x", "wss://user:pw@host/", "ws://h/ä", "ws://h/a b", "ws://h/\n"]
)
async def test_what_is_no_websocket_url_is_a_value_error(url: str):
    with pytest.raises(ValueError, match=r".+"):
        async with connect_plain(url):
            pass


@pytest.mark.parametrize("token", ["", "abc\n", "abc\r\nX-Evil: 1", "tök"])
async def test_a_token_that_would_forge_a_header_is_refused_without_being_shown(token: str):
    with pytest.raises(ValueError, match="the token is empty, or") as caught:
        async with connect_plain("ws://127.0.0.1:1", token=token):
            pass
    assert not token or token not in str(caught.value)


def test_authorities_are_written_as_http_wants_them():
    assert Target.of("wss://[::1]:8443/ws").authority == "[::1]:8443"
    assert Target.of("wss://example.org/ws?a=1").authority == "example.org"
    assert Target.of("wss://example.org/ws?a=1").resource == "/ws?a=1"
    assert Target.of("ws://example.org:80").authority == "example.org"
    assert Target.of("ws://example.org").resource == "/"


async def test_only_text_and_bytes_are_sent():
    async with serving(echo) as url, connect_plain(url) as client:
        with pytest.raises(TypeError, match="str or bytes, not dict"):
            await client.send({})  # type: ignore[arg-type]
