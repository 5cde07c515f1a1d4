"""The words of `relay.v1` as they stand on the wire: what a client says, and the messages of rooms.

Not here: reading and writing them (relay_v1), what they do. The one rule: what is not named here is an error when it
comes, and is never sent.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from relay.protocols.base import Position, RequestId

Raw: TypeAlias = msgspec.Raw


class In(msgspec.Struct, frozen=True, gc=False, tag_field="t", forbid_unknown_fields=True):
    id: RequestId = None


class Join(In, tag="join", kw_only=True, frozen=True):
    room: str
    since: Position | None = None
    last: int = 0
    members: bool = False
    delta: bool = False


class Leave(In, tag="leave", kw_only=True, frozen=True):
    room: str


class Publish(In, tag="publish", kw_only=True, frozen=True):
    room: str
    data: Raw
    channel: str | None = None
    key: str | None = None
    ttl: float | None = None
    to: str | None = None
    echo: bool = False
    once: str | None = None
    confirm: float | None = None


class Parted(In, tag="publish", kw_only=True, frozen=True):
    """The envelope of a message in parts: a publish without its data."""

    room: str
    kind: Literal["json", "text", "binary", "msgpack"]
    channel: str | None = None
    key: str | None = None
    ttl: float | None = None
    to: str | None = None
    echo: bool = False
    once: str | None = None
    confirm: float | None = None


class Call(In, tag="call", kw_only=True, frozen=True):
    room: str
    method: str
    data: Raw = Raw()  # absent; `Raw | None` would take nothing but null
    timeout: Annotated[float, msgspec.Meta(ge=0)] | None = None


class Presence(In, tag="presence", kw_only=True, frozen=True):
    room: str


class History(In, tag="history", kw_only=True, frozen=True):
    room: str
    since: Position | None = None
    last: int = 0
    before: int | None = None


class Ack(In, tag="ack", kw_only=True, frozen=True):
    room: str
    offset: int


class Resume(In, tag="resume", kw_only=True, frozen=True):
    rooms: dict[str, Position] = {}


class Resync(In, tag="resync", kw_only=True, frozen=True):
    room: str
    key: str | None = None


class Auth(In, tag="auth", kw_only=True, frozen=True):
    token: str


class Ping(In, tag="ping", kw_only=True, frozen=True):
    pass


AnyIn: TypeAlias = Join | Leave | Publish | Call | Presence | History | Resume | Resync | Ack | Auth | Ping


class OnlyId(msgspec.Struct):
    id: RequestId = None


class Message(msgspec.Struct, tag_field="t", tag="message", omit_defaults=True, rename={"sender": "from"}, gc=False):
    room: str
    data: Raw
    sender: str | None = None
    offset: int = 0
    channel: str | None = None
    key: str | None = None
    to: str | None = None
    at: float = 0.0


class PartedMessage(
    msgspec.Struct, tag_field="t", tag="message", omit_defaults=True, rename={"sender": "from"}, gc=False
):
    """The envelope of a message in parts: a message without its data."""

    room: str
    kind: str
    sender: str | None = None
    offset: int = 0
    channel: str | None = None
    key: str | None = None
    to: str | None = None
    at: float = 0.0


class Patch(msgspec.Struct, tag_field="t", tag="message", omit_defaults=True, rename={"sender": "from"}, gc=False):
    """A message as what has changed since the one of its key with the offset `base`."""

    room: str
    patch: Raw
    base: int
    key: str | None = None
    offset: int = 0
    sender: str | None = None
    channel: str | None = None
    at: float = 0.0


OPTIONAL: Final = {  # here, because what is left out is told from a default by being the same object
    "from": ("sender", None), "offset": ("offset", 0), "channel": ("channel", None),
    "key": ("key", None), "to": ("to", None), "at": ("at", 0.0),
}  # fmt: skip
"""Fields of a message that a client may do without: as they are called on the wire, and here, and what is not sent."""
