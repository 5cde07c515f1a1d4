"""One end of the socket between the relay and a plugin's process: frames in, frames out.

All that is said in one turn of the loop leaves in one write; all that has come is handled in one go, and what is said
about it leaves right behind, without a task in between. Not here: what frames look like (wire), what they mean
(standin, child). The one rule: one task reads, and writing waits for nobody: what the other side does not take is kept,
up to the bound of whoever says it.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from typing import Any, Final

import trio

from relay.plugin.isolate.wire import Frames, frame

READ: Final = 262144


class Pipe:
    """Takes the socket over. `lost`: the other side is gone."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._out = bytearray()
        self._more = trio.Event()
        self._reading = False  # what is said now leaves when all that has come is handled
        self.lost = False

    @property
    def waiting(self) -> int:
        """Bytes that the other side has not taken yet."""
        return len(self._out)

    def say(self, *words: Any) -> None:
        """Raises TypeError for what msgpack cannot express, ValueError for what is too large."""
        self.put(frame(*words))

    def put(self, said: bytes) -> None:
        self._out += said
        if not self._reading:
            self._more.set()

    async def batches(self) -> AsyncGenerator[list[list[Any]], None]:
        """All that comes, as it comes; ends when the other side is gone. Raises Broken."""
        frames = Frames()
        while not self.lost:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                data = self._socket.recv(READ)
            except BlockingIOError:
                continue
            except OSError:
                break
            if not data:
                break
            self._reading = True
            try:
                yield frames.feed(data)
            finally:
                self._reading = False
            if self._out and not self._more.is_set():
                self.flush()
        self._lose()

    def flush(self) -> None:
        """Writes what the other side takes at once; the rest is written by `write`."""
        try:
            sent = self._socket.send(self._out)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose()
            return
        del self._out[:sent]
        if self._out:
            self._more.set()

    async def write(self) -> None:
        """The task that writes what is said outside of `batches`, and what was too much at once."""
        while not self.lost:
            await self._more.wait()
            self._more = trio.Event()
            while self._out and not self.lost:
                self.flush()
                if self._out and not self.lost:
                    await trio.lowlevel.wait_writable(self._socket)

    async def drain(self) -> None:
        """Writes all that is left."""
        while self._out and not self.lost:
            self.flush()
            if self._out and not self.lost:
                await trio.lowlevel.wait_writable(self._socket)

    def _lose(self) -> None:
        self.lost = True
        self._out.clear()
        self._more.set()

    def close(self) -> None:
        self._lose()
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
