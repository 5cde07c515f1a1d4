"""How a connection comes into rooms and how it leaves them, by its own wish and by others'.

Not here: rooms by a pattern (patterns), what is asked of a room one is in (requests). The one rule: grants are asked
before anything else, so that a room one may not see and a room that does not exist look the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from relay.errors import CLOSE_FOR_REFUSAL, CloseCode, CloseReason, Refused
from relay.protocols.base import Join, Leave
from relay.protocols.names import check_room_name
from relay.rooms.presence import listed_without
from relay.rooms.room import Rights, Room
from relay.session import patterns, recall
from relay.session.spending import spend
from relay.session.work import Job

if TYPE_CHECKING:
    from relay.session.connection import Connection

UNGRANTED: Final = "your new token does not grant this room"


def join(connection: Connection, command: Join, *, at_start: bool = False) -> None:
    """Raises Refused. An async hook decides later, and what else is asked of the room waits until it has."""
    if "*" in command.room:
        patterns.join(connection, command)
        return
    name = command.room
    if waits(connection, name, command):
        return
    connection.credentials.check()
    grants = connection.identity.grants
    limits = connection.services.config.limits
    if problem := check_room_name(name, limits.room_name_bytes):
        raise Refused("bad_room", f"not a valid room name: {problem}", setting="limits.room_name_bytes")
    if name in connection.hub.aliases:  # what the token puts one into is the room it names: no other one
        join(connection, structs.replace(command, room=connection.hub.aliases.resolve(name)))
        return
    if not (grants.may_join(name) or at_start):
        raise Refused("forbidden", "your token does not let you join this room")
    if command.members and not grants.may_see(name):
        raise Refused("forbidden", "your token does not let you see who is in this room")
    joined = connection.rooms
    if name in joined:
        raise Refused("already_joined")
    if limits.rooms_per_connection and len(joined) + len(connection.joining or ()) >= limits.rooms_per_connection:
        raise Refused("too_many_rooms", setting="limits.rooms_per_connection")
    if connection.services.quotas.joins:
        spend(connection, "joins", name, at_start=at_start)
    room = connection.hub.open(name)
    handler = room.handler
    try:
        if handler.join_is_async:
            _join_later(connection, command, room)
            return
        handler.join(room, connection)
        if connection.closing is None:  # the plugin may have closed it
            _joined(connection, command, room)
    finally:
        connection.hub.free_if_empty(room)


def _join_later(connection: Connection, command: Join, room: Room) -> None:
    name = room.name
    if connection.joining is None:
        connection.joining = {}
    connection.joining[name] = 1

    async def decide() -> None:
        try:
            await room.handler.later("on_join", room, connection)
            if connection.closing is None:
                _joined(connection, command, room)
                if not connection.identity.grants.may_join(name):  # it was renewed while the plugin thought
                    room.kick(connection, UNGRANTED)
        except Refused as refused:
            refused.room = name
            if command.id is None:
                connection.join_refused(name, refused)
            else:
                connection.refuse(command.id, refused)
        finally:
            assert connection.joining is not None
            connection.joining.pop(name, None)
            connection.joining = connection.joining or None

    later_in(connection, room, "default", decide)


def _joined(connection: Connection, command: Join, room: Room) -> None:
    grants = connection.identity.grants
    may_see = not room.rule.presence or grants.may_see(room.name)
    may_publish = connection.credentials.may_publish(room.name)
    claims = connection.identity.public
    patches = command.delta and room.rule.delta and connection.protocol.patches
    connection.hub.join(connection, room, may_publish=may_publish, may_see=may_see, claims=claims, delta=patches)
    if command.id is None:  # joined by its address or its token: there is no request to answer
        if command.announce:
            connection.answer(connection.protocol.joined(room.name, connection.subject))
        if command.last and grants.may_read_history(room.name):
            recall.send_remembered(connection, room, command.last)
        else:
            _last_value(connection, room)
        return
    result: dict[str, Any] = {"room": room.name, "epoch": room.epoch, "offset": room.offset}
    if command.delta:
        result["delta"] = patches
    if (command.since is not None or command.last) and grants.may_read_history(room.name):
        result.update(recall.recalled(connection, room, room.rule, command))
    if command.members:
        result.update(members_of(connection, room))
    frame = connection.protocol.ok(command.id, result)
    if frame is not None:
        # With messages in it, the answer goes the way of the room's messages: what is published next comes behind it.
        has_messages = bool(result.get("messages"))
        lane = recall.answer_lane(connection, room.rule) if has_messages else connection.hub.channels.control
        connection.outbox.put(lane, frame)
    if "messages" not in result:
        _last_value(connection, room)


def _last_value(connection: Connection, room: Room) -> None:
    if room.rule.last_value and connection.identity.grants.may_read_history(room.name):
        recall.send_remembered(connection, room, 1)


def members_of(connection: Connection, room: Room) -> dict[str, Any]:
    """Who is there; no more than the client's channel of answers carries beside others."""
    most_bytes = connection.hub.channels.lanes[connection.hub.channels.control].capacity // 4
    if room.presence is not None:
        return room.presence.listed(most_bytes)
    count = len(room.subjects)
    listed = room.subjects if count <= room.rule.presence_list_up_to else ()
    return listed_without(listed, count, most_bytes)


def leave(connection: Connection, command: Leave) -> None:
    if "*" in command.room:
        patterns.leave(connection, command)
        return
    if waits(connection, command.room, command):
        return
    room = joined_room(connection, command.room)
    depart(connection, room)
    connection.ok(command.id, {"room": room.name})


def depart(connection: Connection, room: Room) -> None:
    """Takes a connection out of a room and tells the plugin, once: as a plugin hears of one room it may have put it out
    of another.
    """
    handler = room.handler
    room.holds += 1
    if not connection.hub.leave(connection, room):
        _let_go(connection, room)
        return
    if not handler.leave_is_async:
        try:
            handler.leave(room, connection)
        except Refused:
            pass  # nobody can be kept from leaving
        _let_go(connection, room)
        return

    async def tell() -> None:
        try:
            await handler.later("on_leave", room, connection)
        except Refused:
            pass
        finally:
            _let_go(connection, room)

    connection.services.spawn(tell)


def _let_go(connection: Connection, room: Room) -> None:
    room.holds -= 1
    connection.hub.free_if_empty(room)


def later_in(connection: Connection, room: Room, channel: str | None, job: Job) -> None:
    """`Connection.later`, with the room held open until the job is done or called off."""
    room.holds += 1

    async def held() -> None:
        try:
            await job()
        finally:
            _let_go(connection, room)

    connection.later(room.name, channel, held, lambda: _let_go(connection, room))


def removed(connection: Connection, room: Room, why: str, code: str = "forbidden") -> None:
    """A plugin, an operator or a new token takes the connection out of a room."""
    connection.note("kicked", code, None, why, room.name, room.rule.plugin)
    depart(connection, room)
    connection.answer(connection.protocol.left(room.name, connection.subject, why))
    connection.answer(connection.protocol.error(None, Refused(code, why or f"you were removed from {room.name}")))
    if room.name == connection.home:
        closing = CLOSE_FOR_REFUSAL.get(code, CloseCode.FORBIDDEN)
        connection.close(CloseReason(closing, why or "you were removed from the room"))


def renamed(connection: Connection, room: Room, old: str) -> None:
    """A room the connection is in has another name: it is told, and stays if its token grants that one."""
    if connection.home == old:
        connection.home = room.name
    if connection.parked is not None:
        connection.parked.renamed(old, room.name)
    connection.answer(connection.protocol.renamed(old, room.name))
    if connection.identity.grants.may_join(room.name):
        set_rights(connection, room)
    else:
        room.kick(connection, f"your token does not grant {room.name}, as {old} is called now")


def set_rights(connection: Connection, room: Room) -> None:
    """What its token lets a member do."""
    may_see = not room.rule.presence or connection.identity.grants.may_see(room.name)
    may_publish = connection.credentials.may_publish(room.name)
    connection.hub.set_rights(connection, room, Rights(may_publish, may_see))


def regrant(connection: Connection) -> None:
    """The token is another one: rooms it does not grant are left, and in the others it decides what may be done."""
    grants = connection.identity.grants
    for room in list(connection.rooms.values()):
        if room.name not in connection.rooms:  # it left with a room before, its home perhaps
            continue
        if grants.may_join(room.name):
            set_rights(connection, room)
            if room.presence is not None:
                room.presence.renewed(connection.subject, connection.identity.public)
        else:
            room.kick(connection, UNGRANTED)
    patterns.regrant(connection)


def waits(connection: Connection, name: str, command: Any) -> bool:
    """Whether the room is being joined by an async hook: the command then waits behind it."""
    if connection.joining is None or name not in connection.joining:
        return False
    connection.later(name, None, lambda: connection._again(command))
    return True


def joined_room(connection: Connection, name: str) -> Room:
    room = connection.rooms.get(name)
    if room is None:
        raise Refused("not_joined")
    return room
