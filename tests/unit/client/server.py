"""A small WebSocket server for the client's tests: loopback, one script per connection, wrong on demand.

It is built on wsproto's frames and handshake directly, so that it can do what no good server does.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio
import trio.testing
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Request,
    TextMessage,
)

from relay.client import dial

HELLO: dict[str, Any] = {
    "t": "hello",
    "session": "s1",
    "subject": "ann",
    "expires": 1_790_000_000.0,
    "channels": ["control", "urgent", "default"],
    "limits": {"limits.message_bytes": 65536},
    "heartbeat": 0,
    "version": "0.1.0",
}


class Peer:
    """The server's end of one connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.ws = WSConnection(ConnectionType.SERVER)
        self.request: Request
        self.answers_pings = True
        self.binary = False
        self.close_code = 0
        self.close_reason: str | None = None
        self._events: list[Event] = []

    async def next(self) -> Event | None:
        """The next event but pings, which are answered; None at the end of the connection."""
        while not self._events:
            data = await self.stream.receive_some()
            if not data:
                return None
            self.ws.receive_data(data)
            self._events += self.ws.events()
        event = self._events.pop(0)
        if isinstance(event, Ping):
            if self.answers_pings:
                await self.send(event.response())
            return await self.next()
        return event

    async def send(self, event: Event) -> None:
        await self.stream.send_all(self.ws.send(event))

    async def accept(self, subprotocol: str | None = None) -> None:
        request = await self.next()
        assert isinstance(request, Request)
        self.request = request
        self.binary = subprotocol == "relay.v1.msgpack"
        await self.send(AcceptConnection(subprotocol=subprotocol))

    async def hear(self) -> Any:
        """The next whole message: str, bytes, or for relay.v1 a dict; None when the client closed."""
        parts: list[Any] = []
        while True:
            event = await self.next()
            if event is None:
                return None
            if isinstance(event, CloseConnection):
                self.close_code, self.close_reason = event.code, event.reason
                await self.send(event.response())
                return None
            assert isinstance(event, TextMessage | BytesMessage)
            parts.append(event.data)
            if event.message_finished:
                return type(event.data)().join(parts)

    async def say(self, words: dict[str, Any]) -> None:
        if self.binary:
            await self.send(BytesMessage(data=msgspec.msgpack.encode(words)))
        else:
            await self.send(TextMessage(data=msgspec.json.encode(words).decode()))

    async def asked(self) -> Any:
        """The client's next relay.v1 message."""
        raw = await self.hear()
        if raw is None:
            return None
        return (msgspec.msgpack if self.binary else msgspec.json).decode(raw)

    def header(self, name: str) -> str:
        fields = {key.decode().lower(): value.decode() for key, value in self.request.extra_headers}
        return fields.get(name, "")

    async def close(self, code: int, reason: str = "") -> None:
        await self.send(CloseConnection(code=code, reason=reason))
        while await self.next() is not None:
            pass


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def serving(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serves every connection with `script`; yields the URL, without a path."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]

    async def serve(stream: trio.SocketStream) -> None:
        wrapped: trio.abc.Stream = stream
        if tls is not None:
            wrapped = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        try:
            async with wrapped:
                await script(Peer(wrapped))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            yield f"{'ws' if tls is None else 'wss'}://127.0.0.1:{port}"
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def wired(script: Script) -> AsyncIterator[str]:
    """The same without a network: each connection is a pair of streams in memory, so tests can use the clock of
    pytest-trio, on which nothing takes time and nothing depends on how busy the machine is. Yields the URL.
    """
    with trio.fail_after(1e6):
        async with trio.open_nursery() as nursery:

            async def serve(stream: trio.abc.Stream) -> None:
                try:
                    async with stream:
                        await script(Peer(stream))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass

            async def open_stream(*target: object) -> trio.abc.Stream:
                await trio.lowlevel.checkpoint()
                ours, theirs = trio.testing.memory_stream_pair()
                nursery.start_soon(serve, theirs)
                return ours

            before, dial._open_stream = dial._open_stream, open_stream
            try:
                yield "ws://relay.test"
            finally:
                dial._open_stream = before
            nursery.cancel_scope.cancel()


async def relay_v1(peer: Peer, codec: str = "json", **hello: Any) -> None:
    """Up to and with the hello."""
    await peer.accept(f"relay.v1.{codec}")
    await peer.say(HELLO | hello)


async def obliging(peer: Peer) -> None:
    """Answers everything with ok, and repeats what was asked in `data`."""
    await relay_v1(peer)
    while (asked := await peer.asked()) is not None:
        if "id" in asked:
            await peer.say({"t": "ok", "id": asked["id"], "data": asked})
