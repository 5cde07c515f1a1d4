"""A connection whose messages are counted one by one, because a quota says so; all others are plain `Connection`s.

Not here: counting (spending). The one rule: which of the two a connection is, is decided when it is made, so that who
has no such quota pays nothing for it.
"""

from __future__ import annotations

from relay.auth.tokens import Identity
from relay.delivery.detour import Junction
from relay.delivery.toll import Toll
from relay.errors import Refused
from relay.model import Kind, Payload
from relay.protocols.base import Publish, RequestId, WireProtocol
from relay.protocols.parts import declared_bytes, is_part
from relay.session.connection import Connection
from relay.session.services import Services
from relay.session.spending import Spending
from relay.session.wire import Wire


def make_connection(
    services: Services, wire: Wire, identity: Identity, protocol: WireProtocol, session: str, home: str = "",
    address: str = "",
) -> Connection:  # fmt: skip
    """Of the kind that the quotas in force ask for."""
    quotas = services.quotas
    kind = Metered if quotas.metered else Connection
    connection = kind(services, wire, identity, protocol, session, home, address)
    if quotas.early and connection.spending is None:
        connection.spending = Spending(connection)
    return connection


def renew_quotas(connection: Connection) -> None:
    """Other quotas are in force, and hold for this connection too, as far as its kind allows: one whose messages are
    not counted does not become one whose are.
    """
    spending = connection.spending
    if spending is not None:
        spending.renew()
    elif connection.services.quotas.early:
        connection.spending = Spending(connection)
    if isinstance(connection, Metered):
        connection.count_anew()


class Metered(Connection):
    """Counts what comes before it is looked at, what is published before it is, and what is sent before it waits."""

    __slots__ = ("_each", "_spending", "_toll")

    def __init__(
        self, services: Services, wire: Wire, identity: Identity, protocol: WireProtocol, session: str,
        home: str = "", address: str = "",
    ) -> None:  # fmt: skip
        super().__init__(services, wire, identity, protocol, session, home, address)
        spending = self.spending = self._spending = Spending(self)
        self._each = spending.bounds(spending.quotas.each)
        self._toll: Toll | None = None
        if spending.quotas.delivered:
            self.outbox = self._toll = Toll(self.outbox, spending.delivered)

    def count_anew(self) -> None:
        self._each = self._spending.bounds(self._spending.quotas.each)

    def message(self, opcode: int, payload: bytes) -> None:
        if self._each and self.closing is None:
            part = opcode == Kind.BINARY and self.protocol.takes_parts and is_part(payload)
            size = declared_bytes(payload) if part else len(payload)
            if size is not None:  # else it is a later part of a message that was counted as a whole
                try:
                    self._spending.spend(self._each, size)
                except Refused as refused:
                    self.messages += 1
                    self.refuse(self._request_in(payload, part=part), refused)
                    return
        super().message(opcode, payload)

    def _request_in(self, payload: bytes, *, part: bool) -> RequestId:
        """The id in a message that will not be looked at further; of one in parts the others are passed over."""
        if not part:
            return self.protocol.request_in(payload)
        try:
            return self._parts().pass_over(payload)
        except Refused:  # it is no part, or there are none here
            return None

    def _publish_home(self, data: Payload) -> None:
        self.publish(Publish(self.home, data))

    def publish(self, command: Publish) -> None:
        name = command.room
        waits = self.joining is not None and name in self.joining and name not in self.rooms
        if self._spending.quotas.published and not waits:  # what waits for a join comes here again
            try:
                self._spending.published(name, len(command.data))
            except Refused as refused:
                refused.request = command.id
                raise
        super().publish(command)

    def junction(self) -> Junction:
        toll = self._toll
        if toll is None:
            return super().junction()
        if not isinstance(toll.target, Junction):
            toll.target = Junction(toll.target)
        return toll.target

    def leave_junction(self) -> None:
        if self._toll is None:
            super().leave_junction()
        elif not self.legs:
            self._toll.target = self._toll.first = self.wire.outbox
