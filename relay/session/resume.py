"""Sessions that outlive their socket: what a session has while it has none, and how a client comes back to it.

A client that asked for it gets a ticket with its hello. When its socket is lost without a close, the session stays in
its rooms for a while, and whoever brings the ticket goes on with it: nobody asks for a token again, no plugin and no
member hears of it. What was not sent waits, but for what a room's history can bring: that is fetched from there when
the client has said what it has. Not here: sockets (net/link), history (rooms). The one rule: a message is kept in one
place only, the room's history or the shelf, so nothing comes twice and nothing is forgotten silently.

The ticket is a MAC of the session's name and of how often it was resumed, under a key of this process: there is
nothing to store, none outlives the relay, and each is good once - but for the one before the last, while the session
has no socket: the client may never have got the last one.
"""

from __future__ import annotations

import base64
import hmac
import secrets
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
    from relay.auth.tokens import Identity
    from relay.delivery.channels import Lane
    from relay.protocols.base import WireProtocol
    from relay.session.connection import Connection
    from relay.session.timers import Timer
    from relay.session.wire import Wire

WINDOW: Final = "websocket.resume_window"
PATIENCE: Final = 5.0  # seconds a client has to say what it has; then it is what was sent
NEVER: Final = -1  # times resumed, of a session whose client did not ask for a ticket
LOST: Final = 1006  # RFC 6455 section 7.4.1: the code of a socket that ended without one
KEY_BYTES: Final = 32


class Resumption:
    """Of one relay: its tickets, and the sessions without a socket. `ended` is told of those that nobody came for."""

    def __init__(self) -> None:
        self._key: Final = secrets.token_bytes(KEY_BYTES)
        self.parked: Final[dict[str, Parked]] = {}
        self.off = False  # the relay is going away
        self.ended: Callable[[Connection, int, Any], None] = lambda connection, code, luggage: None

    # Tickets.

    def offer(self, connection: Connection) -> dict[str, Any] | None:
        """What a hello says about it; None: nothing."""
        window = connection.services.config.websocket.resume_window
        if connection.resumes == NEVER or not window:
            return None
        return {"ticket": self._ticket(connection), "window": window}

    def _ticket(self, connection: Connection, back: int = 0) -> str:
        said = f"{connection.session}.{connection.resumes - back}".encode()
        secret = base64.urlsafe_b64encode(hmac.digest(self._key, said, "sha256")).rstrip(b"=").decode()
        return f"{connection.session}.{secret}"

    def find(self, ticket: str, sessions: Mapping[str, Connection]) -> Connection | None:
        """The session that a ticket is for; None: there is none, or it is another's ticket, or an old one."""
        connection = sessions.get(ticket.partition(".")[0])
        if connection is None or connection.closing is not None or connection.resumes == NEVER:
            return None
        given = ticket.encode(errors="replace")
        right = hmac.compare_digest(self._ticket(connection).encode(), given)
        if not right and connection.parked is not None and connection.resumes:
            # The hello with the newer one may have been lost with its socket.
            right = hmac.compare_digest(self._ticket(connection, 1).encode(), given)
        return connection if right else None

    # Sessions without a socket.

    def park(self, connection: Connection, luggage: Any) -> bool:
        """The socket of a session is lost. False: so is the session. `luggage` is its socket's, for the next one."""
        settings = connection.services.config.websocket
        if connection.closing is not None or connection.resumes == NEVER or not settings.resume_window or self.off:
            return False
        parked = connection.parked
        if parked is None:
            if settings.resume_sessions and len(self.parked) >= settings.resume_sessions:
                return False
            parked = connection.parked = Parked(connection, self)
            self.parked[connection.session] = parked
            parked.take_over()
            connection.services.counters.resumes["waiting"] += 1
        parked.luggage = luggage
        parked.wait(settings.resume_window)
        return True

    def end_all(self, reason: CloseReason) -> None:
        """The relay is going away: nobody waits any more."""
        self.off = True
        for parked in list(self.parked.values()):
            if parked.waits:
                parked.connection.close(reason)


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

    __slots__ = ("_later", "_timer", "_told", "connection", "luggage", "outbox", "resumption", "sent", "unsent")

    outbox: Outbox

    def __init__(self, connection: Connection, resumption: Resumption) -> None:
        services = connection.services
        self.connection = connection
        self.resumption = resumption
        self.luggage: Any = None
        self._timer: Timer | None = None
        self._later: Timer | None = None
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
        for name, membership in connection.hub.memberships(connection).items():
            self.sent[name] = Position(membership.room.epoch, membership.room.offset)
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
        room = self.connection.hub.rooms.get(message.room)
        if room is None or room.history is None or not message.offset:
            return False
        self.sent.setdefault(room.name, Position(room.epoch, message.offset - 1))
        return True

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
        if self._later is None:
            services = connection.services
            reason = CloseReason(CloseCode.TOO_SLOW, f"channel {lane.name} is full", lane.setting, 1.0, 1.0)
            self._later = services.timers.at(services.monotonic(), lambda: connection.close(reason))

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
        connection.services.counters.resumes["resumed"] += 1
        channels, shelf = connection.hub.channels, self.shelf
        sums = [0] * len(channels)
        shelf.add_sizes(sums)
        budgets = [(lane.capacity - waiting) // 2 for lane, waiting in zip(channels, sums, strict=True)]
        told: dict[str, Any] = {name: {"joined": False} for name in rooms}
        missed: list[Message] = []
        gaps: dict[str, tuple[int, int]] = {}
        for name, membership in connection.hub.memberships(connection).items():
            told[name] = self._recover(membership.room, rooms.get(name), budgets, missed, gaps)
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


class Resuming:
    """What a link has for a connection until it has taken a session over, and where it comes too late to do so."""

    __slots__ = (
        "_address", "_times", "closing", "identity", "main", "messages", "protocol", "session", "subject", "wire",
    )  # fmt: skip

    def __init__(self, main: Connection, wire: Wire, address: str) -> None:
        self.main = main
        self.wire = wire
        self._address = address
        self.identity: Identity = main.identity
        self.subject = main.subject
        self.session = main.session
        self.protocol: WireProtocol = main.protocol
        self.messages = 0
        self.closing: CloseReason | None = None
        self._times = main.resumes

    def start(self, last: int = 0) -> None:
        """Takes the session over. Where its old socket still seems to live, that one is cut: who has the ticket knows
        better.
        """
        main = self.main
        if main.resumes == self._times:  # else another one was faster
            if main.closing is None and main.wire is not main.parked:
                main.wire.abort()
            if main.closing is None and main.parked is not None and main.parked.waits:
                main.address = self._address
                main.parked.attach(self.wire)
                return
        self.close(CloseReason(CloseCode.GOING_AWAY, "the session has ended meanwhile", WINDOW, 0.0, 1.0))

    def close(self, reason: CloseReason) -> None:
        if self.closing is None:
            self.closing = reason
            self.wire.close(reason, self.protocol.bye(reason))

    def message(self, opcode: int, payload: bytes) -> None:
        """Nobody listens to it."""

    def depart(self) -> None: ...
    def lost(self) -> None: ...
    def tell_drops(self) -> None: ...
    def park(self, luggage: Any) -> bool:
        return False

    def wait_for(self, reader: object) -> None: ...
    def waited_for(self, reader: object) -> None: ...
