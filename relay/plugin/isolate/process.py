"""The life of a plugin's process: started, spoken to, found dead or silent, ended.

Not here: what is said (standin). The one rule: what waits for the process is bounded in bytes and in time; a process
that does not answer a ping in time is killed.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

import msgspec
import trio

from relay.errors import Refused
from relay.plugin.isolate.pipe import Pipe
from relay.plugin.isolate.wire import Broken, frame
from relay.plugin.loader import LoadedPlugin

log = logging.getLogger("relay.plugin")

START: Final = 20.0  # seconds until it must have begun
PING_EVERY: Final = 1.0
SILENT: Final = 5.0  # seconds without a word after which it is killed
STOP: Final = 2.0  # seconds for it to end by itself
QUEUE: Final = 8 << 20  # bytes that may wait for it
A_TURN: Final = 256  # frames of it that are done before others have their turn
READ: Final = 65536


class Ended(Exception):
    """The process has ended, or had to be ended."""


class Process:
    """One run of it. `obey` is given each frame that is no answer; it raises Broken."""

    def __init__(
        self, name: str, tenant: str, source: str, loaded: LoadedPlugin, obey: Callable[[list[Any]], None]
    ) -> None:
        self.name = name
        self._tenant = tenant
        self._source = source
        self._loaded = loaded
        self._obey = obey
        self._pipe: Pipe
        self._waiting: dict[int, tuple[trio.Event, list[Any]]] = {}
        self._number = 0
        self._heard = 0.0
        self._over = trio.Event()
        self._why = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Starts it and waits until it is ready. Raises Ended when it cannot."""
        ours, theirs = socket.socketpair()
        pipe = self._pipe = Pipe(ours)
        with theirs:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "relay.plugin.isolate.child", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                start_new_session=True,  # a Ctrl-C in the terminal is the relay's business
            )
        try:
            async with trio.open_nursery() as nursery:
                ready = trio.Event()
                self._heard = trio.current_time()
                nursery.start_soon(self._read, pipe, ready)
                nursery.start_soon(pipe.write)
                nursery.start_soon(self._tell_stderr, process)
                nursery.start_soon(self._wait, process)
                self.say("init", *self._first())
                with trio.move_on_after(START):
                    await self._first_of(ready, self._over)
                if not ready.is_set():
                    self._end(f"it was not ready within {START:g} s")
                    raise Ended(self._why)
                nursery.start_soon(self._ping)
                yield
                nursery.cancel_scope.cancel()
        finally:
            self._end("the relay ends it")
            with trio.CancelScope(shield=True):
                pipe.close()
                await _stop(process)

    def _first(self) -> list[Any]:
        loaded = self._loaded
        return [
            self.name, self._tenant, self._source, f"{loaded.plugin.__module__}:{loaded.plugin.__qualname__}",
            msgspec.to_builtins(loaded.settings), loaded.memory_bytes, loaded.channels,
        ]  # fmt: skip

    @staticmethod
    async def _first_of(*events: trio.Event) -> None:
        async with trio.open_nursery() as nursery:

            async def wait(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            for event in events:
                nursery.start_soon(wait, event)

    async def ended(self) -> None:
        """Waits for its end. Raises Ended: it is never expected."""
        await self._over.wait()
        raise Ended(self._why)

    def say(self, *words: Any) -> None:
        """Raises Refused when too much waits for it."""
        said = frame(*words)
        if self._pipe.waiting + len(said) > QUEUE:
            raise Refused("unavailable", "the plugin's process does not keep up", retry_after=1.0)
        self._pipe.put(said)

    async def ask(self, hook: str, *more: Any) -> Any:
        """Its answer. Raises Refused as the plugin did, Fault for what else it raised."""
        from relay.plugin.isolate.standin import Fault

        self._number += 1
        number = self._number
        come: list[Any] = []
        event = trio.Event()
        self._waiting[number] = event, come
        try:
            self.say("ask", number, hook, *more)
            await event.wait()
        finally:
            self._waiting.pop(number, None)
        match come:
            case ["answer", value]:
                return value
            case ["refused", code, message, retry_after, setting]:
                raise Refused(code, message, retry_after=retry_after, setting=setting)
            case ["failed", what, traceback]:
                fault = Fault(what)
                fault.add_note(traceback)
                raise fault
        raise Refused("unavailable", "the plugin's process has ended", retry_after=1.0)

    async def _read(self, pipe: Pipe, ready: trio.Event) -> None:
        try:
            async with aclosing(pipe.batches()) as batches:
                async for batch in batches:
                    self._heard = trio.current_time()
                    for count, words in enumerate(batch, 1):
                        self._take(words, ready)
                        if count % A_TURN == 0:
                            await trio.lowlevel.checkpoint()
            self._end("it ended")
        except Broken as broken:
            self._end(f"it sent nonsense: {broken}")

    def _take(self, words: list[Any], ready: trio.Event) -> None:
        kind = words[0]
        if kind in ("answer", "refused", "failed"):
            waiting = self._waiting.get(words[1])
            if waiting is not None:  # else nobody waits any more: its time was over
                waiting[1].extend([kind, *words[2:]])
                waiting[0].set()
        elif kind == "ready":
            ready.set()
        elif kind == "broken":
            self._end(str(words[1]))
        elif kind == "log":
            logging.getLogger(f"relay.plugin.{self.name}").log(int(words[1]), "%s", words[2])
        elif kind != "pong":
            self._obey(words)

    async def _ping(self) -> None:
        while True:
            await trio.sleep(PING_EVERY)
            if trio.current_time() - self._heard > SILENT:
                self._end(f"it did not answer for {SILENT:g} s: something in it holds its loop")
                return
            try:
                self.say("ping")
            except Refused:
                pass

    async def _wait(self, process: trio.Process) -> None:
        status = await process.wait()
        how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        self._end(f"it ended {how}")

    async def _tell_stderr(self, process: trio.Process) -> None:
        assert process.stderr is not None
        rest = b""
        while data := await process.stderr.receive_some(READ):
            *lines, rest = (rest + bytes(data))[-READ:].split(b"\n")
            for line in lines:
                log.error("plugin %s: its process says: %s", self.name, line.decode(errors="replace"))

    def _end(self, why: str) -> None:
        if not self._over.is_set():
            self._why = why
            self._over.set()
            for event, _ in self._waiting.values():
                event.set()


async def _stop(process: trio.Process) -> None:
    if process.returncode is None:
        process.terminate()
        with trio.move_on_after(STOP):
            await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.stderr is not None:
        await process.stderr.aclose()


def bound_memory(most: int) -> None:
    """In the process: its own memory, bytes; 0: no bound."""
    if most:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
