"""What each request of a client does, but for publishing from within a room (connection) and for joining and leaving
(joining).

Not here: formats, sockets. The one rule: grants are asked before anything else, so that a room one may not see and a
room that does not exist look the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from relay.errors import ERROR_CODES, Refused
from relay.model import Payload
from relay.protocols.base import (
    Ack,
    Auth,
    Call,
    Command,
    History,
    Join,
    Leave,
    Ping,
    Presence,
    Publish,
    RequestId,
    Resume,
    Resync,
)
from relay.protocols.names import check_room_name
from relay.session import publishing, recall
from relay.session.joining import join, joined_room, later_in, leave, members_of, waits
from relay.session.spending import spend

if TYPE_CHECKING:
    from relay.session.connection import Connection

KNOWN_CODES: Final = frozenset(ERROR_CODES)
NOT_GRANTED: Final = "your token does not let you publish in this room"


def check_channel(connection: Connection, channel: str, request: RequestId) -> None:
    """Raises Refused. Before anything is queued: what is no channel must not get a queue of its own."""
    try:
        connection.hub.channels.index(channel)
        if not connection.identity.grants.may_use_channel(channel):
            raise Refused("forbidden", f"your token does not grant the channel {channel}")
    except Refused as refused:
        refused.request = request
        raise


def may_begin(connection: Connection, command: Publish, size: int) -> None:
    """Whether a message of `size` bytes that comes in parts may be published, as far as that is known when it begins;
    it is asked again when it is whole. Raises Refused.
    """
    name = command.room
    if command.channel is not None:
        check_channel(connection, command.channel, command.id)
    room = connection.rooms.get(name)
    if room is None:
        if connection.joining is None or name not in connection.joining:
            _check_outside(connection, command)
        return
    channels = connection.hub.channels
    lane = channels.lanes[room.rule.channel if command.channel is None else channels.index(command.channel)]
    refusal = None
    if not room.rights(connection).may_publish:
        lapsed = connection.credentials.read_only
        refusal = connection.credentials.lapsed() if lapsed else Refused("forbidden", NOT_GRANTED)
    elif size > lane.largest:
        refusal = Refused("too_large", lane.too_large, setting=lane.setting)
    if refusal is not None:
        refusal.request, refusal.room = command.id, name
        raise refusal


def _check_outside(connection: Connection, command: Publish) -> None:
    """Whether one may publish in a room one is not in. Raises Refused."""
    name = command.room
    refusal = None
    if problem := check_room_name(name, connection.services.config.limits.room_name_bytes):
        refusal = Refused("bad_room", f"not a valid room name: {problem}", setting="limits.room_name_bytes")
    elif connection.home:
        refusal = Refused("not_joined")
    elif connection.credentials.read_only:
        refusal = connection.credentials.lapsed()
    elif not connection.identity.grants.may_publish(name):
        refusal = Refused("forbidden", NOT_GRANTED)
    if refusal is not None:
        refusal.request, refusal.room = command.id, name
        raise refusal


def publish_from_outside(connection: Connection, command: Publish) -> None:
    """A message for a room the sender is not in: allowed by its grants alone."""
    name = command.room
    if name in connection.hub.aliases:
        connection.publish(structs.replace(command, room=connection.hub.aliases.resolve(name)))
        return
    _check_outside(connection, command)
    message = connection.said(command)
    try:
        room = connection.hub.open(name)
        try:
            if room.handler.message_is_async:
                job = partial(publishing.publish_later, connection, room, message, command)
                later_in(connection, room, command.channel, job)
            else:
                publishing.publish(connection, room, message, command)
        finally:
            connection.hub.free_if_empty(room)
    except Refused as refused:
        refused.request, refused.room = command.id, name
        raise


def call(connection: Connection, command: Call) -> None:
    """The plugin that owns the room answers."""
    name = command.room
    if waits(connection, name, command):
        return
    connection.credentials.check()
    if not connection.identity.grants.may_call(name):
        raise Refused("forbidden", "your token does not let you call this room's plugin")
    room = joined_room(connection, name)
    if connection.services.quotas.calls:
        spend(connection, "calls", name)
    handler = room.handler
    if not handler.call_waits(command.method):
        _answer_call(connection, command, handler.call(room, connection, command.method, command.data))
        return

    async def ask() -> None:
        try:
            timeout = command.timeout
            answer = await handler.later("on_call", room, connection, command.method, command.data, timeout=timeout)
            _answer_call(connection, command, answer)
        except Refused as refused:
            refused.room = name
            connection.refuse(command.id, refused)

    later_in(connection, room, None, ask)


def _answer_call(connection: Connection, command: Call, answer: Any) -> None:
    try:
        payload = Payload.of(answer)
    except TypeError as error:
        raise Refused("internal", f"the plugin's answer cannot be sent: {error}") from None
    connection.ok(command.id, {"data": payload})


def presence(connection: Connection, command: Presence) -> None:
    if not connection.identity.grants.may_see(command.room):
        raise Refused("forbidden", "your token does not let you see who is in this room")
    room = connection.hub.rooms.get(command.room)
    empty: dict[str, Any] = {"members": [], "count": 0}
    connection.ok(command.id, {"room": command.room, **(members_of(connection, room) if room is not None else empty)})


def ping(connection: Connection, command: Ping) -> None:
    connection.answer(connection.protocol.pong(command.id))


def renew(connection: Connection, command: Auth) -> None:
    connection.credentials.renew(command)


def resume(connection: Connection, command: Resume) -> None:
    """Not the first word of a new socket, which is where it belongs."""
    raise Refused(
        "bad_request", "nothing is to be resumed: `resume` comes first on a socket opened with ?resume=TICKET"
    )


def ack(connection: Connection, command: Ack) -> None:
    connection.services.acks.ack(connection, command)


def execute(connection: Connection, command: Command) -> None:
    """Any command but publish. An alias is the room it leads to, from here on. Raises Refused."""
    room = getattr(command, "room", "")
    if room in connection.hub.aliases:
        command = structs.replace(command, room=connection.hub.aliases.resolve(room))
    EXECUTE[type(command)](connection, command)


EXECUTE: Final[dict[type, Callable[[Any, Any], None]]] = {
    Join: join,
    Leave: leave,
    Call: call,
    Presence: presence,
    History: recall.history,
    Resume: resume,
    Ack: ack,
    Resync: recall.resync,
    Auth: renew,
    Ping: ping,
}
