"""A whole relay without a socket: real links, sessions, rooms and plugins over transports that swallow what is written.

For micro.py and for profilers: what runs here is all that the relay itself adds to OpenSSL and the kernel. Not here:
TLS, polling. The one rule: nothing of the relay is replaced but its transport, its poller and its clock.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.servers import ALL_ROOMS
from relay.auth.grants import compile_grants
from relay.auth.tokens import Identity
from relay.config.loader import load
from relay.delivery.tick import Tick
from relay.devcerts import make_dev_certificates
from relay.net.deflate import Agreement
from relay.net.link import Link
from relay.net.masking import xor_mask
from relay.protocols.base import WireProtocol
from relay.protocols.plain import Plain
from relay.server import Server
from relay.session.metered import make_connection

SETTINGS: Final = """
[limits]
messages_per_second = 0
bytes_per_second = 0
[plugins.chat]
rooms = ["chat:*"]
[plugins.echo]
rooms = ["echo:*"]
"""
PLAIN: Final = Plain()
MASK: Final = b"\x12\x34\x56\x78"


class Sink:
    """In the place of a Transport: always has `data` to read, and takes all that is written."""

    half_closed = False
    tls = True
    lowat = 1 << 60  # the credit never ends, so nothing asks the kernel for it

    def __init__(self) -> None:
        self.fd = -1
        self.data = b""
        self.write: Callable[[bytes], int] = len
        self.bare = self
        self.send: Callable[[bytes], int] = len

    def read(self, size: int) -> bytes:
        return self.data

    def room(self) -> int:
        return self.lowat

    def close(self) -> None:
        """There is nothing to close."""

    abort = close


class NoPoller:
    """In the place of a Poller: the caller says who is ready."""

    def add(self, fd: int, handler: object, *, once: bool = False) -> None:
        """Nobody watches."""

    def watch(self, fd: int, *, read: bool, write: bool) -> None:
        """Nobody watches."""

    def remove(self, fd: int) -> None:
        """Nobody watches."""


class Relay:
    """A relay with connections that were never accepted. `now` is its clock; `tables`: more settings."""

    def __init__(self, tables: str = "") -> None:
        with tempfile.TemporaryDirectory(prefix="relay-bench-") as name:
            folder = Path(name)
            make_dev_certificates(folder / "certs")
            config = folder / "config.toml"
            config.write_text(SETTINGS + tables)
            self.server = Server(lambda: load(config, environ={}))
        self.now = 1000.0
        self.services = self.server.services
        self.services.monotonic = lambda: self.now
        self.tick = Tick(lambda: None)
        self.grants = compile_grants(ALL_ROOMS, "bench")

    def connect(self, room: str, protocol: WireProtocol = PLAIN, agreement: Agreement | None = None) -> Link:
        """A connection in its home room. `agreement`: compressed with a context of its own."""
        transport: Any = Sink()
        poller: Any = NoPoller()
        link = Link(self.services, transport, poller, self.tick, self.server.state.rules.engine, agreement)
        identity = Identity("bench", time.time() + 86400, None, None, self.grants, b"")
        link.connection = make_connection(self.services, link, identity, protocol, "session", room)
        link.start(b"")
        self.tick.flush()
        return link

    def say(self, link: Link, frames: bytes) -> None:
        """One tick: `link` reads these frames, and every connection they concern writes."""
        link.transport.data = frames  # type: ignore[attr-defined]
        self.now += 1.0  # long enough ago for one read a tick
        self.tick.running = self.tick.alone = True
        link.readable(self.now)
        self.tick.flush()


def masked(opcode: int, payload: bytes) -> bytes:
    """A frame as clients send it, at most 65,535 bytes."""
    size = len(payload)
    head = bytes((0x80 | opcode, 0x80 | size)) if size < 126 else bytes((0x80 | opcode, 0xFE, size >> 8, size & 255))
    return head + MASK + xor_mask(payload, MASK)
