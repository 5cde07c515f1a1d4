"""A message to one subject whose publisher wants to know that it arrived: the receivers say so, or time runs out.

Behind the message each receiver is sent a `confirm` with its offset, by the same channel, and answers with an `ack`. So
a message costs nothing more than before where nobody asks. Not here: publishing itself. The one rule: what is waited
for is bounded in number and in time, and only who was asked can answer.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from relay.errors import Refused
from relay.protocols.base import Ack, Publish, RequestId
from relay.rooms.room import Room

if TYPE_CHECKING:
    from relay.session.connection import Connection
    from relay.session.timers import Timer

LONGEST: Final = "timeouts.ack"


class _Pending:
    """Who has asked, and who has not answered yet."""

    __slots__ = ("asked_by", "delivered", "missing", "request", "timer")

    def __init__(self, asked_by: Connection, request: RequestId, missing: set[Any], timer: Timer) -> None:
        self.asked_by = asked_by
        self.request = request
        self.missing = missing
        self.delivered = 0
        self.timer = timer


class Acks:
    """Of all sessions of one hub."""

    def __init__(self) -> None:
        self._pending: dict[tuple[str, int], _Pending] = {}
        self._waiting: Counter[Connection] = Counter()

    def __len__(self) -> int:
        return len(self._pending)

    def check(self, connection: Connection, room: Room, command: Publish) -> None:
        """Before it is published. Raises Refused."""
        if command.to is None or command.confirm is None or not command.confirm > 0:
            raise Refused("bad_request", "`confirm` is for a message `to` one subject, and is seconds above 0")
        if self._waiting[connection] >= connection.services.config.limits.requests_waiting:
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
        place = room.name, offset
        timer = services.timers.at(services.monotonic() + seconds, lambda: self._end(place))
        pending = self._pending[place] = _Pending(connection, command.id, {peer for peer, _ in receivers}, timer)
        self._waiting[connection] += 1
        hub = connection.hub
        index = room.rule.channel if command.channel is None else hub.channels.index(command.channel)
        for peer, frame in receivers:
            peer.outbox.put(index, frame)
        if not pending.missing:  # they have left while it was written
            self._end(place)

    def again(self, room: Room, offset: int, connection: Connection, request: RequestId) -> bool:
        """Whether a message is still waited for that its publisher has sent once more: then this is answered."""
        pending = self._pending.get((room.name, offset))
        if pending is None or pending.asked_by is not connection:
            return False
        pending.request = request
        return True

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
        place = command.room, command.offset
        pending = self._pending.get(place)
        if pending is not None and connection in pending.missing:
            pending.missing.discard(connection)
            pending.delivered += 1
            if not pending.missing:
                self._end(place)
        connection.ok(command.id, {})

    def _end(self, place: tuple[str, int]) -> None:
        """All have answered, or time is over."""
        pending = self._pending.pop(place)
        pending.timer.cancel()
        connection = pending.asked_by
        self._waiting[connection] -= 1
        if not self._waiting[connection]:
            del self._waiting[connection]
        if connection.closing is not None:
            return
        if pending.delivered:
            connection.ok(pending.request, {"offset": place[1], "delivered": pending.delivered})
        else:
            refused = Refused("timeout", "nobody has confirmed the message in time", setting=LONGEST)
            refused.room = place[0]
            connection.refuse(pending.request, refused)
