"""What every table of the configuration is made of.

Not here: the tables (schema, trust). The one rule: a table is frozen and knows all its keys.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the config file. Unknown keys are errors."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


def about(description: str, **bounds: Any) -> Meta:
    """What a setting means, and its bounds: ge, gt, le, lt."""
    return Meta(description=description, **bounds)


def default(table: type[Table]) -> Any:
    return msgspec.field(default_factory=table)


def items(*values: str) -> Any:
    return msgspec.field(default_factory=lambda: list(values))


Seconds = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
Bytes = Annotated[int, Meta(ge=0)]
