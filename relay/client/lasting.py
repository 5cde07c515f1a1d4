"""A session's first socket that is opened again when it is lost, so that the session goes on.

Not here: what is said (session). The one rule: only a lost socket is opened again; what was closed with a code ended
for a reason. While it is gone, whoever sends waits, and nothing is sent twice here: what had no answer is the session's
to say again.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from relay.client.address import Address
from relay.client.codec import understood
from relay.client.errors import LOST, ConnectFailed, ConnectionRefused, Disconnected
from relay.client.events import Hello
from relay.client.plain import PlainClient

FIRST_DELAY: Final = 0.2
LONGEST_DELAY: Final = 5.0
LATER: Final = (429, 503)  # statuses that ask to come back later


class Lasting:
    """Stands for a `PlainClient`. `resumed` is called with each new socket, before anything is received from it."""

    def __init__(self, address: Address, nursery: trio.Nursery, socket: PlainClient, hello: Hello) -> None:
        self.resumed: Callable[[Callable[[str | bytes], Awaitable[None]]], Awaitable[None]]
        self.times = 0
        self._address = address
        self._nursery = nursery
        self._socket = socket
        self._ticket = hello.resume
        self._closing = False
        self._why: Disconnected | None = None
        self._up = trio.Event()
        self._up.set()
        self._release = trio.Event()

    @property
    def closed(self) -> Disconnected | None:
        """Why it ended for good."""
        return self._why

    @property
    def heard_at(self) -> float:
        return self._socket.heard_at if self._up.is_set() else trio.current_time()

    async def send(self, data: str | bytes) -> None:
        """Waits while there is no socket. What is lost with one is no error. Raises Disconnected at the end."""
        await self._up.wait()
        if self._why is not None:
            raise self._why.again()
        try:
            await self._socket.send(data)
        except Disconnected:
            if self._closing:
                raise

    async def receive(self) -> str | bytes:
        """The next message, by whichever socket. For one task. Raises Disconnected when there will be no other."""
        while True:
            try:
                return await self._socket.receive()
            except Disconnected as why:
                if self._closing or why.code != LOST or self._ticket is None:
                    raise self._end(why) from None
                self._up = trio.Event()
                if not await self._come_back():
                    raise self._end(why) from None
                self._up.set()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self._closing = True
        await self._socket.close(code, reason)
        self._release.set()

    async def abandon(self) -> None:
        """Drops the socket without a word; another one is opened."""
        await self._socket.abandon()

    def _end(self, why: Disconnected) -> Disconnected:
        self._why = why
        self._up.set()
        self._release.set()
        return why.again()

    async def _come_back(self) -> bool:
        """False: the session is gone, or could not be reached while it waited."""
        assert self._ticket is not None
        delay = FIRST_DELAY
        with trio.move_on_after(self._ticket.window):
            while not self._closing:
                asked_for = 0.0
                try:
                    return await self._open()
                except ConnectionRefused as no:
                    if no.status not in LATER:
                        return False
                    asked_for = no.retry_after or 0.0
                except (ConnectFailed, Disconnected):
                    pass
                spread = random.uniform(0.5, 1.0)  # noqa: S311 - so that not all clients come at once
                await trio.sleep(max(delay * spread, asked_for))
                delay = min(2 * delay, LONGEST_DELAY)
        return False

    async def _open(self) -> bool:
        """A new socket of the session. Raises ConnectFailed, ConnectionRefused, Disconnected."""
        assert self._ticket is not None
        self._release.set()
        self._release = trio.Event()
        socket: PlainClient = await self._nursery.start(self._keep, self._ticket.ticket, self._release)
        hello = understood(self._address.codec, await socket.receive())
        if not isinstance(hello, Hello) or not hello.resumed:
            return False
        self._socket, self._ticket = socket, hello.resume
        self.times += 1
        await self.resumed(socket.send)
        return True

    async def _keep(self, ticket: str, release: trio.Event, task_status: Any) -> None:
        address = dataclasses.replace(
            self._address, token=None, deferred=False
        )  # the ticket alone: another session would be no help
        async with address.open(resume=ticket) as socket:
            task_status.started(socket)
            await release.wait()
