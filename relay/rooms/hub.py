"""Where messages go: room -> members, member -> rooms, and delivery.

Single-threaded, sync, no locks: nothing here can be interrupted, so there is no order of locks to know. Not here: what
a room does (plugins), what is waiting for whom (delivery), other nodes (brokers; `forward` is handed in). The one
rule: both maps (a room's audience, a peer's rooms) change in `join` and `leave` only, and the empty room is freed
there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from relay.delivery.channels import Channels, Lane
from relay.delivery.outbox import Outbox, put_all
from relay.errors import Refused
from relay.model import Message
from relay.rooms.aliases import Aliases
from relay.rooms.archive import Archive, Record
from relay.rooms.bounds import Bounds
from relay.rooms.delta import Delta, forget_key
from relay.rooms.journal import Journal
from relay.rooms.presence import Later, Presence, Schedule
from relay.rooms.receipts import Receipts
from relay.rooms.room import ALL_RIGHTS, ONE_OF_EACH, Peer, Rights, Room, RoomRule, Router
from relay.rooms.standing import Standing
from relay.rooms.watching import Watching

PutAll = Callable[[Iterable[Outbox], Lane, bytes, Message, Outbox | None], None]
"""Puts one frame into many outboxes, but not into the last argument's. Changes nobody's rooms."""


class Hub:
    """All rooms of this node.

    `clock` gives Unix time in seconds, `new_epoch` a name for a room's new life, `forward` takes what other nodes must
    hear. `receipts`: how many a room keeps, and for how many seconds. `journal` takes what rooms say whose rule is
    `durable`. `schedule` does something after so many seconds; rooms with presence need it.
    """

    def __init__(
        self,
        channels: Channels,
        router: Router,
        *,
        clock: Callable[[], float],
        new_epoch: Callable[[], str],
        forward: Callable[[Message], None] | None = None,
        part_bytes: int = 16384,
        archive: Archive | None = None,
        journal: Journal | None = None,
        receipts: tuple[int, float] = (1000, 300.0),
        schedule: Schedule | None = None,
    ) -> None:
        self.channels: Final = channels
        self.router = router
        self.clock: Final = clock
        self.new_epoch: Final = new_epoch
        self.forward = forward
        self.part_bytes = part_bytes
        self.most_rooms = 0
        """Rooms open at once; 0: any number."""
        self.rooms_setting = "limits.rooms"
        self.archive: Final = archive if archive is not None else Archive()
        self.journal: Final = journal
        self._receipts = receipts
        self._schedule: Final = schedule if schedule is not None else _no_timers
        self.rooms: Final[dict[str, Room]] = {}
        self.aliases: Final = Aliases()
        self.standing: Final = Standing()
        self.watching: Final = Watching()
        self.bounds: Final = Bounds()
        self.on_removed: Callable[[Peer, Room, str, str], None] | None = None
        self.on_renamed: Callable[[Peer, Room, str], None] | None = None
        self.put_all: PutAll = put_all  # or what writes at once, while nothing else can come
        self.published = 0
        self.delivered = 0

    def open(self, name: str) -> Room:
        """The room of that name, made if need be. Raises Refused: "no_such_room", "room_closed", "too_many_open_rooms",
        or what the plugin says.

        A room that is opened and not joined must be given to `free_if_empty`.
        """
        room = self.rooms.get(name)
        if room is None:
            owner = self.router(name)
            if owner is None:
                raise Refused("no_such_room", setting="plugins")
            if self.most_rooms and len(self.rooms) >= self.most_rooms:
                raise Refused("too_many_open_rooms", retry_after=5.0, setting=self.rooms_setting)
            rule, handler = owner
            self.standing.check(name, self.clock())
            self.bounds.check_open(rule)
            handler = self.standing.handler(name, handler)
            room = Room(self, name, rule, handler, self._record(name, rule))
            if rule.presence or rule.presence_claims:
                room.presence = Presence(room, self._schedule)
            if room.presence is not None or rule.max_rooms_per_subject:
                room.counted = {}
            self.rooms[name] = room
            self.bounds.opened(rule)
            room.holds += 1  # the plugin may use the room while it opens it
            try:
                handler.opened(room)
            except BaseException:  # the plugin will not have it: there is no room
                del self.rooms[name]
                self.bounds.freed(rule)
                self.archive.sleep(name, _record_of(room))
                raise
            room.holds -= 1
            if rule.wildcards:
                self.watching.opened(room)
        return room

    def find(self, name: str) -> Room | None:
        """The open room of that name, or of that alias."""
        return self.rooms.get(self.aliases.resolve(name))

    def _record(self, name: str, rule: RoomRule) -> Record:
        """What is remembered of the room; else a new life."""
        record = self.archive.wake(name)
        if record is None:
            record = Record(self.new_epoch(), 0, None, None)
        if not rule.history:
            record.history = None
        elif record.history is None:
            record.history = self.archive.history(rule.history, rule.history_seconds, rule.history_bytes)
            record.history.floor = record.offset
        return record

    def receipts(self, room: Room) -> Receipts:
        """Which publishes of a room were answered already."""
        if room.receipts is None:
            room.receipts = self.new_receipts()
        return room.receipts

    def new_receipts(self) -> Receipts:
        return Receipts(*self._receipts)

    def free_if_empty(self, room: Room) -> None:
        """Frees a room nobody is in. Its messages and receipts sleep in the archive; the plugin's state goes."""
        if not room.size and not room.holds and self.rooms.get(room.name) is room:
            del self.rooms[room.name]
            if room.rule.wildcards:
                self.watching.freed(room)
            self.bounds.freed(room.rule)
            room.handler.freed(room)
            if room.history or room.receipts or (room.journal is not None and room.offset):  # it is still on disk
                self.archive.sleep(room.name, _record_of(room))

    def join(
        self,
        peer: Peer,
        room: Room,
        *,
        may_publish: bool,
        may_see: bool = True,
        claims: Mapping[str, Any] | None = None,
        delta: bool = False,
    ) -> None:
        """Puts a peer into a room; both maps. `claims`: what its token says that others may see. `delta`: it wants to
        hear what has changed alone, where the rule allows that.

        Raises Refused("already_joined", "room_full", "too_many_rooms").
        """
        name, rule, mine = room.name, room.rule, peer.rooms
        if name in mine:
            raise Refused("already_joined")
        if rule.max_members and room.size >= rule.max_members:
            raise Refused("room_full", "the room is full", setting=f"plugins.{rule.plugin}.max_members")
        first, counted = False, room.counted
        if counted is not None:
            count = counted.get(peer.subject, 0)
            first = not count
            if first:
                self.bounds.enter(rule, peer.subject)
            counted[peer.subject] = count + 1
        mine[name] = room
        if not (may_publish and may_see):
            self.set_rights(peer, room, Rights(may_publish, may_see))
        room.size += 1
        if delta and rule.delta:
            if room.delta is None:
                room.delta = Delta()
            room.delta.add(peer)
            if room.watchers is not None and peer in room.watchers:
                room.lose(peer)
        else:
            room.hear(peer)
        if room.presence is not None:
            room.presence.came(peer, claims, first=first)
        if room.handler.has_joined:
            room.handler.joined(room, peer)

    def leave(self, peer: Peer, room: Room) -> bool:
        """Takes a peer out of a room; both maps. The empty room is freed here. False: it was not in."""
        name, mine = room.name, peer.rooms
        if mine.get(name) is not room:
            return False
        del mine[name]
        if peer.rights is not None:
            self.set_rights(peer, room, ALL_RIGHTS)
        room.size -= 1
        self._unhear(peer, room)
        counted = room.counted
        if counted is not None:
            count = counted[peer.subject] - 1
            if count:
                counted[peer.subject] = count
            else:
                del counted[peer.subject]
                if room.presence is not None:
                    room.presence.went(peer.subject)
                self.bounds.exit(room.rule, peer.subject)
        if not room.size:
            self.free_if_empty(room)
        return True

    def set_rights(self, peer: Peer, room: Room, rights: Rights) -> None:
        """What a member may do from now on."""
        if rights != ALL_RIGHTS:
            if peer.rights is None:
                peer.rights = {}
            peer.rights[room] = ONE_OF_EACH[rights]
        elif peer.rights is not None:
            peer.rights.pop(room, None)
            peer.rights = peer.rights or None

    def _unhear(self, peer: Peer, room: Room) -> None:
        watches = room.watchers is not None and peer in room.watchers
        if room.delta is not None and peer in room.delta:
            room.delta.remove(peer, room.name)
            if watches:
                room.hear(peer)
        elif not watches:
            room.lose(peer)

    def remove(self, peer: Peer, room: Room, why: str, code: str = "forbidden") -> None:
        """Makes a peer leave. `on_removed`, handed in, sees to it: the plugin hears of it, and the peer."""
        if not room.has(peer):
            return
        if self.on_removed is None:
            self.leave(peer, room)
        else:
            self.on_removed(peer, room, why, code)

    def rewire(self, peer: Peer) -> None:
        """A peer's outbox is another one from now on."""
        for room in peer.rooms.values():
            if room.delta is not None and peer in room.delta:
                room.delta.rewire(peer, room.name)
            else:
                room.hear(peer)
        self.watching.rewire(peer)

    def publish(self, room: Room, message: Message, skip: Peer | None) -> None:
        """Numbers a message, remembers it, delivers it here and hands it to the other nodes. Raises
        Refused("no_such_channel", "too_large").
        """
        index = room.rule.channel
        if message.channel is not None:
            index = self.channels.index(message.channel)
            if index == room.rule.channel:
                message.channel = None  # it says nothing, and on slow links each field counts
        lane = self.channels.lanes[index]
        if len(message.data.raw) > lane.largest:
            # Nobody could be sent it: put into the lanes of its receivers, it would end or cost every one of them.
            raise Refused("too_large", lane.too_large, setting=lane.setting)
        message.at = self.clock()
        if room.journal is not None:
            room.journal.append(room, message, skip)
            return
        room.offset = room.numbered = message.offset = room.offset + 1
        if room.history is not None:
            room.history.add(message)
        self.published += 1
        self.deliver(room, message, skip)
        if self.forward is not None:
            self.forward(message)

    def written(self, room: Room, message: Message, skip: Peer | None) -> None:
        """A message of a durable room is on disk: now it is heard. The second half of `publish`."""
        room.offset = message.offset
        message.room = room.name  # it may have another one since
        if room.history is not None:
            room.history.add(message)
        self.published += 1
        self.deliver(room, message, skip)
        if self.forward is not None:
            self.forward(message)

    def tell(self, room: Room, message: Message) -> None:
        """Delivers here what is of the moment only: it gets no number, and is not remembered. Raises as `publish`."""
        index = room.rule.channel if message.channel is None else self.channels.index(message.channel)
        lane = self.channels.lanes[index]
        if len(message.data.raw) > lane.largest:
            raise Refused("too_large", lane.too_large, setting=lane.setting)
        message.at = self.clock()
        self.deliver(room, message)

    def deliver(self, room: Room, message: Message, skip: Peer | None = None) -> None:
        """Puts a message into the outboxes of a room's members here; it is encoded once for each protocol in use.

        The one door for messages of this node and of others.
        """
        channel = message.channel
        index = room.rule.channel if channel is None else self.channels.index(channel)
        if message.to is not None:
            for peer in room.peers(message.to):
                if peer is not skip:
                    self.deliver_to(peer, index, message)
                    self.delivered += 1
            return
        unheard = None if skip is None else skip.outbox
        following = room.audience
        while following is not None:
            audience, following = following, following.next
            if len(audience) == 1 and skip in audience:
                continue
            protocol = audience.protocol
            parts = protocol.parts(message) if len(message.data.raw) > self.part_bytes else None
            if parts is None:
                lane = self.channels.lanes[index]
                self.put_all(audience.values(), lane, protocol.message(message), message, unheard)
            else:
                for outbox in audience.values():
                    if outbox is not unheard:
                        outbox.put_parts(index, parts, message)
            self.delivered += len(audience) - (skip in audience)
        if room.delta is not None:
            lane = self.channels.lanes[index]
            self.delivered += room.delta.deliver(message, lane, unheard, self.part_bytes, self._put_many)

    def _put_many(self, boxes: list[Outbox], lane: Lane, frame: bytes, message: Message) -> None:
        self.put_all(boxes, lane, frame, message, None)

    def resend(self, peer: Peer, room: Room, message: Message) -> None:
        """Puts a full value of a state room into the outbox of one of those who hear what has changed."""
        if room.delta is not None:
            channel = message.channel
            lane = self.channels.lanes[room.rule.channel if channel is None else self.channels.index(channel)]
            room.delta.resend(peer, message, lane, self.part_bytes, self._put_many)

    def deliver_to(self, peer: Peer, index: int, message: Message) -> None:
        """Puts a message into one outbox."""
        if peer.outbox.versions is not None and message.key is not None:
            forget_key(peer.outbox, message.room, message.key)  # it is another value than the room's
        parts = peer.protocol.parts(message) if len(message.data.raw) > self.part_bytes else None
        if parts is None:
            peer.outbox.put(index, peer.protocol.message(message), message)
        else:
            peer.outbox.put_parts(index, parts, message)

    def count_drops(self, name: str, channel: str, reason: str, count: int) -> str:
        """Counts messages of a room that a member will not get, as long as the room is open. Returns the plugin that
        owns rooms of that name; "": nobody, or `name` is "".
        """
        room = self.rooms.get(name)
        if room is not None:
            if room.drops is None:
                room.drops = {}
            room.drops[channel, reason] = room.drops.get((channel, reason), 0) + count
            return room.rule.plugin
        owner = self.router(name) if name else None
        return "" if owner is None else owner[0].plugin


def _no_timers(seconds: float, action: Callable[[], None]) -> Later:
    raise RuntimeError("a hub with presence needs `schedule`")


def _record_of(room: Room) -> Record:
    return Record(room.epoch, room.offset, room.history, room.receipts)
