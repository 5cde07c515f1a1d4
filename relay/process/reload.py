"""Reading configuration, keys and certificates again while the relay runs; and fetching keys meanwhile.

Not here: where a configuration comes from (`Load`), signals (server). The one rule: on any error all stays as it was.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from relay.config.loader import LoadedConfig
from relay.config.schema import Config
from relay.errors import ConfigError, ConfigProblem
from relay.front.state import Rules, State, located
from relay.front.tenants import Tenant
from relay.process.assembly import Assembly, hosts_are_named
from relay.process.founding import Founded
from relay.process.leaving import wind_up
from relay.process.listening import Listening, Sockets, adopt, drop, prepare
from relay.process.replugging import Plan, carry_out, plan, waits
from relay.session.everybody import AT_ONCE, for_each
from relay.session.metered import renew_quotas

log = logging.getLogger("relay")

Load = Callable[[], LoadedConfig]

AT_START: Final = ("server", "internal", "channels", "history", "supervision", "outbox")
"""Tables that are read once; the log says where they have changed."""


TOKENS_END: Final = ("leeway", "grace", "on_expiry", "read_only_for")
"""Settings of `auth` that say when a session's token is over, and what then: those of live sessions follow."""


class KeyRefresh:
    """The tasks that fetch issuers' keys, one each; after a reload they are others."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None
        self._scope: trio.CancelScope | None = None

    def begin(self, nursery: trio.Nursery, rules: Rules) -> None:
        self._nursery = nursery
        self.again(rules)

    def again(self, rules: Rules) -> None:
        """By other rules from now on. Before `begin` it does nothing."""
        if self._scope is not None:
            self._scope.cancel()
            self._scope = None
        if rules.fetchers and self._nursery is not None:
            scope = self._scope = trio.CancelScope()

            async def keep_fresh() -> None:
                with scope:
                    async with trio.open_nursery() as nursery:
                        for fetcher in rules.fetchers.values():
                            nursery.start_soon(fetcher.keep_fresh)

            self._nursery.start_soon(keep_fresh)


def _at_start(config: Config, name: str) -> object:
    """What of a table is read once. Listeners are exchanged, the API's own settings looked up at each request."""
    server, internal = config.server, config.internal
    if name == "server":
        return server.insecure_plaintext, server.playground, server.poller
    return internal.recent_decisions if name == "internal" else getattr(config, name)


def reload(parts: Assembly, load: Load, keys: KeyRefresh, listening: Sequence[Listening] = ()) -> bool:
    """Puts what `load` reads in force. False, and the log says why, where it cannot be: then nothing has changed."""
    try:
        loaded = load()
        change = _prepare(parts, loaded, listening)
    except ConfigError as error:
        parts.counters.reloads["failed"] += 1
        log.error(
            "reload refused, everything stays as it was",
            extra={"fields": {"problems": [str(one) for one in error.problems]}},
        )
        return False
    kept = [name for name in AT_START if _at_start(parts.config, name) != _at_start(loaded.config, name)]
    _adopt(parts, change)
    adopt(listening, loaded, change.opened)
    keys.again(change.rules)
    waiting = [name for name, tenant in parts.tenants.items() if waits(loaded, tenant)]
    kept += (["plugins"] if "" in waiting else []) + (["tenants"] if any(waiting) else [])
    parts.counters.reloads["ok"] += 1
    log.info("reloaded", extra={"fields": {"needs_restart": kept}})
    return True


@dataclass(slots=True, frozen=True)
class Change:
    """All that a configuration brings, made and not in force."""

    rules: Rules
    founded: list[Founded]
    plans: list[Plan]
    opened: list[Sockets]


def _prepare(parts: Assembly, loaded: LoadedConfig, listening: Sequence[Listening]) -> Change:
    """Raises ConfigError with all that is wrong: then nothing is left of it."""
    problems: list[ConfigProblem] = []
    rules, opened = None, list[Sockets]()
    with ExitStack() as undo:
        try:
            rules = Rules(loaded, parts.state.revocations)
        except ConfigError as error:
            problems += error.problems
        founded = _found(parts, loaded, undo, problems)
        plans = _plans(parts, loaded, undo, problems)
        try:
            opened = prepare(listening, loaded)
            for sockets in opened:
                undo.callback(drop, sockets)
        except ConfigError as error:
            problems += error.problems
        if not problems:
            assert rules is not None
            try:  # last, because it swaps them
                if parts.state.certificates is not None:
                    parts.state.certificates.reload(loaded.config.tls, notes_names=hosts_are_named(loaded.config))
                undo.pop_all()
                return Change(rules, founded, plans, opened)
            except ConfigError as error:
                problems += error.problems
    raise ConfigError(located(ConfigError(list(dict.fromkeys(problems))), loaded))


def _found(
    parts: Assembly, loaded: LoadedConfig, undo: ExitStack, problems: list[ConfigProblem]
) -> list[Founded]:  # fmt: skip
    """The tenants that are new. `problems` gets all that is wrong with any of them."""
    made: list[Founded] = []
    store = parts.store
    for name in loaded.config.tenants:
        if name in parts.tenants:
            continue
        key = f"tenants.{name}"
        if store is not None and any(one.name == name for one in parts.leaving):
            why = "this tenant was taken out, and is not gone yet"
            problems.append(ConfigProblem(loaded.where(key), key, why, "the log says when it is: reload again then"))
            continue
        try:
            one = parts.founder.found(loaded, name)
            made.append(one)
            undo.callback(one.discard)
            if store is not None and one.hub.journal is not None:
                store.load(one.hub, one.hub.journal)
                undo.callback(store.let_go, one.hub)
        except ConfigError as error:
            problems += error.problems
        except sqlite3.Error as error:
            problems.append(
                ConfigProblem(loaded.where(key), key, f"its rooms cannot be read from history.file: {error}")
            )
    return made


def _plans(
    parts: Assembly, loaded: LoadedConfig, undo: ExitStack, problems: list[ConfigProblem]
) -> list[Plan]:  # fmt: skip
    """What becomes of the plugins of tenants that stay. `problems` gets all that is wrong with any of them."""
    plans: list[Plan] = []
    for name, tenant in parts.tenants.items():
        if name and name not in loaded.config.tenants:
            continue
        try:
            found = plan(parts, loaded, tenant, undo)
        except ConfigError as error:
            problems += error.problems
        else:
            plans += [found] if found is not None else []
    return plans


def _adopt(parts: Assembly, change: Change) -> None:
    """The rules are these from now on, and so are the tenants."""
    state, rules = parts.state, change.rules
    new = rules.config
    for name, cache in rules.jwks.items():
        if name in state.rules.jwks:
            cache.inherit(state.rules.jwks[name])  # valid users stay valid if the issuer is down just now
    old, state.rules = state.rules.config, rules
    for name in [name for name in state.tenants if name not in rules.terms]:
        leaving = state.tenants.pop(name)
        parts.leaving.append(leaving)
        parts.services.spawn(partial(wind_up, parts, leaving))
    counted_anew = [tenant for name, tenant in state.tenants.items() if tenant.adopt(rules.terms[name])]
    if counted_anew:
        parts.services.spawn(partial(_count_anew, state, counted_anew))
    for found in change.plans:
        carry_out(parts, found)
    for one in change.founded:
        _begin(parts, one)
    state.addresses.adopt(new.limits)
    state.failures.adopt(new.limits)
    state.pending.adopt(new.limits)
    if any(getattr(old.auth, name) != getattr(new.auth, name) for name in TOKENS_END):
        parts.services.spawn(lambda: _look_at_tokens(state))


def _begin(parts: Assembly, founded: Founded) -> None:
    """A new tenant is served, and its plugins run."""
    tenant = parts.founder.settle(founded, parts.state)
    for plugin in tenant.plugins:
        parts.services.spawn(plugin.background.serve)
    log.info("tenant is served", extra={"fields": {"tenant": tenant.name, "plugins": len(tenant.plugins)}})


async def _look_at_tokens(state: State) -> None:
    await for_each(state.sessions(), lambda connection: connection.credentials.look())


async def _count_anew(state: State, tenants: list[Tenant]) -> None:
    """Rates and quotas of live connections are others from now on."""
    for tenant in tenants:
        await for_each(tenant.services.sessions.values(), renew_quotas)
    links = [link for link in state.links if any(link.services is tenant.services for tenant in tenants)]
    for number, link in enumerate(links, 1):
        if not link.finished:
            link.pace_anew()
        if number % AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
