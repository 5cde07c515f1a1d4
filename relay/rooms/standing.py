"""What an operator has decided about rooms by name: frozen, or closed for a while.

It holds for a room that is open, and for one that is opened later. Not here: who decides (front/api_rooms), and what
members are told. The one rule: other rooms pay nothing: a frozen room has another handler, a closed one is met when it
is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NoReturn

from relay.errors import Refused

MOST: Final = 10000


class Frozen:
    """In the place of a room's handler: all is as before, but nobody may publish. `why` is told to who tries."""

    message_is_async = False

    def __init__(self, handler: Any, why: str) -> None:
        self.handler = handler
        self.why = why

    def message(self, room: object, peer: object, message: object) -> NoReturn:
        raise Refused("frozen", self.why)

    async def later(self, hook: str, *args: Any, **more: Any) -> Any:
        if hook == "on_message":  # it was queued before
            raise Refused("frozen", self.why)
        return await self.handler.later(hook, *args, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.handler, name)


class Standing:
    """By a room's name. `until` counts on the hub's clock."""

    def __init__(self) -> None:
        self.frozen: Final[dict[str, str]] = {}
        self._closed: Final[dict[str, tuple[float, str]]] = {}

    def freeze(self, name: str, why: str) -> None:
        """Raises Refused when as many are frozen as may be."""
        if name not in self.frozen and len(self.frozen) >= MOST:
            raise Refused("too_many_open_rooms", f"{MOST} rooms are frozen already")
        self.frozen[name] = why

    def close(self, name: str, until: float, why: str, now: float) -> None:
        """It cannot be opened before `until`. Raises Refused when as many are closed as may be."""
        if name not in self._closed and len(self._closed) >= MOST:
            for other in [other for other, (end, _) in self._closed.items() if end <= now]:
                del self._closed[other]
            if len(self._closed) >= MOST:
                raise Refused("too_many_open_rooms", f"{MOST} rooms are closed already")
        self._closed[name] = until, why

    def reopen(self, name: str) -> None:
        self._closed.pop(name, None)

    def check(self, name: str, now: float) -> None:
        """Raises Refused for a room that is closed."""
        found = self._closed.get(name)
        if found is not None:
            until, why = found
            if now < until:
                wait = until - now
                raise Refused("room_closed", why, retry_after=wait if wait < 1e9 else None)
            del self._closed[name]

    def closed_for(self, name: str, now: float) -> float:
        """Seconds for which it stays closed; 0.0: it is not."""
        return max(0.0, self._closed.get(name, (0.0, ""))[0] - now)

    def closed(self, now: float) -> Iterator[tuple[str, float, str]]:
        """(name, seconds, why) of those that are closed now."""
        return ((name, until - now, why) for name, (until, why) in self._closed.items() if now < until)

    @staticmethod
    def bare(handler: Any) -> Any:
        """The handler that a frozen room has beneath."""
        return handler.handler if isinstance(handler, Frozen) else handler

    def handler(self, name: str, handler: Any) -> Any:
        """The handler of a room that is opened."""
        why = self.frozen.get(name)
        return handler if why is None else Frozen(handler, why)
