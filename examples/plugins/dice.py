"""A room to roll dice in: the relay throws, so nobody can cheat; those in the room take turns.

    [plugins.dice]
    rooms = "dice:*"
    presence = true
    max_dice = 5

Whose turn it is rolls with a call: method `roll`, data {"count": 2, "sides": 6}. All in the room hear what came of it.
Anybody may `call` the method `turn` to learn whose turn it is.
"""

from __future__ import annotations

from random import SystemRandom
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from relay.plugin import api
from relay.plugin.api import Payload, Peer, Plugin, Refused, Room


class Roll(msgspec.Struct):
    count: Annotated[int, Meta(ge=1)] = 1
    sides: Annotated[int, Meta(ge=2, le=1000)] = 6


class Dice(Plugin):
    class Settings(api.Settings, frozen=True):
        max_dice: Annotated[int, Meta(ge=1, le=100, description="Most dice in one roll.")] = 10

    settings: Settings
    random = SystemRandom()

    def on_open(self, room: Room) -> None:
        room.state["players"] = []  # subjects; whose turn it is stands first

    def on_join(self, room: Room, peer: Peer) -> None:
        if peer.subject not in room.state["players"]:
            room.state["players"].append(peer.subject)

    def on_leave(self, room: Room, peer: Peer) -> None:
        if peer.subject not in room:  # it may be there by another connection
            room.state["players"].remove(peer.subject)

    def on_call(self, room: Room, caller: Peer, method: str, data: Payload | None) -> Any:
        players = room.state["players"]
        if method == "turn":
            return players[0]
        if method != "roll":
            raise Refused("no_such_method", "methods are `roll` and `turn`")
        if caller.subject != players[0]:
            raise Refused("not_your_turn", f"it is {players[0]}'s turn")
        try:
            roll = msgspec.convert(data.value() if data is not None else {}, Roll)
        except ValueError as problem:
            raise Refused("bad_request", str(problem)) from None
        if roll.count > self.settings.max_dice:
            raise Refused("bad_request", "too many dice", setting=f"plugins.{self.name}.max_dice")
        dice = [self.random.randint(1, roll.sides) for _ in range(roll.count)]
        players.append(players.pop(0))
        room.broadcast({"rolled": dice, "by": caller.subject, "next": players[0]}, channel="urgent")
        return dice
