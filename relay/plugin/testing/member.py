"""A client of a plugin's test: joins, publishes, calls, reads or does not; and keeps what a client would hear.

Not here: the relay it is connected to (tester).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

import trio

from relay.delivery.channels import Lane
from relay.delivery.outbox import Outbox
from relay.errors import CloseCode, CloseReason, Refused
from relay.model import Message, Payload
from relay.protocols.base import WireProtocol
from relay.rooms.room import Rights, Room

if TYPE_CHECKING:
    from relay.plugin.testing.tester import PluginTester

FLUSH: Final = 1 << 30


class Member:
    """A connection in a test: does what a client does, and keeps what a client would hear. Is a `Peer`."""

    _sessions = itertools.count(1)

    def __init__(self, tester: PluginTester, subject: str) -> None:
        self.subject = subject
        self.session = f"session-{next(self._sessions)}"
        self.protocol: WireProtocol = tester._recorder
        self.outbox = Outbox(tester.channels, self, tester._tick)
        self.rooms: dict[str, Room] = {}
        self.rights: dict[Room, Rights] | None = None
        self.closed: CloseReason | None = None
        self.removed: list[tuple[str, str]] = []
        """Rooms that a plugin put it out of, and why."""
        self.granted: set[str] = set()
        """Names of rooms in which its token grants calls, for plugins that ask (`may_call`)."""
        self._tester = tester
        self._heard: list[Message] = []
        self._presence: list[tuple[str, str, str]] = []
        self._gaps: list[tuple[str, int, int]] = []
        self._reading = True

    # What a client does.

    async def join(self, room: str, *, last: int = 0, may_publish: bool = True) -> None:
        """Raises Refused. `last` messages of the room's history are heard first."""
        hub = self._tester.hub
        await trio.lowlevel.checkpoint()
        if room in self.rooms:
            raise Refused("already_joined")
        found = hub.open(room)
        found.holds += 1
        try:
            handler = found.handler
            if handler.join_is_async:
                await handler.later("on_join", found, self)
            else:
                handler.join(found, self)
            hub.join(self, found, may_publish=may_publish)
            if last and found.history is not None:
                for message in found.history.last(last, hub.clock()):
                    self.outbox.put(found.rule.channel, self.protocol.message(message), message)
        finally:
            found.holds -= 1
            hub.free_if_empty(found)
            self._tester.deliver()

    async def leave(self, room: str = "") -> None:
        """`room` may be left out where it is in one only, here and below."""
        await self._leave(self._room(room))

    async def publish(
        self,
        data: object,
        *,
        room: str = "",
        channel: str | None = None,
        key: str | None = None,
        to: str | None = None,
        echo: bool = False,
    ) -> int:
        """Returns the room's offset. Raises Refused. A room it is not in may be named, as if its token granted that."""
        hub = self._tester.hub
        await trio.lowlevel.checkpoint()
        found = hub.open(room) if room else self._room()
        handler = found.handler
        if found.has(self) and not found.may_publish(self):
            raise Refused("forbidden", "this member may not publish")
        message = Message(found.name, Payload.of(data), self.subject, channel, key, to, echo)
        found.holds += 1
        try:
            if handler.message_is_async:
                await handler.later("on_message", found, self, message)
            else:
                handler.message(found, self, message)
            return found.offset
        finally:
            found.holds -= 1
            hub.free_if_empty(found)
            self._tester.deliver()

    async def call(self, method: str, data: object = None, *, room: str = "", timeout: float | None = None) -> Any:
        """Returns the plugin's answer as a value. Raises Refused."""
        found = self._room(room)
        handler = found.handler
        payload = None if data is None else Payload.of(data)
        await trio.lowlevel.checkpoint()
        try:
            if handler.call_waits(method):
                answer = await handler.later("on_call", found, self, method, payload, timeout=timeout)
            else:
                answer = handler.call(found, self, method, payload)
        finally:
            self._tester.deliver()
        return answer.value()

    async def disconnect(self) -> None:
        """Ends the connection: it leaves all its rooms."""
        await trio.lowlevel.checkpoint()
        for room in list(self.rooms.values()):
            await self._leave(room)

    def stop_reading(self) -> None:
        """From now on what comes waits in the outbox, and the channel's overflow policy decides what becomes of it."""
        self._tester.deliver()
        self._reading = False

    def read_on(self) -> None:
        self._reading = True
        self.flush()

    # What a client hears.

    @property
    def received(self) -> list[Any]:
        """The messages heard so far, as values: str for text, bytes for binary, else what the document says."""
        return [message.data.value() for message in self.messages]

    async def hears(self, count: int) -> list[Any]:
        """Waits until it has heard that many messages (a background task may send them); returns them as values."""
        await trio.lowlevel.checkpoint()
        while len(self.messages) < count:
            await self._tester._stirred.wait()
        return self.received

    @property
    def messages(self) -> list[Message]:
        """The messages heard so far, with sender, channel, key and offset."""
        self._tester.deliver()
        return self._heard

    @property
    def presence(self) -> list[tuple[str, str, str]]:
        """("joined" or "left", room, subject); of a crowd ("count", room, how many)."""
        self._tester.deliver()
        return self._presence

    @property
    def gaps(self) -> list[tuple[str, int, int]]:
        """(room, first offset, last offset) of messages that were dropped."""
        self._tester.deliver()
        return self._gaps

    # What the relay and the plugin see: a Peer, and the owner of an outbox.

    def send(self, room: Room, data: object, *, channel: str | None = None, key: str | None = None) -> None:
        channels = self._tester.channels
        index = room.rule.channel if channel is None else channels.index(channel)
        message = Message(room.name, Payload.of(data), None, channel, key, at=self._tester.now())
        self.outbox.put(index, self.protocol.message(message), message)

    def may_call(self, room: str) -> bool:
        return room in self.granted

    def close(self, reason: CloseReason) -> None:
        if self.closed is None:
            self.closed = reason
            self._tester._nursery.start_soon(self.disconnect)

    def flush(self) -> None:
        self.outbox.touched = False
        if not self._reading:
            return
        for (room, _, _), drop in (self.outbox.drops or {}).items():
            self._gaps.append((room, drop.first, drop.last))
        self.outbox.drops = None
        while frames := self.outbox.take(FLUSH):
            for said in self._tester._recorder.read(frames):
                if isinstance(said, Message):
                    self._heard.append(said)
                else:
                    self._presence.append(said)

    def overflowed(self, lane: Lane, room: str) -> None:
        self.close(CloseReason(CloseCode.TOO_SLOW, f"the queue of channel {lane.name} is full", lane.setting))

    def congested(self, lane: Lane) -> None:
        """Producers in a test do not outrun anybody for long."""

    def relieved(self, lane: Lane) -> None:
        """See `congested`."""

    def _room(self, name: str = "") -> Room:
        rooms = self.rooms
        if name in rooms:
            return rooms[name]
        if name or not rooms:
            raise Refused("not_joined")
        if len(rooms) > 1:
            raise ValueError(f"{self.subject} is in {len(rooms)} rooms: say which")
        return next(iter(rooms.values()))

    async def _leave(self, room: Room) -> None:
        self._tester.hub.leave(self, self._held(room))
        await trio.lowlevel.checkpoint()
        await self._tell_left(room)

    def _kicked(self, room: Room, why: str) -> None:
        self.removed.append((room.name, why))
        self._tester.hub.leave(self, self._held(room))
        self._tester._nursery.start_soon(self._tell_left, room)

    def _held(self, room: Room) -> Room:
        room.holds += 1
        return room

    async def _tell_left(self, room: Room) -> None:
        hub, handler = self._tester.hub, room.handler
        try:
            if handler.leave_is_async:
                await handler.later("on_leave", room, self)
            else:
                handler.leave(room, self)
        except Refused:
            pass  # nobody can be kept from leaving
        finally:
            room.holds -= 1
            hub.free_if_empty(room)
            self._tester.deliver()

    def __repr__(self) -> str:
        return f"<Member {self.subject}>"
