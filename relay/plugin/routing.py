"""Which plugin owns a room, and which stand in front of it.

Not here: finding plugins (loader). The one rule: asked only when a room is opened, and it remembers nothing of rooms,
so no number of names makes it grow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from relay.plugin.filters import Filtered
from relay.plugin.supervisor import Supervised
from relay.rooms.room import RoomRule

Owner: TypeAlias = tuple[RoomRule, Supervised | Filtered]


def build_router(plugins: Iterable[Supervised]) -> Callable[[str], Owner | None]:
    """The owner is the plugin with the closest pattern; of two that are equally close, the one named first. Filters
    come in the order of the config file; nobody filters its own rooms.
    """
    plugins = list(plugins)
    ranked = [(pattern, plugin) for plugin in plugins for pattern in plugin.patterns]
    ranked.sort(key=lambda entry: entry[0].specificity, reverse=True)  # stable: first named stays first
    filters = [plugin for plugin in plugins if plugin.filters]
    made: dict[tuple[Supervised, ...], Filtered] = {}

    def route(room: str) -> Owner | None:
        for pattern, owner in ranked:
            if pattern.matches(room):
                if not filters:
                    return owner.rule, owner
                return owner.rule, in_front(room, owner)
        return None

    def in_front(room: str, owner: Supervised) -> Supervised | Filtered:
        found = tuple(
            one for one in filters if one is not owner and any(pattern.matches(room) for pattern in one.filters)
        )
        if not found:
            return owner
        handler = made.get((owner, *found))
        if handler is None:
            handler = made[owner, *found] = Filtered(owner, found)
        return handler

    return route
