"""Finds the plugins that the config names, and checks them before anything is served.

Not here: running them (supervisor). The one rule: everything that is wrong is found at start, all of it at once, each
with the line of the config that it comes from.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from relay.auth.grants import PatternSet, RoomPattern, check_pattern
from relay.config.loader import LoadedConfig
from relay.config.schema import PluginTable
from relay.config.suggest import did_you_mean
from relay.delivery.channels import Channels
from relay.errors import ConfigError, ConfigProblem, PluginError
from relay.plugin import web
from relay.plugin.api import Plugin
from relay.plugin.calls import is_call
from relay.plugin.checks import check_class, read_settings
from relay.rooms.room import RoomRule

GROUP: Final = "relay.plugins"
SHIPPED: Final = "plugins"
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

Where = Callable[[str], str]
"""From a config key ("plugins.chat.rooms") to where it stands ("config.toml:12")."""


NOWHERE: Final = PatternSet(())


@dataclass(slots=True, frozen=True)
class LoadedPlugin:
    """A plugin that may be started: its class and its table, both checked. `where` is where its table stands."""

    name: str
    plugin: type[Plugin]
    settings: Any
    rule: RoomRule
    patterns: tuple[RoomPattern, ...]
    hook_timeout: float
    where: str
    filters: tuple[RoomPattern, ...] = ()
    publish: PatternSet = NOWHERE
    isolate: bool = False
    memory_bytes: int = 0
    source: str = ""
    """How another process finds the class: what `find` wants, a line each."""
    channels: tuple[str, ...] = ()
    decisions: bool = False
    calls: frozenset[str] = frozenset()
    """Names of its methods marked with @call."""
    pages: tuple[tuple[str, str, bool], ...] = ()
    """(method, path, public) of those marked with @route."""


def load_plugins(
    tables: Mapping[str, tuple[PluginTable, dict[str, Any]]],
    directory: Path,
    channels: Channels,
    where: Where,
    known: Collection[str] = (),
) -> list[LoadedPlugin]:
    """The plugins of all tables that are not switched off, but for those that are `known`, which are left out. Raises
    ConfigError with every problem found.
    """
    problems: list[ConfigProblem] = []
    loaded: list[LoadedPlugin] = []
    owners: dict[str, str] = {}
    for name, (table, own) in tables.items():
        if table.enabled and name in known:
            _patterns(name, table, owners, problems, where)  # nobody else may have its rooms
        elif table.enabled:
            one = _load(name, table, own, directory, channels, where, owners, problems)
            if one is not None:
                loaded.append(one)
    if problems:
        raise ConfigError(problems)
    return loaded


def load_one(
    name: str,
    table: PluginTable,
    own: Mapping[str, Any],
    directory: Path,
    channels: Channels,
    where: Where,
    *,
    fresh: bool,
) -> LoadedPlugin:
    """One of them; `fresh`: its code is read again. Raises ConfigError with every problem found."""
    problems: list[ConfigProblem] = []
    one = _load(name, table, own, directory, channels, where, {}, problems, fresh=fresh)
    if one is None or problems:
        raise ConfigError(problems)
    return one


def _load(
    name: str,
    table: PluginTable,
    own: Mapping[str, Any],
    directory: Path,
    channels: Channels,
    where: Where,
    owners: dict[str, str],
    problems: list[ConfigProblem],
    *,
    fresh: bool = False,
) -> LoadedPlugin | None:
    key = f"plugins.{name}"
    patterns = _patterns(name, table, owners, problems, where)
    try:
        plugin = find(table.use or name, directory, fresh=fresh)
    except PluginError as problem:
        _check_channel(key, table, channels, problems, where)
        use = f"{key}.use" if table.use else key
        problems.append(ConfigProblem(where(use), use, problem.what, problem.hint))
        return None
    source = f"{table.use or name}\n{directory.absolute()}"
    return accept(
        name, plugin, table, own,
        patterns=patterns, channels=channels, where=where, problems=problems, source=source,
    )  # fmt: skip


def load_tenant_plugins(
    loaded: LoadedConfig, tenant: str, channels: Channels, known: Collection[str] = ()
) -> list[LoadedPlugin]:
    """The plugins of a tenant: of its own tables, or of those at the top, without those that are `known`. Raises
    ConfigError with all problems.
    """
    before, tables = loaded.tables_of(tenant)
    directory = loaded.resolve(loaded.config.supervision.directory)
    try:
        return load_plugins(tables, directory, channels, lambda key: loaded.where(before + key), known)
    except ConfigError as error:
        raise ConfigError([replace(problem, key=before + problem.key) for problem in error.problems]) from None


def accept(
    name: str,
    plugin: type[Plugin],
    table: PluginTable,
    own: Mapping[str, Any],
    *,
    patterns: tuple[RoomPattern, ...],
    channels: Channels,
    where: Where,
    problems: list[ConfigProblem],
    source: str = "",
) -> LoadedPlugin | None:
    """A class and its table, checked; None if one of them cannot be used, and `problems` says why."""
    key = f"plugins.{name}"
    before = len(problems)
    _check_channel(key, table, channels, problems, where)
    problems += [ConfigProblem(where(key), key, what, hint) for what, hint in check_class(plugin)]
    if table.decisions and plugin.on_decisions is Plugin.on_decisions:
        what = f"{plugin.__name__} has no on_decisions: it would hear nothing"
        problems.append(ConfigProblem(where(f"{key}.decisions"), f"{key}.decisions", what))
    filters = _others(f"{key}.filters", table.filters, problems, where)
    publish = _others(f"{key}.publish", table.publish, problems, where)
    settings: Any = None
    if len(problems) == before and (table.rooms or table.filters):  # else a misspelt `rooms` would be told twice
        settings, wrong = read_settings(plugin, own)
        for setting, what, hint in wrong:
            full = f"{key}.{setting}" if setting else key
            problems.append(ConfigProblem(where(full), full, what, hint))
    if len(problems) > before:
        return None
    channel = channels.index(table.channel)
    rule = RoomRule(
        name,
        channel,
        history=table.history,
        history_seconds=table.history_seconds,
        history_bytes=table.history_bytes,
        last_value=table.last_value,
        durable=table.durable,
        presence=table.presence,
        presence_claims=tuple(dict.fromkeys(table.presence_claims)),
        presence_debounce=table.presence_debounce,
        presence_events_up_to=table.presence_events_up_to,
        presence_count_every=table.presence_count_every,
        presence_list_up_to=table.presence_list_up_to,
        max_members=table.max_members,
        max_rooms=table.max_rooms,
        max_rooms_per_subject=table.max_rooms_per_subject,
        wildcards=table.wildcards,
        delta=table.delta,
    )
    timeout = table.hook_timeout
    methods = {attribute: inspect.getattr_static(plugin, attribute) for attribute in dir(plugin)}
    return LoadedPlugin(
        name,
        plugin,
        settings,
        rule,
        patterns,
        timeout,
        where(key),
        filters,
        PatternSet(publish),
        isolate=table.isolate == "process",
        memory_bytes=table.memory_bytes,
        decisions=table.decisions,
        source=source,
        channels=channels.names,
        calls=frozenset(name for name, method in methods.items() if is_call(method)),
        pages=tuple(getattr(method, web.MARK) for method in methods.values() if web.is_page(method)),
    )


def _patterns(
    name: str, table: PluginTable, owners: dict[str, str], problems: list[ConfigProblem], where: Where
) -> tuple[RoomPattern, ...]:
    key = f"plugins.{name}.rooms"
    texts = [table.rooms] if isinstance(table.rooms, str) else table.rooms
    if not texts and not table.filters:
        problems.append(ConfigProblem(where(key), key, "a plugin without rooms does nothing", "enabled = false"))
    patterns = []
    for text in dict.fromkeys(texts):
        if objection := check_pattern(text):
            problems.append(ConfigProblem(where(key), key, f"{text!r} is not a room pattern: {objection}"))
        elif (owner := owners.setdefault(text, name)) != name:
            problems.append(ConfigProblem(where(key), key, f"{text!r} belongs to plugins.{owner} already"))
        else:
            patterns.append(RoomPattern(text))
    return tuple(patterns)


def _others(key: str, given: str | list[str], problems: list[ConfigProblem], where: Where) -> tuple[RoomPattern, ...]:
    """Patterns of rooms that belong to other plugins, or to whomever."""
    patterns = []
    for text in dict.fromkeys([given] if isinstance(given, str) else given):
        if objection := check_pattern(text):
            problems.append(ConfigProblem(where(key), key, f"{text!r} is not a room pattern: {objection}"))
        else:
            patterns.append(RoomPattern(text))
    return tuple(patterns)


def _check_channel(
    key: str, table: PluginTable, channels: Channels, problems: list[ConfigProblem], where: Where
) -> None:
    names = [name for name in channels.names if name != Channels.CONTROL]
    if table.channel not in names:
        what = f"no channel {table.channel!r} for messages; there are: {', '.join(names)}"
        key += ".channel"
        problems.append(ConfigProblem(where(key), key, what, did_you_mean(table.channel, names)))


def find(use: str, directory: Path, *, fresh: bool = False) -> type[Plugin]:
    """The plugin class of that name; `fresh`: its module is read again. Raises PluginError.

    'module:Class'; else a file in the plugin directory; else an entry point of the group `relay.plugins`; else one
    that comes with the relay.
    """
    if ":" in use:
        module, _, attribute = use.partition(":")
        return _attribute(use, module, attribute, fresh)
    if not _FILE_NAME.fullmatch(use):
        raise PluginError(
            use, f"{use!r} is not the name of a plugin", "an entry point, a file's name, or 'module:Class'"
        )
    file = directory / f"{use}.py"
    if file.is_file():
        return _only_plugin(use, _import_file(use, file))
    points = importlib.metadata.entry_points(group=GROUP)
    for point in points.select(name=use):
        return _attribute(use, point.module, point.attr, fresh)
    if use in shipped():
        return _only_plugin(use, _import(use, f"{SHIPPED}.{use}", fresh))
    known = {*files(directory), *points.names, *shipped()}
    raise PluginError(
        use, f"no plugin named {use!r}", did_you_mean(use, known) or f"there are: {', '.join(sorted(known))}"
    )


def files(directory: Path) -> list[str]:
    """Names of the files in the plugin directory that may hold a plugin."""
    found = directory.glob("*.py") if directory.is_dir() else ()
    return sorted(file.stem for file in found if _FILE_NAME.fullmatch(file.stem))


def shipped() -> list[str]:
    """Names of the plugins that come with the relay; they are found without being installed."""
    spec = importlib.util.find_spec(SHIPPED)
    places = spec.submodule_search_locations if spec is not None else None
    return sorted(module.name for module in pkgutil.iter_modules(places)) if places else []


def _attribute(use: str, module: str, attribute: str, fresh: bool) -> type[Plugin]:
    found: object = _import(use, module, fresh)
    for part in attribute.split("."):
        names = [name for name in dir(found) if isinstance(getattr(found, name, None), type)]
        if not hasattr(found, part):
            raise PluginError(use, f"{module} has no {attribute!r}", did_you_mean(part, names))
        found = getattr(found, part)
    if not (isinstance(found, type) and issubclass(found, Plugin)):
        raise PluginError(use, f"{module}:{attribute} is not a subclass of relay.plugin.api.Plugin")
    return found


def _only_plugin(use: str, module: ModuleType) -> type[Plugin]:
    """The one plugin that a module defines; what it only imports does not count."""
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Plugin) and value.__module__ == module.__name__
    ]
    found = [value for value in found if not any(other is not value and issubclass(other, value) for other in found)]
    if not found:
        raise PluginError(use, f"{module.__file__} defines no subclass of relay.plugin.api.Plugin")
    if len(found) > 1:
        names = ", ".join(sorted(value.__name__ for value in found))
        raise PluginError(use, f"{module.__file__} defines several plugins: {names}", "use = 'module:Class'")
    return found[0]


def _import(use: str, module: str, fresh: bool) -> ModuleType:
    try:
        if fresh and module in sys.modules:
            importlib.invalidate_caches()
            return importlib.reload(sys.modules[module])
        return importlib.import_module(module)
    except (Exception, SystemExit) as problem:
        raise PluginError(use, f"cannot import {module}: {_one_line(problem, None)}") from None


def _import_file(use: str, file: Path) -> ModuleType:
    """A file as a module of a private name: it can neither shadow a module nor be shadowed by one."""
    name = f"_relay_plugin_{use.replace('-', '_')}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses, msgspec and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as problem:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise PluginError(use, f"cannot load {file}: {_one_line(problem, file)}") from None
    return module


def _one_line(problem: BaseException, file: Path | None) -> str:
    """An exception as one line with the place it came from: in the plugin's own file, if it passed there."""
    text = " ".join(f"{type(problem).__name__}: {problem}".split())
    if isinstance(problem, SyntaxError) and problem.filename:
        return f"{problem.filename}:{problem.lineno}: {type(problem).__name__}: {problem.msg}"
    places = [
        entry
        for entry in traceback.extract_tb(problem.__traceback__)
        if not entry.filename.startswith("<frozen")
        and entry.filename != __file__
        and "/importlib/" not in entry.filename
    ]
    own = [entry for entry in places if file is not None and entry.filename == str(file)] or places
    return f"{own[-1].filename}:{own[-1].lineno}: {text}" if own else text
