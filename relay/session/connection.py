"""One connection after the handshake: who it is, which rooms it is in, and what its commands do.

Not here: bytes on the wire (net/link owns the socket and the outbox's flush), formats (protocols), what a room does
(plugins), how long its token holds (credentials). The one rule: everything is sync; what a plugin must wait for goes
to the connection's work queue.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from relay import decisions
from relay.auth.tokens import Identity
from relay.delivery.detour import Junction
from relay.delivery.outbox import Drop, Outbox
from relay.errors import CLOSE_FOR_REFUSAL, CloseCode, CloseReason, Refused
from relay.model import Kind, Message, Payload
from relay.protocols.base import Command, Join, ProtocolError, Publish, RequestId, WireProtocol
from relay.protocols.parts import is_part
from relay.rooms.hub import Hub
from relay.rooms.room import Rights, Room
from relay.session import joining, publishing, requests
from relay.session.credentials import Credentials
from relay.session.greeting import greet
from relay.session.incoming import Incoming
from relay.session.services import Services
from relay.session.wire import Hold, Wire
from relay.session.work import Job, Work

if TYPE_CHECKING:
    from relay.session.leg import Leg
    from relay.session.parked import Parked
    from relay.session.spending import Spending

KINDS: Final = (Kind.TEXT, Kind.TEXT, Kind.BINARY)  # by opcode


ENDED: Final = CloseReason(CloseCode.NORMAL, "the session's first socket has ended")


class Connection:
    """A `Peer` of the hub. `home` is the room in its URL (plain mode), else ""; `address` where it comes from."""

    __slots__ = (
        "_incoming", "_readers", "address", "bare", "closing", "credentials", "home", "hub", "identity",
        "joining", "legs", "messages", "outbox", "parked", "protocol", "resumes", "rights", "rooms", "services",
        "session", "spending", "subject", "wire", "work",
    )  # fmt: skip

    def __init__(
        self, services: Services, wire: Wire, identity: Identity, protocol: WireProtocol, session: str,
        home: str = "", address: str = "",
    ) -> None:  # fmt: skip
        self.services = services
        self.hub: Hub = services.hub
        self.wire = wire
        self.outbox: Outbox = wire.outbox
        self.identity = identity
        self.subject = identity.subject
        self.protocol = protocol
        self.bare = protocol.bare and home != ""
        self.session = session
        self.home = home
        self.address = address
        self.messages = 0
        self.closing: CloseReason | None = None
        # Rooms whose hook is still deciding: what else is asked of them waits behind.
        self.joining: dict[str, int] | None = None
        self.rooms: dict[str, Room] = {}
        self.rights: dict[Room, Rights] | None = None
        self.legs: list[Leg] = []  # the session's other sockets
        self.work: Work | None = None
        self.credentials = Credentials(self)
        self.spending: Spending | None = None  # of quotas, once one is about it
        self._incoming: Incoming | None = None  # messages that come in parts
        self._readers: set[object] | None = None  # who cannot keep up with what it sends
        self.resumes = -1  # how often it was; -1: it cannot be (session/resume)
        self.parked: Parked | None = None  # it has no socket, or a new one that has not said what it has

    @property
    def main(self) -> Connection:
        """The session of this socket: itself."""
        return self

    def start(self, last: int = 0) -> None:
        """Says hello and joins the rooms that the address and the token name; `last` messages of the home room come
        along.
        """
        services = self.services
        services.sessions[self.session] = self
        self.credentials.start()
        self.answer(greet(self))
        for room in dict.fromkeys((self.home, *self.identity.grants.join_at_start)):
            if room and self.closing is None:
                try:
                    joining.join(self, Join(room, last=last if room == self.home else 0), at_start=True)
                except Refused as refused:
                    self.join_refused(room, refused)
        self.credentials.end_if_revoked(services.wall())  # since it was checked, somebody may have thought better of it

    # What the engine tells.

    def message(self, opcode: int, payload: bytes) -> None:
        """A whole message has come."""
        if self.closing is not None:
            return
        self.messages += 1
        try:
            if self.bare:
                self._publish_home(Payload(KINDS[opcode], payload))
                return
            if opcode == Kind.BINARY and is_part(payload) and self.protocol.takes_parts:
                whole = self._parts().add(payload)
                if whole is None:
                    return
                command = whole
            else:
                command = self.protocol.decode(opcode, payload, self.home)
            if type(command) is Publish:
                self.publish(command)
            else:
                self.execute(command)
        except Refused as refused:
            self.refuse(refused.request, refused)
        except ProtocolError as error:
            self.close(error.reason)

    def _parts(self) -> Incoming:
        """Raises Refused."""
        if self._incoming is None:
            self._incoming = Incoming(self)
        return self._incoming

    def _publish_home(self, data: Payload) -> None:
        """`publish` for what comes without an envelope. Raises Refused."""
        room = self.rooms.get(self.home)
        if room is None:
            self.publish(Publish(self.home, data))
            return
        handler = room.handler
        if handler.message_is_async or (self.rights is not None and not room.rights(self).may_publish):
            self.publish(Publish(self.home, data))
        else:
            handler.message(room, self, Message(self.home, data, self.subject))

    def execute(self, command: Command) -> None:
        """Any command; refusals are answered here, with its id."""
        try:
            requests.execute(self, command)
        except Refused as refused:
            refused.request = command.id
            refused.room = refused.room or getattr(command, "room", "")
            raise

    def publish(self, command: Publish) -> None:
        """The hot path: one message for a room. Raises Refused."""
        name = command.room
        if command.channel is not None:
            requests.check_channel(self, command.channel, command.id)
        room = self.rooms.get(name)
        if room is None:
            if self.joining is not None and name in self.joining:
                self.later(name, command.channel, lambda: self._again(command))
                return
            requests.publish_from_outside(self, command)
            return
        if self.rights is not None and not room.rights(self).may_publish:
            self._may_not_publish(command)
            return
        message = self.said(command)
        handler = room.handler
        if handler.message_is_async or (self.joining is not None and name in self.joining):
            job = partial(publishing.publish_later, self, room, message, command)
            joining.later_in(self, room, command.channel, job)
        elif command.id is None and command.once is None:
            handler.message(room, self, message)
        else:
            publishing.publish(self, room, message, command)

    def _may_not_publish(self, command: Publish) -> None:
        """Refuses what is published in a room that is only heard; in its only room a client is told by the end. Raises
        Refused.
        """
        if not self.credentials.read_only:
            if self.home:
                self.close(CloseReason(CloseCode.FORBIDDEN, requests.NOT_GRANTED))
                return
            refused = Refused("forbidden", requests.NOT_GRANTED)
        else:
            refused = self.credentials.lapsed()
            if self.bare:
                self.close(CloseReason(CloseCode.UNAUTHORIZED, refused.message, refused.setting))
                return
        refused.request, refused.room = command.id, command.room
        raise refused

    def said(self, command: Publish) -> Message:
        """The message a publish stands for."""
        message = Message(
            command.room, command.data, self.subject, command.channel, command.key, command.to, command.echo
        )
        if command.ttl is not None:
            message.expires = self.services.monotonic() + max(0.0, command.ttl)
        return message

    # What rooms and plugins may do with a peer.

    def send(self, room: Room, data: object, *, channel: str | None = None, key: str | None = None) -> None:
        """Sends to this connection alone, as a message of `room`. Raises Refused("no_such_channel")."""
        index = room.rule.channel if channel is None else self.hub.channels.index(channel)
        payload = data if data.__class__ is Payload else Payload.of(data)
        message = Message(room.name, payload, None, channel, key, at=self.services.wall())
        self.hub.deliver_to(self, index, message)

    def may_call(self, room: str) -> bool:
        return self.identity.grants.may_call(room)

    def close(self, reason: CloseReason) -> None:
        """Ends the connection; the first reason wins. Rooms are left at once, what waits is still sent."""
        if self.closing is None:
            self.closing = reason = self.services.reason(reason)
            self.depart()
            self.end_legs(reason)
            self.wire.close(reason, self.protocol.bye(reason))

    def lost(self) -> None:
        """The socket is gone, with or without a close before it."""
        self.depart()
        self.end_legs(ENDED)
        self.services.sessions.pop(self.session, None)
        if self.work is not None:
            self.work.cancel()
        self.credentials.stop()
        self.stop_parts()
        if self.spending is not None:
            self.spending.end()
        self.services.acks.forget(self)
        self.services.closed(self.subject)

    def park(self, luggage: Any) -> bool:
        """The socket is gone without a close. True: the session waits for its client; False: it is lost."""
        return self.services.resumption.park(self, luggage)

    def stop_parts(self) -> None:
        """The rest of what comes in parts will not come."""
        if self._incoming is not None:
            self._incoming.stop()
            self._incoming = None

    def hold_again(self) -> None:
        """Tells a new socket what the last one was told."""
        if self.work is not None and self.work.full:
            self.wire.hold(Hold.WORK, True)
        if self.spending is not None and self.spending.holds:
            self.wire.hold(Hold.QUOTA, True)
        if self._readers:
            self.wire.hold(Hold.READERS, True)

    def junction(self) -> Junction:
        """What stands for the outbox while there are more sockets."""
        if isinstance(self.outbox, Junction):
            return self.outbox
        junction = self.outbox = Junction(self.outbox)
        self.hub.rewire(self)
        return junction

    def leave_junction(self) -> None:
        """Without other sockets, the outbox stands for itself."""
        if not self.legs:
            self.outbox = self.wire.outbox
            self.hub.rewire(self)

    def end_legs(self, reason: CloseReason) -> None:
        for leg in list(self.legs):
            leg.close(reason)

    def depart(self) -> None:
        """Leaves all rooms."""
        for room in list(self.rooms.values()):
            joining.depart(self, room)
        self.hub.watching.drop(self)

    # Answers.

    def answer(self, frame: bytes | None) -> None:
        if frame is not None:
            self.outbox.put(self.hub.channels.control, frame)

    def ok(self, request: RequestId, result: dict[str, Any]) -> None:
        if request is not None:
            self.answer(self.protocol.ok(request, result))

    def refuse(self, request: RequestId, refused: Refused) -> None:
        if not refused.plugin:  # else it may be one object for all tenants
            refused.setting = self.services.named(refused.setting)
        self.services.counters.refused[refused.code if refused.code in requests.KNOWN_CODES else "plugin"] += 1
        self.note("refused", refused.code, refused.setting, refused.message, refused.room or self.home, refused.plugin)
        if self.closing is None:
            self.answer(self.protocol.error(request, refused))

    def join_refused(self, room: str, refused: Refused) -> None:
        """Joining at the start has no request to answer: without its room, a plain connection is nothing."""
        refused.room = room
        if room == self.home:
            code = CLOSE_FOR_REFUSAL.get(refused.code, CloseCode.FORBIDDEN)
            self.close(CloseReason(code, f"{refused.code}: {refused.message}", refused.setting))
        else:
            self.refuse(None, refused)

    def tell_drops(self) -> None:
        """Says which messages this client will not get."""
        drops, self.wire.outbox.drops = self.wire.outbox.drops, None
        self.say_drops(drops)

    def say_drops(self, drops: dict[tuple[str, str, str], Drop] | None) -> None:
        for (room, channel, reason), drop in (drops or {}).items():
            plugin = self.count_drops(room, channel, reason, drop.count)
            code, setting = reason, None
            if reason == "overflow":
                setting = f"channels.{channel}.capacity"
            elif reason.startswith("quotas."):
                code, setting = "rate_limited", reason
            self.note("dropped", code, setting, f"in channel {channel}", room, plugin, count=drop.count)
            if room:
                self.answer(self.protocol.gap(room, drop.first, drop.last, setting or reason))

    def note(
        self, kind: decisions.Kind, code: str, setting: str | None, detail: str, room: str = "", plugin: str = "",
        count: int = 1,
    ) -> None:  # fmt: skip
        """Keeps what was decided against this session, for whoever asks why."""
        services = self.services
        services.decisions.add(
            kind, code, setting=services.named(setting), session=self.session, subject=self.subject,
            address=self.address, room=room, plugin=plugin, detail=detail, count=count,
        )  # fmt: skip

    def count_drops(self, room: str, channel: str, reason: str, count: int) -> str:
        """Messages of a room ("": the relay's own words) that this client will not get. Returns the room's plugin."""
        plugin = self.hub.count_drops(room, channel, reason, count)
        self.services.counters.dropped[plugin, channel, reason] += count
        return plugin

    # Work that waits.

    def later(self, room: str, channel: str | None, job: Job, dropped: Callable[[], None] | None = None) -> None:
        """Queues work for a channel, or behind the join of a room that is being joined. `dropped`: see `Work.put`."""
        if self.joining is not None and room in self.joining:
            channel = "default"
        if self.work is None:
            self.work = Work(self.services.spawn, self.services.config.limits.requests_waiting, self._hold)
        self.work.put(channel or "default", job, dropped)

    def _hold(self, held: bool) -> None:
        if held:
            self.note("throttled", "too_many_requests", "limits.requests_waiting", "requests wait for plugins")
        for wire in (self.wire, *(leg.wire for leg in self.legs)):
            wire.hold(Hold.WORK, held)

    async def _again(self, command: Command) -> None:
        if self.closing is None:
            try:
                self.publish(command) if type(command) is Publish else self.execute(command)
            except Refused as refused:
                self.refuse(refused.request, refused)

    # Readers that cannot keep up.

    def wait_for(self, reader: object) -> None:
        """Is read no further until `reader` has caught up, or has gone."""
        if self._readers is None:
            self._readers = set()
        self._readers.add(reader)
        if self.closing is None:
            self.wire.hold(Hold.READERS, True)

    def waited_for(self, reader: object) -> None:
        """That reader is no reason to wait any more."""
        if self._readers is not None:
            self._readers.discard(reader)
            if not self._readers:
                self._readers = None
                if self.closing is None:
                    self.wire.hold(Hold.READERS, False)
