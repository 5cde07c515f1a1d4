"""Tests a plugin with no socket and no real time, on the relay's own rooms, outboxes and supervisor.

    async def test_all_in_the_room_hear_it() -> None:
        async with PluginTester(Chat, rooms="chat:*", history=10) as tester:
            ann = await tester.join("chat:a", "ann")
            bob = await tester.join("chat:a", "bob")
            await ann.publish("hi")
            assert bob.received == ["hi"]

Works in pytest-trio and in plain `trio.run`. With Trio's MockClock (pytest-trio's `autojump_clock`) deadlines and
pauses take no time. A refusal is raised as `Refused`, a plugin's bug as Refused("internal") with the exception in
`tester.failures`. Not here: grants and wire formats, which a plugin never sees. The one rule: what a member hears is
what a client would.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

import msgspec
import trio
import trio.testing

from relay.auth.grants import compile_patterns
from relay.config.schema import Channel, PluginTable, Supervision, default_channels
from relay.counters import Counters
from relay.delivery.channels import Channels, Lane
from relay.delivery.outbox import Outbox, Tick
from relay.errors import CloseCode, CloseReason, ConfigError, ConfigProblem, Refused
from relay.model import Message, Payload
from relay.plugin.api import Plugin
from relay.plugin.loader import accept, build_router
from relay.plugin.recorder import Recorder
from relay.plugin.supervisor import Supervised
from relay.plugin.watchdog import Watchdog
from relay.protocols.base import WireProtocol
from relay.rooms.hub import Hub
from relay.rooms.room import Room

__all__ = ["Member", "PluginTester"]

START: Final = 1_800_000_000.0  # Unix time at which every test begins
FLUSH: Final = 1 << 30


class PluginTester:
    """A relay with one plugin. `table` takes the common keys of a plugin's table: history, presence, max_members, …

    `settings` are the plugin's own; `channels` adds to or changes the five default channels. The plugin is checked as
    at start: raises ConfigError for a misspelt hook or a wrong setting. `hook_timeout` in seconds; `failures` as in
    [supervision]. Inside `async with` the plugin's `run` runs; at the end it is cancelled.
    """

    def __init__(
        self,
        plugin: type[Plugin],
        *,
        rooms: str | list[str] = "*",
        settings: Mapping[str, Any] | None = None,
        name: str = "",
        channels: Mapping[str, Channel] | None = None,
        hook_timeout: float = 10.0,
        failures: int = 0,
        **table: Any,
    ) -> None:
        self.failures: list[BaseException] = []
        """What the plugin raised that was no Refused."""
        self.channels: Final = Channels({**default_channels(), **(channels or {})})
        self.counters: Final = Counters()
        self._stirred = trio.Event()
        self._tick = Tick(lambda: self._token.run_sync_soon(self.deliver, idempotent=True))
        self._recorder = Recorder()
        self._advanced = 0.0
        self._trio_start: float | None = None
        epochs = itertools.count(1)
        self.hub: Final = Hub(
            self.channels, lambda room: None, clock=self.now, new_epoch=lambda: f"epoch-{next(epochs)}"
        )
        self.hub.on_removed = _removed
        common = msgspec.convert({"rooms": rooms, **table}, PluginTable)
        patterns = compile_patterns([rooms] if isinstance(rooms, str) else rooms)
        problems: list[ConfigProblem] = []
        name = name or plugin.__name__.lower()
        loaded = accept(
            name,
            plugin,
            common,
            settings or {},
            patterns=patterns,
            channels=self.channels,
            where=lambda key: "test",
            problems=problems,
        )
        if loaded is None:
            raise ConfigError(problems)
        self.supervised: Final = Supervised(
            loaded,
            self.hub,
            counters=self.counters,
            watchdog=Watchdog(self.counters, 0),
            supervision=Supervision(failures=failures),
            hook_timeout=hook_timeout,
            clock=lambda: self.now() - START,
        )
        self.supervised.on_failure = lambda hook, problem: self.failures.append(problem)
        self.hub.router = build_router([self.supervised])

    @property
    def plugin(self) -> Any:
        """The plugin itself."""
        return self.supervised.plugin

    def room(self, name: str) -> Room:
        """An open room. Raises KeyError while there is none."""
        return self.hub.rooms[name]

    def now(self) -> float:
        """Unix time in the test, seconds: moved by `advance`, and by Trio's MockClock if there is one."""
        moved = 0.0
        if self._trio_start is not None:
            moved = trio.current_time() - self._trio_start
        return START + self._advanced + moved

    async def advance(self, seconds: float) -> None:
        """Lets time pass, and all tasks do what they then have to do."""
        clock = trio.lowlevel.current_clock()
        if isinstance(clock, trio.testing.MockClock):
            clock.jump(seconds)
        else:
            self._advanced += seconds
        await self.settle()

    async def settle(self) -> None:
        """Waits until every other task waits for something: what `run` or an async on_leave had to do is done."""
        await trio.testing.wait_all_tasks_blocked()

    def connect(self, subject: str) -> Member:
        """A connection that is in no room yet."""
        return Member(self, subject)

    async def join(self, room: str, subject: str, *, last: int = 0, may_publish: bool = True) -> Member:
        """A new connection of `subject`, in `room`. Raises Refused."""
        member = self.connect(subject)
        await member.join(room, last=last, may_publish=may_publish)
        return member

    def deliver(self) -> None:
        """Brings members what waits for them. Each action of a member and each turn of the loop does it."""
        self._tick.flush()
        stirred, self._stirred = self._stirred, trio.Event()
        stirred.set()

    async def __aenter__(self) -> PluginTester:
        if isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock):
            self._trio_start = trio.current_time()
        self._token = trio.lowlevel.current_trio_token()
        self._nursery_manager = trio.open_nursery()
        self._nursery = await self._nursery_manager.__aenter__()
        if self.supervised.has_run:
            self._nursery.start_soon(self.supervised.run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._nursery.cancel_scope.cancel()
        # The test's own exception is kept out of the nursery, which would wrap it in a group.
        await self._nursery_manager.__aexit__(None, None, None)


class Member:
    """A connection in a test: does what a client does, and keeps what a client would hear. Is a `Peer`."""

    _sessions = itertools.count(1)

    def __init__(self, tester: PluginTester, subject: str) -> None:
        self.subject = subject
        self.session = f"session-{next(self._sessions)}"
        self.protocol: WireProtocol = tester._recorder
        self.outbox = Outbox(tester.channels, self, tester._tick)
        self.closed: CloseReason | None = None
        self.removed: list[tuple[str, str]] = []
        """Rooms that a plugin put it out of, and why."""
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
        if room in hub.memberships(self):
            raise Refused("already_joined")
        found = hub.open(room)
        found.holds += 1
        try:
            handler = self._tester.supervised
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
        hub, handler = self._tester.hub, self._tester.supervised
        await trio.lowlevel.checkpoint()
        found = hub.open(room) if room else self._room()
        membership = found.members.get(self)
        if membership is not None and not membership.may_publish:
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
        handler, found = self._tester.supervised, self._room(room)
        payload = None if data is None else Payload.of(data)
        await trio.lowlevel.checkpoint()
        try:
            if handler.call_is_async:
                answer = await handler.later("on_call", found, self, method, payload, timeout=timeout)
            else:
                answer = handler.call(found, self, method, payload)
        finally:
            self._tester.deliver()
        return answer.value()

    async def disconnect(self) -> None:
        """Ends the connection: it leaves all its rooms."""
        await trio.lowlevel.checkpoint()
        for membership in list(self._tester.hub.memberships(self).values()):
            await self._leave(membership.room)

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
        """("joined" or "left", room, subject)."""
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
        rooms = self._tester.hub.memberships(self)
        if name in rooms:
            return rooms[name].room
        if name or not rooms:
            raise Refused("not_joined")
        if len(rooms) > 1:
            raise ValueError(f"{self.subject} is in {len(rooms)} rooms: say which")
        return next(iter(rooms.values())).room

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
        hub, handler = self._tester.hub, self._tester.supervised
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


def _removed(peer: Any, room: Room, why: str) -> None:
    peer._kicked(room, why)
