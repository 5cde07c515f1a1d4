"""Ending all connections without a crowd at the door: each is told another moment to come back at.

Not here: when to drain (server). The one rule: draining ends by itself; who has not gone by then is cut.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import trio

from relay.config import schema
from relay.errors import CloseCode, CloseReason
from relay.front.state import State
from relay.net.link import Link

log = logging.getLogger("relay")


async def drain(state: State, config: schema.Server, connections: trio.Nursery) -> None:
    """Tells everybody to come back elsewhere or later, and gives them `drain_timeout` seconds to go."""
    state.draining = True
    connections.cancel_scope.deadline = trio.current_time() + config.drain_timeout
    for guest in list(state.guests):
        guest.dismiss()
    for tenant in state.tenants.values():
        tenant.services.resumption.end_all(CloseReason(CloseCode.GOING_AWAY, "the server is going away"))
    links = list(state.links)
    log.info("draining", extra={"fields": {"connections": len(links), "seconds": config.drain_timeout}})
    await dismiss(links, "the server is going away", config.drain_spread)


async def dismiss(links: Sequence[Link], why: str, spread: float, setting: str | None = None) -> None:
    """Tells each to go, and to come back after a time of its own within `spread` seconds."""
    for number, link in enumerate(links):
        after = round(random.uniform(0, spread), 1)  # noqa: S311 - not a secret
        link.connection.close(
            CloseReason(CloseCode.GOING_AWAY, why, setting, reconnect_after=after, reconnect_jitter=1.0)
        )
        if number % 100 == 99:
            await trio.lowlevel.checkpoint()
