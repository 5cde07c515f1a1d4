"""Clients that come back to a session of theirs, and the end of sessions that nobody came back to.

Not here: what a session has meanwhile (session/resume). The one rule: a session counts against its subject's limit from
its first socket to its end, whether it has a socket just now or not, and plugins hear of one client.
"""

from __future__ import annotations

import logging

from relay.errors import Rejected
from relay.front.place import Place, check_protocol
from relay.front.state import State
from relay.front.tenants import Tenant
from relay.net.handshake import Upgrade
from relay.net.link import LOST, Link
from relay.plugin.arrival import Arrival
from relay.session.connection import Connection

log = logging.getLogger("relay")

WINDOW = "websocket.resume_window"


class Returning:
    """Of all tenants."""

    def __init__(self, state: State) -> None:
        self._state = state

    def find(self, upgrade: Upgrade, place: Place) -> Connection | None:
        """The session that a socket goes on with; None: it begins a new one, with the token it also brings.

        Raises Rejected: 404 where it brings none, 400 for another wire format.
        """
        if not place.resume:
            return None
        for tenant in self._state.tenants.values():
            connection = tenant.services.resumption.find(place.resume, tenant.services.sessions)
            if connection is not None:
                check_protocol(connection, place)
                return connection
        self._state.tenants[""].services.counters.resumes["unknown"] += 1
        if upgrade.credential is None:
            why = "this session cannot be resumed any more: connect anew, with a token"
            raise Rejected(404, "no_such_session", why, setting=WINDOW)
        return None

    def lost(self, link: Link, address: str) -> None:
        """A socket is lost, and its session waits for another one."""
        connection = link.connection.main
        connection.note("left", str(LOST), None, "the connection was lost; its session waits for the client")
        fields = {"session": connection.session, "subject": connection.subject, "address": address}
        log.info("connection lost, its session waits", extra={"fields": fields})


def given_up(tenant: Tenant, connection: Connection, code: int, arrival: Arrival | None) -> None:
    """A session without a socket has ended: its client did not come back, or it was closed meanwhile."""
    tenant.count_out(connection.identity)
    if arrival is not None:
        tenant.arrivals.left(arrival, code)
    reason = connection.closing
    assert reason is not None
    connection.note("closed", str(code), reason.setting, reason.reason, connection.home)
    log.info(
        "session closed",
        extra={
            "fields": {
                "session": connection.session,
                "subject": connection.subject,
                **({"tenant": tenant.name} if tenant.name else {}),
                "address": connection.address,
                "code": code,
                "reason": reason.reason,
                "setting": reason.setting,
            }
        },
    )
