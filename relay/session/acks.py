"""A message to one subject whose publisher wants to know that it arrived: the receivers say so, or time runs out.

Behind the message each receiver is sent a `confirm` with its offset, by the same channel, and answers with an `ack`. So
a message costs nothing more than before where nobody asks. Not here: publishing itself. The one rule: what is waited
for is bounded in number and in time, and only who was asked can answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from relay.errors import Refused
from relay.protocols.base import Ack, Publish, RequestId
from relay.rooms.room import Room

if TYPE_CHECKING:
    from relay.session.connection import Connection
    from relay.session.timers import Timer

LONGEST: Final = "timeouts.ack"


class _Pending:
    """Who has asked about the message of that offset in a room, and who has not answered yet."""

    __slots__ = ("asked_by", "delivered", "missing", "offset", "request", "room", "timer")

    def __init__(self, asked_by: Connection, request: RequestId, room: Room, offset: int, missing: set[Any]) -> None:
        self.asked_by = asked_by
        self.request = request
        self.room = room
        self.offset = offset
        self.missing = missing
        self.delivered = 0
        self.timer: Timer | None = None


class Acks:
    """Of all sessions of one hub. A room that is opened anew counts from 1 again: it is the room itself that is asked
    for, not its name.
    """

    def __init__(self) -> None:
        self._pending: dict[tuple[Room, int], set[_Pending]] = {}
        self._asked_by: dict[Connection, set[_Pending]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._pending.values()))

    def check(self, connection: Connection, room: Room, command: Publish) -> None:
        """Before it is published. Raises Refused."""
        if command.to is None or command.confirm is None or not command.confirm > 0:
            raise Refused("bad_request", "`confirm` is for a message `to` one subject, and is seconds above 0")
        if len(self._asked_by.get(connection, ())) >= connection.services.config.limits.requests_waiting:
            raise Refused("too_many_requests", setting="limits.requests_waiting")
        if not self._receivers(connection, room, command, 0):
            raise Refused("no_such_subject", "nobody of that name who could confirm it is in the room")

    def ask(self, connection: Connection, room: Room, command: Publish, offset: int) -> None:
        """It has been heard: asks the receivers, and answers the publisher once they have answered."""
        receivers = self._receivers(connection, room, command, offset)
        assert command.confirm is not None
        seconds = command.confirm
        longest = connection.services.config.timeouts.ack
        if longest:
            seconds = min(seconds, longest)
        services = connection.services
        pending = _Pending(connection, command.id, room, offset, {peer for peer, _ in receivers})
        pending.timer = services.timers.at(services.monotonic() + seconds, lambda: self._end(pending))
        self._pending.setdefault((room, offset), set()).add(pending)
        self._asked_by.setdefault(connection, set()).add(pending)
        hub = connection.hub
        index = room.rule.channel if command.channel is None else hub.channels.index(command.channel)
        for peer, frame in receivers:
            peer.outbox.put(index, frame)
        if not pending.missing:  # they have left while it was written
            self._end(pending)

    def again(self, room: Room, offset: int, connection: Connection, request: RequestId) -> bool:
        """Whether a message is still waited for that its publisher has sent once more: then this is answered."""
        for pending in self._pending.get((room, offset), ()):
            if pending.asked_by is connection:
                pending.request = request
                return True
        return False

    @staticmethod
    def _receivers(connection: Connection, room: Room, command: Publish, offset: int) -> list[tuple[Any, bytes]]:
        """Those that can answer, and what each is sent."""
        found = []
        for peer in room.peers(command.to):
            if peer is not connection or command.echo:
                frame = peer.protocol.confirm(room.name, offset)
                if frame is not None:
                    found.append((peer, frame))
        return found

    def ack(self, connection: Connection, command: Ack) -> None:
        """A receiver has it. Of what nobody waits for any more nothing is said."""
        room = connection.hub.find(command.room)
        asked = () if room is None else tuple(self._pending.get((room, command.offset), ()))
        for pending in asked:
            if connection in pending.missing:
                pending.missing.discard(connection)
                pending.delivered += 1
                if not pending.missing:
                    self._end(pending)
        connection.ok(command.id, {})

    def forget(self, connection: Connection) -> None:
        """The publisher has gone: there is nobody to be answered."""
        for pending in tuple(self._asked_by.get(connection, ())):
            self._drop(pending)

    def _drop(self, pending: _Pending) -> None:
        if pending.timer is not None:
            pending.timer.cancel()
        _discard(self._pending, (pending.room, pending.offset), pending)
        _discard(self._asked_by, pending.asked_by, pending)

    def _end(self, pending: _Pending) -> None:
        """All have answered, or time is over."""
        self._drop(pending)
        connection = pending.asked_by
        if connection.closing is not None:
            return
        if pending.delivered:
            connection.ok(pending.request, {"offset": pending.offset, "delivered": pending.delivered})
        else:
            refused = Refused("timeout", "nobody has confirmed the message in time", setting=LONGEST)
            refused.room = pending.room.name
            connection.refuse(pending.request, refused)


def _discard(table: dict[Any, set[_Pending]], key: object, pending: _Pending) -> None:
    table[key].discard(pending)
    if not table[key]:
        del table[key]
