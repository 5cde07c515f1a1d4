"""Taking a tenant out while the relay runs: its clients are told to go, its plugins end, and nothing of it stays.

Not here: deciding it (reload), draining the whole relay (drain). The one rule: nobody can come in any more when this
begins, because the rules know no such tenant; so it ends by itself, and who has not gone by then is cut. What its
durable rooms have on disk stays there: a tenant of that name finds it again.
"""

from __future__ import annotations

import logging

import trio

from relay.errors import CloseCode, CloseReason
from relay.front.tenants import Tenant
from relay.net.link import Link
from relay.process.assembly import Assembly
from relay.process.drain import dismiss

log = logging.getLogger("relay")

WHY = "this tenant is not served any more"
AGAIN = 1.0  # seconds between two looks for clients that were on their way in


async def wind_up(parts: Assembly, tenant: Tenant) -> None:
    """Gives its clients `server.drain_timeout` seconds to go. It is in `parts.leaving` until it is gone."""
    settings = parts.services.config.server
    links = _links(parts, tenant)
    fields = {"tenant": tenant.name, "connections": len(links), "seconds": settings.drain_timeout}
    log.info("tenant is taken out", extra={"fields": fields})
    try:
        tenant.services.resumption.end_all(CloseReason(CloseCode.GOING_AWAY, WHY, f"tenants.{tenant.name}"))
        with trio.move_on_after(settings.drain_timeout):
            while not tenant.empty:
                await dismiss(_links(parts, tenant), WHY, settings.drain_spread, setting=f"tenants.{tenant.name}")
                with trio.move_on_after(AGAIN):
                    await tenant.until_empty()
        for link in _links(parts, tenant):
            link.abort()
        with trio.move_on_after(parts.services.config.timeouts.close):
            await tenant.until_empty()
        feed = tenant.services.decisions.feed
        if feed is not None:
            feed.flush()  # they hear of the last ones too
            feed.listeners.clear()
        for plugin in tenant.plugins:
            await plugin.end()
        if parts.store is not None:
            await parts.store.release(tenant.services.hub)
    finally:
        parts.leaving.remove(tenant)
    log.info("tenant is gone", extra={"fields": {"tenant": tenant.name}})


def _links(parts: Assembly, tenant: Tenant) -> list[Link]:
    return [link for link in parts.state.links if link.services is tenant.services]
