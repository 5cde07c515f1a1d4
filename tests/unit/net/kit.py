"""A relay on real sockets (loopback TCP, no TLS), and a client whose every byte the test decides."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import trio
import trio.testing
from wsproto.connection import Connection as Frames
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, Pong, TextMessage

from relay.config.schema import Config
from relay.limits.buckets import Rate
from relay.net.link import Link, given_up_after
from relay.net.masking import xor_mask
from relay.net.poller import make_poller
from relay.net.slow_path import EngineLimits
from relay.net.transport import Transport
from relay.plugin.api import Plugin
from relay.protocols.base import WireProtocol
from relay.session.connection import Connection
from relay.session.leg import Leg
from tests.unit.protocols.table import JSON
from tests.unit.session.kit import House, identity, settings

MASK = b"\x37\xfa\x21\x3d"


def masked(opcode: int, payload: bytes | str = b"", *, fin: bool = True) -> bytes:
    """A client's frame."""
    data = payload.encode() if isinstance(payload, str) else payload
    size = len(data)
    first = bytes([128 * fin | opcode])
    if size < 126:
        head = first + bytes([128 | size])
    elif size < 65536:
        head = first + b"\xfe" + size.to_bytes(2, "big")
    else:
        head = first + b"\xff" + size.to_bytes(8, "big")
    return head + MASK + xor_mask(data, MASK)


def say(**request: Any) -> bytes:
    """An envelope in a text frame."""
    return masked(1, msgspec.json.encode(request))


def close(code: int, reason: str = "") -> bytes:
    return masked(8, code.to_bytes(2, "big") + reason.encode())


class Net(House):
    """A house with a poller and doors to the street."""

    poller: Any
    poller_scope: trio.CancelScope

    def open(self, poller: str) -> None:
        self.poller = make_poller(poller, trio.current_time)
        self.poller_scope = trio.CancelScope()
        self.tick = self.poller.tick
        limits = self.config.limits
        self.engine_limits = EngineLimits(
            limits.message_bytes, limits.fragments, Rate(limits.control_frames, limits.control_frames_burst),
            self.config.websocket.fast_path,
        )  # fmt: skip
        self.clients: list[Client] = []

    async def run_poller(self) -> None:
        with self.poller_scope:
            await self.poller.run()

    def connect(
        self,
        subject: str = "ann",
        grants: Mapping[str, Any] | None = None,
        *,
        protocol: WireProtocol = JSON.protocol,
        home: str = "",
        last: int = 0,
        early: bytes = b"",
        expires_in: float = 3600.0,
        small: bool = False,
    ) -> Client:
        """`small`: as little as possible fits between the two ends."""
        server, client = tcp_pair(small)
        link = Link(
            self.services,
            Transport(
                server,
                unsent_bytes=self.config.outbox.unsent_bytes,
                unacknowledged=given_up_after(self.config.websocket),
            ),
            self.poller,
            self.poller.tick,
            self.engine_limits,
        )
        link.connection = Connection(
            self.services, link, identity(subject, grants, expires_in), protocol, f"session of {subject}", home
        )
        made = Client(link, client)
        self.clients.append(made)
        link.gone = lambda _: made.ended.set()
        link.start(early, last)
        return self.clients[-1]

    def second(self, main: Client, *channels: str) -> Client:
        """One more socket of a client's session, by which those channels leave."""
        server, sock = tcp_pair(small=False)
        transport = Transport(server, unsent_bytes=self.config.outbox.unsent_bytes)
        link = Link(self.services, transport, self.poller, self.poller.tick, self.engine_limits)
        session = main.link.connection.main
        link.connection = Leg(session, link, session.identity, [self.channels.index(name) for name in channels])
        self.clients.append(Client(link, sock))
        link.start(b"")
        return self.clients[-1]


def tcp_pair(small: bool = False) -> tuple[socket.socket, socket.socket]:
    with socket.socket() as listener:
        if small:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        client = socket.socket()
        if small:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
    client.setblocking(False)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return server, client


@contextlib.asynccontextmanager
async def open_net(
    plugins: Mapping[str, tuple[type[Plugin], dict[str, Any]]],
    config: Config | None = None,
    *,
    poller: str = "auto",
) -> AsyncIterator[Net]:
    """A relay while the block runs. Nothing may be left of it: no room, no bug, no task, no descriptor."""
    before = set(os.listdir("/proc/self/fd"))
    mocked = isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)
    with trio.fail_after(1e6 if mocked else 10):
        async with trio.open_nursery() as nursery:
            net = Net(nursery, plugins, config or settings())
            net.open(poller)
            for task in (net.run_poller, net.run_timers, net.run_wheel):
                nursery.start_soon(task)
            await trio.testing.wait_all_tasks_blocked()
            try:
                yield net
            finally:
                for client in net.clients:
                    client.link.abort()
                    client.sock.close()
            await trio.testing.wait_all_tasks_blocked()
            assert net.hub.rooms == {}
            assert not any(net.services.wheel.slots)
            nursery.cancel_scope.cancel()
    assert set(os.listdir("/proc/self/fd")) == before
    assert net.bugs == []


class Client:
    """The other end. Events are: envelopes as values, "text" and b"bytes", ("ping", x), ("pong", x),
    ("close", code, reason), "end" for the end of the stream and "reset" for one that broke.
    """

    def __init__(self, link: Link, sock: socket.socket) -> None:
        self.link = link
        self.ended = trio.Event()
        self.sock = sock
        self.plain = link.connection.protocol.bare
        self._frames = Frames(ConnectionType.CLIENT)
        self._events: list[Any] = []
        self._text = ""
        self._bytes = b""
        self.raw = 0

    async def send(self, *data: bytes) -> None:
        """All of it, in one write if it fits."""
        rest = memoryview(b"".join(data))
        while rest:
            try:
                rest = rest[self.sock.send(rest) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.sock)

    def stuff(self, data: bytes) -> int:
        """As much of it as goes without waiting."""
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < len(data):
                sent += self.sock.send(data[sent:])
        return sent

    async def hear(self) -> Any:
        """The next event."""
        while not self._events:
            await trio.lowlevel.wait_readable(self.sock)
            self._receive()
        return self._events.pop(0)

    async def hear_until(self, kind: str) -> Any:
        """Skips to the first envelope or event of that kind."""
        while True:
            event = await self.hear()
            if event == kind or (isinstance(event, dict) and event["t"] == kind):
                return event
            if isinstance(event, tuple) and event[0] == kind:
                return event

    async def rest(self) -> list[Any]:
        """Everything up to and including the end."""
        events = [await self.hear()]
        while events[-1] not in ("end", "reset"):
            events.append(await self.hear())
        return events

    async def silence(self, seconds: float) -> list[Any]:
        """What comes within that time."""
        events: list[Any] = []
        with trio.move_on_after(seconds):
            while True:
                events.append(await self.hear())
        return events

    async def join(self, room: str, **more: Any) -> Any:
        await self.send(say(t="join", room=room, id="join", **more))
        return await self.hear_until("ok")

    def _receive(self) -> None:
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            self._events.append("reset")
            return
        except BlockingIOError:
            return
        self.raw += len(data)
        if not data:
            self._events.append("end")
            return
        self._frames.receive_data(data)
        for event in self._frames.events():
            if isinstance(event, Message):
                self._join(event)
            elif isinstance(event, Ping):
                self._events.append(("ping", bytes(event.payload)))
            elif isinstance(event, Pong):
                self._events.append(("pong", bytes(event.payload)))
            elif isinstance(event, CloseConnection):
                self._events.append(("close", int(event.code), event.reason or ""))

    def _join(self, event: Message[Any]) -> None:
        if isinstance(event, TextMessage):
            self._text += event.data
            if event.message_finished:
                text, self._text = self._text, ""
                self._events.append(text if self.plain else msgspec.json.decode(text))
        elif isinstance(event, BytesMessage):
            self._bytes += bytes(event.data)
            if event.message_finished:
                data, self._bytes = self._bytes, b""
                self._events.append(data)
