"""Exchanging one plugin for a newer version of its code and settings, while its rooms are open.

Not here: reading the whole configuration again (reload). The one rule: the new version is checked as at start, and on
any error the old one stays, untouched.
"""

from __future__ import annotations

import logging

from relay.config.loader import LoadedConfig
from relay.delivery.channels import Channels
from relay.errors import ConfigError, ConfigProblem, PluginError
from relay.plugin.faults import describe
from relay.plugin.loader import LoadedPlugin, load_one
from relay.plugin.supervisor import Supervised
from relay.process.assembly import Assembly
from relay.process.reload import Load

log = logging.getLogger("relay.plugin")


def reload_plugin(parts: Assembly, load: Load, name: str, tenant: str | None) -> None:
    """In one tenant, or (None) in all that have it. Raises ConfigError with every problem of the new version.

    Nobody is disconnected, whatever happens.
    """
    loaded = load()
    found = [
        (plugin, _newer(loaded, plugin, where, parts.channels))
        for where, each in parts.tenants.items()
        for plugin in each.plugins
        if plugin.name == name and tenant in (None, where)
    ]
    for plugin, newer in found:
        key = f"plugins.{name}"
        try:
            plugin.exchange(newer)
        except PluginError as problem:
            raise ConfigError([ConfigProblem(newer.where, key, problem.what, problem.hint)]) from None
        except Exception as problem:
            what = f"{newer.plugin.__name__} could not take over: {describe(problem)}"
            raise ConfigError([ConfigProblem(newer.where, key, what)]) from None
        log.info("plugin reloaded", extra={"fields": {"plugin": plugin.title, "class": newer.plugin.__qualname__}})


def _newer(loaded: LoadedConfig, plugin: Supervised, tenant: str, channels: Channels) -> LoadedPlugin:
    """What is to take its place, checked. Raises ConfigError."""
    before, tables = loaded.tables_of(tenant)
    key = f"plugins.{plugin.name}"
    place = loaded.where(before + key)
    table = tables.get(plugin.name)
    if table is None or not table[0].enabled:
        raise ConfigError([ConfigProblem(place, before + key, "is not switched on any more", "restart the relay")])
    directory = loaded.resolve(loaded.config.supervision.directory)
    newer = load_one(
        plugin.name, *table, directory, channels, lambda setting: loaded.where(before + setting), fresh=True
    )
    if newer.rule != plugin.rule or _texts(newer) != _texts(plugin):
        what = "its rooms, its filters, or what its rooms remember have changed"
        raise ConfigError([ConfigProblem(place, before + key, what, "restart the relay")])
    return newer


def _texts(plugin: LoadedPlugin | Supervised) -> list[list[str]]:
    """What decides about rooms that are open: it is read at start."""
    return [[pattern.text for pattern in patterns] for patterns in (plugin.patterns, plugin.filters)]
