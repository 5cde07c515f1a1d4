"""Exchanging one plugin for a newer version of its code and settings, while its rooms are open.

Not here: reading the whole configuration again (reload). The one rule: the new version is checked as at start, and on
any error the old one stays, untouched.
"""

from __future__ import annotations

import logging

from relay.errors import ConfigError, ConfigProblem, PluginError
from relay.plugin.faults import describe
from relay.plugin.loader import LoadedPlugin, load_one
from relay.plugin.supervisor import Supervised
from relay.process.assembly import Assembly
from relay.process.reload import Load

log = logging.getLogger("relay.plugin")


def reload_plugin(parts: Assembly, load: Load, name: str) -> None:
    """Raises ConfigError with every problem of the new version. Nobody is disconnected, whatever happens."""
    plugin = next(one for one in parts.services.plugins if one.name == name)
    loaded = load()
    table = loaded.plugin_tables.get(name)
    key = f"plugins.{name}"
    if table is None or not table[0].enabled:
        raise ConfigError([ConfigProblem(loaded.where(key), key, "is not switched on any more", "restart the relay")])
    directory = loaded.resolve(loaded.config.supervision.directory)
    one = load_one(name, *table, directory, parts.channels, loaded.where, fresh=True)
    if one.rule != plugin.rule or _texts(one) != _texts(plugin):
        what = "its rooms, its filters, or what its rooms remember have changed"
        raise ConfigError([ConfigProblem(loaded.where(key), key, what, "restart the relay")])
    try:
        plugin.exchange(one)
    except PluginError as problem:
        raise ConfigError([ConfigProblem(one.where, key, problem.what, problem.hint)]) from None
    except Exception as problem:
        what = f"{one.plugin.__name__} could not take over: {describe(problem)}"
        raise ConfigError([ConfigProblem(one.where, key, what)]) from None
    log.info("plugin reloaded", extra={"fields": {"plugin": name, "class": one.plugin.__qualname__}})


def _texts(plugin: LoadedPlugin | Supervised) -> list[list[str]]:
    """What decides about rooms that are open: it is read at start."""
    return [[pattern.text for pattern in patterns] for patterns in (plugin.patterns, plugin.filters)]
