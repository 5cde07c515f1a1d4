"""Rooms of state: of a new value of a key, only what has changed is sent to those who have the one before.

A room keeps the last versions of each key. Each receiver's outbox knows which version of which key is the last in its
stream, and forgets it when that message is dropped; where the lane keeps only the newest value of a key, a value that
still waits is no base, because the next one takes its place. So a patch is made against what the client has when it
arrives, whatever was dropped or replaced. One patch, and one frame, serves all who have the same base.

Not here: what a patch looks like (merge_patch, protocols). The one rule: a version that is not known for certain is
none, and then the full value is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from relay.delivery.channels import Lane, Overflow
from relay.delivery.outbox import Outbox
from relay.model import Kind, Message, Payload
from relay.protocols.base import WireProtocol
from relay.rooms.merge_patch import Fields, diff, fields_of

if TYPE_CHECKING:
    from relay.rooms.room import Peer

VERSIONS: Final = 8  # of one key that are kept
MOST_BYTES: Final = 1 << 20  # of all versions of one room
OVERHEAD: Final = 300  # bytes that a version counts beside its data
MOST_KNOWN: Final = 4096  # keys of one room whose version an outbox knows; at more it begins anew

Audience = dict[WireProtocol, dict["Peer", Outbox]]
PutMany = Callable[[list[Outbox], Lane, bytes, Message], None]


class Version:
    """One value of one key."""

    __slots__ = ("fields", "message", "offset")

    def __init__(self, message: Message, fields: Fields) -> None:
        self.message = message
        self.offset = message.offset
        self.fields = fields

    @property
    def cost(self) -> int:
        return len(self.message.data.raw) + OVERHEAD


class Delta:
    """Of one room whose table says `delta`; made with its first receiver that asks for it."""

    __slots__ = ("_chains", "audience", "bytes")

    def __init__(self) -> None:
        self.audience: Audience = {}
        self.bytes = 0
        self._chains: dict[str, list[Version]] = {}  # the key that was changed last is the last one

    # Who hears.

    def add(self, peer: Peer) -> None:
        self.audience.setdefault(peer.protocol, {})[peer] = peer.outbox

    def remove(self, peer: Peer, room: str) -> None:
        audience = self.audience[peer.protocol]
        forget_room(audience.pop(peer), room)
        if not audience:
            del self.audience[peer.protocol]

    def rewire(self, peer: Peer, room: str) -> None:
        """Its outbox is another one: what the other end of that one has is not known."""
        audience = self.audience[peer.protocol]
        forget_room(audience[peer], room)
        audience[peer] = peer.outbox
        forget_room(peer.outbox, room)

    def clear(self) -> None:
        """Forgets all versions: everybody gets full values next."""
        self._chains.clear()
        self.bytes = 0

    def __contains__(self, peer: Peer) -> bool:
        return peer in self.audience.get(peer.protocol, ())

    # What is said.

    def add_version(self, message: Message) -> Version | None:
        """A new value of its key; None: it is none that can be patched."""
        key = message.key
        fields = fields_of(message.data.raw) if message.data.kind == Kind.JSON else None
        if key is None or fields is None:
            if key is not None:
                self._forget(key)
            return None
        version = Version(message, fields)
        chain = self._chains.pop(key, None) or []
        self._chains[key] = chain
        chain.append(version)
        self.bytes += version.cost
        if len(chain) > VERSIONS:
            self.bytes -= chain.pop(0).cost
        while self.bytes > MOST_BYTES and len(self._chains) > 1:
            self._forget(next(iter(self._chains)))
        while self.bytes > MOST_BYTES and len(chain) > 1:
            self.bytes -= chain.pop(0).cost
        return version

    def _forget(self, key: str) -> None:
        for version in self._chains.pop(key, ()):
            self.bytes -= version.cost

    def deliver(self, message: Message, lane: Lane, unheard: Outbox | None, part_bytes: int, put: PutMany) -> int:
        """Puts a message into the outboxes of all who hear; how many those are."""
        version = self.add_version(message) if message.offset else None  # 0: of the moment, no value of the room
        heard = 0
        for protocol, audience in self.audience.items():
            groups: dict[int | None, list[Outbox]] = {}
            for outbox in audience.values():
                if outbox is not unheard:
                    base = None if version is None else _note(outbox, message, lane)
                    if not message.offset and message.key is not None:  # it may take the place of a value that waits
                        forget_key(outbox, message.room, message.key)
                    groups.setdefault(base, []).append(outbox)
                    heard += 1
            whole: list[Outbox] = groups.pop(None, [])
            for base, boxes in groups.items():
                frame = self._patch(protocol, version, base, part_bytes) if version is not None else None
                if frame is None:
                    whole += boxes
                else:
                    put(boxes, lane, frame, message)
            if whole:
                put_whole(protocol, whole, lane, message, part_bytes, put)
        return heard

    def _patch(self, protocol: WireProtocol, version: Version, base: int | None, part_bytes: int) -> bytes | None:
        """The frame for those who have that base; None: they get the full value."""
        message = version.message
        assert message.key is not None
        old = next((one for one in self._chains.get(message.key, ()) if one.offset == base), None)
        patch = None if old is None else diff(old.fields, version.fields)
        if old is None or patch is None or len(patch) >= min(len(message.data.raw), part_bytes):
            return None
        return protocol.patch(message, old.message, Payload(Kind.JSON, patch))

    def newest(self, key: str | None = None) -> list[Message]:
        """The newest value of each key, or of one, as far as they are kept."""
        if key is None:
            return [chain[-1].message for chain in self._chains.values()]
        return [self._chains[key][-1].message] if key in self._chains else []

    def resend(self, peer: Peer, message: Message, lane: Lane, part_bytes: int, put: PutMany) -> None:
        """Puts a full value of what `newest` gave into one receiver's outbox."""
        _know(peer.outbox, message, None, lane.index)
        put_whole(peer.protocol, [peer.outbox], lane, message, part_bytes, put)

    def forget(self, peer: Peer, room: str, key: str | None) -> None:
        """The receiver gets full values again, of one key or of all."""
        if key is None:
            forget_room(peer.outbox, room)
        else:
            forget_key(peer.outbox, room, key)


def put_whole(
    protocol: WireProtocol, boxes: list[Outbox], lane: Lane, message: Message, part_bytes: int, put: PutMany
) -> None:
    parts = protocol.parts(message) if len(message.data.raw) > part_bytes else None
    if parts is None:
        put(boxes, lane, protocol.message(message), message)
    else:
        for outbox in boxes:
            outbox.put_parts(lane.index, parts, message)


def _note(outbox: Outbox, message: Message, lane: Lane) -> int | None:
    """The version that the other end has when this message arrives, None: none that is known; and what it will have."""
    assert message.key is not None
    known = outbox.versions.get(message.room) if outbox.versions is not None else None
    found = known.get(message.key) if known is not None else None
    base: int | None = None
    if found is not None:
        newest, its_base, index = found
        if index != lane.index:
            base = None  # two lanes keep no order between them
        elif lane.overflow in (Overflow.LATEST, Overflow.DROP_OLDEST) and _waits(outbox, lane, message):
            # This one takes the place of the value that waits: what counts is what was there before it. Or the one that
            # waits may be dropped yet: then it is no base.
            base = its_base if lane.overflow is Overflow.LATEST else None
        else:
            base = newest
    _know(outbox, message, base, lane.index)
    return base


def _waits(outbox: Outbox, lane: Lane, message: Message) -> bool:
    """Whether an older value of a message's key waits there, so that this one takes its place."""
    waiting = outbox.lanes[lane.index]
    return waiting is not None and waiting.holds(message)


def _know(outbox: Outbox, message: Message, base: int | None, index: int) -> None:
    assert message.key is not None
    if not outbox.tracks:
        return
    if message.expires:  # it may be dropped while it waits: it is no base
        forget_key(outbox, message.room, message.key)
        return
    if outbox.versions is None:
        outbox.versions = {}
    known = outbox.versions.setdefault(message.room, {})
    if len(known) >= MOST_KNOWN and message.key not in known:
        known.clear()
    known[message.key] = message.offset, base, index


def forget_key(outbox: Outbox, room: str, key: str) -> None:
    if outbox.versions is not None:
        outbox.versions.get(room, {}).pop(key, None)


def forget_room(outbox: Outbox, room: str) -> None:
    """What the other end has of a room is not known any more."""
    if outbox.versions is not None:
        outbox.versions.pop(room, None)
        if not outbox.versions:
            outbox.versions = None
