"""What comes from a client in parts, until it is whole.

Not here: the parts' format and bounds (protocols/parts). The one rule: one timer a connection looks whether they get
anywhere, and only while there are any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.errors import Refused
from relay.protocols.base import Command, RequestId
from relay.protocols.parts import FIRST, Joiner, Part, PartRefused, decode_part
from relay.session import requests

if TYPE_CHECKING:
    from relay.session.connection import Connection
    from relay.session.timers import Timer


class Incoming:
    """Of one connection; made with its first part. Raises Refused if the config allows none."""

    __slots__ = ("_connection", "_joiner", "_timer")

    def __init__(self, connection: Connection) -> None:
        limits = connection.services.config.limits
        if not limits.parted_message_bytes:
            raise Refused("bad_part", "messages in parts are switched off", setting="limits.parted_message_bytes")
        self._connection = connection
        self._joiner = Joiner(limits.parted_message_bytes, limits.parted_bytes, limits.parted_streams)
        self._timer: Timer | None = None

    def add(self, payload: bytes) -> Command | None:
        """One part; the message's command, once it is whole. Raises Refused."""
        now = self._connection.services.monotonic()
        try:
            part = decode_part(payload)
            whole = self._joiner.add(part, now)
            if part.flags == FIRST:
                self._ask(part)
        except PartRefused as refused:
            refused.request = self._connection.protocol.request_in(refused.envelope)
            raise
        if whole is not None:
            return self._connection.protocol.parted(*whole)
        self._watch(now)
        return None

    def _ask(self, first: Part) -> None:
        """Nobody sends megabytes to hear in the end that it may not. Raises Refused; the rest is then passed over."""
        try:
            requests.may_begin(self._connection, self._connection.protocol.announced(first.envelope), first.size)
        except Refused:
            self._joiner.refuse(first)
            raise

    def pass_over(self, payload: bytes) -> RequestId:
        """The first part of a message that was refused by somebody else. Returns the id of its request. Raises
        Refused.
        """
        part = decode_part(payload)
        self._joiner.refuse(part)
        return self._connection.protocol.request_in(part.envelope)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self, now: float) -> None:
        services = self._connection.services
        if self._joiner and self._timer is None:
            self._timer = services.timers.at(now + services.config.timeouts.part, self._drop_late)

    def _drop_late(self) -> None:
        self._timer = None
        services = self._connection.services
        now, timeouts = services.monotonic(), services.config.timeouts
        for stream, envelope in self._joiner.expire(now, timeouts.part, timeouts.parted_message):
            why = f"stream {stream}: no more parts came in time"
            request = self._connection.protocol.request_in(envelope)
            self._connection.refuse(request, Refused("timeout", why, setting="timeouts.part"))
        self._watch(now)
