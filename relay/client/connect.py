"""The way into a relay.v1 session: `connect`.

Not here: the session itself (session). The one rule: the body of the `async with` begins when the relay has said
hello, and no task outlives it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import trio

from relay.client.address import Address
from relay.client.codec import DECODERS, Codec, understood
from relay.client.dial import quiet_nursery
from relay.client.errors import LOST, ConnectFailed, Disconnected
from relay.client.events import Hello
from relay.client.session import Client


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: str | None = None,
    codec: Codec = "json",
    ca_file: str | os.PathLike[str] | None = None,
    headers: Iterable[tuple[str, str]] = (),
    max_message_bytes: int = 1 << 20,
    connect_timeout: float = 10,
    buffer: int = 1000,
    progress: bool = False,
    parts: bool = True,
    fields: Iterable[str] | None = None,
) -> AsyncIterator[Client]:
    """Opens a relay.v1 session for the time of the `async with`. `url` is the relay's /ws.

    `codec` "msgpack" carries bytes as they are; `max_message_bytes` bounds each message that comes, whole or in parts;
    `buffer` is how many events may wait unread. `progress`: tell how far messages in parts have come. `parts` False:
    all travels whole, in both directions. `fields`: of a message only these come beside room and data (out of "from",
    "offset", "channel", "key", "to", "at"), for links where every byte counts. `connect_timeout` covers all up to the
    relay's `hello`. Raises ConnectFailed, ConnectionRefused, Disconnected (refused with a close code instead of an HTTP
    status), ValueError.
    """
    if codec not in DECODERS:
        raise ValueError(f"codec is 'json' or 'msgpack', not {codec!r}")
    wanted = None if fields is None else tuple(fields)
    address = Address(url, token, codec, ca_file, tuple(headers), max_message_bytes, connect_timeout, parts, wanted)
    started = trio.current_time()
    async with address.open() as socket, quiet_nursery() as nursery:
        hello = None
        with trio.move_on_at(started + connect_timeout):
            hello = understood(codec, await socket.receive())
        if not isinstance(hello, Hello):
            raise ConnectFailed(f"no `hello` from {url}", "is that the relay's /ws?")
        client = Client(socket, nursery, address, hello, buffer=buffer, progress=progress)
        nursery.start_soon(client._read)
        nursery.start_soon(client._watch)
        try:
            yield client
        finally:
            try:
                await client.close()
            finally:
                client._end(socket.closed or Disconnected(LOST, "the connection was dropped"))
                nursery.cancel_scope.cancel()
