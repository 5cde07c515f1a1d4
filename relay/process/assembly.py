"""Everything of one relay, put together from a configuration. Nothing listens yet, nothing runs.

Not here: tasks (server, clocks), and what a reload changes (reload). The one rule: all that is wrong with a
configuration is found before anything is started, and told at once.
"""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass

import trio

from relay import __version__
from relay.auth.revocation import Revocations
from relay.auth.tokens import Identity
from relay.config.loader import LoadedConfig
from relay.config.schema import Config
from relay.counters import Counters
from relay.decisions import Decisions
from relay.delivery.channels import Channels
from relay.errors import ConfigError, ConfigProblem
from relay.front.revoking import Revoking, read_at_start
from relay.front.state import Rules, State, located
from relay.limits.counts import AddressLimits, Counts
from relay.limits.failures import Failures
from relay.limits.pending import Pending
from relay.net.listener import check_congestion
from relay.net.tls import Certificates
from relay.plugin.loader import load_plugins
from relay.plugin.routing import build_router
from relay.plugin.supervisor import Supervised, supervise
from relay.plugin.watchdog import Watchdog
from relay.rooms.archive import Archive
from relay.rooms.hub import Hub
from relay.rooms.journal import Journal
from relay.session import requests
from relay.session.services import KeyFetch, Services
from relay.session.timers import Timers, Wheel
from relay.session.work import Spawn
from relay.store.sqlite import SqliteStore

log = logging.getLogger("relay")


@dataclass(slots=True)
class Assembly:
    """A relay that does not run. `config` is what it was made from; what a reload brings is in `services.config`."""

    config: Config
    counters: Counters
    channels: Channels
    hub: Hub
    watchdog: Watchdog
    plugins: list[Supervised]
    state: State
    services: Services
    store: SqliteStore | None
    revoking: Revoking


def assemble(loaded: LoadedConfig, spawn: Spawn) -> Assembly:
    """`spawn` starts what a connection has to wait for. Raises ConfigError with all that keeps it from starting."""
    config = loaded.config
    counters = Counters()
    timers = Timers()
    channels = Channels(config.channels)
    watchdog = Watchdog(counters, config.supervision.stall, interrupt=config.supervision.interrupt)
    memory = config.history
    journal = Journal(memory.queue_bytes) if memory.file else None
    hub = Hub(
        channels,
        lambda room: None,
        clock=time.time,
        new_epoch=lambda: secrets.token_urlsafe(6),
        part_bytes=config.outbox.part_bytes,
        archive=Archive(memory.memory_bytes),
        journal=journal,
        receipts=(memory.receipts, memory.receipt_seconds),
    )
    plugins: list[Supervised] = []
    revocations = Revocations(config.auth.max_revocations)
    problems = []
    try:
        rules = Rules(loaded, revocations)
    except ConfigError as error:
        problems += located(error, loaded)
    try:
        seen = read_at_start(loaded, revocations, time.time())
    except ConfigError as error:
        problems += error.problems
    try:
        certificates = None if config.server.insecure_plaintext else Certificates(config.tls, loaded.base)
    except ConfigError as error:
        problems += located(error, loaded)
    try:
        directory = loaded.resolve(config.supervision.directory)
        plugins = supervise(
            load_plugins(loaded.plugin_tables, directory, channels, loaded.where),
            hub,
            counters=counters,
            watchdog=watchdog,
            supervision=config.supervision,
            hook_timeout=config.timeouts.hook,
            schedule=lambda seconds, action: timers.at(trio.current_time() + seconds, action),
        )
    except ConfigError as error:
        problems += error.problems
    if problem := check_congestion(config.outbox.congestion):
        problems.append(ConfigProblem(loaded.where("outbox.congestion"), "outbox.congestion", problem))
    if problems:
        raise ConfigError(problems)
    hub.router = build_router(plugins)
    store = _open_store(loaded, hub, journal) if journal is not None else None
    hub.on_removed = requests.removed  # type: ignore[assignment]
    limits = config.limits
    subjects = Counts(limits.connections_per_subject)
    state = State(rules, certificates, AddressLimits(limits), subjects, revocations, Failures(limits), Pending(limits))

    def verify(token: str) -> Identity:
        """By the rules in force now: a reload swaps them."""
        return state.rules.verify(token)

    services = Services(
        config,
        hub,
        channels,
        counters,
        timers,
        Wheel(config.websocket.heartbeat, config.websocket.heartbeat_timeout),
        time.time,
        trio.current_time,
        spawn,
        verify,
        rules.message_rate,
        rules.byte_rate,
        __version__,
        decisions=Decisions(config.internal.recent_decisions, time.time),
        quotas=rules.quotas,
    )

    def key_fetch(issuer: str) -> KeyFetch | None:
        fetcher = state.rules.fetchers.get(issuer)
        return None if fetcher is None else fetcher.wait_for_kid

    services.key_fetch = key_fetch
    services.check_revoked = revocations.check
    revoking = Revoking(state, services.sessions.values, time.time, seen)
    services.plugins = plugins
    return Assembly(config, counters, channels, hub, watchdog, plugins, state, services, store, revoking)


def _open_store(loaded: LoadedConfig, hub: Hub, journal: Journal) -> SqliteStore:
    """The file of durable rooms, read. Raises ConfigError."""
    memory = loaded.config.history
    try:
        store = SqliteStore(loaded.resolve(memory.file), sync=memory.sync, receipt_seconds=memory.receipt_seconds)
    except ConfigError as error:
        raise ConfigError(located(error, loaded)) from None
    rooms = store.load(hub, journal)
    log.info("rooms are remembered", extra={"fields": {"rooms": rooms, "file": str(store.file)}})
    return store
