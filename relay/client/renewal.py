"""New tokens for a live session, fetched before the old one ends.

Not here: where a token comes from (the program knows) and what the relay makes of it. The one rule: a source that fails
is asked again, until it gives a token that the relay takes or the session is over; the program goes on meanwhile.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import trio

from relay.client.errors import Disconnected
from relay.errors import Refused

log = logging.getLogger("relay.client")

TokenSource: TypeAlias = Callable[[], Awaitable[str]]
"""Gives a new token each time it is called."""

FIRST_PAUSE: Final = 1.0  # seconds until a source that failed is asked again; doubles each time
LONGEST_PAUSE: Final = 30.0


class Renewal:
    """Of one session. `auth` gives the relay a token; it raises Refused and Disconnected."""

    def __init__(self, source: TokenSource, auth: Callable[[str], Awaitable[object]]) -> None:
        self._source = source
        self._auth = auth
        self._wanted = trio.Event()

    def want(self) -> None:
        """The token is about to end, or has ended."""
        self._wanted.set()

    async def run(self) -> None:
        """Ends with the session."""
        while True:
            await self._wanted.wait()
            try:
                await self._renew()
            except Disconnected:
                return

    async def _renew(self) -> None:
        pause = FIRST_PAUSE
        while True:
            wait = pause
            try:
                token = await self._source()
                self._wanted = trio.Event()  # what asked so far is seen to now; what comes with the answer is not
                await self._auth(token)
                return
            except Disconnected:
                raise
            except Refused as refused:
                wait = max(pause, refused.retry_after or 0.0)
                log.warning("the relay refused the new token: %s", refused)
            except Exception:
                log.warning("no new token; asking again in about %g s", wait, exc_info=True)
            await trio.sleep(wait * random.uniform(0.75, 1.0))  # noqa: S311 - no secret
            pause = min(2 * pause, LONGEST_PAUSE)
