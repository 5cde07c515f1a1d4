"""Rooms of state: whole values, out of what has changed since the ones before.

Of each key of a room that was joined with `delta` the last value is kept, encoded, so that what the program does with
its copy changes nothing here. A patch for a value that one does not have (it was lost on the way, or let go of because
too much was kept) is not applied: the whole value is wanted. Not here: asking for it (resync), what a patch looks like
(relay.rooms.merge_patch). The one rule: what is handed on is always a value that the room had, or nothing.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import structs

from relay.client.codec import UNREADABLE, Codec, encoder
from relay.client.events import Gap, Message
from relay.rooms.merge_patch import applied

OVERHEAD: Final = 300  # bytes that a value counts beside itself
FIRST_PAUSE: Final = 1.0  # seconds between two questions for the same value; doubles while it does not help
LONGEST_PAUSE: Final = 60.0
MOST_WANTED: Final = 1000  # keys; with more, whole rooms are asked for
TOGETHER: Final = 16  # keys of one room that are asked for one by one; more are asked for with all others
EVERY: Final = None  # in the place of a key: all of the room

Wanted: TypeAlias = tuple[str, str | None]  # (room, key), or (room, EVERY)


class _Value:
    """The last one of a key. `raw` None: it is none that can be patched, or too large to be kept."""

    __slots__ = ("offset", "raw")

    def __init__(self, offset: int, raw: bytes | None) -> None:
        self.offset = offset
        self.raw = raw


class _Want:
    """A whole value that is to be asked for, or has been; `first` to `last` are offsets that could not be applied."""

    __slots__ = ("first", "last", "not_before", "open", "pause")

    def __init__(self) -> None:
        self.first = self.last = 0
        self.not_before = 0.0
        self.pause = FIRST_PAUSE
        self.open = True


class Values:
    """Of one session. At most `most` bytes are kept; beyond that the values that changed longest ago are let go of."""

    def __init__(self, codec: Codec, most: int) -> None:
        self.kept_bytes = 0
        self._most = most
        self._rooms: set[str] = set()
        self._values: OrderedDict[tuple[str, str], _Value] = OrderedDict()
        self._wants: dict[Wanted, _Want] = {}
        self._encode = encoder(codec)
        self._decode: Any = (msgspec.json if codec == "json" else msgspec.msgpack).decode

    def __contains__(self, room: str) -> bool:
        return room in self._rooms

    # Rooms.

    def joined(self, room: str) -> None:
        """Joined with `delta`: what is known of a former stay counts no more."""
        self.left(room)
        self._rooms.add(room)

    def left(self, room: str) -> None:
        if room in self._rooms:
            self._rooms.remove(room)
            for place in [place for place in self._values if place[0] == room]:
                self._drop(place)
            for wanted in [wanted for wanted in self._wants if wanted[0] == room]:
                del self._wants[wanted]

    def renamed(self, room: str, new: str) -> None:
        """What was on its way may be for the values one has."""
        if room in self._rooms:
            self._rooms.remove(room)
            self._rooms.add(new)
            self._values = OrderedDict(
                ((new if place[0] == room else place[0], place[1]), value) for place, value in self._values.items()
            )
            self._wants = {
                (new if place[0] == room else place[0], place[1]): want for place, want in self._wants.items()
            }

    # What comes.

    def take(self, message: Message, now: float, *, new: bool = True) -> tuple[Message | Gap, ...]:
        """What the program is told of a message of such a room. `new` False: it may have been heard before."""
        key = message.key
        if key is None or message.to is not None or not message.offset:  # it is no value of the room
            return (message,) if new else ()
        value = self._values.get((message.room, key))
        if value is not None and message.offset <= value.offset:
            return ()
        if message.patch is not None:
            if value is None or value.raw is None or value.offset != message.base:
                if new:
                    self._miss(message.room, key, message.offset, now)
                return ()
            message = structs.replace(message, data=applied(self._decode(value.raw), message.patch))
        want = self._wants.get((message.room, key))
        if value is None and want is None and not new and (message.room, EVERY) not in self._wants:
            return ()
        self._keep(message.room, key, message.offset, message.data)
        if want is None:
            return (message,)
        del self._wants[message.room, key]
        last = min(want.last, message.offset - 1)
        return (message,) if not 0 < want.first <= last else (Gap(message.room, want.first, last, "resync"), message)

    def lost(self, room: str, now: float) -> None:
        """Messages of a room did not come, and nobody knows of which keys: all are wanted."""
        if room in self._rooms:
            self._want((room, EVERY), now)

    # What is asked for.

    def due(self, now: float) -> list[Wanted]:
        """What is to be asked for now: many keys of one room together. Each is asked for once, until it is wanted
        again.
        """
        keys = Counter(
            room
            for (room, key), want in self._wants.items()
            if key is not EVERY and want.open and want.not_before <= now
        )
        together = {room for room, count in keys.items() if count > TOGETHER}
        for room in together:
            self._want((room, EVERY), now)
        found = []
        for wanted, want in self._wants.items():
            if want.open and want.not_before <= now:
                want.open = False
                want.not_before = now + want.pause
                want.pause = min(2 * want.pause, LONGEST_PAUSE)
                if wanted[1] is EVERY or wanted[0] not in together:
                    found.append(wanted)
        return found

    def next(self) -> float | None:
        """When something is due; None: nothing is wanted."""
        return min((want.not_before for want in self._wants.values() if want.open), default=None)

    def put_off(self, wanted: Wanted, until: float) -> None:
        """The relay did not answer: it is to be asked again."""
        want = self._wants.get(wanted)
        if want is not None:
            want.open = True
            want.not_before = max(want.not_before, until)

    def _want(self, wanted: Wanted, now: float) -> _Want:
        want = self._wants.get(wanted)
        if want is None:
            if wanted[1] is not EVERY and len(self._wants) >= MOST_WANTED:
                return self._want((wanted[0], EVERY), now)
            want = self._wants[wanted] = _Want()
            want.not_before = now
        elif not want.open:
            if now > want.not_before + LONGEST_PAUSE:
                want.pause = FIRST_PAUSE
            want.open = True
        return want

    def _miss(self, room: str, key: str, offset: int, now: float) -> None:
        self._drop((room, key))
        want = self._want((room, key), now)
        if (room, key) in self._wants:
            want.first = want.first or offset
            want.last = offset

    # What is kept.

    def _keep(self, room: str, key: str, offset: int, data: Any) -> None:
        place = room, key
        self._drop(place)
        raw = self._encoded(data) if isinstance(data, dict) else None
        if raw is not None and _cost(place, raw) > self._most:
            raw = None
        self._values[place] = _Value(offset, raw)
        self.kept_bytes += _cost(place, raw)
        while self.kept_bytes > self._most and len(self._values) > 1:
            self._drop(next(iter(self._values)))

    def _encoded(self, data: Any) -> bytes | None:
        try:
            return self._encode(data)
        except (*UNREADABLE, msgspec.EncodeError, OverflowError, TypeError, ValueError):  # no value of JSON
            return None

    def _drop(self, place: tuple[str, str]) -> None:
        value = self._values.pop(place, None)
        if value is not None:
            self.kept_bytes -= _cost(place, value.raw)


def _cost(place: tuple[str, str], raw: bytes | None) -> int:
    return OVERHEAD + len(place[1]) + (0 if raw is None else len(raw))
