"""Which plugin owns a room, and which stand in front of it.

Not here: finding plugins (loader). The one rule: asked only when a room is opened, and it remembers nothing of rooms,
so no number of names makes it grow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import TypeAlias

from relay.auth.grants import Specificity
from relay.plugin.filters import Filtered
from relay.plugin.supervisor import Supervised
from relay.rooms.patterns import Trie
from relay.rooms.room import RoomRule

Owner: TypeAlias = tuple[RoomRule, Supervised | Filtered]


def build_router(plugins: Iterable[Supervised]) -> Callable[[str], Owner | None]:
    """The owner is the plugin with the closest pattern; of two that are equally close, the one named first. Filters
    come in the order of the config file; nobody filters its own rooms.
    """
    plugins = list(plugins)
    owners: Trie[tuple[Specificity, int, Supervised]] = Trie()
    for place, plugin in enumerate(plugins):
        for pattern in plugin.patterns:
            owners.add(*pattern.shape(), (pattern.specificity, -place, plugin))
    filters = [plugin for plugin in plugins if plugin.filters]
    made: dict[tuple[Supervised, ...], Filtered] = {}

    def route(room: str) -> Owner | None:
        found = owners.match(room)
        if not found:
            return None
        owner = max(found, key=itemgetter(0, 1))[2]
        return (owner.rule, in_front(room, owner)) if filters else (owner.rule, owner)

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
