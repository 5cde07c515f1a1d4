"""Where one is in each room, under which name it goes now, and what was heard of it already.

A session that goes on by another socket hears some things again; a room that was renamed is heard under its old name
for a moment, because what was on its way is. Not here: what is said about it (hearing, again). The one rule: all that
is kept is bounded, of the rooms one is in by their number, of all others by `STRANGERS`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from relay.client.events import Message

REMEMBERED: Final = 1000  # offsets of one room that are known beside its position
STRANGERS: Final = 256  # rooms one is not in, and is heard of: by a pattern, or late
FORMER: Final = 256  # names that rooms have had


class _Place:
    """In one room. `known` are offsets above or beside the position: of other channels, and one's own."""

    __slots__ = ("epoch", "known", "offset")

    def __init__(self) -> None:
        self.epoch = ""
        self.offset = 0
        self.known: OrderedDict[int, None] = OrderedDict()


class Whereabouts:
    """Of one session. In its own channel the messages of a room come in order; of the others each is known by its
    offset.
    """

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._strangers: OrderedDict[str, _Place] = OrderedDict()
        self._former: OrderedDict[str, str] = OrderedDict()

    def joined(self, room: str, epoch: str, offset: int) -> None:
        self._former.pop(room, None)
        place = self._places.get(room) or self._strangers.pop(room, None) or _Place()
        if place.epoch not in ("", epoch):
            place = _Place()
        self._places[room] = place
        place.epoch = epoch
        place.offset = max(place.offset, offset)

    def left(self, room: str) -> None:
        """What is on its way still comes: it belongs to the life of the room that one was in."""
        place = self._places.pop(room, None)
        if place is not None:
            self._remember(room, place)
        for former, now in list(self._former.items()):
            if now == room:
                del self._former[former]

    def published(self, room: str, offset: int | None) -> None:
        """One's own message, which one does not hear."""
        if offset is not None and room in self._places:
            self._know(self._places[room], offset)

    def is_new(self, message: Message) -> bool:
        """Whether it was not heard before; now it was."""
        if not message.offset:
            return True
        place = self._places.get(message.room) or self._stranger(message.room)
        if message.offset in place.known:
            return False
        if message.channel is None:
            new = message.offset > place.offset
            place.offset = max(place.offset, message.offset)
            return new
        self._know(place, message.offset)
        return True

    def positions(self) -> dict[str, dict[str, Any]]:
        """As `resume` gives them."""
        return {
            room: {"epoch": place.epoch, "offset": place.offset} for room, place in self._places.items() if place.epoch
        }

    def offset(self, room: str) -> int:
        return self._places[room].offset if room in self._places else 0

    def __contains__(self, room: str) -> bool:
        return room in self._places

    # Names.

    def renamed(self, room: str, new: str) -> None:
        """A room one is in is called `new` from now on."""
        place = self._places.pop(room, None)
        if place is None:
            return
        self._places[new] = place
        for former, now in self._former.items():
            if now == room:
                self._former[former] = new
        self._former[room] = new
        if len(self._former) > FORMER:
            self._former.popitem(last=False)

    def name(self, room: str, offset: int = 0, channel: str | None = None) -> str:
        """What a room is called now that is heard of as `room`: what was on its way when it was renamed has the old
        name. Another room of that name has small offsets, and is not meant.
        """
        new = self._former.get(room)
        if new is None or (offset and channel is None and offset <= self.offset(new)):
            return room
        return new

    @property
    def has_former(self) -> bool:
        return bool(self._former)

    def _stranger(self, room: str) -> _Place:
        place = self._strangers.get(room)
        if place is None:
            place = _Place()
            self._remember(room, place)
        return place

    def _remember(self, room: str, place: _Place) -> None:
        self._strangers[room] = place
        self._strangers.move_to_end(room)
        if len(self._strangers) > STRANGERS:
            self._strangers.popitem(last=False)

    @staticmethod
    def _know(place: _Place, offset: int) -> None:
        place.known[offset] = None
        if len(place.known) > REMEMBERED:
            place.known.popitem(last=False)
