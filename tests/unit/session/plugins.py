"""Plugins for tests of sessions: one that is quick, one that waits."""

from __future__ import annotations

from typing import Any

import trio

from relay.plugin.api import CloseCode, CloseReason, Message, Payload, Peer, Plugin, Refused, Room


class Quick(Plugin):
    """What one says, the others hear; some words mean more."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.log: list[tuple[str, ...]] = []
        self.refuse_join = ""
        self.close_on_join = False

    def on_open(self, room: Room) -> None:
        if room.name.endswith(":closed"):
            raise Refused("shut", "this room stays closed")
        self.log.append(("open", room.name))

    def on_empty(self, room: Room) -> None:
        self.log.append(("empty", room.name))

    def on_join(self, room: Room, peer: Peer) -> None:
        if self.refuse_join:
            raise Refused(self.refuse_join, "not you")
        if self.close_on_join:
            peer.close(CloseReason(CloseCode.REPLACED, "somebody else is you"))
        self.log.append(("join", peer.subject))

    def on_leave(self, room: Room, peer: Peer) -> None:
        self.log.append(("leave", peer.subject))
        raise Refused("stay", "nobody can be kept")

    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        match message.data.value():
            case "bug":
                raise RuntimeError("a bug in the plugin")
            case "no":
                raise Refused("not_your_turn", "white moves first", retry_after=1.5)
            case "kick me":
                room.kick(sender, "as you wish")
            case "close me":
                sender.close(CloseReason(CloseCode.NORMAL, "done"))
            case "only me":
                sender.send(room, {"psst": True})
            case _:
                room.broadcast(message, sender=sender)

    def on_call(self, room: Room, caller: Peer, method: str, data: Payload | None) -> Any:
        if method == "double" and data is not None:
            return data.value() * 2
        if method == "odd":
            return object()
        if method == "nothing":
            return None
        raise Refused("no_such_method")


class Slow(Plugin):
    """Every hook waits for a gate named like it, if there is one."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.log: list[tuple[str, ...]] = []
        self.gates: dict[str, trio.Event] = {}
        self.refuse: set[str] = set()
        self.waiting = 0

    def on_empty(self, room: Room) -> None:
        self.log.append(("empty", room.name))

    async def _pass(self, hook: str) -> None:
        self.waiting += 1
        try:
            if hook in self.gates:
                await self.gates[hook].wait()
            await trio.lowlevel.checkpoint()
        finally:
            self.waiting -= 1
        if hook in self.refuse:
            raise Refused("not_now", "later")

    async def on_join(self, room: Room, peer: Peer) -> None:
        await self._pass("join")
        self.log.append(("join", peer.subject))

    async def on_leave(self, room: Room, peer: Peer) -> None:
        await self._pass("leave")
        self.log.append(("leave", peer.subject))

    async def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        await self._pass("message")
        room.broadcast(message, sender=sender)

    async def on_call(self, room: Room, caller: Peer, method: str, data: Payload | None) -> Any:
        await self._pass("call")
        return [method, None if data is None else data.value()]
