"""One room: who is in it, what it remembers, and what a plugin may do with it.

Not here: sockets, protocols' bytes, other rooms. The one rule: every change of who is in a room goes through the hub,
which keeps both maps; a Room is what a plugin sees.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from relay.delivery.outbox import Outbox
from relay.errors import CloseReason
from relay.model import Message, Payload
from relay.protocols.base import WireProtocol
from relay.rooms.archive import Record
from relay.rooms.history import History
from relay.rooms.receipts import Receipts

if TYPE_CHECKING:
    from relay.rooms.delta import Delta
    from relay.rooms.hub import Hub
    from relay.rooms.journal import Journal
    from relay.rooms.presence import Presence


class Peer(Protocol):
    """A connection, as rooms and plugins see it."""

    session: str
    subject: str
    protocol: WireProtocol
    outbox: Outbox
    # The hub's to change: the rooms it is in, by name, and what it may do in those where that is not all.
    rooms: dict[str, Room]
    rights: dict[Room, Rights] | None

    def send(self, room: Room, data: object, *, channel: str | None = None, key: str | None = None) -> None:
        """Sends to this connection alone, as a message of `room`."""

    def close(self, reason: CloseReason) -> None:
        """Ends the connection; the first reason wins."""

    def may_call(self, room: str) -> bool:
        """Whether its token grants calls in a room of that name, whether there is one or not."""


@dataclass(slots=True, frozen=True)
class RoomRule:
    """What the config says about the rooms of one plugin table. `channel` is a lane's index.

    `last_value`: whoever joins hears the newest message. `durable`: a message is heard once it is on disk. What begins
    with `presence` is as in the plugin's table. `wildcards`: it may be heard by a pattern. `delta`: of a new value what
    has changed may be sent alone.
    """

    plugin: str
    channel: int
    history: int = 0
    history_seconds: float = 0.0
    presence: bool = False
    max_members: int = 0
    history_bytes: int = 0
    last_value: bool = False
    durable: bool = False
    presence_claims: tuple[str, ...] = ()
    presence_debounce: float = 0.0
    presence_events_up_to: int = 200
    presence_count_every: float = 5.0
    presence_list_up_to: int = 1000
    max_rooms: int = 0
    max_rooms_per_subject: int = 0
    wildcards: bool = False
    delta: bool = False


@dataclass(slots=True, frozen=True)
class RoomStatistics:
    """An open room on this node. `members` counts connections, `subjects` who they are; `offset` is the newest
    message's; `remembered` counts messages of the history; `drops` those that a member did not get, by (channel,
    reason), since the room was opened.
    """

    name: str
    plugin: str
    members: int
    subjects: int
    offset: int
    remembered: int
    drops: Mapping[tuple[str, str], int]


class Rights(NamedTuple):
    """What a member may do in a room, decided by its token: when it joins, and when the token is renewed or ends.

    `may_see`: it is told who comes and goes, in rooms that tell it.
    """

    may_publish: bool
    may_see: bool


ALL_RIGHTS: Final = Rights(True, True)
ONE_OF_EACH: Final = {rights: rights for rights in map(Rights._make, product((True, False), repeat=2))}
"""What is kept, so that a million members that only listen are no million objects."""


class Audience(dict[Peer, Outbox]):
    """Those who hear a room in one protocol. Nearly every room has one; what others it has follows by `next`."""

    __slots__ = ("next", "protocol")

    def __init__(self, protocol: WireProtocol, following: Audience | None) -> None:
        self.protocol = protocol
        self.next = following


class Room:
    """A room. `state` is the plugin's own; `epoch` names this life of the room: another life's offsets mean nothing.

    It is kept small: each map that joining touches is a wait for memory that no cache holds, in a process of a million
    memberships. So there is one map of who is in it (`audience`), what a peer may do is in the peer's own, and the rest
    is made when it is first used.
    """

    __slots__ = (
        "audience", "counted", "delta", "drops", "epoch", "handler", "history", "holds", "hub", "journal", "name",
        "numbered", "offset", "presence", "receipts", "rule", "size", "state", "watchers",
    )  # fmt: skip

    def __init__(self, hub: Hub, name: str, rule: RoomRule, handler: Any, record: Record) -> None:
        self.hub = hub
        self.name = name
        self.rule = rule
        self.handler = handler  # the plugin's hooks, opaque here: a floor above
        self.epoch = record.epoch
        self.offset = self.numbered = record.offset  # the newest message heard, and the newest that has a number
        self.history: History | None = record.history
        self.receipts: Receipts | None = record.receipts
        self.journal: Journal | None = hub.journal if rule.durable else None
        self.size = 0  # members
        # Who hears all that is said, by how they want to be spoken to: members, but for those in `delta`, and watchers.
        self.audience: Audience | None = None
        self.delta: Delta | None = None  # members that want to hear what has changed alone
        self.watchers: dict[Peer, int] | None = None  # who hears it by patterns, and by how many
        self.counted: dict[str, int] | None = None  # `subjects`, once somebody has asked for them
        self.presence: Presence | None = None  # what members are told of each other, where they are
        self.state: dict[str, Any] = {}
        self.drops: dict[tuple[str, str], int] | None = None  # what members did not get, by (channel, reason)
        self.holds = 0  # who needs the room open without being in it: a hook that is still deciding

    # Who hears, told by the hub and by those who listen by a pattern.

    def hear(self, peer: Peer) -> None:
        """A peer hears all that is said from now on; or it hears already, and has another outbox."""
        protocol = peer.protocol
        audience = self.audience
        while audience is not None and audience.protocol is not protocol:
            audience = audience.next
        if audience is None:
            audience = self.audience = Audience(protocol, self.audience)
        audience[peer] = peer.outbox

    def lose(self, peer: Peer) -> None:
        """A peer hears no more."""
        protocol = peer.protocol
        before, audience = None, self.audience
        while audience is not None and audience.protocol is not protocol:
            before, audience = audience, audience.next
        assert audience is not None
        del audience[peer]
        if not audience:
            if before is None:
                self.audience = audience.next
            else:
                before.next = audience.next

    def audiences(self) -> Iterator[Audience]:
        audience = self.audience
        while audience is not None:
            yield audience
            audience = audience.next

    # Who is in it.

    def has(self, peer: Peer) -> bool:
        """Whether it is a member."""
        return peer.rooms.get(self.name) is self

    def rights(self, peer: Peer) -> Rights:
        """What a member may do in here."""
        return ALL_RIGHTS if peer.rights is None else peer.rights.get(self, ALL_RIGHTS)

    @property
    def subjects(self) -> dict[str, int]:
        """How many connections each subject has in here; do not change it. Counted when first asked for, and kept up
        from then on.
        """
        if self.counted is None:
            self.counted = dict(Counter(peer.subject for peer in self.peers()))
        return self.counted

    # What a plugin uses.

    def broadcast(
        self,
        data: Message | object,
        *,
        sender: Peer | None = None,
        channel: str | None = None,
        key: str | None = None,
        echo: bool = False,
    ) -> int:
        """Says something to all in the room, everywhere, but not to `sender` (unless `echo`). Returns its offset.

        `data` is a Message (passed on with its channel, key, `to` and echo), a Payload, str, bytes, or anything JSON
        can express.
        Never waits. Raises Refused("no_such_channel"), TypeError for what JSON cannot express.
        """
        if isinstance(data, Message):
            message = Message(
                self.name,
                data.data,
                data.sender if sender is None else sender.subject,
                channel or data.channel,
                key or data.key,
                data.to,
                expires=data.expires,
            )
            echo = echo or data.echo
        else:
            message = Message(self.name, Payload.of(data), None if sender is None else sender.subject, channel, key)
        self.hub.publish(self, message, None if echo else sender)
        return message.offset

    def send(
        self, to: str, data: object, *, sender: Peer | None = None, channel: str | None = None, key: str | None = None
    ) -> int:
        """Says something to the connections of one subject in this room, on every node. Returns its offset."""
        message = Message(self.name, Payload.of(data), None if sender is None else sender.subject, channel, key, to)
        self.hub.publish(self, message, None)
        return message.offset

    def tell(self, data: object, *, channel: str | None = None, key: str | None = None) -> None:
        """Says something to all in the room that is of the moment only: it has no offset, and no history keeps it.

        Heard on this node. Raises as `broadcast` does, and Refused("too_large").
        """
        self.hub.tell(self, Message(self.name, Payload.of(data), None, channel, key))

    def may_publish(self, peer: Peer) -> bool:
        """Whether a member's token lets it publish here. To be asked by methods that change what others hear: a grant
        to call is none to publish."""
        return self.has(peer) and self.rights(peer).may_publish

    def peers(self, subject: str | None = None) -> Iterator[Peer]:
        """The connections in this room on this node, or those of one subject."""
        found = [peer for audience in self.audiences() for peer in audience]
        watchers = self.watchers
        if watchers is not None:
            found = [peer for peer in found if peer not in watchers or self.has(peer)]
        if self.delta is not None:
            found += [peer for audience in self.delta.audience.values() for peer in audience]
        return (peer for peer in found if subject is None or peer.subject == subject)

    def kick(self, peer: Peer, reason: str = "") -> None:
        """Makes a connection leave this room, and tells it."""
        self.hub.remove(peer, self, reason)

    def statistics(self) -> RoomStatistics:
        """The room in numbers, as they are now."""
        remembered = 0 if self.history is None else len(self.history)
        return RoomStatistics(
            self.name,
            self.rule.plugin,
            self.size,
            len(self.subjects),
            self.offset,
            remembered,
            dict(self.drops or ()),
        )

    def __contains__(self, subject: str) -> bool:
        return subject in self.subjects

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"<Room {self.name}: {self.size} members, offset {self.offset}>"


class Handler(Protocol):
    """What the hub calls when a room is opened and freed; handed in from above (the plugin's supervisor).

    `owner`: the one plugin whose room it is; `has_joined`: `joined` wants to be told.
    """

    @property
    def owner(self) -> object: ...
    @property
    def has_joined(self) -> bool: ...
    def joined(self, room: Room, peer: Peer) -> None: ...
    def opened(self, room: Room) -> None: ...
    def freed(self, room: Room) -> None: ...
    def renamed(self, room: Room, old: str) -> None: ...
    @property
    def all(self) -> Iterable[Mover]: ...


class Mover(Protocol):
    """Who has to do with a room, and hears once that it has another name, be it open or asleep."""

    def moved(self, old: str, new: str) -> None: ...


Router = Callable[[str], tuple[RoomRule, Handler] | None]
"""Which plugin owns a room of this name; None: nobody."""
