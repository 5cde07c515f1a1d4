"""Settings in words: what `render` needs to know of each one, read out of the schema.

Not here: layout. The one rule: nothing is written down twice; names, types, bounds, defaults and meanings come from
the schema.
"""

from __future__ import annotations

import inspect as python_inspect
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import inspect

from relay.config.validate import bounds, unwrap


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a table.

    `kind` is its type in words, `range` its bounds or "", `default` a plain value or UNSET. `table` is what a nested
    table is made of, `items` what a list of tables is made of, `named` what tables with names of the operator's choice
    are made of; None for all others.
    """

    name: str
    kind: str
    range: str
    default: Any
    meaning: str
    table: type[msgspec.Struct] | None
    items: type[msgspec.Struct] | None
    named: type[msgspec.Struct] | None


def settings(table: type[msgspec.Struct]) -> Iterator[Setting]:
    """The settings of a table, in the order of the schema."""
    hints = typing.get_type_hints(table, include_extras=True)
    for field in struct_type(table).fields:
        inner = unwrap(field.type)
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        yield Setting(
            name=field.name,
            kind=kind(inner, hints[field.name]),
            range=", ".join(text for _, text in bounds(inner))
            if isinstance(inner, inspect.IntType | inspect.FloatType)
            else "",
            default=msgspec.UNSET if default is msgspec.NODEFAULT else msgspec.to_builtins(default),
            meaning=meaning(field.type),
            table=struct_of(inner),
            items=struct_of(unwrap(inner.item_type)) if isinstance(inner, inspect.ListType) else None,
            named=struct_of(unwrap(inner.value_type)) if isinstance(inner, inspect.DictType) else None,
        )


def struct_type(table: type[msgspec.Struct]) -> inspect.StructType:
    found = inspect.type_info(table)
    assert isinstance(found, inspect.StructType)
    return found


def struct_of(type_: inspect.Type) -> type[msgspec.Struct] | None:
    return type_.cls if isinstance(type_, inspect.StructType) else None


def about_table(table: type) -> str:
    """The description of a table, as one paragraph."""
    return " ".join(python_inspect.cleandoc(table.__doc__ or "").split())


def meaning(type_: inspect.Type) -> str:
    if not isinstance(type_, inspect.Metadata):
        return ""
    own = (type_.extra_json_schema or {}).get("description")
    return str(own) if own else meaning(type_.type)


def kind(type_: inspect.Type, hint: Any) -> str:
    match type_:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "integer"
        case inspect.FloatType():
            return "number"
        case inspect.StrType():
            return "text"
        case inspect.LiteralType():
            return "one of " + ", ".join(f'"{value}"' for value in choices(hint))
        case inspect.ListType(item_type=item):
            return "list of tables" if isinstance(unwrap(item), inspect.StructType) else "list of texts"
        case inspect.UnionType():
            return "text or list of texts"
    return "table"


def choices(hint: Any) -> tuple[str, ...]:
    """The values of a Literal in the order of the schema; msgspec sorts them."""
    if typing.get_origin(hint) is typing.Annotated:
        return choices(typing.get_args(hint)[0])
    return typing.get_args(hint)
