"""Those who do not come in: counted, and kept for whoever asks why (`relay explain`).

Not here: deciding it, and telling the client (reception, parting). The one rule: each is counted once, with the config
key behind it where there is one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from relay.errors import Rejected
from relay.front.doors import HeaderRefused
from relay.session.services import Services

if TYPE_CHECKING:
    from relay.front.tenants import Tenant

log = logging.getLogger("relay")


class Refusals:
    """Of the process; `services` are the default tenant's."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def rejected(
        self, rejected: Rejected, address: str, room: str = "", subject: str = "", tenant: Tenant | None = None
    ) -> None:
        """A handshake was refused, by a status or without a word."""
        self._services.counters.rejected[rejected.code] += 1
        (self._services if tenant is None else tenant.services).decisions.add(
            "rejected", rejected.code, setting=rejected.setting, subject=subject, address=address, room=room,
            detail=rejected.why or rejected.reason,
        )  # fmt: skip

    def tls_failed(self, kind: str, address: str, detail: str, setting: str | None = None) -> None:
        """`kind`: eof, timeout, protocol or certificate."""
        self._services.counters.tls_failures[kind] += 1
        self._services.decisions.add("tls", f"tls_{kind}", setting=setting, address=address, detail=detail)

    def header_refused(self, refused: HeaderRefused, peer: str) -> None:
        """A trusted proxy sent no PROXY header, or a bad one; that is the operator's business, so the log says it."""
        kind, why, setting = refused.kind, str(refused), "proxy.protocol"
        self._services.counters.proxy_failures[kind] += 1
        self._services.decisions.add("rejected", f"proxy_{kind}", setting=setting, address=peer, detail=why)
        level = logging.DEBUG if kind == "eof" else logging.WARNING  # a health check that only connects
        log.log(level, "PROXY header refused", extra={"fields": {"address": peer, "reason": why, "setting": setting}})
