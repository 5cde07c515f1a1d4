"""What a client asks of rooms by a pattern: subscribing to it, and leaving it.

A pattern stands where a room's name would: no name has a `*`. Not here: who hears what (rooms/watching). The one rule:
a grant must cover the whole pattern, so that nothing that is yet to be opened can be heard without one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.errors import Refused
from relay.protocols.base import Join, Leave
from relay.rooms.patterns import Wildcard

if TYPE_CHECKING:
    from relay.session.connection import Connection

UNGRANTED = "your new token does not grant this pattern"


def join(connection: Connection, command: Join) -> None:
    """Raises Refused."""
    connection.credentials.check()
    limits = connection.services.config.limits
    text = command.room
    try:
        wildcard = Wildcard(text, limits.room_name_bytes)
    except ValueError as problem:
        raise Refused("bad_room", f"not a valid pattern: {problem}", setting="limits.room_name_bytes") from None
    if not connection.identity.grants.may_join_all(wildcard.parts, wildcard.rest):
        raise Refused("forbidden", "your token does not let you join all rooms of this pattern")
    if command.since is not None or command.last or command.members or command.delta:
        raise Refused("bad_request", "a pattern has no history, no members and no patches: ask its rooms for them")
    watching = connection.hub.watching
    most = limits.patterns_per_connection
    if len(watching.of(connection)) >= most:
        setting = "limits.patterns_per_connection"
        raise Refused("too_many_rooms", "you have as many patterns as one connection may have", setting=setting)
    watching.most = limits.pattern_rooms
    rooms = watching.add(connection, wildcard)
    connection.ok(command.id, {"room": text, "rooms": rooms})


def leave(connection: Connection, command: Leave) -> None:
    """Raises Refused."""
    if not connection.hub.watching.remove(connection, command.room):
        raise Refused("not_joined", "you have not subscribed to that pattern")
    connection.ok(command.id, {"room": command.room})


def regrant(connection: Connection) -> None:
    """The token is another one: what it does not cover is over."""
    grants = connection.identity.grants
    for text, watch in list(connection.hub.watching.of(connection).items()):
        if not grants.may_join_all(watch.wildcard.parts, watch.wildcard.rest):
            connection.hub.watching.remove(connection, text)
            ended(connection, text, UNGRANTED)


def ended(connection: Connection, text: str, why: str) -> None:
    """A subscription is over without having been left."""
    connection.note("kicked", "too_many_rooms", "limits.pattern_rooms", why, text)
    connection.answer(connection.protocol.left(text, connection.subject, why))
