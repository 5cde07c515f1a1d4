"""A client that does what a good client never would: raw TCP, raw TLS, raw requests, raw frames.

Not here: the relay under attack (siege). The one rule: nothing is sent but what a test has written out, and what comes
back is read strictly: an answer is parsed by h11, and a frame of the server that breaks RFC 6455 fails the test.
"""

from __future__ import annotations

import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, Protocol

import h11
import trio

from tests.e2e.harness import UPGRADE, Answer, bearer

HOST: Final = "127.0.0.1"
ELSEWHERE: Final = "127.0.0.2"
"""Another address of the loopback: an attacker whose limits are not those of everybody else in the test."""

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
V1_JSON: Final = "relay.v1.json"
V1_MSGPACK: Final = "relay.v1.msgpack"
MASK: Final = b"\x37\xfa\x21\x3d"  # the one of RFC 6455 section 5.7


class Target(Protocol):
    """What of a relay its attackers must know."""

    port: int
    ssl_context: ssl.SSLContext

    def token(self, subject: str = "ann", *, expires_in: float = 300.0, **grants: list[str]) -> str: ...


class Vanished(Exception):
    """The server ended the connection without another word. The text is what had come before."""


# Connections.


@asynccontextmanager
async def tcp(
    relay: Target, *, source: str = HOST, receive_buffer: int | None = None, to: tuple[str, int] | None = None
) -> AsyncIterator[trio.SocketStream]:
    """A TCP connection to the TLS port. It is closed at the end, without TLS's farewell."""
    sock = trio.socket.socket()
    try:
        if receive_buffer is not None:  # before connecting: the window's scale is settled then
            sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer)
        await sock.bind((source, 0))
        await sock.connect(to or (HOST, relay.port))
        yield trio.SocketStream(sock)
    finally:
        sock.close()


@asynccontextmanager
async def tls(
    relay: Target,
    *,
    source: str = HOST,
    receive_buffer: int | None = None,
    to: tuple[str, int] | None = None,
) -> AsyncIterator[trio.SSLStream[trio.SocketStream]]:
    """A TLS connection, its handshake done. It ends as a client does that has crashed: without close_notify."""
    async with tcp(relay, source=source, receive_buffer=receive_buffer, to=to) as raw:
        stream = trio.SSLStream(raw, relay.ssl_context, server_hostname="localhost", https_compatible=True)
        await stream.do_handshake()
        yield stream


def reset_on_close(stream: trio.SSLStream[trio.SocketStream] | trio.SocketStream) -> None:
    """Closing will send a RST, as a killed host or a cut line does, not a FIN."""
    raw = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    raw.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))


def client_hello(context: ssl.SSLContext, server_hostname: str = "localhost") -> bytes:
    """The first flight of a handshake, as OpenSSL writes it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(incoming, outgoing, server_hostname=server_hostname).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


async def the_rest(stream: trio.abc.Stream) -> bytes:
    """All that still comes until the server ends the connection, in whatever way."""
    data = bytearray()
    try:
        while got := await stream.receive_some():
            data += got
    except trio.BrokenResourceError:
        pass
    return bytes(data)


async def drip(stream: trio.abc.Stream, data: bytes, until: Callable[[], Awaitable[None]]) -> None:
    """Byte by byte, waiting before each for something that takes a moment. Ends when the server does not take more."""
    for byte in data:
        try:
            await stream.send_all(bytes([byte]))
        except trio.BrokenResourceError:
            return
        await until()


async def send_until_refused(stream: trio.abc.Stream, data: bytes) -> None:
    """What a flood does: the server may well be gone before all of it is written."""
    try:
        await stream.send_all(data)
    except trio.BrokenResourceError:
        pass


# Requests.


def head(path: str, headers: Mapping[str, str] = {}, *, method: str = "GET", version: str = "1.1") -> bytes:
    """A request head; Host comes first unless `headers` has one."""
    fields = {**({} if "Host" in headers else {"Host": "localhost"}), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/{version}\r\n{lines}\r\n".encode("latin-1")


def upgrade(path: str, token: str | None = None, subprotocol: str | None = None) -> bytes:
    """A good WebSocket request."""
    offer = {} if subprotocol is None else {"Sec-WebSocket-Protocol": subprotocol}
    return head(path, {**UPGRADE, **({} if token is None else bearer(token)), **offer})


async def answer_of(stream: trio.abc.Stream) -> Answer:
    """One HTTP response, parsed strictly. Raises Vanished if none came."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "localhost"), ("Connection", "Upgrade"),
                                                               ("Upgrade", "websocket")]))  # fmt: skip
    client.send(h11.EndOfMessage())
    status, found, body = 0, dict[str, str](), b""
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            try:
                data = bytes(await stream.receive_some())
            except trio.BrokenResourceError:
                data = b""
            if not data and not status:
                raise Vanished("")
            client.receive_data(data)
        elif isinstance(event, h11.Response | h11.InformationalResponse):
            status = event.status_code
            found = {name.decode(): value.decode() for name, value in event.headers}
            if status == 101:
                return Answer(status, found, client.trailing_data[0])
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            return Answer(status, found, body)


async def ask(relay: Target, request: bytes, *, source: str = HOST, to: tuple[str, int] | None = None) -> Answer:
    """The answer to a request of any shape, on a connection of its own."""
    async with tls(relay, source=source, to=to) as stream:
        await stream.send_all(request)
        return await answer_of(stream)


# Frames.


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    mask: bytes | None = MASK,
    declared: int | None = None,
    width: int | None = None,
) -> bytes:
    """One frame (RFC 6455 section 5.2). `declared`: the length it claims; `width`: bits of the length field (7, 16,
    64).
    """
    size = len(payload) if declared is None else declared
    if width is None:
        width = 7 if size < 126 else 16 if size < 65536 else 64
    masked = 0x80 if mask else 0
    length = {
        7: bytes([masked | size]) if size < 126 else b"",
        16: bytes([masked | 126]) + (size & 0xFFFF).to_bytes(2, "big"),
        64: bytes([masked | 127]) + size.to_bytes(8, "big"),
    }[width]
    if mask:
        key = (mask * (len(payload) // 4 + 1))[: len(payload)]
        mixed = int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")
        payload = mask + mixed.to_bytes(len(payload), "big")
    return bytes([(0x80 if fin else 0) | reserved << 4 | opcode]) + length + payload


def close_payload(code: int, reason: str = "") -> bytes:
    return code.to_bytes(2, "big") + reason.encode()


class Socket:
    """A WebSocket after its 101. `early` is what came behind it."""

    def __init__(self, stream: trio.abc.Stream, early: bytes) -> None:
        self.stream = stream
        self._buffer = bytearray(early)

    async def send(self, data: bytes) -> None:
        """Bytes as they are."""
        await self.stream.send_all(data)

    async def say(self, text: str) -> None:
        await self.send(frame(TEXT, text.encode()))

    async def hear(self) -> str:
        """The next text message; pings of the server are not answered. Raises Vanished."""
        while True:
            opcode, payload = await self.next()
            if opcode == TEXT:
                return payload.decode()
            assert opcode in (PING, PONG), f"neither text nor heartbeat: {opcode} {payload!r}"

    async def next(self) -> tuple[int, bytes]:
        """(opcode, payload) of the server's next frame. Raises Vanished."""
        first, size = await self._take(2)
        assert first & 0xF0 == 0x80, f"fragmented, or a reserved bit: {first:#x}"
        assert first & 15 in (TEXT, BINARY, CLOSE, PING, PONG)
        assert size < 128, "a server does not mask"
        if size >= 126:
            size = int.from_bytes(await self._take(2 if size == 126 else 8), "big")
        return first & 15, await self._take(size)

    async def closed(self) -> tuple[int, str]:
        """Code and reason of the server's close frame, which is answered, and behind which nothing comes.

        Raises Vanished if there is none.
        """
        while True:
            opcode, payload = await self.next()
            if opcode == CLOSE:
                await send_until_refused(self.stream, frame(CLOSE, payload[:2]))
                behind = bytes(self._buffer) + await the_rest(self.stream)
                assert behind == b"", f"behind the close frame: {behind[:100]!r}"
                assert len(payload) >= 2
                return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    async def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError as broken:
                raise Vanished(f"reset: {broken.__cause__!r}") from None
            if not data:
                raise Vanished(f"behind {bytes(self._buffer)!r}")
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


async def open_socket(
    relay: Target, stream: trio.abc.Stream, path: str, token: str | None = None, subprotocol: str | None = None
) -> Socket:
    """Does the WebSocket handshake on a stream."""
    await stream.send_all(upgrade(path, token or relay.token("mallory"), subprotocol))
    answer = await answer_of(stream)
    assert answer.status == 101, answer
    return Socket(stream, answer.body)


@asynccontextmanager
async def socket_to(
    relay: Target,
    path: str = "/rooms/echo:attack",
    token: str | None = None,
    *,
    source: str = HOST,
    receive_buffer: int | None = None,
    subprotocol: str | None = None,
) -> AsyncIterator[Socket]:
    async with tls(relay, source=source, receive_buffer=receive_buffer) as stream:
        yield await open_socket(relay, stream, path, token, subprotocol)
