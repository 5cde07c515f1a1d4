"""Settings from the environment (RELAY__SECTION__KEY) and from the command line (--set section.key=value).

Not here: whether the values fit (validate). The one rule: a value is read as TOML where that suits the setting, else
it is text, so that neither `RELAY__AUTH__ISSUER=https://id.example` nor `RELAY__LIMITS__FRAGMENTS=16` needs quotes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec import inspect

from relay.config.positions import Path, join_key, split_key
from relay.config.suggest import nearest
from relay.config.validate import BAD, Validator, root, unwrap
from relay.errors import ConfigProblem

PREFIX: Final = "RELAY__"
SEPARATOR: Final = "__"


@dataclass(frozen=True, slots=True)
class Override:
    """One setting from outside the file. `where` says from where, `folds` that upper case and hyphens were lost."""

    where: str
    parts: tuple[str, ...]
    text: str = field(repr=False)  # it may be a secret
    folds: bool

    def spelled(self, parts: Sequence[str]) -> str:
        """Another setting as one would write it here."""
        return PREFIX + SEPARATOR.join(map(fold, parts)).upper() if self.folds else join_key(tuple(parts))


def gather(environ: Mapping[str, str], given: Sequence[tuple[str, str]]) -> Iterator[Override | ConfigProblem]:
    """All overrides, those of the command line last, because the last one wins."""
    for name in sorted(environ):
        if name.startswith(PREFIX):
            parts = tuple(name.removeprefix(PREFIX).lower().split(SEPARATOR))
            yield Override(f"environment {name}", parts, environ[name], folds=True)
    for key, text in given:
        try:
            yield Override("--set", split_key(key), text, folds=False)
        except ValueError as error:
            yield ConfigProblem("--set", key, str(error), "as in limits.message_bytes=65536")


class Overlay:
    """A document that overrides are put over; it remembers where each value came from."""

    def __init__(self, document: dict[str, Any], origins: dict[Path, str]) -> None:
        self.document: Final = document
        self.origins: Final = origins

    def apply(self, override: Override) -> ConfigProblem | None:
        """Put one value in its place, or say why it has none."""
        found = self.find(override)
        if isinstance(found, ConfigProblem):
            return found
        path, type_ = found
        try:
            override.text.encode()
        except UnicodeEncodeError:
            return ConfigProblem(override.where, join_key(path), "is not UTF-8")
        self.put(path, read(override.text, type_), override.where)
        return None

    def find(self, override: Override) -> tuple[tuple[str, ...], inspect.Type] | ConfigProblem:
        """The path that an override means, spelled as in the schema or in the document, and its type."""
        path: tuple[str, ...] = ()
        type_: inspect.Type = root()
        below: Any = self.document
        if not all(override.parts):
            return ConfigProblem(override.where, join_key(override.parts), "no such setting")
        for part in override.parts:
            names = below.keys() if isinstance(below, dict) else ()
            match unwrap(type_):
                case inspect.StructType(fields=fields) as struct:
                    types = {field.name: field.type for field in fields}
                    if part not in types and struct.forbid_unknown_fields:
                        near = nearest(part, types)
                        hint = f"did you mean {override.spelled((*path, near))}?" if near else ""
                        return ConfigProblem(override.where, join_key((*path, part)), "no such setting", hint)
                    name = part if part in types else spelling(part, names, override.folds)
                    type_ = types.get(part, inspect.AnyType())
                case inspect.DictType(value_type=inner):
                    name, type_ = spelling(part, names, override.folds), inner
                case inspect.AnyType():
                    name = spelling(part, names, override.folds)
                case other:
                    what = "is a list" if isinstance(other, inspect.ListType) else "is not a table"
                    return ConfigProblem(
                        override.where, join_key(path), what, f"set it as a whole: {override.spelled(path)}=..."
                    )
            path = (*path, name)
            below = below.get(name) if isinstance(below, dict) else None
        return path, type_

    def put(self, path: tuple[str, ...], value: Any, where: str) -> None:
        """A table is merged into the one that is there, anything else takes the place of what is there."""
        table = self.document
        for depth, part in enumerate(path[:-1], 1):
            self.origins.setdefault(path[:depth], where)
            inner = table.setdefault(part, {})
            if not isinstance(inner, dict):
                return  # the file has something else where a table must be, and that is reported
            table = inner
        if isinstance(value, dict) and isinstance(table.get(path[-1], {}), dict):
            table.setdefault(path[-1], {})
            self.origins.setdefault(path, where)
            for key, item in value.items():
                self.put((*path, key), item, where)
            return
        table[path[-1]] = value
        for stale in [known for known in self.origins if known[: len(path)] == path]:
            del self.origins[stale]
        self.note(path, value, where)

    def note(self, path: Path, value: Any, where: str) -> None:
        self.origins[path] = where
        inside: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for part, item in inside:
            self.note((*path, part), item, where)


def read(text: str, type_: inspect.Type) -> Any:
    """The value that a text means for a setting of this type; what fits nothing is left for validation to report."""
    candidates: list[Any] = []
    try:
        document = tomllib.loads(f"value = {text}")
        if document.keys() == {"value"}:
            candidates.append(document["value"])
    except (ValueError, RecursionError):
        pass
    candidates.append(text)
    if isinstance(unwrap(type_), inspect.ListType):
        whole = next(each for each in candidates if isinstance(each, str))  # without the quotes, if it has some
        candidates.append([part.strip() for part in whole.split(",") if part.strip()])
    for candidate in candidates:
        trial = Validator(lambda _: "")
        if trial.fit(candidate, type_) is not BAD and not trial.problems:
            return candidate
    return candidates[0]


def spelling(part: str, names: Collection[str], folds: bool) -> str:
    """A name as the document spells it: the environment cannot say `my-chat` or `Chat`."""
    return next((name for name in names if fold(name) == part), part) if folds and part not in names else part


def fold(name: str) -> str:
    return name.lower().replace("-", "_")
