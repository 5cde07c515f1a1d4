"""Asks the relay for whole values, where a patch could not be applied.

Not here: which ones, and how often (values). The one rule: nobody waits for it; what is said meanwhile goes on, and
while the answer is under way nothing is asked twice.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from relay.client.errors import Disconnected, NotJoined, RateLimited
from relay.client.values import Values, Wanted
from relay.errors import Refused

log: Final = logging.getLogger("relay.client")


class Resync:
    """Of one session. `ask` is given a room and a key, or None for all its keys; it raises Refused, Disconnected."""

    def __init__(self, values: Values, ask: Callable[[str, str | None], Awaitable[object]]) -> None:
        self._values = values
        self._ask = ask
        self._news = trio.Event()

    def look(self) -> None:
        """Something may be wanted."""
        self._news.set()

    async def run(self) -> None:
        """Ends with the session."""
        while True:
            self._news = trio.Event()
            try:
                for wanted in self._values.due(trio.current_time()):
                    await self._one(wanted)
            except Disconnected:
                return
            due = self._values.next()
            with trio.move_on_at(float("inf") if due is None else due):
                await self._news.wait()

    async def _one(self, wanted: Wanted) -> None:
        try:
            await self._ask(*wanted)
        except NotJoined:
            self._values.left(wanted[0])
        except RateLimited as no:
            self._values.put_off(wanted, trio.current_time() + (no.retry_after or 0.0))
        except Refused as no:
            log.warning("no whole values of %s: %s", wanted[0], no)
