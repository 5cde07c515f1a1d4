"""POST /api/v1/publish: a message into a room from a server of the operator's. Its sender is null.

Not here: numbering, history, delivery (rooms/hub). The one rule: what was accepted once under an idempotency key is not
published again; the first answer is given again.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
import trio
from msgspec import Meta

from relay.config.table import Table
from relay.errors import Refused, Rejected
from relay.front.api import Asked
from relay.model import Kind, Message, Payload
from relay.protocols.names import check_room_name
from relay.rooms.hub import Hub
from relay.rooms.room import Room
from relay.session.services import Services

ITSELF: Final = ""  # no token's subject is empty


class PublishBody(Table, frozen=True):
    """`data` is any JSON document, or `base64` are bytes. `to` is the only subject that shall hear it, `ttl` seconds
    after which it need not arrive any more. `force`: although the room is frozen.
    """

    room: str
    tenant: str = ""
    data: msgspec.Raw = msgspec.Raw()
    base64: str | None = None
    channel: str | None = None
    key: Annotated[str, Meta(max_length=255)] | None = None
    to: Annotated[str, Meta(max_length=255)] | None = None
    ttl: Annotated[float, Meta(ge=0)] | None = None
    force: bool = False
    idempotency: Annotated[str, Meta(min_length=1, max_length=128)] | None = None

    def payload(self) -> Payload:
        """Raises Rejected(400)."""
        if bool(self.data) == (self.base64 is not None):
            raise Rejected(400, "bad_request", "the body needs exactly one of data and base64")
        if self.data:
            return Payload(Kind.JSON, bytes(self.data))
        try:
            return Payload(Kind.BINARY, base64.b64decode(self.base64 or b"", validate=True))
        except (binascii.Error, ValueError):
            raise Rejected(400, "bad_request", "base64 is not base64 (RFC 4648 section 4)") from None


class Publisher:
    """Publishes as the relay itself, which has the subject "" where publishes are known again."""

    Body: Final = PublishBody

    def __init__(self, services_of: Callable[[str], Services]) -> None:
        """`services_of` gives those of a tenant. Raises Rejected."""
        self._services_of = services_of

    async def publish(self, asked: Asked) -> dict[str, Any]:
        """The answer comes once the message cannot be lost: in a durable room, once it is on disk. Raises Refused,
        Rejected.
        """
        body = asked.decoded(PublishBody)
        payload = body.payload()
        services = self._services_of(body.tenant)
        limits = services.config.limits
        if problem := check_room_name(body.room, limits.room_name_bytes):
            raise Refused("bad_room", f"not a valid room name: {problem}", setting="limits.room_name_bytes")
        if body.channel == services.channels.CONTROL:
            raise Refused("no_such_channel", "control is the relay's own channel", setting="channels")
        await trio.lowlevel.checkpoint()
        hub = services.hub
        room = hub.open(hub.aliases.resolve(body.room))
        room.holds += 1
        try:
            if not body.force and room.name in hub.standing.frozen:
                raise Refused("frozen", hub.standing.frozen[room.name])
            known = self._begin(hub, room, body.idempotency)
            if known is not None:
                return {**_answer(room, known), "duplicate": True}
            expires = services.monotonic() + body.ttl if body.ttl is not None else 0.0
            message = Message(room.name, payload, None, body.channel, body.key, body.to, expires=expires)
            try:
                hub.publish(room, message, None)
            except BaseException:
                self._failed(hub, room, body.idempotency)
                raise
            answer = _answer(room, message.offset)
            await self._settle(hub, room, body.idempotency, message.offset)
            return {**answer, "duplicate": False}
        finally:
            room.holds -= 1
            hub.free_if_empty(room)

    @staticmethod
    def _begin(hub: Hub, room: Room, key: str | None) -> int | None:
        """The offset of what was published with that key before; None: it is new. Raises Refused("in_progress")."""
        return None if key is None else hub.receipts(room).begin(ITSELF, key, hub.clock())

    async def _settle(self, hub: Hub, room: Room, key: str | None, offset: int) -> None:
        """Waits for the disk, if the room is durable. Whoever asked may have gone meanwhile: the receipt is kept."""

        def done() -> None:
            if key is not None:
                hub.receipts(room).done(ITSELF, key, offset, hub.clock())
            written.set()

        def failed(refused: Refused) -> None:
            self._failed(hub, room, key)
            problems.append(refused)
            written.set()

        written, problems = trio.Event(), list[Refused]()
        if room.journal is None:
            done()
            return
        if key is not None:
            room.journal.receipt(room, ITSELF, key, offset, hub.clock())
        room.journal.afterwards(done, failed)
        await written.wait()
        if problems:
            raise problems[0]

    @staticmethod
    def _failed(hub: Hub, room: Room, key: str | None) -> None:
        if key is not None:
            hub.receipts(room).failed(ITSELF, key)


def _answer(room: Room, offset: int) -> dict[str, Any]:
    return {"room": room.name, "offset": offset, "epoch": room.epoch, "members": len(room)}
