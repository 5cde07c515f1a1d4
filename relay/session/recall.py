"""What a client gets of a room's memory: what it missed, page by page, or the last value when it joins.

Not here: what is remembered (rooms/history). The one rule: an answer holds no more than the client's channel carries,
and says what is missing: `recovered` false and `from`, the first offset there is, or `more`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from relay.delivery.channels import Overflow
from relay.errors import Refused
from relay.model import Message
from relay.protocols.base import History, Join, Position, Resync
from relay.rooms.archive import Record
from relay.rooms.room import Room, RoomRule

if TYPE_CHECKING:
    from relay.session.connection import Connection

MOST_MESSAGES: Final = 1000  # in one answer
ENVELOPE: Final = 256  # bytes around a message in an answer, about


def recalled(connection: Connection, room: Room | Record, rule: RoomRule, asked: Join | History) -> dict[str, Any]:
    """`messages` and what is said about them, for `since`, or for `last` (with `before`: of those below it)."""
    history = room.history
    now = connection.hub.clock()
    subject = connection.subject
    if asked.since is not None:
        recovered, messages = False, list[Message]()
        if history is not None and asked.since.epoch == room.epoch:
            recovered, messages = history.since(asked.since.offset, room.offset, now, subject)
        elif history is None and asked.since == Position(room.epoch, room.offset):
            recovered = True  # nothing is remembered, and nothing was missed
        kept = affordable(connection, rule, messages[-MOST_MESSAGES:])
        if len(kept) == len(messages) and recovered:
            return {"messages": kept, "recovered": True}
        first = kept[0].offset if kept else room.offset + 1 if history is None else history.floor + 1
        return {"messages": kept, "recovered": False, "from": first}
    wanted = min(asked.last, MOST_MESSAGES)
    before = asked.before if isinstance(asked, History) else None
    if history is None or wanted <= 0:
        return {"messages": []}
    if before is None:
        messages = history.last(wanted + 1, now, subject)
    else:
        messages = history.before(before, wanted + 1, now, subject)
    kept = affordable(connection, rule, messages[-wanted:])
    return {"messages": kept, "more": len(kept) < len(messages)}


def affordable(connection: Connection, rule: RoomRule, messages: list[Message]) -> list[Message]:
    """The newest of them, as many as fit into half of the channel they will go by."""
    budget = connection.hub.channels.lanes[rule.channel].capacity // 2
    kept = 0
    for message in reversed(messages):
        budget -= 2 * len(message.data) + ENVELOPE
        if budget < 0:
            break
        kept += 1
    return messages[len(messages) - kept :]


def send_remembered(connection: Connection, room: Room, last: int) -> None:
    """The newest messages, each as it was heard: for those who have no answer to put them in, and as last value."""
    if room.history is None:
        return
    messages = room.history.last(min(last, MOST_MESSAGES), connection.hub.clock(), connection.subject)
    for message in affordable(connection, room.rule, messages):
        connection.outbox.put(room.rule.channel, connection.protocol.message(message), message)


def answer_lane(connection: Connection, rule: RoomRule) -> int:
    """Where an answer goes that must come before the room's next messages: their channel, unless that may drop it."""
    channels = connection.hub.channels
    keeps = channels.lanes[rule.channel].overflow is Overflow.CLOSE
    return rule.channel if keeps else channels.default


def history(connection: Connection, command: History) -> None:
    """A page of a room's history, whether somebody is in it or not. Raises Refused."""
    name = command.room
    if not connection.identity.grants.may_read_history(name):
        raise Refused("forbidden", "your token does not let you read this room's history")
    room = connection.hub.rooms.get(name)
    if room is not None:
        found: Room | Record = room
        rule = room.rule
    else:
        record = connection.hub.archive.look(name)
        owner = connection.hub.router(name)
        if record is None or owner is None:
            raise Refused("not_recoverable", "nothing is remembered of this room")
        found, rule = record, owner[0]
    asked = command
    if command.since is None and not command.last:
        asked = History(name, command.id, None, MOST_MESSAGES, command.before)
    result = {"room": name, "epoch": found.epoch, "offset": found.offset, **recalled(connection, found, rule, asked)}
    frame = connection.protocol.ok(command.id, result)
    if frame is not None and command.id is not None:
        connection.outbox.put(answer_lane(connection, rule), frame)


def resync(connection: Connection, command: Resync) -> None:
    """Full values of a state room again, as many as half the channel carries; with `more` the others come as they
    change. Raises Refused.
    """
    room = connection.rooms.get(command.room)
    if room is None:
        raise Refused("not_joined")
    if room.delta is None or connection not in room.delta:
        raise Refused("bad_request", "only a member that joined with `delta` can ask for full values again")
    room.delta.forget(connection, room.name, command.key)
    values = room.delta.newest(command.key)
    kept = affordable(connection, room.rule, values)
    connection.ok(command.id, {"room": room.name, "values": len(kept), "more": len(kept) < len(values)})
    for message in kept:
        connection.hub.resend(connection, room, message)
