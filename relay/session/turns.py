"""What a session has to do with plugins that take turns: who waited is told and counted, and who speaks is known.

Not here: the turns (plugin/turns). The one rule: nothing of this is on the way of a plugin that takes none.
"""

from __future__ import annotations

from relay.plugin.supervisor import Supervised
from relay.rooms.room import Room
from relay.session.connection import Connection
from relay.session.services import Services


def tell_of_turns(services: Services, plugin: Supervised) -> None:
    """From now on `services` hears of it."""

    def waited(room: Room | None, peer: object) -> None:
        services.counters.plugin_waits[plugin.name] += 1
        if isinstance(peer, Connection):
            why = "its requests wait for those of others: the plugin is slow and called often"
            where = room.name if room is not None else ""
            peer.note("throttled", "plugin_busy", "supervision.slow_hook", why, where, plugin.name)

    def producing(peer: object) -> None:
        services.producer = peer if isinstance(peer, Connection) else None

    plugin.turns.waited, plugin.turns.producing = waited, producing
