"""An HTTP connection over a stream whose reads are given, and an independent reader of its answers."""

from __future__ import annotations

from collections.abc import Iterable

import h11
import trio
import trio.testing

from relay.config.schema import Limits
from relay.net.http import HTTPConnection

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
