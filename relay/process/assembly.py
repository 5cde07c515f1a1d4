"""Everything of one relay, put together from a configuration. Nothing listens yet, nothing runs.

Not here: tasks (server, clocks), one tenant (founding), and what a reload changes (reload). The one rule: all that is
wrong with a configuration is found before anything is started, and told at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from relay.auth.revocation import Revocations
from relay.config.loader import LoadedConfig
from relay.config.schema import Config, tenants_of
from relay.counters import Counters
from relay.decisions import Decisions
from relay.delivery.channels import Channels
from relay.errors import ConfigError, ConfigProblem
from relay.front.revoking import Revoking, read_at_start
from relay.front.state import Rules, State, located
from relay.front.tenants import Tenant
from relay.limits.counts import AddressLimits
from relay.limits.failures import Failures
from relay.limits.pending import Pending
from relay.net.listener import check_congestion
from relay.net.tls import Certificates
from relay.plugin.loader import LoadedPlugin
from relay.plugin.supervisor import Supervised
from relay.plugin.watchdog import Watchdog
from relay.process.founding import Founded, Founder
from relay.rooms.hub import Hub
from relay.session.services import Services
from relay.session.work import Spawn
from relay.store.sqlite import SqliteStore

log = logging.getLogger("relay")


@dataclass(slots=True)
class Assembly:
    """A relay that does not run. `config` is what it was made from; what a reload brings is in `state.rules`.

    `tenants` has "" first, whose `services` and `hub` are there by these names too. `leaving` are those that a reload
    has taken out, and that are not gone yet.
    """

    config: Config
    counters: Counters
    channels: Channels
    watchdog: Watchdog
    founder: Founder
    state: State
    services: Services
    tenants: dict[str, Tenant]
    store: SqliteStore | None
    revoking: Revoking
    leaving: list[Tenant] = field(default_factory=list)

    @property
    def hub(self) -> Hub:
        return self.services.hub

    def tell_decisions(self) -> None:
        """Those who hear of decisions are told of the last ones."""
        for tenant in self.tenants.values():
            if tenant.services.decisions.feed is not None:
                tenant.services.decisions.feed.flush()

    @property
    def plugins(self) -> list[Supervised]:
        """Those of all tenants."""
        return [plugin for tenant in self.tenants.values() for plugin in tenant.plugins]

    def hubs(self) -> list[Hub]:
        return [tenant.services.hub for tenant in self.tenants.values()]

    def every_counters(self) -> list[Counters]:
        return [tenant.services.counters for tenant in self.tenants.values()]


def assemble(loaded: LoadedConfig, spawn: Spawn) -> Assembly:
    """`spawn` starts what a connection has to wait for. Raises ConfigError with all that keeps it from starting."""
    config = loaded.config
    channels = Channels(config.channels)
    counters = Counters()
    supervision = config.supervision
    watchdog = Watchdog(counters, supervision.stall, interrupt=supervision.interrupt, slow=supervision.slow_hook)
    decisions = Decisions(config.internal.recent_decisions, time.time)
    founder = Founder(config, channels, counters, watchdog, decisions, spawn)
    problems = []
    revocations = Revocations(config.auth.max_revocations)
    try:
        rules = Rules(loaded, revocations)
    except ConfigError as error:
        problems += located(error, loaded)
    try:
        seen = read_at_start(loaded, revocations, time.time())
    except ConfigError as error:
        problems += error.problems
    try:
        certificates = (
            None
            if config.server.insecure_plaintext
            else Certificates(config.tls, loaded.base, notes_names=hosts_are_named(config))
        )
    except ConfigError as error:
        problems += located(error, loaded)
    founded: list[Founded] = []
    top: list[LoadedPlugin] | None = None  # looked for once: the tenants without tables of their own have the same
    for name in ["", *config.tenants]:
        try:
            if not is_inhabited(config, name):
                found: list[LoadedPlugin] = []
            elif loaded.tables_of(name)[0]:
                found = founder.plugins_of(loaded, name)
            else:
                found = top = founder.plugins_of(loaded, "") if top is None else top
            founded.append(founder.found(loaded, name, found))
        except ConfigError as error:
            problems += error.problems
    if problem := check_congestion(config.outbox.congestion):
        problems.append(ConfigProblem(loaded.where("outbox.congestion"), "outbox.congestion", problem))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    store = _open_store(loaded, [one.hub for one in founded])
    limits = config.limits
    state = State(rules, certificates, AddressLimits(limits), revocations, Failures(limits), Pending(limits))
    for one in founded:
        founder.settle(one, state)
    services = state.tenants[""].services
    revoking = Revoking(state, state.sessions, time.time, seen)
    return Assembly(config, counters, channels, watchdog, founder, state, services, state.tenants, store, revoking)


def hosts_are_named(config: Config) -> bool:
    """Whether it has to be known which name a client asked for in TLS."""
    return any(tenant.hosts for tenant in config.tenants.values())


def is_inhabited(config: Config, tenant: str) -> bool:
    """Whether any token can be of that tenant: where all issuers are tenants', nobody is outside them."""
    return bool(tenant) or any("" in names for names in tenants_of(config.auth, config.tenants).values())


def _open_store(loaded: LoadedConfig, hubs: Iterable[Hub]) -> SqliteStore | None:
    """The file of durable rooms, read. Raises ConfigError."""
    memory = loaded.config.history
    if not memory.file:
        return None
    try:
        store = SqliteStore(loaded.resolve(memory.file), sync=memory.sync, receipt_seconds=memory.receipt_seconds)
    except ConfigError as error:
        raise ConfigError(located(error, loaded)) from None
    rooms = sum(store.load(hub, hub.journal) for hub in hubs if hub.journal is not None)
    log.info("rooms are remembered", extra={"fields": {"rooms": rooms, "file": str(store.file)}})
    return store
