"""A hub with handlers and peers that only keep notes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

from relay.config.schema import Channel, default_channels
from relay.delivery.channels import Channels, Lane
from relay.delivery.outbox import Outbox
from relay.delivery.tick import Tick
from relay.errors import CloseReason, Refused
from relay.model import Message, Payload
from relay.plugin.recorder import Recorder
from relay.protocols.base import WireProtocol
from relay.rooms.hub import Hub
from relay.rooms.room import Rights, Room, RoomRule
from relay.session.timers import Timers
from tests.unit.delivery.kit import AtEase


class Counting(Recorder):
    """A wire format that counts how often each message is encoded."""

    def __init__(self, *, silent: bool = False) -> None:
        super().__init__()
        self.encoded: Counter[tuple[str, int]] = Counter()
        self.silent = silent

    def message(self, message: Message) -> bytes:
        self.encoded[message.room, message.offset] += 1
        return super().message(message)

    def joined(self, room: str, subject: str, claims: Mapping[str, Any] | None = None) -> bytes | None:
        return None if self.silent else super().joined(room, subject, claims)

    def counted(self, room: str, count: int, events: bool) -> bytes | None:
        return None if self.silent else super().counted(room, count, events)

    def left(self, room: str, subject: str, reason: str = "") -> bytes | None:
        return None if self.silent else super().left(room, subject, reason)


class Notes:
    """A handler: what was opened and freed. `refuse` names a room it will not have."""

    refuse = ""
    has_joined = False
    all = ()

    def __init__(self) -> None:
        self.opened_rooms: list[str] = []
        self.freed_rooms: list[str] = []

    def opened(self, room: Room) -> None:
        if room.name == self.refuse:
            raise Refused("not_that_one")
        self.opened_rooms.append(room.name)

    def freed(self, room: Room) -> None:
        assert not room.size
        self.freed_rooms.append(room.name)


class House:
    """A hub whose rooms all follow one rule; names that begin with "no" belong to nobody."""

    def __init__(self, *, channels: dict[str, Channel] | None = None, channel: str = "default", **rule: Any) -> None:
        self.channels = Channels({**default_channels(), **(channels or {})})
        self.rule = RoomRule("test", self.channels.index(channel), **rule)
        self.handler = Notes()
        self.now = 1000.0
        self.timers = Timers()
        self.forwarded: list[Message] = []
        epochs = itertools.count(1)
        self.tick = Tick(lambda: None)
        self.hub = Hub(
            self.channels,
            lambda name: None if name.startswith("no") else (self.rule, self.handler),
            clock=lambda: self.now,
            new_epoch=lambda: f"epoch-{next(epochs)}",
            forward=self.forwarded.append,
            schedule=lambda seconds, action: self.timers.at(self.now + seconds, action),
        )

    def later(self, seconds: float) -> None:
        """Time goes by, and what is due is done."""
        end = self.now + seconds
        while (due := self.timers.next()) is not None and due <= end:
            self.now = max(self.now, due)
            self.timers.run(self.now)
        self.now = end

    def peer(self, subject: str, protocol: Recorder | None = None) -> Guest:
        return Guest(self, subject, protocol or Counting())

    def join(self, room: str, *peers: Guest) -> Room:
        found = self.hub.open(room)
        for peer in peers:
            self.hub.join(peer, found, may_publish=True)
        return found


class Guest(AtEase):
    """A peer of the hub."""

    def __init__(self, house: House, subject: str, protocol: Recorder) -> None:
        self.house = house
        self.subject = subject
        self.session = f"session of {subject}"
        self.recorder = protocol
        self.protocol: WireProtocol = protocol
        self.outbox = Outbox(house.channels, self, house.tick)
        self.rooms: dict[str, Room] = {}
        self.rights: dict[Room, Rights] | None = None
        self.full: list[Lane] = []

    def send(self, room: Room, data: object, *, channel: str | None = None, key: str | None = None) -> None:
        self.outbox.put(room.rule.channel, self.protocol.message(Message(room.name, Payload.of(data))))

    def close(self, reason: CloseReason) -> None:
        for room in list(self.rooms.values()):
            self.house.hub.leave(self, room)

    def overflowed(self, lane: Lane, room: str) -> None:
        self.full.append(lane)

    def hears(self) -> list[Any]:
        """All it has heard since it was last asked: values of messages, and (what, room, who) of presence."""
        heard: list[Any] = []
        while frames := self.outbox.take(1 << 30):
            for said in self.recorder.read(frames):
                heard.append(said.data.value() if isinstance(said, Message) else said)
        return heard

    def __repr__(self) -> str:
        return f"<{self.subject}>"
