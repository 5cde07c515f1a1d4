"""A publish that wants an answer: when it is answered, and that one that comes twice is heard once.

Not here: the hot path, a publish that nobody asks about (connection). The one rule: `ok` is said when the message
cannot be lost any more: in a durable room, once it is on disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relay.errors import Refused
from relay.model import Message
from relay.protocols.base import Publish
from relay.rooms.room import Room

if TYPE_CHECKING:
    from relay.session.connection import Connection

LONGEST_KEY: Final = 128  # characters


def publish(connection: Connection, room: Room, message: Message, command: Publish) -> None:
    """By a plugin's sync hook. Raises Refused, with the request's id."""
    if not begin(connection, room, command):
        return
    before = room.numbered
    try:
        room.handler.message(room, connection, message)
    except Refused as refused:
        give_up(connection, room, command)
        refused.request = command.id
        raise
    settle(connection, room, command, said=room.numbered > before)


async def publish_later(connection: Connection, room: Room, message: Message, command: Publish) -> None:
    """By a plugin's async hook. Refusals are answered here."""
    try:
        if not begin(connection, room, command):
            return
        before = room.numbered
        try:
            await room.handler.later("on_message", room, connection, message)
        except BaseException:
            give_up(connection, room, command)
            raise
        settle(connection, room, command, said=room.numbered > before)
    except Refused as refused:
        connection.refuse(command.id, refused)


def begin(connection: Connection, room: Room, command: Publish) -> bool:
    """False: it was published before, and has been answered as then. Raises Refused, with the request's id."""
    try:
        if command.once is not None and not _is_new(connection, room, command, command.once):
            return False
        if command.confirm is not None:
            try:
                connection.services.acks.check(connection, room, command)
            except Refused:
                give_up(connection, room, command)
                raise
    except Refused as refused:
        refused.request = command.id
        raise
    return True


def _is_new(connection: Connection, room: Room, command: Publish, key: str) -> bool:
    """False: it is not, and has its answer, or gets it when the receivers have confirmed. Raises Refused."""
    if command.id is None:
        raise Refused("bad_request", "a publish with `once` needs an `id`: its answer is what it is for")
    if not 0 < len(key) <= LONGEST_KEY:
        raise Refused("bad_request", f"`once` has 1 to {LONGEST_KEY} characters")
    hub = connection.hub
    offset = hub.receipts(room).begin(connection.subject, key, hub.clock())
    if offset is None:
        return True
    waits = command.confirm is not None
    if not (waits and connection.services.acks.again(room, offset, connection, command.id)):
        connection.ok(command.id, {"offset": offset, "duplicate": True})
    return False


def give_up(connection: Connection, room: Room, command: Publish) -> None:
    """It was refused: sent again, it is new."""
    if command.once is not None and room.receipts is not None:
        room.receipts.failed(connection.subject, command.once)


def settle(connection: Connection, room: Room, command: Publish, *, said: bool) -> None:
    """The plugin is done with it. `said`: something was said in the room meanwhile; else nobody can confirm it."""
    offset = room.numbered
    journal = room.journal
    if journal is None:
        _done(connection, room, command, offset, said=said)
        return
    if command.once is not None:
        journal.receipt(room, connection.subject, command.once, offset, connection.hub.clock())

    def failed(refused: Refused) -> None:
        give_up(connection, room, command)
        connection.refuse(command.id, refused)

    journal.afterwards(lambda: _done(connection, room, command, offset, said=said), failed)


def _done(connection: Connection, room: Room, command: Publish, offset: int, *, said: bool) -> None:
    if command.once is not None:
        hub = connection.hub
        hub.receipts(room).done(connection.subject, command.once, offset, hub.clock())
    if command.confirm is None or command.id is None:
        connection.ok(command.id, {"offset": offset})
    elif not said:
        connection.ok(command.id, {"offset": offset, "delivered": 0})
    else:
        connection.services.acks.ask(connection, room, command, offset)
