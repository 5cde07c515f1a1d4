"""Is this class a plugin that can work? Its version, its hooks and their arguments, its settings.

Not here: finding the class (loader). The one rule: a mistake that would be silence at run time (a misspelt hook is
simply never called) is an error at start, and names what was meant.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from relay.config.schema import PluginTable
from relay.config.suggest import did_you_mean, nearest
from relay.plugin.api import API_VERSION, Plugin
from relay.plugin.calls import check_call, is_call
from relay.plugin.web import check_page, is_page

HOOKS: Final = tuple(name for name, value in vars(Plugin).items() if inspect.isfunction(value) and name[0] != "_")
"""All hooks, and `run`."""

SYNC_ONLY: Final = frozenset(
    {"on_open", "on_empty", "on_renamed", "on_reload", "on_joined", "filter_joined", "on_decisions"}
)
SLIP: Final = 0.85  # of difflib's ratio: above it a public method's name is a hook's name, mistyped

COMMON: Final = frozenset(PluginTable.__struct_fields__)


def check_class(plugin: type[Plugin]) -> list[tuple[str, str]]:
    """What is wrong with a plugin class, as (what, hint); [] when nothing is."""
    name = plugin.__name__
    if plugin is Plugin:
        return [("Plugin itself is no plugin", "write a subclass of it")]
    if plugin.api != API_VERSION:
        return [
            (f"{name} is written for version {plugin.api} of the plugin API; this relay has version {API_VERSION}", "")
        ]
    wrong: list[tuple[str, str]] = []
    for attribute in dir(plugin):
        if attribute.startswith("_"):
            continue
        value = inspect.getattr_static(plugin, attribute)
        if attribute in HOOKS:
            if value is not vars(Plugin)[attribute]:
                wrong += [(f"{name}.{attribute} {what}", hint) for what, hint in _check_hook(attribute, value)]
        elif is_page(value):
            wrong += [(f"{name}.{attribute} {what}", hint) for what, hint in check_page(attribute, value)]
        elif is_call(value):
            wrong += [(f"{name}.{attribute} {what}", hint) for what, hint in check_call(attribute, value)]
        elif attribute not in vars(Plugin) and (callable(value) or isinstance(value, staticmethod | classmethod)):
            wrong += [(f"{name}.{attribute} {what}", hint) for what, hint in _check_method(attribute)]
    return wrong + [(f"{name}.Settings {what}", hint) for what, hint in _check_settings(plugin)]


def _check_method(name: str) -> list[tuple[str, str]]:
    """A public method that is no hook: is it meant to be one?"""
    if name.startswith(("on_", "filter_")):
        return [("is not a hook", did_you_mean(name, HOOKS) or f"hooks are: {', '.join(HOOKS)}")]
    hooks = [hook for hook in HOOKS if hook != "run"]
    if near := difflib.get_close_matches(name.lower(), hooks, n=1, cutoff=SLIP):
        return [("is not a hook", f"did you mean `{near[0]}`? Else begin its name with _")]
    return []


def _check_hook(name: str, value: object) -> list[tuple[str, str]]:
    if not inspect.isfunction(value):
        return [("is a hook's name, but not a plain method", "")]
    if inspect.isasyncgenfunction(value) or inspect.isgeneratorfunction(value):
        return [("must not yield", "")]
    if name in SYNC_ONLY and inspect.iscoroutinefunction(value):
        return [("cannot be async", f"write `def {name}`")]
    if name == "run" and not inspect.iscoroutinefunction(value):
        return [("must be async", "write `async def run`")]
    wanted = list(inspect.signature(vars(Plugin)[name]).parameters)
    signature = inspect.signature(value)
    hint = f"def {name}({', '.join(wanted)})"
    try:
        signature.bind(*wanted)
    except TypeError as problem:
        return [(f"does not take the hook's arguments: {problem}", hint)]
    for place, given in enumerate(signature.parameters):
        if given in wanted and wanted.index(given) != place:
            return [("takes the hook's arguments in another order", hint)]
    return []


def _check_settings(plugin: type[Plugin]) -> list[tuple[str, str]]:
    settings: Any = plugin.Settings
    if not (isinstance(settings, type) and issubclass(settings, msgspec.Struct)):
        return [("must be a class of settings", "class Settings(relay.plugin.api.Settings, frozen=True)")]
    taken = sorted(COMMON & set(settings.__struct_encode_fields__))
    return [(f"has `{key}`, which every plugin's table has", "choose another name") for key in taken]


def read_settings(plugin: type[Plugin], table: Mapping[str, Any]) -> tuple[Any, list[tuple[str, str, str]]]:
    """A plugin's settings from its own keys of its table, and what is wrong with them, as (key, what, hint)."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(plugin.Settings)}
    wrong: list[tuple[str, str, str]] = []
    for key in table.keys() - fields.keys():
        near = nearest(key, [*fields, *COMMON])
        if near is None:
            hint = f"its own settings are: {', '.join(fields)}" if fields else "it has no settings of its own"
        else:
            hint = f"did you mean `{near}`?"
        wrong.append((key, "no such setting", hint))
    for key, field in fields.items():
        if key in table:
            try:
                msgspec.convert(table[key], field.type)
            except msgspec.ValidationError as problem:
                wrong.append((key, _plain(problem), ""))
        elif field.required:
            wrong.append(("", f"the setting `{key}` is missing", ""))
    if wrong:
        return None, sorted(wrong)
    try:
        return msgspec.convert(dict(table), plugin.Settings), []
    except msgspec.ValidationError as problem:  # what __post_init__ found: how settings fit together
        return None, [("", _plain(problem), "")]


def _plain(problem: msgspec.ValidationError) -> str:
    """msgspec's text, in the words of a config file."""
    text = str(problem).replace("`str`", "a string").replace("`int`", "an integer").replace("`float`", "a number")
    text = text.replace("`bool`", "true or false").replace("`array`", "a list").replace("`object`", "a table")
    return text[:1].lower() + text[1:]
