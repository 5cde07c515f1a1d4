"""A bare WebSocket: text and bytes in both directions, and at the end a code and a reason.

Not here: what the messages mean (session, for relay.v1). The one rule: whatever goes wrong after the handshake is a
`Disconnected`; trio-websocket's and wsproto's own exceptions stay inside.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection
from wsproto.utilities import LocalProtocolError

from relay.client.dial import Pair, Reader, Target, Wire, dial, header_fields, quiet_nursery
from relay.client.errors import LOST, ConnectFailed, Disconnected

CLOSE_SECONDS: Final = 5.0
"""For the close handshake; then the connection is dropped."""


class PlainClient:
    """One open WebSocket, made by `connect_plain`. Several tasks may send; one should receive.

    A `send` that is cancelled while its bytes are on their way ends the connection, because half a frame cannot be
    taken back. At most 16 messages are read ahead: for whoever does not receive no ping is answered either, and the
    relay's heartbeat closes the connection in the end.
    """

    def __init__(self, connection: WebSocketConnection, wire: Wire, reader: Reader, max_message_bytes: int) -> None:
        self._connection = connection
        self._wire = wire
        self._reader = reader
        self._max_message_bytes = max_message_bytes
        self._why: Disconnected | None = None
        self._closing = trio.Lock()

    @property
    def subprotocol(self) -> str | None:
        """The one the server chose."""
        return self._connection.subprotocol

    @property
    def closed(self) -> Disconnected | None:
        """Why the connection ended; None while it is open. Messages that came before may still be received."""
        if self._why is None and (self._connection.closed is not None or self._reader.ended):
            self._why = self._reason()
        return self._why

    @property
    def heard_at(self) -> float:
        """When anything last came, by `trio.current_time()`: pings and pongs count."""
        return self._wire.heard_at

    def _reason(self) -> Disconnected:
        if self._wire.torn:
            return Disconnected(LOST, "a send was cancelled half way")
        closed = self._connection.closed
        if closed is not None and closed.code != LOST:
            return Disconnected(closed.code, closed.reason or "")
        if self._reader.failure is not None:
            return Disconnected(1002, f"the server broke the protocol: {self._reader.failure}")
        return Disconnected(LOST, "the connection was lost")

    def _over(self) -> Disconnected:
        if self._why is None:
            self._why = self._reason()
        return self._why.again()

    async def send(self, data: str | bytes) -> None:
        """Sends one message: str as text, bytes as binary. Waits while the network is full. Raises Disconnected."""
        if not isinstance(data, str | bytes):
            raise TypeError(f"str or bytes, not {type(data).__name__}")
        try:
            await self._connection.send_message(data)
        except (ConnectionClosed, LocalProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise self._over() from None

    async def receive(self) -> str | bytes:
        """The next message; text is str. Raises Disconnected once all that came is received."""
        try:
            message = await self._connection.get_message()
        except ConnectionClosed:
            raise self._over() from None
        # trio-websocket counts characters; a character is up to four bytes.
        limit = self._max_message_bytes
        if isinstance(message, str) and len(message) * 4 > limit and len(message.encode()) > limit:
            self._why = Disconnected(1009, f"a message of more than {limit} bytes came")
            await self.close(1009, "message too big")
            raise self._over()
        return message

    def __aiter__(self) -> PlainClient:
        return self

    async def __anext__(self) -> str | bytes:
        """Ends with the connection if it ended in order (1000); raises Disconnected if not."""
        try:
            return await self.receive()
        except Disconnected as why:
            if why.code == 1000:
                raise StopAsyncIteration from None
            raise

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Closes, waiting for the other side at most CLOSE_SECONDS; cancelled, it drops the connection. Never fails.

        Done by the `async with` in any case; call it to name a code and a reason (at most 123 bytes).
        """
        try:
            async with self._closing:  # whoever comes second must not drop what the first one is closing in order
                with self._reader.awaited(CLOSE_SECONDS):
                    await self._connection.aclose(code, reason.encode()[:123].decode(errors="ignore") or None)
        except (LocalProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it was closing anyway
        finally:
            await trio.aclose_forcefully(self._wire)

    async def abandon(self) -> None:
        """Drops the connection without a word: whoever is at the other end is not listening."""
        await trio.aclose_forcefully(self._wire)


@asynccontextmanager
async def connect_plain(
    url: str,
    *,
    token: str | None = None,
    ca_file: str | os.PathLike[str] | None = None,
    subprotocols: Iterable[str] = (),
    headers: Iterable[tuple[str, str]] = (),
    max_message_bytes: int = 1 << 20,
    connect_timeout: float = 10,
    unix: str | os.PathLike[str] | None = None,
    client_certificate: Pair | None = None,
) -> AsyncIterator[PlainClient]:
    """Opens a WebSocket for the time of the `async with`.

    `url` is wss:// or ws://; `token` goes into the Authorization header; `ca_file` is a PEM file of the authorities to
    trust instead of the system's; `client_certificate` are the PEM files of a certificate and its key; `unix` is the
    path of a Unix socket to go by instead of TCP; `connect_timeout` in seconds covers name, TCP, TLS and handshake
    together. Raises ConnectFailed, ConnectionRefused, and ValueError for a URL, a header or a token that cannot be.
    """
    target = Target.of(url)
    if client_certificate is not None and not target.secure:
        raise ValueError(f"a client certificate is for wss://, not {url!r}")
    fields = header_fields(token, headers)
    async with quiet_nursery() as nursery:
        try:
            with trio.fail_after(connect_timeout):
                connection, wire, reader = await dial(
                    nursery,
                    target,
                    ca_file=ca_file,
                    subprotocols=subprotocols,
                    fields=fields,
                    max_message_bytes=max_message_bytes,
                    unix=unix,
                    client_certificate=client_certificate,
                )
        except trio.TooSlowError:
            raise ConnectFailed(f"{target} did not answer within {connect_timeout:g} s") from None
        client = PlainClient(connection, wire, reader, max_message_bytes)
        try:
            yield client
        finally:
            await client.close()
            nursery.cancel_scope.cancel()
