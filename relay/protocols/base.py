"""What every wire format has in common: the commands a client can give, and the answers a server can make.

A protocol is sans-IO: it decodes one WebSocket message into a command, and encodes answers and room messages into
whole WebSocket frames. Not here: sessions, rooms, sockets. The one rule: `message()` is called once per protocol and
message, whatever the number of receivers, so what it returns may not depend on any of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from relay.errors import CloseReason, Refused
from relay.model import Message, Payload
from relay.protocols.parts import Parts

RequestId: TypeAlias = int | str | None
"""Chosen by the client; None where it wants no answer."""


class Position(msgspec.Struct, frozen=True):
    """Where a client stands in a room's history: the room's incarnation and the offset of the last message it has."""

    epoch: str
    offset: int


class Join(msgspec.Struct, frozen=True, gc=False):
    """`announce`: nobody asked for it, so the client is told that it is in the room now. `delta`: of a new value it
    wants to hear what has changed alone.
    """

    room: str
    id: RequestId = None
    since: Position | None = None
    last: int = 0
    members: bool = False
    announce: bool = False
    delta: bool = False


class Leave(msgspec.Struct, frozen=True, gc=False):
    room: str
    id: RequestId = None


class Publish(msgspec.Struct, frozen=True, gc=False):
    """`to` names a subject: only its connections in the room hear it. `echo`: the sender hears it too.

    `confirm`: answered once the receivers have acknowledged it, within so many seconds.
    `once`: a key of the sender's; a publish that comes again with it is answered as before, and not heard again.
    """

    room: str
    data: Payload
    id: RequestId = None
    channel: str | None = None
    key: str | None = None
    to: str | None = None
    echo: bool = False
    ttl: float | None = None
    once: str | None = None
    confirm: float | None = None


class Call(msgspec.Struct, frozen=True, gc=False):
    """`timeout` in seconds, at most the server's own."""

    room: str
    method: str
    data: Payload | None = None
    id: RequestId = None
    timeout: float | None = None


class Presence(msgspec.Struct, frozen=True, gc=False):
    room: str
    id: RequestId = None


class History(msgspec.Struct, frozen=True, gc=False):
    """What came after `since`; or the newest `last` messages, those below the offset `before` if that is given."""

    room: str
    id: RequestId = None
    since: Position | None = None
    last: int = 0
    before: int | None = None


class Ack(msgspec.Struct, frozen=True, gc=False):
    """A message has arrived that its publisher wanted to know of."""

    room: str
    offset: int
    id: RequestId = None


class Resume(msgspec.Struct, frozen=True, gc=False):
    """By the first message of a socket that goes on with a session: what its client has of each room."""

    rooms: dict[str, Position]
    id: RequestId = None


class Resync(msgspec.Struct, frozen=True, gc=False):
    """Full values again, of one key of a state room or of all."""

    room: str
    id: RequestId = None
    key: str | None = None


class Auth(msgspec.Struct, frozen=True, gc=False):
    token: str
    id: RequestId = None


class Ping(msgspec.Struct, frozen=True, gc=False):
    id: RequestId = None


Command: TypeAlias = Join | Leave | Publish | Call | Presence | History | Resume | Resync | Ack | Auth | Ping


class Hello(msgspec.Struct, frozen=True):
    """What a client is told first. `expires` is Unix time in seconds, None: never; `heartbeat` seconds; limits by
    config key. `resume`, where it asked for it: its `ticket` and the `window` in seconds.
    """

    session: str
    subject: str
    expires: float | None
    channels: Sequence[str]
    limits: dict[str, float]
    heartbeat: float
    version: str
    resume: dict[str, Any] | None = None
    resumed: bool = False


class ProtocolError(Exception):
    """The client spoke something this protocol does not know at all: the connection ends with `reason`."""

    def __init__(self, reason: CloseReason) -> None:
        super().__init__(reason.text())
        self.reason = reason


class WireProtocol(Protocol):
    """One wire format. Frames returned are complete (RFC 6455 section 5.2), unmasked; None: this protocol does not
    say that.
    """

    @property
    def name(self) -> str: ...
    @property
    def subprotocol(self) -> str | None:
        """The token in Sec-WebSocket-Protocol; None: no subprotocol is negotiated."""

    @property
    def bare(self) -> bool:
        """There is no envelope: every message is published in the room of the address, and `decode` is not asked."""

    @property
    def takes_parts(self) -> bool:
        """Whether binary messages that begin as parts do (protocols/parts) are parts."""

    def decode(self, opcode: int, payload: bytes, home: str) -> Command:
        """One WebSocket message, opcode 1 (checked UTF-8) or 2; `home` is the room in the address, if any.

        Raises Refused (its `request` is the id, if known) or ProtocolError.
        """
        ...

    def opening(self, opcode: int, payload: bytes) -> Auth | Ping:
        """A message of a client that has not yet told who it is, where the token may come in the first one
        (auth.deferred). Raises Refused, ProtocolError for all that is neither its token nor a ping.
        """
        ...

    def announced(self, envelope: bytes) -> Publish:
        """What the first part of a message says, with no data yet. Raises Refused, as `parted` does."""
        ...

    def parted(self, envelope: bytes, payload: bytes) -> Command:
        """A message that came in parts. Raises Refused. Not asked where `takes_parts` is False."""
        ...

    def request_in(self, envelope: bytes) -> RequestId:
        """The id in the envelope of a message in parts that cannot be had; None: there is none, or it is broken."""
        ...

    @property
    def patches(self) -> bool:
        """Whether `patch` can be had."""

    def patch(self, message: Message, base: Message, patch: Payload) -> bytes | None:
        """A message as what has changed since `base`, a JSON merge patch; None: it cannot be said so."""
        ...

    def message(self, message: Message) -> bytes: ...
    def parts(self, message: Message) -> Parts | None:
        """A large message to be sent in parts; None: this protocol has none."""

    def hello(self, hello: Hello) -> bytes | None: ...
    def ok(self, request: RequestId, result: dict[str, Any]) -> bytes | None:
        """`result` holds plain values, `Payload`s under "data" and `Message`s under "messages"."""
        ...

    def error(self, request: RequestId, refused: Refused) -> bytes | None: ...
    def pong(self, request: RequestId) -> bytes | None: ...
    def joined(self, room: str, subject: str, claims: Mapping[str, Any] | None = None) -> bytes | None:
        """`claims` are those of the subject's token that others may see."""

    def counted(self, room: str, count: int, events: bool) -> bytes | None:
        """How many members there are. `events`: whether each one's coming and going is told from now on."""

    def left(self, room: str, subject: str, reason: str = "") -> bytes | None:
        """`reason` is for who was put out."""

    def confirm(self, room: str, offset: int) -> bytes | None:
        """Asks a receiver for an acknowledgement; None: it cannot give any."""

    def renamed(self, room: str, name: str) -> bytes | None:
        """The room is called `name` from now on."""

    def gap(self, room: str, first: int, last: int, reason: str) -> bytes | None: ...
    def expiring(self, seconds: float) -> bytes | None: ...
    def bye(self, reason: CloseReason) -> bytes | None: ...
