"""The end of a socket: counted, told to plugins and to the log, once.

Not here: why it ended (net/link), sessions that nobody came back to (returning). The one rule: one line for each socket
and its session; only the session of a socket that was lost may wait for another one, and then it is not over.
"""

from __future__ import annotations

import logging
import time

from relay.errors import CLOSE_CODES
from relay.front.compression import Compression
from relay.front.returning import Returning
from relay.front.state import State
from relay.front.tenants import Tenant
from relay.net.link import LOST, NO_CODE, Link
from relay.session.resume import Resuming

log = logging.getLogger("relay")


class Departures:
    """Of all tenants."""

    def __init__(self, state: State, compression: Compression, returning: Returning) -> None:
        self._state = state
        self._compression = compression
        self._returning = returning

    def ended(self, tenant: Tenant, link: Link, address: str) -> None:
        """`address` is whose the connection counts as."""
        counters, connection = link.services.counters, link.connection
        self._state.links.discard(link)
        counters.connections -= 1
        self._compression.left(link.agreement)
        counters.closed[_counted_as(link.close_code)] += 1
        if link.parked:
            self._returning.lost(link, address)
            return
        if not isinstance(connection, Resuming):
            tenant.count_out(connection.identity)
        if link.arrival is not None:
            tenant.arrivals.left(link.arrival, link.close_code)
        reason = connection.closing
        ours = link.close_reason is not None and (link.close_code != LOST or link.close_reason.setting is not None)
        code = link.close_reason.code if ours and link.close_reason is not None else link.close_code
        connection.main.note(
            "closed" if ours else "left", str(int(code)), reason.setting if reason else None,
            reason.reason if reason else "", connection.main.home,
        )  # fmt: skip
        if log.isEnabledFor(logging.INFO):
            self._say(tenant, link, address)

    def _say(self, tenant: Tenant, link: Link, address: str) -> None:
        connection = link.connection
        reason = connection.closing
        log.info(
            "connection closed",
            extra={
                "fields": {
                    "session": connection.session,
                    "subject": connection.subject,
                    **({"tenant": tenant.name} if tenant.name else {}),
                    "address": address,
                    "protocol": connection.protocol.name,
                    "code": link.close_code,
                    "reason": reason.reason if reason else "",
                    "setting": reason.setting if reason else None,
                    "seconds": round(time.time() - link.opened_at, 3),
                    "messages_in": connection.messages,
                    "bytes_in": link.bytes_in,
                    "bytes_out": link.writer.bytes_out,
                }
            },
        )


def _counted_as(code: int) -> int:
    """A close code as a metric's label: those that clients make up (RFC 6455 section 7.4.2) count by their thousand."""
    return code if code in CLOSE_CODES or code in (NO_CODE, LOST) else code // 1000 * 1000
