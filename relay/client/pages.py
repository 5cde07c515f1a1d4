"""A room's history, read back page by page.

Not here: asking for one page (session). The one rule: a page that was asked for and refused is asked for again by the
next turn; nothing is left out.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from relay.client.events import Membership


class Ask(Protocol):
    """`Client.history`."""

    def __call__(self, room: str, *, last: int, before: int | None) -> Awaitable[Membership]: ...


class Pages:
    """Made by `Client.pages`: `async for page in …` gives the newest page first, each with its messages in order.

    Raises what `Client.history` does.
    """

    def __init__(self, ask: Ask, room: str, size: int, before: int | None) -> None:
        self._ask = ask
        self._room = room
        self._size = size
        self._before = before
        self._over = False

    def __aiter__(self) -> Pages:
        return self

    async def __anext__(self) -> Membership:
        if self._over:
            raise StopAsyncIteration
        page = await self._ask(self._room, last=self._size, before=self._before)
        self._over = not page.more or not page.messages
        if not page.messages:
            raise StopAsyncIteration
        self._before = page.messages[0].offset
        return page
