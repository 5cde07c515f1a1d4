"""Plugins in front of a room's owner: each may refuse or rewrite what comes, in order; the owner gets what is left.

A `Filtered` is what a room has as its handler where any filter's pattern fits; all other rooms have their owner alone,
and pay nothing for this. A filter's own methods (`@call`) are answered as `NAME.method`, after all filters have looked
at the call. Not here: one plugin's hooks (supervisor). The one rule: a filter that fails refuses: what
was to be looked at is not let through unseen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relay.errors import Refused
from relay.model import Message, Payload
from relay.rooms.room import Peer, Room

if TYPE_CHECKING:
    from relay.plugin.supervisor import Supervised


class Filtered:
    """As `Supervised`, for a room's owner and the filters in front of it."""

    def __init__(self, owner: Supervised, filters: tuple[Supervised, ...]) -> None:
        self.owner = owner
        self.filters = filters

    @property
    def all(self) -> tuple[Supervised, ...]:
        return (*self.filters, self.owner)

    # Plugins may be switched off and exchanged while a room is open, so these are asked each time.

    @property
    def message_is_async(self) -> bool:
        return self.owner.message_is_async or any(one.is_async("filter_message") for one in self.filters)

    @property
    def join_is_async(self) -> bool:
        return self.owner.join_is_async or any(one.is_async("filter_join") for one in self.filters)

    @property
    def leave_is_async(self) -> bool:
        return self.owner.leave_is_async or any(one.is_async("filter_leave") for one in self.filters)

    @property
    def has_joined(self) -> bool:
        return self.owner.has_joined or any(one.has_filter("filter_joined") for one in self.filters)

    def call_waits(self, method: str) -> bool:
        answering, name = self._answering(method)
        return answering.call_waits(name) or any(one.is_async("filter_call") for one in self.filters)

    def opened(self, room: Room) -> None:
        self.owner.opened(room)
        for one in self.filters:
            one.rooms[room.name] = room

    def freed(self, room: Room) -> None:
        for one in self.filters:
            one.rooms.pop(room.name, None)
        self.owner.freed(room)

    def renamed(self, room: Room, old: str) -> None:
        for one in self.all:
            one.renamed(room, old)

    def join(self, room: Room, peer: Peer) -> None:
        for one in self.filters:
            one.filter("filter_join", room, peer)
        self.owner.join(room, peer)

    def joined(self, room: Room, peer: Peer) -> None:
        for one in self.filters:
            try:
                one.filter("filter_joined", room, peer)
            except Refused:
                pass  # it is in the room already
        if self.owner.has_joined:
            self.owner.joined(room, peer)

    def leave(self, room: Room, peer: Peer) -> None:
        for one in self.filters:
            try:
                one.filter("filter_leave", room, peer)
            except Refused:
                pass  # nobody can be kept from leaving
        self.owner.leave(room, peer)

    def message(self, room: Room, peer: Peer, message: Message) -> None:
        for one in self.filters:
            message = _what_goes_on(one, room, message, one.filter("filter_message", room, peer, message))
        self.owner.message(room, peer, message)

    def call(self, room: Room, peer: Peer, method: str, data: Payload | None) -> Payload:
        for one in self.filters:
            one.filter("filter_call", room, peer, method, data)
        answering, name = self._answering(method)
        return answering.call(room, peer, name, data)

    def _answering(self, method: str) -> tuple[Supervised, str]:
        """Who answers a call, and what the method is called there: `NAME.method` is a filter's, if it has it."""
        name, dot, inner = method.partition(".")
        if dot:
            for one in self.filters:
                if one.name == name and one.offers(inner):
                    return one, inner
        return self.owner, method

    async def later(self, hook: str, room: Room, *args: Any, timeout: float | None = None) -> Any:
        """All of it where any of them waits; each has a deadline of its own."""
        name = hook.replace("on_", "filter_")
        for one in self.filters:
            try:
                answer = await one.filter_later(name, room, *args)
            except Refused:
                if hook == "on_leave":
                    continue
                raise
            if hook == "on_message":
                args = (args[0], _what_goes_on(one, room, args[1], answer))
        if hook == "on_call":
            answering, method = self._answering(args[1])
            return await answering.either(hook, room, args[0], method, args[2], timeout=timeout)
        return await self.owner.either(hook, room, *args, timeout=timeout)


def _what_goes_on(one: Supervised, room: Room, message: Message, answer: object) -> Message:
    """What a filter has made of a message; None: it goes on as it came."""
    if answer is None:
        return message
    if not isinstance(answer, Message):
        problem = TypeError(f"filter_message returns a Message or None, not {type(answer).__name__}")
        one.faults.raise_for("filter_message", room, problem)
    return answer
