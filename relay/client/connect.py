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
from relay.client.dial import Pair, quiet_nursery
from relay.client.errors import LOST, ConnectFailed, Disconnected
from relay.client.events import Bye, Hello
from relay.client.lasting import Lasting
from relay.client.renewal import TokenSource
from relay.client.session import Client


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: str | TokenSource | None = None,
    codec: Codec = "json",
    ca_file: str | os.PathLike[str] | None = None,
    headers: Iterable[tuple[str, str]] = (),
    max_message_bytes: int = 1 << 20,
    connect_timeout: float = 10,
    buffer: int = 1000,
    progress: bool = False,
    parts: bool = True,
    fields: Iterable[str] | None = None,
    deferred: bool = False,
    resume: bool = False,
    unix: str | os.PathLike[str] | None = None,
    client_certificate: Pair | None = None,
    auto_ack: bool = True,
    delta_bytes: int = 4 << 20,
) -> AsyncIterator[Client]:
    """Opens a relay.v1 session for the time of the `async with`. `url` is the relay's /ws.

    `token` may be an async function: it is asked for a token now, and for another whenever the relay says that the last
    one is about to expire; the session is then renewed without a word to the program. What it raises now is raised
    here; later it is logged, and the function asked again.

    `deferred` sends it in the first message instead of a header, which proxies in between may take away or log; the
    relay has to allow that (`auth.deferred`).

    `codec` "msgpack" carries bytes as they are; `max_message_bytes` bounds each message that comes, whole or in parts;
    `buffer` is how many events may wait unread. `progress`: tell how far messages in parts have come. `parts` False:
    all travels whole, in both directions. `fields`: of a message only these come beside room and data (out of "from",
    "offset", "channel", "key", "to", "at"), for links where every byte counts. `resume`: a lost socket is opened again,
    and the session goes on as if nothing had happened, if the relay lets it wait so long. `unix`: the path of the Unix
    socket where the relay listens; the URL says host and TLS as ever. `client_certificate`: the PEM files of a
    certificate and of its key, for a relay that asks for one. `auto_ack` False: the program says itself that a
    message has arrived, whose publisher wants to know; it gets a `Confirm` behind it. `delta_bytes` bounds what is kept
    of the values of rooms joined with `delta`, all together. `connect_timeout` covers all up to the relay's `hello`.
    Raises ConnectFailed, ConnectionRefused, Disconnected (refused with a close code instead
    of an HTTP status), ValueError.
    """
    if codec not in DECODERS:
        raise ValueError(f"codec is 'json' or 'msgpack', not {codec!r}")
    wanted = None if fields is None else tuple(fields)
    started = trio.current_time()
    source = token if callable(token) else None
    first = None if callable(token) else token
    with trio.move_on_after(connect_timeout) as patience:
        if source is not None:
            first = await source()
    if patience.cancelled_caught:
        raise ConnectFailed(f"no token within {connect_timeout:g} s", "the function given as token= did not return")
    address = Address(
        url, first, codec, ca_file, tuple(headers), max_message_bytes, connect_timeout, parts, wanted, deferred,
        unix, client_certificate,
    )  # fmt: skip
    asked = {"resume": ""} if resume else {}
    async with address.open(**asked) as socket, quiet_nursery() as nursery:
        hello = None
        with trio.move_on_at(started + connect_timeout):
            hello = understood(codec, await socket.receive())
            if isinstance(hello, Bye):
                await socket.receive()  # the close that it announces
        if not isinstance(hello, Hello):
            raise ConnectFailed(f"no `hello` from {url}", "is that the relay's /ws?")
        first_socket = Lasting(address, nursery, socket, hello) if resume else socket
        client = Client(
            first_socket, nursery, address, hello, buffer=buffer, progress=progress, auto_ack=auto_ack,
            delta_bytes=delta_bytes, source=source,
        )  # fmt: skip
        client._start()
        try:
            yield client
        finally:
            try:
                await client.close()
            finally:
                client._hearing.end(first_socket.closed or Disconnected(LOST, "the connection was dropped"))
                nursery.cancel_scope.cancel()
