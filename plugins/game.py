"""Game: players move about. Where somebody is now is told in time, whatever else is on the way; moves come at once.

    [plugins.game]
    rooms = "game:*"
    ticks = 20
    players = 64

    a player publishes      the others hear
    {"move": ANYTHING}      the same, in `urgent`: at once, every one of them
    {"at": [x, y]}          the same, in `state` with the player's name as key, at most `ticks` times a second: who is
                            slow gets the newest position of each player, never the way there
                            {"gone": NAME}, in `state`, when a player has left

Who comes in gets a snapshot in `bulk`, {"positions": {NAME: [x, y], ...}, "offset": N}, and so does whoever calls the
method `snapshot`. It may arrive late: a position heard with a higher offset than N is newer.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import trio
from msgspec import UNSET, Meta, UnsetType

from relay.plugin import api
from relay.plugin.api import Message, Payload, Peer, Plugin, Refused, Room


class Said(msgspec.Struct, forbid_unknown_fields=True):
    """What a player may publish: one of the two."""

    at: tuple[float, float] | UnsetType = UNSET
    move: Any = UNSET

    def __post_init__(self) -> None:
        if (self.at is UNSET) == (self.move is UNSET):
            raise ValueError('say {"at": [x, y]} or {"move": ...}')


class Game(Plugin):
    """Positions as state, moves as urgent messages. A player is a subject, on however many connections."""

    class Settings(api.Settings, frozen=True):
        ticks: Annotated[float, Meta(ge=1, le=120, description="Times a second that positions are told.")] = 20.0
        players: Annotated[int, Meta(ge=1, description="Most players in a room.")] = 64
        edge: Annotated[float, Meta(gt=0, le=1e15, description="Largest coordinate, either way.")] = 1e6

    settings: Settings

    def on_open(self, room: Room) -> None:
        room.state["positions"] = {}  # by subject
        room.state["moved"] = {}  # since the last tick: by subject, which connection said what

    def on_join(self, room: Room, peer: Peer) -> None:
        others = {one.subject for one in room.peers()} - {peer.subject}
        if len(others) >= self.settings.players:
            raise Refused("room_full", "the game has all its players", setting=f"plugins.{self.name}.players")
        self._snapshot(room, peer)

    def on_leave(self, room: Room, peer: Peer) -> None:
        if peer.subject not in room:  # it may be there by another connection
            room.state["moved"].pop(peer.subject, None)
            if room.state["positions"].pop(peer.subject, None) is not None:
                room.broadcast({"gone": peer.subject}, channel="state", key=peer.subject)

    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        if sender.subject not in room:  # a token may let one publish without joining
            raise Refused("not_joined")
        if message.key not in (None, sender.subject):
            raise Refused("forbidden", "the key of a player's messages is its own name")
        try:
            said = msgspec.convert(message.data.value(), Said)
        except ValueError as problem:
            raise Refused("bad_request", str(problem)) from None
        if said.at is UNSET:
            room.broadcast(message.data, sender=sender, channel="urgent", echo=message.echo)
        elif not all(abs(place) <= self.settings.edge for place in said.at):  # nor is it any place that is no number
            raise Refused("bad_request", "that is beyond the edge", setting=f"plugins.{self.name}.edge")
        else:
            room.state["positions"][sender.subject] = said.at
            room.state["moved"][sender.subject] = sender, message.data

    def on_call(self, room: Room, caller: Peer, method: str, data: Payload | None) -> dict[str, int]:
        """`snapshot`: sends all positions to the caller, in `bulk`; the answer says how many."""
        if method != "snapshot":
            raise Refused("no_such_method", "a game knows the method `snapshot`")
        return {"players": self._snapshot(room, caller)}

    def _snapshot(self, room: Room, peer: Peer) -> int:
        positions = room.state["positions"]
        peer.send(room, {"positions": positions, "offset": room.offset}, channel="bulk")
        return len(positions)

    async def run(self) -> None:
        while True:
            await trio.sleep(1 / self.settings.ticks)
            for room in self.relay.rooms():
                moved, room.state["moved"] = room.state["moved"], {}
                for subject, (sender, position) in moved.items():
                    room.broadcast(position, sender=sender, channel="state", key=subject)
