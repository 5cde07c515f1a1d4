"""What concerns every live session at once: done some hundreds at a time, so that nobody waits for all of it.

Not here: what is done. The one rule: a session that is new meanwhile is not looked at; who changes the world makes sure
that new ones begin with the change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from relay.session.connection import Connection

log = logging.getLogger("relay")

AT_ONCE: Final = 500


async def for_each(sessions: Iterable[Connection], action: Callable[[Connection], object]) -> int:
    """Calls `action` for each; for how many it gave something true. A bug with one is logged and costs that one."""
    count = 0
    for number, connection in enumerate(list(sessions), 1):
        try:
            if action(connection):
                count += 1
        except Exception:
            log.exception("bug in what was done for session %s", connection.session)
        if number % AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    return count
