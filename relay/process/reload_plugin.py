"""Exchanging one plugin for a newer version of its code and settings, while its rooms are open.

Not here: reading the whole configuration again (reload). The one rule: the new version is checked as at start, and on
any error the old one stays, untouched.
"""

from __future__ import annotations

import logging

from relay.config.loader import LoadedConfig
from relay.delivery.channels import Channels
from relay.errors import ConfigError, ConfigProblem
from relay.plugin.loader import LoadedPlugin, load_one
from relay.plugin.supervisor import Supervised
from relay.process.assembly import Assembly
from relay.process.reload import Load
from relay.process.replugging import exchanged, keeps_rooms

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
        exchanged(plugin, newer).commit()
        parts.tenants[plugin.tenant].tables[name] = loaded.tables_of(plugin.tenant)[1][name]
        parts.founder.let_hear(parts.tenants[plugin.tenant].services)
        log.info("plugin reloaded", extra={"fields": {"plugin": plugin.title, "class": newer.plugin.__qualname__}})


def _newer(loaded: LoadedConfig, plugin: Supervised, tenant: str, channels: Channels) -> LoadedPlugin:
    """What is to take its place, checked. Raises ConfigError."""
    before, tables = loaded.tables_of(tenant)
    key = f"plugins.{plugin.name}"
    place = loaded.where(before + key)
    table = tables.get(plugin.name)
    if table is None or not table[0].enabled:
        raise ConfigError(
            [ConfigProblem(place, before + key, "is not switched on any more", "reload the relay (SIGHUP)")]
        )
    directory = loaded.resolve(loaded.config.supervision.directory)
    newer = load_one(
        plugin.name, *table, directory, channels, lambda setting: loaded.where(before + setting), fresh=True
    )
    if not keeps_rooms(plugin, newer):
        what = "its rooms, its filters, or what its rooms remember have changed"
        raise ConfigError([ConfigProblem(place, before + key, what, "reload the relay (SIGHUP)")])
    return newer
