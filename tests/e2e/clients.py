"""Four independent WebSocket clients behind one small interface: trio-websocket, Python `websockets`, npm `ws` and a
real Chromium.

Not here: the relay (harness) and the browser itself (browser). The one rule: a client brings its token the way its
users would: in a header where it can, in the list of subprotocols where it is a browser (or behaves like one).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import trio
import websockets.trio.client
from trio_websocket import CloseReason, ConnectionClosed, WebSocketConnection, wrap_client_stream
from websockets.typing import Subprotocol

from tests.e2e.browser import Tab
from tests.e2e.harness import RelayProcess, bearer

NODE_CLIENT = Path(__file__).with_name("node_client.cjs")


class Client(Protocol):
    """Somebody connected. `subprotocol` and `extensions` are what the server chose, "" for none."""

    subprotocol: str
    extensions: str

    async def say(self, text: str) -> None: ...
    async def hear(self) -> str: ...


class TrioClient:
    extensions = ""  # it offers none

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection
        self.subprotocol = connection.subprotocol or ""

    async def say(self, text: str) -> None:
        await self.connection.send_message(text)

    async def hear(self) -> str:
        heard = await self.connection.get_message()
        assert isinstance(heard, str)
        return heard


@asynccontextmanager
async def trio_client(
    relay: RelayProcess, path: str, token: str, subprotocols: Sequence[str] = ()
) -> AsyncIterator[TrioClient]:
    headers = [(name.encode(), value.encode()) for name, value in bearer(token).items()]
    # Our own stream: where the server closes first, trio-websocket leaves it to the garbage collector.
    stream = await trio.open_ssl_over_tcp_stream("localhost", relay.port, ssl_context=relay.ssl_context)
    async with trio.open_nursery() as nursery:
        try:
            connection = await wrap_client_stream(
                nursery,
                stream,
                f"localhost:{relay.port}",
                path,
                subprotocols=list(subprotocols) or None,
                extra_headers=headers,
            )
            try:
                yield TrioClient(connection)
            finally:
                await connection.aclose()
        finally:
            await trio.aclose_forcefully(stream)


async def closed(client: TrioClient) -> CloseReason:
    """How the server ends the connection."""
    reason: CloseReason | None = None
    while reason is None:
        try:
            await client.hear()
        except ConnectionClosed as ended:
            reason = ended.reason
    return reason


class WebsocketsClient:
    def __init__(self, connection: websockets.trio.client.ClientConnection) -> None:
        self.connection = connection
        self.extensions = (connection.response and connection.response.headers.get("Sec-WebSocket-Extensions")) or ""
        self.subprotocol = connection.subprotocol or ""

    async def say(self, text: str) -> None:
        await self.connection.send(text)

    async def hear(self) -> str:
        heard = await self.connection.recv()
        assert isinstance(heard, str)
        return heard


@asynccontextmanager
async def websockets_client(
    relay: RelayProcess, path: str, token: str, subprotocols: Sequence[str] = ()
) -> AsyncIterator[WebsocketsClient]:
    async with websockets.trio.client.connect(
        relay.wss(path),
        ssl=relay.ssl_context,
        additional_headers=bearer(token),
        subprotocols=[Subprotocol(name) for name in subprotocols] or None,
        proxy=None,
    ) as connection:
        yield WebsocketsClient(connection)


class NodeClient:
    """A Node.js process; it prints what it hears."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._rest = b""
        self.subprotocol = self.extensions = ""

    async def next_line(self) -> dict[str, Any]:
        """What happened next: {"open": subprotocol, "extensions": ...}, {"text": ...}, {"error": ...} or {"code": ...,
        "reason": ...}.
        """
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            data = await self._process.stdout.receive_some()
            assert data, "the Node.js client ended"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        happened: dict[str, Any] = json.loads(line)
        return happened

    async def say(self, text: str) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(text.encode() + b"\n")

    async def hear(self) -> str:
        line = await self.next_line()
        assert "text" in line, line
        heard: str = line["text"]
        return heard


@asynccontextmanager
async def node_client(
    node: tuple[str, Path], relay: RelayProcess, path: str, token: str, subprotocols: Sequence[str] = ()
) -> AsyncIterator[NodeClient]:
    program, folder = node
    command = [
        program,
        NODE_CLIENT,
        folder,
        relay.wss(path),
        relay.certificates.authority,
        *subprotocols,
        f"bearer.{token}",
    ]
    process = await trio.lowlevel.open_process(
        list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder
    )
    client = NodeClient(process)
    try:
        opened = await client.next_line()
        assert "open" in opened, opened
        client.subprotocol = "" if opened["open"].startswith("bearer.") else opened["open"]
        client.extensions = opened["extensions"]
        yield client
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        with trio.move_on_after(5, shield=True):
            await process.stdin.aclose()
            await process.wait()
        if process.poll() is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.stdout.aclose()


class ChromiumClient:
    """A WebSocket in a page: `window.socket`, with what it heard in `window.heard`."""

    def __init__(self, tab: Tab, subprotocol: str, extensions: str) -> None:
        self._tab = tab
        self.subprotocol = subprotocol
        self.extensions = extensions

    async def say(self, text: str) -> None:
        await self._tab.evaluate(f"socket.send({json.dumps(text)})")

    async def hear(self) -> str:
        await self._tab.until("heard.length > 0")
        heard: str = await self._tab.evaluate("heard.shift()")
        return heard


_CONNECT_IN_PAGE = """
new Promise((resolve, reject) => {
  window.heard = [];
  window.socket = new WebSocket(URL, PROTOCOLS);
  socket.onmessage = (event) => heard.push(event.data);
  socket.onopen = () => resolve([socket.protocol, socket.extensions]);
  socket.onclose = (event) => reject(new Error(`closed: ${event.code} ${event.reason}`));
})
"""


async def chromium_client(
    tab: Tab, relay: RelayProcess, path: str, token: str, subprotocols: Sequence[str] = ()
) -> ChromiumClient:
    """Connects from a page of the relay's own origin, as a browser user's script would."""
    protocols = json.dumps([*subprotocols, f"bearer.{token}"])
    script = _CONNECT_IN_PAGE.replace("URL", json.dumps(relay.wss(path))).replace("PROTOCOLS", protocols)
    chosen, extensions = await tab.evaluate(script)
    return ChromiumClient(tab, "" if chosen.startswith("bearer.") else chosen, extensions)
