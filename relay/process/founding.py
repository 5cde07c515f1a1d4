"""Making one tenant: its hub, its plugins, its counts. At the start those that are configured, later those of a reload.

Not here: taking one out again (leaving), and what all share (assembly). The one rule: whatever can fail is in `found`,
and what it has made can be thrown away; `settle` cannot fail.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import trio

from relay import __version__
from relay.auth.refusals import refuse
from relay.auth.tokens import Identity
from relay.config.loader import LoadedConfig
from relay.config.schema import Config
from relay.counters import Counters
from relay.decisions import Decisions, Feed
from relay.delivery.channels import Channels
from relay.errors import ConfigError, ConfigProblem
from relay.front.returning import given_up
from relay.front.state import State
from relay.front.tenants import Tables, Tenant
from relay.limits.counts import Counts
from relay.plugin.crew import supervise
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
from relay.session.turns import tell_of_turns
from relay.session.work import Spawn


@dataclass(slots=True, frozen=True)
class Founded:
    """What only one tenant has. Its plugins are made, and do not run."""

    name: str
    hub: Hub
    counters: Counters
    plugins: list[Supervised]
    tables: Tables

    def discard(self) -> None:
        for plugin in self.plugins:
            plugin.discard()


class Founder:
    """`config` is what the relay was started with: some tables hold from the start to the end."""

    def __init__(
        self, config: Config, channels: Channels, counters: Counters, watchdog: Watchdog, decisions: Decisions,
        spawn: Spawn,
    ) -> None:  # fmt: skip
        self.config = config
        self.channels = channels
        self.timers = Timers()
        self.wheel = Wheel(config.websocket.heartbeat, config.websocket.heartbeat_timeout)
        self._counters = counters
        self._watchdog = watchdog
        self._decisions = decisions
        self._spawn = spawn

    def found(self, loaded: LoadedConfig, name: str, given: list[LoadedPlugin] | None = None) -> Founded:
        """`given` are its plugins, where they have been looked for. Raises ConfigError with every problem: then nothing
        is left of it.
        """
        counters = Counters() if name else self._counters
        hub = self._hub(name)
        plugins = self.supervise(loaded, name, hub, counters, self.plugins_of(loaded, name) if given is None else given)
        hub.router = build_router(plugins)
        return Founded(name, hub, counters, plugins, dict(loaded.tables_of(name)[1]) if plugins else {})

    def plugins_of(self, loaded: LoadedConfig, tenant: str, known: Collection[str] = ()) -> list[LoadedPlugin]:
        """But for those that are `known`. Raises ConfigError."""
        return load_tenant_plugins(self._as_running(loaded), tenant, self.channels, known)

    def _as_running(self, loaded: LoadedConfig) -> LoadedConfig:
        """With the tables of the start where they are read at the start only."""
        running = self.config
        return replace(loaded, config=msgspec.structs.replace(loaded.config, supervision=running.supervision))

    def _hub(self, tenant: str) -> Hub:
        memory, outbox = self.config.history, self.config.outbox
        hub = Hub(
            self.channels,
            lambda room: None,
            clock=time.time,
            new_epoch=lambda: secrets.token_urlsafe(6),
            part_bytes=outbox.part_bytes,
            archive=Archive(memory.memory_bytes),
            journal=Journal(memory.queue_bytes, tenant) if memory.file else None,
            receipts=(memory.receipts, memory.receipt_seconds),
            schedule=self._schedule,
        )
        hub.on_removed = joining.removed  # type: ignore[assignment]
        hub.on_renamed = joining.renamed  # type: ignore[assignment]
        hub.watching.ended = patterns.ended  # type: ignore[assignment]
        return hub

    def _schedule(self, seconds: float, action: Callable[[], None]) -> Timer:
        return self.timers.at(trio.current_time() + seconds, action)

    def supervise(
        self, loaded: LoadedConfig, tenant: str, hub: Hub, counters: Counters, found: list[LoadedPlugin]
    ) -> list[Supervised]:
        """Raises ConfigError."""
        before, _ = loaded.tables_of(tenant)
        problems = [
            ConfigProblem(
                one.where,
                f"{before}plugins.{one.name}.durable",
                "needs history.file",
                "which is read at the start: restart",
            )
            for one in found
            if one.rule.durable and hub.journal is None
        ]
        if problems:  # the loader has said so, unless the file came with this very reload
            raise ConfigError(problems)
        try:
            return supervise(
                found,
                hub,
                counters=counters,
                watchdog=self._watchdog,
                supervision=self.config.supervision,
                hook_timeout=loaded.config.timeouts.hook,
                tenant=tenant,
                schedule=self._schedule,
            )
        except ConfigError as error:
            raise ConfigError([replace(problem, key=before + problem.key) for problem in error.problems]) from None

    def let_hear(self, services: Services) -> None:
        """Plugins that ask for it hear of what is decided in their tenant; and the tenant hears of those that take
        turns.
        """
        for plugin in services.plugins:
            tell_of_turns(services, plugin)
        listeners = [plugin.decisions for plugin in services.plugins if plugin.hears_decisions]
        decisions = services.decisions
        if decisions.feed is not None:
            decisions.feed.flush()
        decisions.feed = Feed(self._schedule) if listeners else None
        if decisions.feed is not None:
            decisions.feed.listeners += listeners

    def settle(self, founded: Founded, state: State) -> Tenant:
        """One more tenant of `state`, by its rules."""
        name, rules = founded.name, state.rules
        terms = rules.terms[name]

        def key_fetch(issuer: str) -> KeyFetch | None:
            fetcher = state.rules.fetchers.get(issuer)
            return None if fetcher is None else fetcher.wait_for_kid

        services = Services(
            terms.config,
            founded.hub,
            self.channels,
            founded.counters,
            self.timers,
            self.wheel,
            time.time,
            trio.current_time,
            self._spawn,
            partial(_verify, state, name),
            terms.message_rate,
            terms.byte_rate,
            __version__,
            key_fetch=key_fetch,
            bad_token=state.not_authenticated,
            check_revoked=state.revocations.check,
            quotas=terms.quotas,
            decisions=self._decisions.of_tenant(name) if name else self._decisions,
            plugins=founded.plugins,
        )
        self.let_hear(services)
        tenant = state.tenants[name] = Tenant(name, terms, services, founded.plugins, founded.tables, Counts(0))
        services.resumption.ended = partial(given_up, tenant)
        tenant.adopt(terms)
        return tenant


def _verify(state: State, tenant: str, token: str) -> Identity:
    """For a session of that tenant, by the rules in force now: a reload swaps them. Raises Rejected."""
    identity = state.rules.verify(token)
    if identity.tenant != tenant:
        raise refuse("token_wrong_issuer", setting="auth.issuers")
    return identity
