"""One more socket of a session: some channels come by it, so that a lost packet of the first does not hold them up.

Not here: what its messages mean (session), how it is dialled (address). The one rule: the session does not depend on
it. While it is gone, the relay sends its channels by the first socket; here it is opened again, ever more patiently,
until the session ends or it is closed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Final

import trio

from relay.client.address import Address
from relay.client.errors import LOST, ConnectFailed, ConnectionRefused, Disconnected
from relay.client.incoming import Incoming
from relay.client.plain import PlainClient

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 30.0
SILENCE: Final = 2.5  # heartbeats: the relay pings who has said nothing for one, and this socket never says anything

Take = Callable[[str | bytes | None, Incoming], None]


class SecondSocket:
    """Made by `Client.open_socket`. `channels` come by it while it is `open`; `lost` is why it last ended."""

    def __init__(
        self,
        address: Address,
        session: str,
        channels: Sequence[str],
        incoming: Incoming,
        take: Take,
        heartbeat: float,
    ) -> None:
        self.channels: Final = tuple(channels)
        self.lost: ConnectFailed | ConnectionRefused | Disconnected | None = None
        self._address = address
        self._parameters = {"session": session, "channels": ",".join(channels)}
        self._incoming = incoming
        self._take = take
        self._silence = SILENCE * heartbeat if heartbeat > 0 else math.inf
        self._socket: PlainClient | None = None
        self._closing = False
        self._failed = False
        self._scope = trio.CancelScope()
        self._tried = trio.Event()
        self._over = trio.Event()

    @property
    def open(self) -> bool:
        """Whether its channels come by it now."""
        return self._socket is not None

    async def close(self) -> None:
        """Ends this socket: its channels come by the first one again, and what is on its way by it is lost. Never
        fails.
        """
        self._closing = True
        try:
            if self._socket is None:
                self._scope.cancel()
            else:
                await self._socket.close()
            await self._over.wait()
        finally:
            self._scope.cancel()

    # What the client does.

    def stop(self) -> None:
        """The session has ended."""
        self._scope.cancel()

    async def opened_or_failed(self) -> None:
        """Waits for the first attempt. Raises what it failed with."""
        try:
            await self._tried.wait()
        except trio.Cancelled:
            self._scope.cancel()
            raise
        if self._failed:
            raise self.lost or Disconnected(LOST, "the session has ended")

    async def run(self) -> None:
        """Keeps it open; ends when the first attempt fails, or when it is closed."""
        delay = FIRST_DELAY
        try:
            with self._scope:
                while True:
                    started = trio.current_time()
                    self.lost = await self._once()
                    if self._closing or not self._tried.is_set():
                        return
                    if trio.current_time() - started > 2 * delay:  # it was open for a while: begin anew
                        delay = FIRST_DELAY
                    asked_for = self.lost.retry_after if isinstance(self.lost, ConnectionRefused) else None
                    spread = random.uniform(0.5, 1.0)  # noqa: S311 - so that not all clients come at once
                    await trio.sleep(max(delay * spread, asked_for or 0.0))
                    delay = min(2 * delay, LONGEST_DELAY)
        finally:
            self._failed = not self._tried.is_set()
            self._tried.set()
            self._over.set()

    async def _once(self) -> ConnectFailed | ConnectionRefused | Disconnected:
        """From opening to the end; returns why."""
        try:
            async with self._address.open(**self._parameters) as socket:
                self._socket = socket
                self._tried.set()
                await self._read(socket)
        except (ConnectFailed, ConnectionRefused, Disconnected) as why:
            return why
        finally:
            self._socket = None
            self._take(None, self._incoming)  # what was begun here and is not whole is begun anew by the relay
        raise AssertionError("reading ends with an exception")

    async def _read(self, socket: PlainClient) -> None:
        """Raises Disconnected."""
        while True:
            with trio.move_on_at(socket.heard_at + self._silence) as patience:
                self._take(await socket.receive(), self._incoming)
            if patience.cancelled_caught and trio.current_time() >= socket.heard_at + self._silence:
                await socket.abandon()
