"""A session without a socket: what waits for it meanwhile, and what its client gets when it comes back.

What was not sent waits, but for what a room's history can bring: that is fetched from there when the client has said
what it has. Not here: who may come back (resume), sockets (net/link), history (rooms). The one rule: a message is kept
in one place only, the room's history or the shelf, so nothing comes twice and nothing is forgotten silently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from relay.delivery.detour import StandIn
from relay.delivery.outbox import Outbox
from relay.delivery.parts import Sending
from relay.errors import CloseCode, CloseReason, Refused
from relay.model import Message
from relay.protocols.base import Position, ProtocolError, RequestId, Resume
from relay.protocols.heads import is_lasting, place_of, place_of_parts
from relay.protocols.parts import Parts
from relay.rooms.room import Room
from relay.session.greeting import greet
from relay.session.recall import ENVELOPE, MOST_MESSAGES
from relay.session.wire import Hold

if TYPE_CHECKING:
    from relay.delivery.channels import Lane
    from relay.session.connection import Connection
    from relay.session.resume import Resumption
    from relay.session.timers import Timer
    from relay.session.wire import Wire

WINDOW: Final = "websocket.resume_window"
PATIENCE: Final = 5.0  # seconds a client has to say what it has; then it is what was sent
LOST: Final = 1006  # RFC 6455 section 7.4.1: the code of a socket that ended without one


class Shelf(StandIn):
    """Where a session's outbox stood. What history will bring is not kept; all else is, in `box`, bounded as ever."""

    __slots__ = ("_parked", "box")

    def __init__(self, box: Outbox, parked: Parked) -> None:
        super().__init__(box)
        self.box = box
        self._parked = parked
        box.touched = True  # there is nothing to flush it to

    def put(self, index: int, frame: bytes, message: Message | None = None) -> None:
        if message is None or not self._parked.is_remembered(message):
            self.box.put(index, frame, message)

    def put_parts(self, index: int, parts: Parts, message: Message | None) -> None:
        if message is None or not self._parked.is_remembered(message):
            self.box.put_parts(index, parts, message)


class Parked:
    """The wire of a session without a socket, and the owner of what waits for it.

    `sent` is how far each room's messages had been written when the socket was lost, but for those in `unsent`.
    """

    __slots__ = (
        "_full", "_later", "_timer", "_told", "connection", "luggage", "outbox", "resumption", "sent", "unsent",
    )  # fmt: skip

    outbox: Outbox

    def __init__(self, connection: Connection, resumption: Resumption) -> None:
        services = connection.services
        self.connection = connection
        self.resumption = resumption
        self.luggage: Any = None
        self._timer: Timer | None = None
        self._later: Timer | None = None
        self._full: CloseReason | None = None  # more was said than may wait: the end, soon
        self._told = CloseReason(CloseCode.GOING_AWAY, "the client did not come back", WINDOW)
        self.outbox = Shelf(Outbox(services.channels, self, connection.outbox.tick), self)
        self.sent: dict[str, Position] = {}
        self.unsent: dict[str, set[int]] = {}

    @property
    def waits(self) -> bool:
        """There is no socket; False: there is a new one, and its client has not said yet what it has."""
        return self.connection.wire is self

    @property
    def shelf(self) -> Outbox:
        assert isinstance(self.outbox, Shelf)
        return self.outbox.box

    # The socket is lost.

    def take_over(self) -> None:
        """From the outbox of the lost socket, before that is emptied."""
        connection = self.connection
        connection.end_legs(self._told)
        connection.stop_parts()
        connection.tell_drops()
        lost = connection.wire.outbox
        for name, room in connection.rooms.items():
            self.sent[name] = Position(room.epoch, room.offset)
        text = (connection.protocol.subprotocol or "").endswith("json")
        control = connection.hub.channels.control
        for index in range(len(connection.hub.channels)):
            for frame, message in lost.take_out(index):
                if isinstance(frame, Sending):
                    place = place_of_parts(frame.parts, text=text)
                elif index == control:
                    if is_lasting(frame, text=text):
                        self.shelf.put(index, frame)
                    continue
                else:
                    place = place_of(frame, text=text)
                if self._is_unsent(*place):
                    continue
                if isinstance(frame, Sending):
                    self.shelf.put_parts(index, frame.parts, message)
                else:
                    self.shelf.put(index, frame, message)

    def _is_unsent(self, name: str, offset: int) -> bool:
        """Notes a message that was not written. True: history has it, so it need not be kept."""
        if not offset or name not in self.sent:
            return False
        self.unsent.setdefault(name, set()).add(offset)
        return self.connection.hub.rooms[name].history is not None

    def is_remembered(self, message: Message) -> bool:
        """Whether history will bring a message that is said now."""
        room = self.connection.rooms.get(message.room)
        if room is None or room.history is None or not message.offset:
            return False  # who hears a room by a pattern is not asked where it is in it
        self.sent.setdefault(room.name, Position(room.epoch, message.offset - 1))
        return True

    def renamed(self, old: str, new: str) -> None:
        """What is noted of a room that has another name now."""
        if old in self.sent:
            self.sent[new] = self.sent.pop(old)
        if old in self.unsent:
            self.unsent[new] = self.unsent.pop(old)

    def wait(self, window: float) -> None:
        """Waits for the client, so many seconds."""
        connection = self.connection
        connection.wire = self
        connection.leave_junction()
        self._ring(window, lambda: connection.close(self._told))

    def _ring(self, seconds: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        services = self.connection.services
        self._timer = services.timers.at(services.monotonic() + seconds, action)

    # A wire.

    def close(self, reason: CloseReason, farewell: bytes | None) -> None:
        """The session ends. Soon, and not now: who closes may be in the middle of its work."""
        self._ring(0.0, lambda: self._end(reason))

    def _end(self, reason: CloseReason) -> None:
        connection = self.connection
        self.resumption.parked.pop(connection.session, None)
        connection.lost()
        connection.services.counters.resumes["missed" if reason is self._told else "closed"] += 1
        self.resumption.ended(connection, LOST if reason is self._told else int(reason.code), self.luggage)

    def hold(self, reason: Hold, held: bool) -> None:
        """There is nothing to be read."""

    def abort(self) -> None:
        """There is nothing to be cut."""

    def adopt(self, connection: Connection, message: Callable[[int, bytes], None], luggage: Any) -> None:
        raise AssertionError("only sockets adopt sessions")

    # The owner of what waits.

    def flush(self) -> None:
        """There is nowhere to flush it to."""

    def overflowed(self, lane: Lane, room: str) -> None:
        """It is over, but not now: who puts may be walking through the members of a room."""
        connection = self.connection
        connection.count_drops(room, lane.name, "closed", 1)
        if self._full is None:
            services = connection.services
            full = CloseReason(CloseCode.TOO_SLOW, f"channel {lane.name} is full", lane.setting, 1.0, 1.0)
            self._full = full
            self._later = services.timers.at(services.monotonic(), lambda: connection.close(full))

    def congested(self, lane: Lane) -> None:
        """Nobody waits for somebody who is not there: at twice the capacity the newest is dropped, and told."""

    def relieved(self, lane: Lane) -> None: ...

    # The client comes back.

    def attach(self, wire: Wire) -> None:
        """To a new socket. All but the hello waits until the client has said what it has."""
        connection = self.connection
        connection.wire = wire
        connection.resumes += 1
        connection.messages = 0
        wire.adopt(connection, self._first, self.luggage)
        self.luggage = None
        hello = greet(connection, resumed=True)
        assert hello is not None  # only formats with a hello have tickets
        wire.outbox.put(connection.hub.channels.control, hello)
        self._ring(PATIENCE, lambda: self._settle({}, None, asked=False))

    def _first(self, opcode: int, payload: bytes) -> None:
        """The first message by the new socket: `resume`, or anything else, and then what was sent is what it has."""
        connection = self.connection
        if connection.parked is self and connection.closing is None:
            try:
                command = connection.protocol.decode(opcode, payload, connection.home)
            except (ProtocolError, Refused):
                command = None  # which is told when it is looked at again
            if isinstance(command, Resume):
                connection.messages += 1
                self._settle(command.rooms, command.id, asked=True)
                return
            self._settle({}, None, asked=False)
        connection.message(opcode, payload)

    def _settle(self, rooms: Mapping[str, Position], request: RequestId, *, asked: bool) -> None:
        """Sends what was missed, and then what waits; from now on all is as before."""
        connection = self.connection
        if self._timer is not None:
            self._timer.cancel()
        if self._later is not None:
            self._later.cancel()
        self.resumption.parked.pop(connection.session, None)
        connection.parked = None
        if self._full is not None:
            connection.close(self._full)
        if connection.closing is not None:  # since it has this socket
            connection.services.counters.resumes["closed"] += 1
            return
        connection.services.counters.resumes["resumed"] += 1
        channels, shelf = connection.hub.channels, self.shelf
        sums = [0] * len(channels)
        shelf.add_sizes(sums)
        budgets = [(lane.capacity - waiting) // 2 for lane, waiting in zip(channels, sums, strict=True)]
        told: dict[str, Any] = {name: {"joined": False} for name in rooms}
        missed: list[Message] = []
        gaps: dict[str, tuple[int, int]] = {}
        former = {given.epoch: name for name, given in rooms.items() if name not in connection.rooms}
        for name, room in connection.rooms.items():
            given = rooms.get(name)
            if given is None and (old := former.get(room.epoch)) is not None:
                given = rooms[old]  # it knows the room by the name it had; `renamed` may have been lost
                told[old] = {"renamed": name}
            told[name] = self._recover(room, given, budgets, missed, gaps)
        connection.leave_junction()
        connection.wire.adopt(connection, connection.message, None)
        if asked:
            connection.ok(request, {"rooms": told})
        else:
            self._tell_gaps(gaps)
        for message in missed:
            connection.hub.deliver_to(connection, self._lane(message), message)
        drops, shelf.drops = shelf.drops, None
        for index in range(len(channels)):
            for frame, note in shelf.take_out(index):
                if isinstance(frame, Sending):
                    connection.outbox.put_parts(index, frame.parts, note)
                else:
                    connection.outbox.put(index, frame, note)
        connection.say_drops(drops)
        connection.hold_again()

    def _recover(
        self,
        room: Room,
        given: Position | None,
        budgets: list[int],
        missed: list[Message],
        gaps: dict[str, tuple[int, int]],
    ) -> dict[str, Any]:
        """What a client is told of one room; adds to the messages it gets, and to what it will not get. `budgets`:
        bytes, by lane.
        """
        told: dict[str, Any] = {"epoch": room.epoch, "offset": room.offset}
        sent = self.sent.get(room.name) or Position(room.epoch, room.offset)
        unsent = self.unsent.get(room.name, set())
        right = given is not None and given.epoch == room.epoch and given.offset <= room.offset
        base = given.offset if given is not None and right else sent.offset
        if room.history is None:  # what waited was kept; was all that had been written received?
            if given is not None:
                told["recovered"] = right and base >= (min(unsent) - 1 if unsent else sent.offset)
            return told
        lowest = min(base, min(unsent, default=base + 1) - 1)
        whole, messages = room.history.since(lowest, room.offset, self.connection.hub.clock(), self.connection.subject)
        wanted = [message for message in messages if message.offset > base or message.offset in unsent]
        kept = self._affordable(wanted, budgets)
        missed += kept
        whole = whole and len(kept) == len(wanted)
        if given is not None:
            told["recovered"] = whole and right
        if not whole:
            told["from"] = kept[0].offset if kept else room.offset + 1 if wanted else room.history.floor + 1
            gaps[room.name] = lowest + 1, told["from"] - 1
        return told

    def _affordable(self, messages: list[Message], budgets: list[int]) -> list[Message]:
        """The newest of them, as many as the lanes have room for."""
        kept = 0
        for message in reversed(messages[-MOST_MESSAGES:]):
            lane = self._lane(message)
            budgets[lane] -= 2 * len(message.data) + ENVELOPE
            if budgets[lane] < 0:
                break
            kept += 1
        return messages[len(messages) - kept :]

    def _lane(self, message: Message) -> int:
        hub = self.connection.hub
        return hub.rooms[message.room].rule.channel if message.channel is None else hub.channels.index(message.channel)

    def _tell_gaps(self, gaps: dict[str, tuple[int, int]]) -> None:
        """To a client that did not ask: what it will not get."""
        connection = self.connection
        for name, (first, last) in gaps.items():
            setting = f"plugins.{connection.hub.rooms[name].rule.plugin}.history"
            if first <= last:
                connection.answer(connection.protocol.gap(name, first, last, setting))
