"""Plugin tables that a reload brings, changes or takes out, while the rooms of all other plugins go on.

A table whose plugin keeps its rooms is exchanged, and nobody notices. Where a room's owner, its filters or its rules
become others, the room is closed: its members are told to join again. Not here: checking tables (plugin/loader), and
exchanging one plugin for newer code (reload_plugin). The one rule: all that can fail is in `plan`, and can be undone;
`carry_out` cannot fail. Durable rooms are read at start, so tables of those wait for it.
"""

from __future__ import annotations

import logging
import math
import random
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from relay.config.loader import LoadedConfig
from relay.errors import CloseCode, CloseReason, ConfigError, ConfigProblem
from relay.front.tenants import Tables, Tenant
from relay.plugin.exchange import Exchange
from relay.plugin.faults import describe
from relay.plugin.loader import LoadedPlugin
from relay.plugin.routing import build_router
from relay.plugin.supervisor import Supervised
from relay.process.assembly import Assembly, is_inhabited
from relay.rooms.room import Room

log = logging.getLogger("relay.plugin")

WHY: Final = "the room's plugin has changed: join again"
AT_ONCE: Final = 100
AGAIN: Final = 0.05  # seconds between two looks at a room that somebody was about to enter


@dataclass(slots=True)
class Plan:
    """For one tenant. `plugins` will be all of its, in the order of their tables; `made` are new among them, and `gone`
    will not be any more.
    """

    tenant: Tenant
    tables: Tables
    plugins: list[Supervised] = field(default_factory=list)
    made: list[Supervised] = field(default_factory=list)
    gone: list[Supervised] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)


def plan(parts: Assembly, loaded: LoadedConfig, tenant: Tenant, undo: ExitStack) -> Plan | None:
    """None: nothing has changed, or what has waits for the next start (`waits`). Raises ConfigError with all that is
    wrong; `undo` takes back what was made.
    """
    tables = tables_of(loaded, tenant.name)
    if list(tables.items()) == list(tenant.tables.items()):
        return None
    before, founder, services = loaded.tables_of(tenant.name)[0], parts.founder, tenant.services
    same = {name for name, table in tables.items() if tenant.tables.get(name) == table}
    running = {plugin.name: plugin for plugin in tenant.plugins}
    newer = {one.name: one for one in founder.plugins_of(loaded, tenant.name, same)} if tables else {}
    found = Plan(tenant, dict(tables))
    if any(_is_durable(name, running, newer) for name in (running.keys() | newer.keys()) - same):
        return None
    problems: list[ConfigProblem] = []
    for name in tables:
        old, new = running.get(name), newer.get(name)
        if name in same and old is not None:
            found.plugins.append(old)
        elif new is not None:
            try:
                if old is not None and keeps_rooms(old, new):
                    exchange = exchanged(old, new, before)
                    undo.callback(exchange.cancel)
                    found.exchanges.append(exchange)
                    found.plugins.append(old)
                else:
                    made = founder.supervise(loaded, tenant.name, services.hub, services.counters, [new])
                    undo.callback(made[0].discard)
                    found.made += made
                    found.plugins += made
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(problems)
    found.gone = [plugin for plugin in tenant.plugins if plugin not in found.plugins]
    return found


def tables_of(loaded: LoadedConfig, tenant: str) -> Tables:
    """Where nobody can be in a tenant, it has no plugins."""
    return loaded.tables_of(tenant)[1] if is_inhabited(loaded.config, tenant) else {}


def waits(loaded: LoadedConfig, tenant: Tenant) -> bool:
    """Whether its plugins are not those of the configuration."""
    return list(tables_of(loaded, tenant.name).items()) != list(tenant.tables.items())


def _is_durable(name: str, running: dict[str, Supervised], newer: dict[str, LoadedPlugin]) -> bool:
    """Whether durable rooms begin or end with a table, or become others."""
    old, new = running.get(name), newer.get(name)
    if old is not None and new is not None and keeps_rooms(old, new):
        return False
    return any(one is not None and one.rule.durable for one in (old, new))


def keeps_rooms(old: Supervised, new: LoadedPlugin) -> bool:
    """Whether what decides about rooms that are open is the same."""
    return old.rule == new.rule and _texts(old) == _texts(new)


def _texts(plugin: LoadedPlugin | Supervised) -> list[list[str]]:
    return [[pattern.text for pattern in patterns] for patterns in (plugin.patterns, plugin.filters)]


def exchanged(old: Supervised, new: LoadedPlugin, before: str = "") -> Exchange:
    """Made and not in force. Raises ConfigError; `before` stands before the key of its table."""
    try:
        return Exchange(old, new)
    except Exception as problem:
        what = f"{new.plugin.__name__} could not take over: {describe(problem)}"
        raise ConfigError([ConfigProblem(new.where, f"{before}plugins.{new.name}", what)]) from None


def carry_out(parts: Assembly, found: Plan) -> None:
    """The plugins are these from now on; rooms of those that are gone are closed meanwhile."""
    tenant = found.tenant
    hub = tenant.services.hub
    for exchange in found.exchanges:
        exchange.commit()
    tenant.plugins[:] = found.plugins
    tenant.tables = found.tables
    hub.router = build_router(found.plugins)
    parts.founder.let_hear(tenant.services)
    for plugin in found.made:
        parts.services.spawn(plugin.background.serve)
    rooms = [room for room in hub.rooms.values() if _has_changed(room)]
    if rooms or found.gone:
        parts.services.spawn(lambda: _close(parts, tenant, rooms, found.gone))


def _has_changed(room: Room) -> bool:
    """Whether a room of that name would be another one if it were opened now."""
    hub = room.hub
    owner = hub.router(room.name)
    return owner is None or owner[0] != room.rule or _chain(owner[1]) != _chain(hub.standing.bare(room.handler))


def _chain(handler: Any) -> tuple[Supervised, ...]:
    """Those who are asked, in order."""
    return handler.all if hasattr(handler, "all") else (handler,)


async def _close(parts: Assembly, tenant: Tenant, rooms: list[Room], gone: list[Supervised]) -> None:
    """Puts everybody out of these rooms, and ends these plugins."""
    with trio.move_on_after(parts.services.config.timeouts.hook or math.inf):
        while rooms := [room for room in rooms if room.hub.rooms.get(room.name) is room]:
            for room in rooms:
                for number, peer in enumerate(room.peers(), 1):
                    if room.has(peer):
                        _put_out(parts, room, peer)
                    if number % AT_ONCE == 0:
                        await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
                room.hub.free_if_empty(room)
            if any(room.hub.rooms.get(room.name) is room for room in rooms):
                await trio.sleep(AGAIN)  # a plugin decides about somebody who is about to enter
    for plugin in gone:
        await plugin.end()
        for one in tenant.plugins:
            if one.title == plugin.title:
                one.introduce()
        log.info("plugin is gone", extra={"fields": {"plugin": plugin.title}})


def _put_out(parts: Assembly, room: Room, peer: Any) -> None:
    """Who is on one room's address comes back by connecting again, the others by joining."""
    if peer.home == room.name:
        settings = parts.services.config.server
        after = round(random.uniform(0, settings.drain_spread), 1)  # noqa: S311 - not a secret
        peer.close(CloseReason(CloseCode.GOING_AWAY, WHY, f"plugins.{room.rule.plugin}", after, 1.0))
    else:
        room.hub.remove(peer, room, WHY, "room_closed")
