"""POST /api/v1/publish: a message into a room from a server of the operator's. Its sender is null.

Not here: numbering, history, delivery (rooms/hub). The one rule: what was accepted once under an idempotency key is not
published again; the first answer is given again.
"""

from __future__ import annotations

import base64
import binascii
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from relay.config.table import Table
from relay.errors import Refused, Rejected
from relay.front.api import Asked
from relay.model import Kind, Message, Payload
from relay.protocols.names import check_room_name
from relay.session.services import Services

REMEMBERED: Final = 10000  # idempotency keys
REMEMBERED_SECONDS: Final = 300.0


class PublishBody(Table, frozen=True):
    """`data` is any JSON document, or `base64` are bytes. `to` is the only subject that shall hear it, `ttl` seconds
    after which it need not arrive any more.
    """

    room: str
    tenant: str = ""
    data: msgspec.Raw = msgspec.Raw()
    base64: str | None = None
    channel: str | None = None
    key: Annotated[str, Meta(max_length=255)] | None = None
    to: Annotated[str, Meta(max_length=255)] | None = None
    ttl: Annotated[float, Meta(ge=0)] | None = None
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
    """Publishes, and remembers what for."""

    Body: Final = PublishBody

    def __init__(self, services_of: Callable[[str], Services]) -> None:
        """`services_of` gives those of a tenant. Raises Rejected."""
        self._services_of = services_of
        self._done: OrderedDict[tuple[str, str, str], tuple[float, dict[str, Any]]] = OrderedDict()

    def publish(self, asked: Asked) -> dict[str, Any]:
        """Raises Refused, Rejected."""
        body = asked.decoded(PublishBody)
        payload = body.payload()
        services = self._services_of(body.tenant)
        limits = services.config.limits
        if problem := check_room_name(body.room, limits.room_name_bytes):
            raise Refused("bad_room", f"not a valid room name: {problem}", setting="limits.room_name_bytes")
        if body.channel == services.channels.CONTROL:
            raise Refused("no_such_channel", "control is the relay's own channel", setting="channels")
        now = services.monotonic()
        done = (body.tenant, body.room, body.idempotency) if body.idempotency is not None else None
        if done is not None and (answer := self._answered(done, now)) is not None:
            return {**answer, "duplicate": True}
        expires = now + body.ttl if body.ttl is not None else 0.0
        room = services.hub.open(body.room)
        try:
            message = Message(body.room, payload, None, body.channel, body.key, body.to, expires=expires)
            services.hub.publish(room, message, None)
            answer = {"room": room.name, "offset": message.offset, "epoch": room.epoch, "members": len(room)}
        finally:
            services.hub.free_if_empty(room)
        if done is not None:
            self._done[done] = now, answer
            if len(self._done) > REMEMBERED:
                self._done.popitem(last=False)
        return {**answer, "duplicate": False}

    def _answered(self, done: tuple[str, str, str], now: float) -> dict[str, Any] | None:
        while self._done:
            first = next(iter(self._done))
            if self._done[first][0] + REMEMBERED_SECONDS > now:
                break
            del self._done[first]
        found = self._done.get(done)
        return None if found is None else found[1]
