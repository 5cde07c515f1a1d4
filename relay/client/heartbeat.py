"""Whether the relay still lives: asked when it is silent, and given up when it stays so.

Not here: what becomes of the session then (hearing, lasting). The one rule: a silence of two heartbeats is the end of
a socket, however patient the network is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from relay.client.errors import LOST, Disconnected
from relay.client.lasting import Lasting
from relay.client.plain import PlainClient


async def watch(
    socket: PlainClient | Lasting,
    heartbeat: float,
    ping: Callable[[], Awaitable[None]],
    end: Callable[[Disconnected], None],
) -> None:
    """Pings when nothing was heard for `heartbeat` seconds, and ends the session when for as long again nothing came; a
    session that lasts gets another socket. Ends with the session.
    """
    while heartbeat > 0:
        heard = socket.heard_at
        silent, dead = heard + heartbeat, heard + 2 * heartbeat
        now = trio.current_time()
        if now < silent:
            await trio.sleep_until(silent)
        elif now < dead:
            with trio.move_on_at(dead):
                try:
                    await ping()
                except Disconnected:
                    return
                await trio.sleep_forever()
        else:
            lasts = isinstance(socket, Lasting)
            if not lasts:
                end(Disconnected(LOST, f"nothing was heard for {2 * heartbeat:g} s"))
            await socket.abandon()
            if not lasts:
                return
            await trio.sleep(heartbeat)
