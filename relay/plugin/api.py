"""All that a plugin may use. What is not here is not promised.

    class Chat(Plugin):
        def on_message(self, room: Room, sender: Peer, message: Message) -> None:
            room.broadcast(message, sender=sender)

Hooks may be sync or async. A sync hook runs inline and must be quick: while it runs, nobody is served. An async hook
may wait; it runs on the connection's own work queue, under a deadline. Refuse with `raise Refused("code", "why")`: the
sender is told, nobody is disconnected. Any other exception is the plugin's bug: logged, counted, the sender told
"internal".
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, ClassVar, Protocol

import msgspec

from relay.decisions import Decision
from relay.errors import CloseCode, CloseReason, PluginError, Refused
from relay.model import Kind, Message, Payload
from relay.plugin.arrival import Arrival
from relay.plugin.calls import call
from relay.plugin.meters import Meter
from relay.plugin.web import WebRequest, WebResponse, route
from relay.rooms.room import Peer, Room

__all__ = [
    "API_VERSION",
    "Arrival",
    "CloseCode",
    "CloseReason",
    "Decision",
    "Kind",
    "Message",
    "Meter",
    "NoSettings",
    "Payload",
    "Peer",
    "Plugin",
    "PluginError",
    "Refused",
    "Relay",
    "Room",
    "Settings",
    "Timer",
    "WebRequest",
    "WebResponse",
    "call",
    "route",
]

API_VERSION = 1
"""Raised when a hook changes its arguments or meaning; a plugin written for another version is refused at start."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of a plugin's own settings: the keys of its table beside the common ones, checked at start."""


class NoSettings(Settings, frozen=True):
    """A plugin without settings of its own."""


class Timer(Protocol):
    """Something that is to happen."""

    def cancel(self) -> None:
        """It will not happen (again). May be called at any time."""


class Relay(Protocol):
    """The relay, as a plugin sees it. `tenant` is the name of the one it serves; "": it belongs to none."""

    tenant: str

    def room(self, name: str) -> Room | None:
        """An open room that this plugin owns or filters; None while nobody is in it."""

    def rooms(self) -> list[Room]:
        """All open rooms that this plugin owns or filters, on this node."""

    def publish(self, room: str, data: object, *, channel: str | None = None, key: str | None = None) -> None:
        """Says something in a room of this plugin, or one that its table's `publish` names, on every node, whether
        somebody is in it here or not.

        Never waits. Raises Refused("no_such_room") for any other room, TypeError for what JSON cannot express.
        """

    def after(self, seconds: float, function: Callable[..., Any], *args: Any) -> Timer:
        """Calls a function of the plugin once, `seconds` from now; an async one gets a task of its own.

        What it raises is the plugin's failure; so is a task beyond supervision.tasks, which is not started. Raises
        RuntimeError beyond supervision.tasks timers.
        """

    def every(self, seconds: float, function: Callable[..., Any], *args: Any) -> Timer:
        """The same again and again, at least 1 ms apart."""

    def spawn(self, function: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Starts a task that ends with the plugin. What it raises is the plugin's failure, and ends the task alone.

        Raises RuntimeError beyond supervision.tasks tasks.
        """

    def counter(self, name: str, help: str, labels: Iterable[str] = ()) -> Meter:
        """A figure that only grows, in /metrics as relay_plugin_NAME_total: `meter.add(1, "label value")`.

        Label values come from a small set; beyond 200 they are counted together as "other".
        """

    def gauge(self, name: str, help: str, labels: Iterable[str] = ()) -> Meter:
        """A figure that comes and goes, in /metrics as relay_plugin_NAME: `meter.set(7)`."""

    async def to_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Runs blocking work in a thread and returns its result. A few at a time for each plugin; further ones wait.

        Cancelled with the plugin: the thread then goes on, and nobody waits for it.
        """


class Plugin:
    """Base class. Every hook is optional; a misspelt one is refused at start.

    Made once per table in the config; serves the rooms whose names match the table's `rooms`, and stands in front of
    those that match its `filters`. `log` is a logger of its own, "relay.plugin.NAME".
    """

    api: ClassVar[int] = API_VERSION
    Settings: ClassVar[type[msgspec.Struct]] = NoSettings

    def __init__(self, name: str, settings: Any, relay: Relay) -> None:
        self.name = name
        self.settings = settings
        self.relay = relay
        self.log = logging.getLogger(f"relay.plugin.{name}")

    def on_connect(self, arrival: Arrival) -> Awaitable[None] | None:
        """A client with a good token is about to connect, to whatever room. Raise Refused if it may not (403)."""
        return None

    def on_disconnect(self, arrival: Arrival, code: int) -> Awaitable[None] | None:
        """It has gone, with that close code (1006: lost without one). It was told by `on_connect`."""
        return None

    def on_decisions(self, decisions: Sequence[Decision], missed: int) -> None:
        """What was decided against anybody, since a moment ago: by the relay, and by all plugins. Never async.

        Called only where the plugin's table says `decisions = true`. What was decided several times is there once, with
        its `count`; `missed` more were too many for one batch.
        """

    def on_reload(self, before: Any) -> None:
        """This takes the place of an earlier version of the plugin, while rooms are open. Never async.

        `room.state` is as that one left it; what else it knew can be taken over from `before`. Raise to call it off.
        """

    def on_open(self, room: Room) -> None:
        """The room's first member is about to join, or the first message about to be published. Never async.

        Raise Refused if there shall be no such room.
        """

    def on_empty(self, room: Room) -> None:
        """The room's last member has left; the room is forgotten. Never async."""

    def on_renamed(self, was: str, name: str) -> None:
        """A room of the plugin's, or one that it stands in front of, has another name, open or not. Never async.

        An open room has it already, and its `state` has moved along; what the plugin keeps by a room's name it moves
        here. Where the new name has other filters than the old one, those of both are told.
        """

    def on_join(self, room: Room, peer: Peer) -> Awaitable[None] | None:
        """May a connection join? Raise Refused if not. It is in the room once this returns."""
        return None

    def on_joined(self, room: Room, peer: Peer) -> None:
        """It is in the room now: nobody else refused it. Never async; too late to refuse."""

    def on_leave(self, room: Room, peer: Peer) -> Awaitable[None] | None:
        """A connection has left, or ended."""
        return None

    def on_message(self, room: Room, sender: Peer, message: Message) -> Awaitable[None] | None:
        """A connection publishes in the room. Nothing is delivered unless the plugin does it."""
        raise Refused("forbidden", "nothing may be published in this room")

    def on_call(self, room: Room, caller: Peer, method: str, data: Payload | None) -> Any:
        """A connection asks something; what this returns (anything JSON can express, or a Payload) is the answer."""
        raise Refused("no_such_method")

    async def run(self) -> None:
        """The plugin's background task, from start to stop. Cancelled at shutdown, started again if it fails."""

    # In front of rooms of other plugins (the table's `filters`), in the order of the config file. What is refused here
    # never reaches the room's owner. Methods marked with `@call` are offered there as `NAME.method`.

    def filter_join(self, room: Room, peer: Peer) -> Awaitable[None] | None:
        """May a connection join? Raise Refused if not."""
        return None

    def filter_joined(self, room: Room, peer: Peer) -> None:
        """It is in the room now: neither another filter nor the owner refused it. Never async."""

    def filter_leave(self, room: Room, peer: Peer) -> Awaitable[None] | None:
        """A connection has left, or ended."""
        return None

    def filter_message(self, room: Room, sender: Peer, message: Message) -> Awaitable[Message | None] | Message | None:
        """Raise Refused to stop a message, return another Message to have that one go on, or None: as it came."""
        return None

    def filter_call(self, room: Room, caller: Peer, method: str, data: Payload | None) -> Awaitable[None] | None:
        """Raise Refused to stop a call."""
        return None
