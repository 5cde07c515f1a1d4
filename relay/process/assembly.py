"""Everything of one relay, put together from a configuration. Nothing listens yet, nothing runs.

Not here: tasks (server, clocks), and what a reload changes (reload). The one rule: all that is wrong with a
configuration is found before anything is started, and told at once.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import trio

from relay import __version__
from relay.auth.refusals import refuse
from relay.auth.revocation import Revocations
from relay.auth.tokens import Identity
from relay.config.loader import LoadedConfig
from relay.config.schema import Config, tenants_of
from relay.counters import Counters
from relay.decisions import Decisions, Feed
from relay.delivery.channels import Channels
from relay.errors import ConfigError, ConfigProblem
from relay.front.revoking import Revoking, read_at_start
from relay.front.state import Rules, State, located
from relay.front.tenants import Tenant
from relay.limits.counts import AddressLimits, Counts
from relay.limits.failures import Failures
from relay.limits.pending import Pending
from relay.net.listener import check_congestion
from relay.net.tls import Certificates
from relay.plugin.crew import supervise
from relay.plugin.faults import Schedule
from relay.plugin.loader import LoadedPlugin, load_tenant_plugins
from relay.plugin.routing import build_router
from relay.plugin.supervisor import Supervised
from relay.plugin.watchdog import Watchdog
from relay.rooms.archive import Archive
from relay.rooms.hub import Hub
from relay.rooms.journal import Journal
from relay.session import joining, patterns
from relay.session.services import KeyFetch, Services
from relay.session.timers import Timer, Timers, Wheel
from relay.session.work import Spawn
from relay.store.sqlite import SqliteStore

log = logging.getLogger("relay")


@dataclass(slots=True)
class Assembly:
    """A relay that does not run. `config` is what it was made from; what a reload brings is in `state.rules`.

    `tenants` has "" first, whose `services` and `hub` are there by these names too.
    """

    config: Config
    counters: Counters
    channels: Channels
    watchdog: Watchdog
    state: State
    services: Services
    tenants: dict[str, Tenant]
    store: SqliteStore | None
    revoking: Revoking

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


def assemble(loaded: LoadedConfig, spawn: Spawn) -> Assembly:
    """`spawn` starts what a connection has to wait for. Raises ConfigError with all that keeps it from starting."""
    config = loaded.config
    channels = Channels(config.channels)
    counters = Counters()
    timers = Timers()
    watchdog = Watchdog(counters, config.supervision.stall, interrupt=config.supervision.interrupt)

    def schedule(seconds: float, action: Callable[[], None]) -> Timer:
        return timers.at(trio.current_time() + seconds, action)

    names = ["", *config.tenants]
    hubs = {name: _make_hub(config, channels, name, schedule) for name in names}
    every = {name: counters if not name else Counters() for name in names}
    plugins: dict[str, list[Supervised]] = {}
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
        named = any(tenant.hosts for tenant in config.tenants.values())
        certificates = (
            None if config.server.insecure_plaintext else Certificates(config.tls, loaded.base, notes_names=named)
        )
    except ConfigError as error:
        problems += located(error, loaded)

    top: list[LoadedPlugin] | None = None  # looked for once: the tenants without tables of their own have the same
    for name in _inhabited(config):
        try:
            if loaded.tables_of(name)[0]:
                found = load_tenant_plugins(loaded, name, channels)
            else:
                found = top = load_tenant_plugins(loaded, "", channels) if top is None else top
            plugins[name] = _make_plugins(loaded, found, name, hubs[name], every[name], watchdog, schedule)
        except ConfigError as error:
            problems += error.problems
    if problem := check_congestion(config.outbox.congestion):
        problems.append(ConfigProblem(loaded.where("outbox.congestion"), "outbox.congestion", problem))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    for name, hub in hubs.items():
        hub.router = build_router(plugins.get(name, ()))
    store = _open_store(loaded, hubs.values())
    limits = config.limits
    state = State(rules, certificates, AddressLimits(limits), revocations, Failures(limits), Pending(limits))
    wheel = Wheel(config.websocket.heartbeat, config.websocket.heartbeat_timeout)
    decisions = Decisions(config.internal.recent_decisions, time.time)

    def key_fetch(issuer: str) -> KeyFetch | None:
        fetcher = state.rules.fetchers.get(issuer)
        return None if fetcher is None else fetcher.wait_for_kid

    for name in names:
        services = Services(
            config,
            hubs[name],
            channels,
            every[name],
            timers,
            wheel,
            time.time,
            trio.current_time,
            spawn,
            partial(_verify, state, name),
            rules.message_rate,
            rules.byte_rate,
            __version__,
            key_fetch=key_fetch,
            bad_token=state.not_authenticated,
            check_revoked=revocations.check,
            quotas=rules.terms[name].quotas,
            decisions=decisions.of_tenant(name) if name else decisions,
        )
        services.plugins = plugins.get(name, [])
        _let_hear(services, schedule)
        tenant = state.tenants[name] = Tenant(name, rules, services, plugins.get(name, []), Counts(0))
        tenant.adopt(rules.terms[name])
    services = state.tenants[""].services
    revoking = Revoking(state, state.sessions, time.time, seen)
    return Assembly(config, counters, channels, watchdog, state, services, state.tenants, store, revoking)


def _let_hear(services: Services, schedule: Schedule) -> None:
    """Plugins that ask for it hear of what is decided in their tenant."""
    listeners = [plugin.decisions for plugin in services.plugins if plugin.hears_decisions]
    if listeners:
        services.decisions.feed = Feed(schedule)
        services.decisions.feed.listeners += listeners


def _verify(state: State, tenant: str, token: str) -> Identity:
    """For a session of that tenant, by the rules in force now: a reload swaps them. Raises Rejected."""
    identity = state.rules.verify(token)
    if identity.tenant != tenant:
        raise refuse("token_wrong_issuer", setting="auth.issuers")
    return identity


def _inhabited(config: Config) -> list[str]:
    """The tenants that any token can be of: where all issuers are tenants', nobody is outside them."""
    found = tenants_of(config.auth, config.tenants)
    return [*([""] if any("" in names for names in found.values()) else []), *config.tenants]


def _make_hub(
    config: Config, channels: Channels, tenant: str, schedule: Callable[[float, Callable[[], None]], Timer]
) -> Hub:
    memory = config.history
    hub = Hub(
        channels,
        lambda room: None,
        clock=time.time,
        new_epoch=lambda: secrets.token_urlsafe(6),
        part_bytes=config.outbox.part_bytes,
        archive=Archive(memory.memory_bytes),
        journal=Journal(memory.queue_bytes, tenant) if memory.file else None,
        receipts=(memory.receipts, memory.receipt_seconds),
        schedule=schedule,
    )
    hub.on_removed = joining.removed  # type: ignore[assignment]
    hub.on_renamed = joining.renamed  # type: ignore[assignment]
    hub.watching.ended = patterns.ended  # type: ignore[assignment]
    return hub


def _make_plugins(
    loaded: LoadedConfig,
    found: list[LoadedPlugin],
    tenant: str,
    hub: Hub,
    counters: Counters,
    watchdog: Watchdog,
    schedule: Schedule,
) -> list[Supervised]:
    """Raises ConfigError."""
    config = loaded.config
    try:
        return supervise(
            found,
            hub,
            counters=counters,
            watchdog=watchdog,
            supervision=config.supervision,
            hook_timeout=config.timeouts.hook,
            tenant=tenant,
            schedule=schedule,
        )
    except ConfigError as error:
        before, _ = loaded.tables_of(tenant)
        raise ConfigError([replace(problem, key=before + problem.key) for problem in error.problems]) from None


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
