"""Reading configuration, keys and certificates again while the relay runs; and fetching keys meanwhile.

Not here: where a configuration comes from (`Load`), signals (server). The one rule: on any error all stays as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

import trio

from relay.config.loader import LoadedConfig
from relay.config.schema import Config
from relay.errors import ConfigError
from relay.front.state import Rules, State
from relay.process.assembly import Assembly
from relay.process.listening import Listening, adopt, drop, prepare
from relay.session.everybody import for_each

log = logging.getLogger("relay")

Load = Callable[[], LoadedConfig]

AT_START: Final = ("server", "internal", "channels", "history", "supervision", "plugins", "outbox")
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
    state = parts.state
    try:
        with ExitStack() as undo:
            loaded = load()
            rules = Rules(loaded, state.revocations)
            opened = prepare(listening, loaded)
            for sockets in opened:
                undo.callback(drop, sockets)
            if state.certificates is not None:
                state.certificates.reload(loaded.config.tls)
            undo.pop_all()
    except ConfigError as error:
        parts.counters.reloads["failed"] += 1
        log.error(
            "reload refused, everything stays as it was",
            extra={"fields": {"problems": [str(one) for one in error.problems]}},
        )
        return False
    for name, cache in rules.jwks.items():
        if name in state.rules.jwks:
            cache.inherit(state.rules.jwks[name])  # valid users stay valid if the issuer is down just now
    old, new = state.rules.config, loaded.config
    kept = [name for name in AT_START if _at_start(parts.config, name) != _at_start(new, name)]
    if {name: one.plugins for name, one in parts.config.tenants.items()} != {
        name: one.plugins for name, one in new.tenants.items()
    }:
        kept.append("tenants")
    state.rules = rules
    for name, tenant in state.tenants.items():
        if name in rules.terms:
            tenant.adopt(rules.terms[name])
    adopt(listening, loaded, opened)
    state.addresses.adopt(new.limits)
    state.failures.adopt(new.limits)
    state.pending.adopt(new.limits)
    keys.again(rules)
    if any(getattr(old.auth, name) != getattr(new.auth, name) for name in TOKENS_END):
        parts.services.spawn(lambda: _look_at_tokens(state))
    parts.counters.reloads["ok"] += 1
    log.info("reloaded", extra={"fields": {"needs_restart": kept}})
    return True


async def _look_at_tokens(state: State) -> None:
    await for_each(state.sessions(), lambda connection: connection.credentials.look())
