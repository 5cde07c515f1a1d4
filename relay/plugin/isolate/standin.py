"""What stands in the relay where an isolated plugin would: it hands each hook on to the plugin's process, and does what
that asks for.

Not here: the process's inside (child), its life (process). The one rule: the relay never waits for the process but in
an asynchronous hook, under that hook's deadline; without the process, hooks are refused.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from relay.decisions import Decision
from relay.errors import CloseCode, CloseReason, Refused
from relay.model import Message, Payload
from relay.plugin.api import Arrival, Plugin, Relay, WebRequest, WebResponse, route
from relay.plugin.isolate.process import Process
from relay.plugin.isolate.wire import Broken, packed, packed_decision, packed_message, unpacked, unpacked_message
from relay.plugin.loader import LoadedPlugin
from relay.rooms.room import Peer, Room

log = logging.getLogger("relay.plugin")

ASKED: Final = (
    "on_message", "on_call", "on_connect", "on_disconnect", "filter_join", "filter_leave", "filter_message",
    "filter_call",
)  # fmt: skip
"""Hooks that are handed on where the plugin has them. Who joined and who left always is: the process knows who is
there."""


class Fault(Exception):
    """The plugin failed in its process: what it raised, as text."""


class Standin(Plugin):
    """One isolated plugin, as the supervisor sees it."""

    loaded: LoadedPlugin
    source: str

    def __init__(self, name: str, settings: Any, relay: Relay) -> None:
        super().__init__(name, settings, relay)
        self._process: Process | None = None
        self._peers: dict[str, Peer] = {}  # by session: members, and those whose request is being handled
        self._places: dict[str, int] = {}  # in how many rooms each of them is

    async def run(self) -> None:
        """The process, until it ends; then the supervisor starts it again."""
        process = Process(self.name, self.relay.tenant, self.source, self.loaded, self._obey)
        async with process.running():
            self._process = process
            try:
                for room in self.relay.rooms():
                    process.say("open", room.name, room.epoch, room.offset)
                    for peer in room.peers():
                        process.say("member", room.name, peer.session, peer.subject)
                await process.ended()
            finally:
                self._process = None

    def _running(self) -> Process:
        if self._process is None:
            raise Refused("unavailable", "the plugin's process is being started", retry_after=1.0)
        return self._process

    def _say(self, *words: Any) -> None:
        """What the process must know, and nobody waits for. A process that starts is told all of it anyway."""
        if self._process is not None:
            self._process.say(*words)

    async def _ask(self, hook: str, room: Room | None, peer: Peer | None, *more: Any) -> Any:
        process = self._running()
        who = None
        if peer is not None:
            who = [peer.session, peer.subject, room is not None and room.may_publish(peer)]
            self._peers.setdefault(peer.session, peer)
        where = None if room is None else [room.name, room.epoch, room.offset]
        try:
            return await process.ask(hook, where, who, *more)
        finally:
            if peer is not None and not self._places.get(peer.session):
                self._peers.pop(peer.session, None)

    # Who is there.

    def on_open(self, room: Room) -> None:
        self._say("open", room.name, room.epoch, room.offset)

    def on_empty(self, room: Room) -> None:
        self._say("empty", room.name)

    def on_renamed(self, was: str, name: str) -> None:
        self._say("renamed", was, name)

    def on_joined(self, room: Room, peer: Peer) -> None:
        self._peers[peer.session] = peer
        self._places[peer.session] = self._places.get(peer.session, 0) + 1
        self._say("joined", room.name, peer.session, peer.subject)

    def _gone(self, room: Room, peer: Peer) -> None:
        left = self._places.get(peer.session, 0) - 1
        if left > 0:
            self._places[peer.session] = left
        else:
            self._places.pop(peer.session, None)
            self._peers.pop(peer.session, None)
        self._say("gone", room.name, peer.session)

    # What the process asks for.

    def _obey(self, words: list[Any]) -> None:
        """Raises Broken for what makes no sense."""
        try:
            getattr(self, f"_obey_{words[0]}")(*words[1:])
        except (AttributeError, TypeError, ValueError) as problem:
            raise Broken(f"{words[0]}: {problem}") from None
        except Refused as refused:
            log.warning("plugin %s: what its process asked for was refused: %s", self.name, refused)

    def _obey_say(self, said: list[Any], session: str | None, channel: str | None, key: str | None, echo: bool) -> None:
        message = unpacked_message(said)
        room = self.relay.room(message.room)
        if room is not None:
            sender = None if session is None else self._peers.get(session)
            if sender is None and message.to is not None:
                room.send(message.to, message.data, channel=message.channel or channel, key=message.key or key)
            else:
                room.broadcast(message, sender=sender, channel=channel, key=key, echo=echo)

    def _obey_tell(self, room: str, session: str, said: list[Any], channel: str | None, key: str | None) -> None:
        found, peer = self.relay.room(room), self._peers.get(session)
        if found is not None and peer is not None:
            peer.send(found, unpacked(said), channel=channel, key=key)

    def _obey_moment(self, room: str, said: list[Any], channel: str | None, key: str | None) -> None:
        found = self.relay.room(room)
        if found is not None:
            found.tell(unpacked(said), channel=channel, key=key)

    def _obey_kick(self, room: str, session: str, reason: str) -> None:
        found, peer = self.relay.room(room), self._peers.get(session)
        if found is not None and peer is not None:
            found.kick(peer, reason)

    def _obey_close(self, session: str, code: int, reason: str, after: float | None) -> None:
        peer = self._peers.get(session)
        if peer is not None:
            peer.close(CloseReason(CloseCode(code), reason, None, after))

    def _obey_publish(self, room: str, said: list[Any], channel: str | None, key: str | None) -> None:
        self.relay.publish(room, unpacked(said), channel=channel, key=key)

    def _obey_meter(
        self, kind: str, name: str, help: str, names: list[str], what: str, amount: float, labels: list[str]
    ) -> None:
        make = self.relay.counter if kind == "counter" else self.relay.gauge
        meter = make(name, help, names)
        (meter.set if what == "set" else meter.add)(amount, *labels)


def standin_for(loaded: LoadedPlugin) -> type[Plugin]:
    """A stand-in with just those hooks that the plugin has."""
    plugin = loaded.plugin
    members: dict[str, Any] = {"loaded": loaded, "source": loaded.source, "__doc__": plugin.__doc__}
    has = {hook for hook in ASKED if getattr(plugin, hook) is not getattr(Plugin, hook)}
    if loaded.calls:
        has.add("on_call")
    for hook in has:
        members[hook] = _HANDED_ON[hook]
    if plugin.on_join is not Plugin.on_join:
        members["on_join"] = _ask_to_join
    if plugin.filter_joined is not Plugin.filter_joined:
        members["filter_joined"] = _filter_joined
    if plugin.on_decisions is not Plugin.on_decisions:
        members["on_decisions"] = _decisions
    members["on_leave"] = _tell_left if plugin.on_leave is not Plugin.on_leave else _leave
    for number, (method, path, public) in enumerate(loaded.pages):
        members[f"page_{number}"] = route(method, path, public=public)(_page(method, path))  # type: ignore[arg-type]
    return type(plugin.__name__, (Standin,), members)


async def _ask_to_join(self: Standin, room: Room, peer: Peer) -> None:
    await self._ask("on_join", room, peer)


def _filter_joined(self: Standin, room: Room, peer: Peer) -> None:
    self._say("filter_joined", [room.name, room.epoch, room.offset], peer.session, peer.subject)


def _decisions(self: Standin, decisions: Sequence[Decision], missed: int) -> None:
    self._say("decisions", [packed_decision(one) for one in decisions], missed)


async def _tell_left(self: Standin, room: Room, peer: Peer) -> None:
    self._gone(room, peer)
    await self._ask("on_leave", room, peer)


def _leave(self: Standin, room: Room, peer: Peer) -> None:
    self._gone(room, peer)


async def _message(self: Standin, room: Room, sender: Peer, message: Message) -> None:
    await self._ask("on_message", room, sender, packed_message(message))


async def _call(self: Standin, room: Room, caller: Peer, method: str, data: Payload | None) -> Payload | None:
    return unpacked(await self._ask("on_call", room, caller, method, packed(data)))


async def _connect(self: Standin, arrival: Arrival) -> None:
    await self._ask("on_connect", None, None, _plain(arrival))


async def _disconnect(self: Standin, arrival: Arrival, code: int) -> None:
    await self._ask("on_disconnect", None, None, _plain(arrival), code)


async def _filter_join(self: Standin, room: Room, peer: Peer) -> None:
    await self._ask("filter_join", room, peer)


async def _filter_leave(self: Standin, room: Room, peer: Peer) -> None:
    await self._ask("filter_leave", room, peer)


async def _filter_message(self: Standin, room: Room, sender: Peer, message: Message) -> Message | None:
    answer = await self._ask("filter_message", room, sender, packed_message(message))
    return None if answer is None else unpacked_message(answer)


async def _filter_call(self: Standin, room: Room, caller: Peer, method: str, data: Payload | None) -> None:
    await self._ask("filter_call", room, caller, method, packed(data))


def _page(method: str, path: str) -> Callable[[Standin, WebRequest], Awaitable[WebResponse]]:
    async def page(self: Standin, request: WebRequest) -> WebResponse:
        asked = [
            request.method,
            request.path,
            dict(request.query),
            dict(request.headers),
            request.body,
            request.subject,
        ]
        status, body, content_type, headers = await self._ask("page", None, None, method, path, asked)
        return WebResponse(status, body, content_type, tuple((name, value) for name, value in headers))

    return page


def _plain(arrival: Arrival) -> list[str]:
    return [arrival.session, arrival.subject, arrival.address, arrival.protocol, arrival.home]


_HANDED_ON: Final[dict[str, Any]] = {
    "on_message": _message, "on_call": _call, "on_connect": _connect, "on_disconnect": _disconnect,
    "filter_join": _filter_join, "filter_leave": _filter_leave, "filter_message": _filter_message,
    "filter_call": _filter_call,
}  # fmt: skip
