"""Wildcard subscriptions: who hears rooms by a pattern, without being in them.

A room's audience gets its subscribers when the room is opened or the subscription comes; a message costs nothing more.
They are no members: no hook of a plugin is asked, nobody is told of them, and they keep no room open. Not here: whether
somebody may (session/patterns). The one rule: `Room.watchers` has exactly the peers whose patterns match, each with the
number of its patterns that do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from relay.errors import Refused
from relay.rooms.patterns import Names, Trie, Wildcard
from relay.rooms.room import Peer, Room

ROOMS_SETTING: Final = "limits.pattern_rooms"


class Watch:
    """One pattern of one peer, and the open rooms it matches."""

    __slots__ = ("peer", "rooms", "wildcard")

    def __init__(self, peer: Peer, wildcard: Wildcard) -> None:
        self.peer = peer
        self.wildcard = wildcard
        self.rooms: dict[Room, None] = {}

    @property
    def tail(self) -> str | None:
        return "" if self.wildcard.rest else None


class Watching:
    """All subscriptions of one hub. `most` open rooms may be heard through one peer's patterns, 0: any number.

    `ended`, handed in, is told of a subscription that is over because it came to more: the peer, its pattern, and why.
    """

    def __init__(self) -> None:
        self.most = 0
        self.ended: Callable[[Peer, str, str], None] | None = None
        self._patterns: Trie[Watch] = Trie()
        self._rooms: Names[Room] = Names()
        self._of: dict[Peer, dict[str, Watch]] = {}

    def of(self, peer: Peer) -> dict[str, Watch]:
        """The patterns of a peer; do not keep it."""
        return self._of.get(peer) or {}

    def add(self, peer: Peer, wildcard: Wildcard) -> int:
        """Returns how many open rooms it matches. Raises Refused("already_joined", "too_many_rooms")."""
        mine = self._of.get(peer, {})
        if wildcard.text in mine:
            raise Refused("already_joined", "you have subscribed to that pattern already")
        watch = Watch(peer, wildcard)
        room_for = self._room_for(mine)
        for room in self._rooms.match(wildcard):
            if len(watch.rooms) >= room_for:
                raise Refused("too_many_rooms", self._too_many(), setting=ROOMS_SETTING)
            watch.rooms[room] = None
        for room in watch.rooms:
            _hear(watch, room)
        self._patterns.add(wildcard.parts, watch.tail, watch)
        self._of.setdefault(peer, {})[wildcard.text] = watch
        return len(watch.rooms)

    def remove(self, peer: Peer, text: str) -> bool:
        """False: there is no such subscription."""
        mine = self._of.get(peer)
        watch = mine.pop(text, None) if mine is not None else None
        if mine is None or watch is None:
            return False
        if not mine:
            del self._of[peer]
        self._patterns.remove(watch.wildcard.parts, watch.tail, watch)
        for room in watch.rooms:
            _unhear(watch, room)
        return True

    def drop(self, peer: Peer) -> None:
        """Ends all subscriptions of a peer."""
        for text in list(self.of(peer)):
            self.remove(peer, text)

    def rewire(self, peer: Peer) -> None:
        """A peer's outbox is another one from now on."""
        for watch in self.of(peer).values():
            for room in watch.rooms:
                if room.delta is None or peer not in room.delta:
                    room.hear(peer)

    # Told by the hub, of rooms whose table says `wildcards`.

    def opened(self, room: Room) -> None:
        self._rooms.add(room.name, room)
        for watch in self._patterns.match(room.name):
            if self._room_for(self._of[watch.peer]) > 0:
                watch.rooms[room] = None
                _hear(watch, room)
            else:
                self.remove(watch.peer, watch.wildcard.text)
                if self.ended is not None:
                    self.ended(watch.peer, watch.wildcard.text, self._too_many())

    def freed(self, room: Room) -> None:
        """Also of a room that has another name from now on: before it is changed."""
        self._rooms.remove(room.name)
        for peer in list(room.watchers or ()):
            for watch in self._of[peer].values():
                if room in watch.rooms:
                    del watch.rooms[room]
                    _unhear(watch, room)

    def _room_for(self, mine: dict[str, Watch]) -> int:
        """How many more rooms a peer may hear by patterns."""
        return self.most - sum(len(watch.rooms) for watch in mine.values()) if self.most else 1 << 62

    def _too_many(self) -> str:
        return f"your patterns match more than {self.most} open rooms"

    def __len__(self) -> int:
        return len(self._patterns)


def _hear(watch: Watch, room: Room) -> None:
    peer = watch.peer
    if room.watchers is None:
        room.watchers = {}
    room.watchers[peer] = room.watchers.get(peer, 0) + 1
    if not room.has(peer):
        room.hear(peer)


def _unhear(watch: Watch, room: Room) -> None:
    peer = watch.peer
    assert room.watchers is not None
    left = room.watchers[peer] - 1
    if left:
        room.watchers[peer] = left
        return
    del room.watchers[peer]
    if not room.watchers:
        room.watchers = None
    if not room.has(peer):
        room.lose(peer)
