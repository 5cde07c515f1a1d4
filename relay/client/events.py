"""What the relay says in relay.v1, as typed values. docs/protocol.md has the tables.

Not here: reading them from a socket (session). The one rule: unknown fields and unknown types are let pass, so that a
client keeps working with a newer relay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from relay.client.errors import LOST, Disconnected


class Position(msgspec.Struct, frozen=True):
    """Where one stands in a room's history: the room's `epoch`, and the offset of the last message one has."""

    epoch: str
    offset: int


class Said(msgspec.Struct, frozen=True, tag_field="t"):
    """Base of all that the relay says; the field `t` tells which."""


class Message(Said, tag="message", frozen=True, rename={"sender": "from"}):
    """A message in a room. `data` is decoded; `sender` a subject, None when the relay or a plugin speaks.

    `offset` counts the room's messages, 0: not counted; `channel` None: the room's own; `at` Unix seconds. `patch`: in
    a room joined with `delta`, what has changed since the value of this `key` with the offset `base` (RFC 7396), where
    it came so; `data` is the whole value in any case.
    """

    room: str
    data: Any = None
    sender: str | None = None
    offset: int = 0
    channel: str | None = None
    key: str | None = None
    to: str | None = None
    at: float = 0.0
    patch: dict[str, Any] | None = None
    base: int = 0


class Progress(msgspec.Struct, frozen=True):
    """How far a message in parts has come, in bytes; only for those who asked to hear of it.

    `stream` tells messages under way at once apart. `cancelled`: it will not come, because its publisher gave it up, or
    a newer one of its key took its place.
    """

    room: str
    stream: int
    received: int
    size: int
    key: str | None = None
    channel: str | None = None
    offset: int = 0
    cancelled: bool = False


class Joined(Said, tag="joined", frozen=True):
    """A subject has come into a room; one's own: a renewed token has put one there. `claims` are those of its token
    that members may see.
    """

    room: str
    subject: str
    claims: dict[str, Any] = {}


class Left(Said, tag="left", frozen=True):
    """A subject has left a room; one's own: one was put out of it, for that `reason`."""

    room: str
    subject: str
    reason: str = ""


class Count(Said, tag="count", frozen=True):
    """A room with more members than one is told of singly: how many there are. `events` False: who joins and leaves is
    not told from now on; True: it is again, and `Client.members` tells who is there.
    """

    room: str
    count: int
    events: bool = False


class Renamed(Said, tag="renamed", frozen=True):
    """A room one is in, or hears of, has another name: `to`. One stays in it, and what comes from now on is said to
    come from the room by its new name.
    """

    room: str
    to: str


class Confirm(Said, tag="confirm", frozen=True):
    """The publisher of the message with that offset, which was handed over before, wants to know that it arrived:
    `Client.ack`. Only told where `connect` was given `auto_ack=False`.
    """

    room: str
    offset: int


class Gap(Said, tag="gap", frozen=True, rename={"first": "from", "last": "to"}):
    """Messages of a room between two offsets, both included, were lost.

    `reason` is the relay's, or the client's own: "client_buffer", they came and were not read; "client_limit", larger
    than this client takes; "unreadable", no document as it claims to be; "not_recovered", lost with a socket; "resync",
    values that a newer one took the place of before what they were patches of was known.
    """

    room: str
    first: int
    last: int
    reason: str = ""


class Expiring(Said, tag="expiring", frozen=True, rename={"seconds": "in"}):
    """The token ends in so many seconds: `Client.auth` with a new one, or be disconnected."""

    seconds: float


class Reconnect(msgspec.Struct, frozen=True):
    """After how many seconds to come back; plus a random part of `jitter`."""

    after: float
    jitter: float = 0.0


class Bye(Said, tag="bye", frozen=True, rename={"setting": "limit"}):
    """The relay is about to close the connection."""

    code: int
    reason: str = ""
    reconnect: Reconnect | None = None
    setting: str | None = None

    def explain(self, why: Disconnected) -> Disconnected:
        """With what this said: it knows more than a close frame can hold, and comes even where that is lost."""
        if why.code not in (self.code, LOST):
            return why
        again = self.reconnect
        return Disconnected(
            self.code,
            f"{self.reason} [{self.setting}]" if self.setting else self.reason,
            reconnect_after=None if again is None else again.after,
            reconnect_jitter=0.0 if again is None else again.jitter,
        )


class Refusal(Said, tag="error", frozen=True, rename={"setting": "limit"}):
    """Something that was sent without asking for an answer was refused."""

    code: str
    message: str = ""
    retry_after: float | None = None
    setting: str | None = None
    id: int | str | None = None


class Ticket(msgspec.Struct, frozen=True):
    """With which a session goes on after its socket was lost, for `window` seconds."""

    ticket: str
    window: float


class Hello(Said, tag="hello", frozen=True):
    """The relay's first words."""

    session: str
    subject: str
    expires: float | None = None
    channels: tuple[str, ...] = ()
    limits: dict[str, float] = {}
    heartbeat: float = 0.0
    version: str = ""
    resume: Ticket | None = None
    resumed: bool = False


class Ok(Said, tag="ok", frozen=True, rename={"first": "from"}):
    """An answer; which fields it has depends on what was asked."""

    id: int | str | None = None
    room: str = ""
    epoch: str = ""
    offset: int | None = None
    recovered: bool | None = None
    first: int | None = None
    messages: list[Message] = []
    more: bool = False
    members: list[str] | None = None
    count: int = 0
    claims: dict[str, dict[str, Any]] = {}
    connections: dict[str, int] = {}
    events: bool = True
    delta: bool = False
    values: int = 0
    duplicate: bool = False
    delivered: int | None = None
    data: Any = None
    expires: float | None = None
    rooms: int | dict[str, dict[str, Any]] = 0
    unreadable: list[Gap] = []  # of the messages: never said by the relay


class Pong(Said, tag="pong", frozen=True):
    id: int | str | None = None


@dataclass(slots=True, frozen=True)
class Members:
    """Who is in a room. `subjects` may be fewer than `count`: of a crowd only the number is told. `claims` and
    `connections` (of those who have not just one) are by subject. `events`: who joins and leaves is told.
    """

    subjects: list[str]
    count: int
    claims: dict[str, dict[str, Any]]
    connections: dict[str, int]
    events: bool


@dataclass(slots=True, frozen=True)
class Membership:
    """What one learns by joining, or by asking for history.

    `room` is what the room is called: not so if one asked for an alias. `recovered`: the messages are all that was
    missed; if not, `first` is the first offset there is; None: nothing was asked for. `more`: there are older messages.
    `presence` says more of the `members`, if one asked. `delta`: values come as what has changed, where that is
    shorter. `rooms`: of a pattern, how many it hears now.
    """

    room: str
    epoch: str
    offset: int
    recovered: bool | None = None
    messages: list[Message] = field(default_factory=list)
    members: list[str] | None = None
    first: int | None = None
    more: bool = False
    presence: Members | None = None
    delta: bool = False
    rooms: int = 0

    @property
    def position(self) -> Position:
        """To join again from here, as `since`, if nothing more is heard."""
        return Position(self.epoch, self.offset)


def membership(room: str, ok: Ok) -> Membership:
    """What the answer of the relay says of a room that was asked for as `room`."""
    return Membership(
        ok.room or room,
        ok.epoch,
        ok.offset or 0,
        ok.recovered,
        ok.messages,
        ok.members,
        ok.first,
        ok.more,
        None if ok.members is None else members(ok),
        ok.delta,
        ok.rooms if isinstance(ok.rooms, int) else 0,
    )


def members(ok: Ok) -> Members:
    """Who the relay's answer says is there."""
    return Members(ok.members or [], ok.count, ok.claims, ok.connections, ok.events)


@dataclass(slots=True, frozen=True)
class Delivery:
    """A message to one subject has arrived: `connections` of it have said so."""

    offset: int
    to: str
    connections: int


Event: TypeAlias = Message | Progress | Joined | Left | Count | Renamed | Confirm | Gap | Expiring | Bye | Refusal
"""What `async for` over a client yields."""

FromRelay: TypeAlias = (
    Message | Joined | Left | Count | Renamed | Confirm | Gap | Expiring | Bye | Refusal | Hello | Ok | Pong
)
