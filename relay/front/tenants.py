"""A tenant as it runs: a hub, plugins, sessions and counts of its own. And which one a client is let into.

Not here: what a configuration says about it (terms). The one rule: nothing that one tenant's clients can reach is
reachable for another's; what all share (timers, poller, channels' names) holds nothing of anybody's.

"" is the tenant of all who belong to none, and the only one where none is configured.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from relay.auth.refusals import refuse
from relay.auth.tokens import Identity
from relay.config.schema import PluginTable
from relay.errors import Rejected
from relay.front.arrivals import Arrivals
from relay.front.terms import Terms
from relay.limits.counts import Counts
from relay.plugin.supervisor import Supervised
from relay.session.services import Services

if TYPE_CHECKING:
    from relay.front.state import State


Tables: TypeAlias = dict[str, tuple[PluginTable, dict[str, Any]]]
"""Tables of plugins, by name: the keys common to all, and the plugin's own."""


@dataclass(slots=True)
class Tenant:
    """`tables` are those that its plugins were made from. `subjects` counts the connections of each."""

    name: str
    terms: Terms
    services: Services
    plugins: list[Supervised]
    tables: Tables
    subjects: Counts
    arrivals: Arrivals = field(init=False)
    _left: trio.Event = field(default_factory=trio.Event)
    """Set when somebody has left, where that is waited for."""

    def __post_init__(self) -> None:
        self.arrivals = Arrivals(self.plugins)

    @property
    def empty(self) -> bool:
        """Nobody is inside, with or without a socket."""
        return not self.subjects.total

    async def until_empty(self) -> None:
        while not self.empty:
            self._left = trio.Event()
            await self._left.wait()

    def adopt(self, terms: Terms) -> bool:
        """Other terms, from now on; who is inside stays. True: what those spend is counted otherwise."""
        services = self.services
        before = self.terms
        self.terms = terms
        self.subjects.limit = terms.config.limits.connections_per_subject
        services.config = terms.config
        services.message_rate = terms.message_rate
        services.byte_rate = terms.byte_rate
        services.own_settings = terms.own_settings
        if terms.quotas is not services.quotas:
            terms.quotas.inherit(services.quotas)
            services.quotas = terms.quotas
        services.hub.most_rooms = terms.config.limits.rooms
        services.hub.rooms_setting = services.named("limits.rooms") or ""
        services.hub.aliases.adopt(terms.config.aliases)
        return terms.rates != before.rates

    def count_in(self, identity: Identity) -> None:
        """One more connection. Raises Rejected 503, 429. Whoever was counted in owes one `count_out`."""
        most, services = self.terms.config.limits.max_connections, self.services
        if most and services.counters.connections >= most:
            setting = services.named("limits.max_connections")
            raise Rejected(503, "full", "this server is full", retry_after=5.0, setting=setting)
        if not self.subjects.enter(identity.subject):
            raise Rejected(
                429, "too_many_of_subject", "this subject has as many connections as it may have",
                retry_after=10.0, setting=services.named("limits.connections_per_subject"),
            )  # fmt: skip

    def check_origin(self, origin: str | None, host: str | None, tls: bool) -> None:
        """Raises Rejected 403. The door has asked already, where it did not know yet whose client comes."""
        if self.name and not self.terms.origins.allows(origin, host, tls):
            raise Rejected(403, "origin", "pages of this origin may not connect", setting="auth.allowed_origins")

    def count_out(self, identity: Identity) -> None:
        self.subjects.leave(identity.subject)
        if self.empty:
            self._left.set()


class WrongTenant(Rejected):
    """A good token at a door of another tenant. The client is told what a token without the grant is told."""

    def __init__(self, tenant: str, home: str) -> None:
        reason = "your token does not let you join this room" if home else "your token is not for this address"
        super().__init__(403, "forbidden", reason)
        self.why = f"a token of tenant {tenant or 'none'} at a host that is not its own"


def tenant_of(state: State, identity: Identity, owner: str | None, home: str = "") -> Tenant:
    """The tenant a token lets into. `owner`: whose host the client came to; `home`: the room in its address.

    Raises Rejected: 403 for another's host, 401 for a tenant that a reload has taken out while its token was looked at.
    """
    if not state.rules.hosts.admits(identity.tenant, owner):
        raise WrongTenant(identity.tenant, home)
    tenant = state.tenants.get(identity.tenant)
    if tenant is None:
        raise refuse("token_wrong_tenant", "the token's tenant is not served any more", f"tenants.{identity.tenant}")
    return tenant
