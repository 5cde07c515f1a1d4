"""Rooms, peers and the relay as a plugin in a process of its own sees them: like the real ones, and far away.

Not here: calling the plugin (child). The one rule: whatever is asked of them is said to the relay at once, in order,
and never waited for; what can be found wrong here is found here.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from relay.errors import CloseReason, Refused
from relay.model import Message, Payload
from relay.plugin.isolate.wire import packed, packed_message
from relay.plugin.meters import Meter, Meters

if TYPE_CHECKING:
    from relay.plugin.isolate.child import Host

Say = Callable[..., None]


class FarPeer:
    """As `Peer`."""

    def __init__(self, say: Say, session: str, subject: str, may_publish: bool = False) -> None:
        self._say = say
        self.session = session
        self.subject = subject
        self.may_publish = may_publish  # in the room of the request that is being handled

    def send(self, room: FarRoom, data: object, *, channel: str | None = None, key: str | None = None) -> None:
        room.check_channel(channel)
        self._say("tell", room.name, self.session, packed(Payload.of(data)), channel, key)

    def may_call(self, room: str) -> bool:
        raise RuntimeError("a plugin in a process of its own cannot ask what a token grants elsewhere")

    def close(self, reason: CloseReason) -> None:
        self._say("close", self.session, int(reason.code), reason.reason, reason.reconnect_after)

    def __repr__(self) -> str:
        return f"<Peer {self.subject}>"


class FarRoom:
    """As `Room`."""

    def __init__(self, say: Say, channels: Iterable[str], name: str, epoch: str, offset: int) -> None:
        self._say = say
        self._channels = frozenset(channels)
        self.name = name
        self.epoch = epoch
        self.offset = offset
        self.state: dict[str, Any] = {}
        self.members: dict[str, FarPeer] = {}
        self.refusal: Refused | None = None  # of its own on_open
        """By session."""

    def broadcast(
        self,
        data: Message | object,
        *,
        sender: FarPeer | None = None,
        channel: str | None = None,
        key: str | None = None,
        echo: bool = False,
    ) -> int:
        self.check_channel(channel)
        session = None if sender is None else sender.session
        if isinstance(data, Message):
            message = data
        else:
            message = Message(self.name, Payload.of(data), None if sender is None else sender.subject)
        self._say("say", packed_message(message), session, channel, key, echo)
        return 0

    def send(
        self,
        to: str,
        data: object,
        *,
        sender: FarPeer | None = None,
        channel: str | None = None,
        key: str | None = None,
    ) -> int:
        self.check_channel(channel)
        subject = None if sender is None else sender.subject
        message = Message(self.name, Payload.of(data), subject, channel, key, to)
        self._say("say", packed_message(message), None, channel, key, False)
        return 0

    def peers(self, subject: str | None = None) -> Iterator[FarPeer]:
        return (peer for peer in list(self.members.values()) if subject is None or peer.subject == subject)

    def tell(self, data: object, *, channel: str | None = None, key: str | None = None) -> None:
        self.check_channel(channel)
        self._say("moment", self.name, packed(Payload.of(data)), channel, key)

    def may_publish(self, peer: FarPeer) -> bool:
        return peer.may_publish

    def kick(self, peer: FarPeer, reason: str = "") -> None:
        self._say("kick", self.name, peer.session, reason)

    def check_channel(self, channel: str | None) -> None:
        if channel is not None and channel not in self._channels:
            raise Refused("no_such_channel", f"channels are: {', '.join(sorted(self._channels))}", setting="channels")

    def __contains__(self, subject: str) -> bool:
        return any(peer.subject == subject for peer in self.members.values())

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        return f"<Room {self.name}: {len(self.members)} members>"


class FarMeter(Meter):
    """Counts here, and in the relay."""

    __slots__ = ("_say",)

    def __init__(self, say: Say, kind: Any, name: str, help: str, labels: tuple[str, ...]) -> None:
        super().__init__(kind, name, help, labels)
        self._say = say

    def add(self, amount: float = 1.0, *labels: str) -> None:
        super().add(amount, *labels)
        self._say("meter", self.kind, self.name, self.help, self.labels, "add", amount, labels)

    def set(self, value: float, *labels: str) -> None:
        super().set(value, *labels)
        self._say("meter", self.kind, self.name, self.help, self.labels, "set", value, labels)


class FarTimer:
    """As `Timer`."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()

    def cancel(self) -> None:
        self.scope.cancel()


class FarRelay:
    """As `Relay`."""

    def __init__(self, host: Host, tenant: str) -> None:
        self.tenant = tenant
        self._host = host
        self._meters = Meters()
        self._made: dict[str, FarMeter] = {}

    def room(self, name: str) -> FarRoom | None:
        return self._host.rooms.get(name)

    def rooms(self) -> list[FarRoom]:
        return list(self._host.rooms.values())

    def publish(self, room: str, data: object, *, channel: str | None = None, key: str | None = None) -> None:
        self._host.say("publish", room, packed(Payload.of(data)), channel, key)

    async def to_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=True)

    def after(self, seconds: float, function: Callable[..., Any], *args: Any) -> FarTimer:
        return self._timer(seconds, False, function, args)

    def every(self, seconds: float, function: Callable[..., Any], *args: Any) -> FarTimer:
        if seconds < 0.001:
            raise ValueError("a timer may run a thousand times a second, not more often")
        return self._timer(seconds, True, function, args)

    def _timer(self, seconds: float, again: bool, function: Callable[..., Any], args: tuple[Any, ...]) -> FarTimer:
        timer = FarTimer()

        async def wait() -> None:
            with timer.scope:
                while True:
                    await trio.sleep(seconds)
                    await self._host.guarded(partial(_either, function, *args))
                    if not again:
                        return

        self._host.begin(wait)
        return timer

    def spawn(self, function: Callable[..., Awaitable[object]], *args: Any) -> None:
        self._host.begin(partial(self._host.guarded, partial(function, *args)))

    def counter(self, name: str, help: str, labels: Iterable[str] = ()) -> FarMeter:
        return self._meter("counter", name, help, tuple(labels))

    def gauge(self, name: str, help: str, labels: Iterable[str] = ()) -> FarMeter:
        return self._meter("gauge", name, help, tuple(labels))

    def _meter(self, kind: Any, name: str, help: str, labels: tuple[str, ...]) -> FarMeter:
        self._meters.make(kind, name, help, labels)  # the same checks as in the relay
        if name not in self._made:
            self._made[name] = FarMeter(self._host.say, kind, name, help, labels)
        return self._made[name]


async def _either(function: Callable[..., Any], *args: Any) -> None:
    result = function(*args)
    if inspect.isawaitable(result):
        await result
