"""Whether a parsed document fits the schema: every misfit is reported in plain words, not only the first.

What does not fit is left to its default, so that all the rest can be looked at too. Not here: files, environment,
defaults, and which settings contradict each other (rules). The one rule: no text of the document goes into a report,
only names, types and numbers, because any text may be a secret in the wrong place.
"""

from __future__ import annotations

import datetime
import functools
import math
from collections.abc import Callable, Iterator, Set
from typing import Any, Final

import msgspec
from msgspec import inspect

from relay.config.positions import Path, join_key
from relay.config.rules import RULES, WHOLE
from relay.config.schema import Config, PluginTable, Tenant, TenantLimits
from relay.config.suggest import did_you_mean, nearest
from relay.errors import ConfigProblem

BAD: Final = object()
"""Stands for what does not fit, after it was reported."""

KINDS: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (bool, "a boolean"),  # before int: True is an int to Python, but not to TOML
    (int, "an integer"),
    (float, "a float"),
    (str, "a string"),
    (list, "a list"),
    (dict, "a table"),
    ((datetime.date, datetime.time), "a date or time"),
)
MAX_INTEGER: Final = 2**63 - 1  # TOML 1.0, "Integer": 64 bits, signed


@functools.cache
def root() -> inspect.StructType:
    """The type of the whole document: `Config`, with the common keys in every plugin table."""
    config = inspect.type_info(Config)
    assert isinstance(config, inspect.StructType)
    plugins = inspect.DictType(inspect.StrType(), inspect.type_info(PluginTable))
    tenant = _retyped(inspect.type_info(Tenant), plugins=plugins, limits=inspect.type_info(TenantLimits))
    return _retyped(config, plugins=plugins, tenants=inspect.DictType(inspect.StrType(), tenant))


def _retyped(table: inspect.Type, **types: inspect.Type) -> inspect.StructType:
    """A table in which some fields, free in the schema because others check them further, have a type."""
    assert isinstance(table, inspect.StructType)
    fields = (msgspec.structs.replace(field, type=types.get(field.name, field.type)) for field in table.fields)
    return msgspec.structs.replace(table, fields=tuple(fields))


def unwrap(type_: inspect.Type) -> inspect.Type:
    """The type without its description."""
    return unwrap(type_.type) if isinstance(type_, inspect.Metadata) else type_


def kind_of(value: object) -> str:
    return next(name for kind, name in KINDS if isinstance(value, kind))


def stand_in(type_: inspect.Type) -> Any:
    """Something of this type, in the place of what was misfit and has no default."""
    match unwrap(type_):
        case inspect.StructType(fields=fields):
            return {field.name: stand_in(field.type) for field in fields if field.required}
        case inspect.DictType() | inspect.AnyType():
            return {}
        case inspect.ListType():
            return []
        case inspect.LiteralType(values=values):
            return values[0]
        case inspect.BoolType():
            return False
        case inspect.IntType() | inspect.FloatType() as number:
            return number.ge or 0
    return ""


class Validator:
    """Collects problems. `where` says in which line, or in which variable, a path was set.

    `faulty` are the paths that were reported, `doubtful` those that a misspelt key was probably meant for.
    """

    def __init__(self, where: Callable[[Path], str]) -> None:
        self.where: Final = where
        self.problems: Final[list[ConfigProblem]] = []
        self.faulty: Final[set[Path]] = set()
        self.doubtful: Final[set[Path]] = set()

    def report(self, path: Path, what: str, hint: str = "") -> object:
        self.faulty.add(path)
        self.problems.append(ConfigProblem(self.where(path), join_key(path), what, hint))
        return BAD

    def fit(self, value: Any, type_: inspect.Type, path: Path = ()) -> Any:
        """`value`, with the default or a stand-in for what does not fit `type_`; BAD if nothing of it does."""
        match unwrap(type_):
            case inspect.AnyType():
                return value
            case inspect.StructType() as struct:
                return (
                    self.table(value, struct, path)
                    if isinstance(value, dict)
                    else self.expected(path, "a table", value)
                )
            case inspect.DictType(value_type=inner):
                if not isinstance(value, dict):
                    return self.expected(path, "a table", value)
                return {key: self.fit_or_stand_in(item, inner, (*path, key)) for key, item in value.items()}
            case inspect.ListType(item_type=inner):
                if not isinstance(value, list):
                    return self.expected(path, "a list", value)
                return [self.fit_or_stand_in(item, inner, (*path, index)) for index, item in enumerate(value)]
            case inspect.UnionType(types=types):  # of a string and a list of strings: there is no other in the schema
                if isinstance(value, list):
                    return self.fit(value, next(each for each in types if isinstance(each, inspect.ListType)), path)
                return value if isinstance(value, str) else self.expected(path, "a string or a list of strings", value)
            case leaf:
                return self.leaf(value, leaf, path)

    def fit_or_stand_in(self, value: Any, type_: inspect.Type, path: Path) -> Any:
        found = self.fit(value, type_, path)
        return stand_in(type_) if found is BAD else found

    def table(self, value: dict[str, Any], struct: inspect.StructType, path: Path) -> Any:
        found: dict[str, Any] = {}
        fields = {field.name: field for field in struct.fields}
        absent = fields.keys() - value.keys()
        for key, item in value.items():
            if key in fields:
                found[key] = self.fit(item, fields[key].type, (*path, key))
            elif struct.forbid_unknown_fields:
                self.unknown(key, absent, path)
            else:
                found[key] = item
        found = {key: item for key, item in found.items() if item is not BAD}
        whole = True
        for key in sorted(field.name for field in struct.fields if field.required and field.name not in found):
            whole = False
            if key in absent and (*path, key) not in self.doubtful:
                self.missing(key, value.keys() - fields.keys(), path)
            found[key] = stand_in(fields[key].type)
        if whole or struct.cls not in WHOLE:
            self.apply_rules(struct.cls, found, path)
        return found

    def unknown(self, key: str, absent: Set[str], path: Path) -> None:
        near = nearest(key, absent)
        if near is not None:
            self.doubtful.add((*path, near))
        self.report((*path, key), "no such setting", f"did you mean `{near}`?" if near else elsewhere(key))

    def missing(self, key: str, others: Set[str], path: Path) -> None:
        """A required key. In a table that takes any key, another one may be this one misspelt."""
        near = nearest(key, others)
        if near is not None:
            self.doubtful.add((*path, near))
        self.report((*path, key), "is missing", f"`{near}` is there: was it meant?" if near else "")

    def apply_rules(self, cls: type, found: dict[str, Any], path: Path) -> None:
        rule = RULES.get(cls)
        if rule is None:
            return
        known = {key: item for key, item in found.items() if key in cls.__struct_fields__}  # type: ignore[attr-defined]
        for inner, what, hint in list(rule(msgspec.convert(known, cls))):
            at = (*path, *inner)
            # What was reported once is not reported again as a contradiction that follows from it.
            known_wrong = self.faulty | self.doubtful
            if not any(at == other[: len(at)] or other == at[: len(other)] for other in known_wrong):
                self.report(at, what, hint)

    def leaf(self, value: Any, type_: inspect.Type, path: Path) -> Any:
        match type_:
            case inspect.BoolType():
                return value if isinstance(value, bool) else self.expected(path, "true or false", value)
            case inspect.StrType():
                return value if isinstance(value, str) else self.expected(path, "a string", value)
            case inspect.LiteralType(values=values):
                if value in values if isinstance(value, str) else False:
                    return value
                hint = did_you_mean(value, map(str, values)) if isinstance(value, str) else ""
                return self.report(path, f"expected one of {', '.join(map(str, values))}", hint)
            case inspect.IntType():
                if isinstance(value, bool) or not isinstance(value, int):
                    return self.expected(path, "an integer", value)
                return self.within(value, type_, path)
            case inspect.FloatType():
                if isinstance(value, bool) or not isinstance(value, int | float):
                    return self.expected(path, "a number", value)
                return self.within(value, type_, path)
        raise TypeError(f"the schema has a type this file does not know: {type_}")

    def within(self, value: float, type_: inspect.IntType | inspect.FloatType, path: Path) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return self.report(path, "must be finite")
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            return self.report(path, "does not fit into 64 bits")
        for fits, bound in bounds(type_):
            if not fits(value):
                return self.report(path, f"must be {bound}, is {value}")
        return value

    def expected(self, path: Path, what: str, value: object) -> object:
        return self.report(path, f"expected {what}, got {kind_of(value)}")


def bounds(type_: inspect.IntType | inspect.FloatType) -> Iterator[tuple[Callable[[float], bool], str]]:
    """The bounds of a number: a test, and how one says it."""
    low, above, high, below = type_.ge, type_.gt, type_.le, type_.lt
    if low is not None:
        yield (lambda value: value >= low), f"at least {low}"
    if above is not None:
        yield (lambda value: value > above), f"more than {above}"
    if high is not None:
        yield (lambda value: value <= high), f"at most {high}"
    if below is not None:
        yield (lambda value: value < below), f"less than {below}"


def elsewhere(key: str) -> str:
    """A hint for a key that stands in the wrong table."""
    for field in root().fields:
        table = unwrap(field.type)
        if isinstance(table, inspect.StructType) and any(inner.name == key for inner in table.fields):
            return f"did you mean `{field.name}.{key}`?"
    return ""
