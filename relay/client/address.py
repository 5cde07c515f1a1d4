"""Where a session's sockets are opened, and how: the URL, the token, and what its address asks for.

Not here: dialling itself (plain), what is said (session). The one rule: all sockets of one session ask for the same
wire format, or the relay refuses the later ones; so all addresses are made here.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from relay.client.codec import Codec, encoder
from relay.client.dial import Pair
from relay.client.plain import PlainClient, connect_plain


@dataclass(slots=True)
class Address:
    """See `connect` for what the fields mean. `token` is the newest one."""

    url: str
    token: str | None
    codec: Codec
    ca_file: str | os.PathLike[str] | None
    headers: Iterable[tuple[str, str]]
    max_message_bytes: int
    connect_timeout: float
    parts: bool
    fields: tuple[str, ...] | None
    deferred: bool = False
    unix: str | os.PathLike[str] | None = None
    client_certificate: Pair | None = None

    def open(self, **parameters: str) -> AbstractAsyncContextManager[PlainClient]:
        """A WebSocket with these query parameters and the session's own. Raises as `connect_plain`."""
        if not self.parts:
            parameters["parts"] = "0"
        if self.fields is not None:
            parameters["fields"] = ",".join(self.fields)
        asked = urlsplit(self.url)
        query = "&".join([asked.query, *(f"{name}={quote(value, safe=',')}" for name, value in parameters.items())])
        late = self.deferred and self.token is not None
        opening = connect_plain(
            asked._replace(query=query.strip("&")).geturl(),
            token=None if late else self.token,
            ca_file=self.ca_file,
            subprotocols=[f"relay.v1.{self.codec}"],
            headers=self.headers,
            max_message_bytes=self.max_message_bytes,
            connect_timeout=self.connect_timeout,
            unix=self.unix,
            client_certificate=self.client_certificate,
        )
        return self._introduced(opening) if late else opening

    @asynccontextmanager
    async def _introduced(self, opening: AbstractAsyncContextManager[PlainClient]) -> AsyncIterator[PlainClient]:
        """Says the token first, without an id: `hello`, or the end, is the answer."""
        async with opening as socket:
            said = encoder(self.codec)({"t": "auth", "token": self.token})
            await socket.send(said.decode() if self.codec == "json" else said)
            yield socket
