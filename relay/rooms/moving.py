"""A room gets another name: its members, history, epoch and offsets move along, and so does what is on disk.

Not here: who may ask for it (front/api_rooms), what members are told (session/joining). The one rule: all maps change
in one go; whoever looks finds the room under one name, never under both or neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.errors import Refused
from relay.rooms.delta import forget_room
from relay.rooms.room import Handler, Room, RoomRule

if TYPE_CHECKING:
    from relay.rooms.history import History
    from relay.rooms.hub import Hub


def rename(hub: Hub, old: str, new: str) -> Room | None:
    """Returns the room, if it is open: its members are still to be told (`tell`). None: it slept, and has moved.

    Raises Refused: "no_such_room", "room_exists" where there is something by the new name, "other_rules" where the new
    name belongs to rooms of another plugin, whose rules are not these.
    """
    room = hub.rooms.get(old)
    if room is None and hub.archive.look(old) is None:
        raise Refused("no_such_room", "nobody is in a room of that name, and nothing is remembered of one")
    if new in hub.rooms or hub.archive.look(new) is not None:
        raise Refused("room_exists", "there is a room of the new name")
    owner, before = hub.router(new), hub.router(old)
    if owner is None:
        raise Refused("no_such_room", "no plugin serves rooms of the new name", setting="plugins")
    rule, handler = owner
    mine: RoomRule | None = room.rule if room is not None else before[0] if before is not None else None
    if mine is None or rule.plugin != mine.plugin:
        raise Refused("other_rules", f"rooms of the new name are those of plugin {rule.plugin}", setting="plugins")
    if hub.journal is not None and rule.durable:
        hub.journal.rename(old, new)
    if room is None:
        record = hub.archive.wake(old)
        assert record is not None
        _relabel(record.history, new)
        hub.archive.sleep(new, record)
        _say_it(before, owner, old, new)
        return None
    if rule.wildcards:
        hub.watching.freed(room)
    if room.delta is not None:
        for audience in room.delta.audience.values():
            for outbox in audience.values():
                forget_room(outbox, old)
        room.delta.clear()
    members = list(room.peers())
    del hub.rooms[old]
    room.name = new
    hub.rooms[new] = room
    for peer in members:
        peer.rooms[new] = peer.rooms.pop(old)
    _relabel(room.history, new)
    room.handler.renamed(room, old)
    room.handler = hub.standing.handler(new, handler)
    room.handler.renamed(room, old)
    if rule.wildcards:
        hub.watching.opened(room)
    _say_it(before, owner, old, new)
    return room


def tell(hub: Hub, room: Room, old: str) -> None:
    """Each member is told, and leaves where it has no grant for the new name."""
    if hub.on_renamed is not None:
        room.holds += 1
        for peer in room.peers():
            if room.has(peer):
                hub.on_renamed(peer, room, old)
        room.holds -= 1
        hub.free_if_empty(room)


def _say_it(before: tuple[RoomRule, Handler] | None, owner: tuple[RoomRule, Handler], old: str, new: str) -> None:
    """To each plugin that has to do with either name."""
    handlers = [owner[1]] if before is None else [before[1], owner[1]]
    for one in dict.fromkeys(one for handler in handlers for one in handler.all):
        one.moved(old, new)


def _relabel(history: History | None, name: str) -> None:
    if history is not None:
        for message in history:
            message.room = name
