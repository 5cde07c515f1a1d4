"""A plugin's own figures, shown in /metrics as relay_plugin_NAME.

Not here: the text (ops/metrics). The one rule: a plugin cannot make the relay's memory grow by counting: labels beyond
a bound are counted together.
"""

from __future__ import annotations

import re
from typing import Final, Literal

MOST_LABELS: Final = 200  # different label values of one meter; more are counted as "other"
MOST_METERS: Final = 50
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")


class Meter:
    """One figure, or one for each set of label values. Adding costs a dictionary access."""

    __slots__ = ("help", "kind", "labels", "name", "values")

    def __init__(self, kind: Literal["counter", "gauge"], name: str, help: str, labels: tuple[str, ...]) -> None:
        self.kind = kind
        self.name = name
        self.help = help
        self.labels = labels
        self.values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def add(self, amount: float = 1.0, *labels: str) -> None:
        """Adds to it; a counter only grows. Raises ValueError for a wrong number of labels or a negative amount."""
        if amount < 0 and self.kind == "counter":
            raise ValueError(f"the counter {self.name} only grows")
        place = self._place(labels)
        self.values[place] = self.values.get(place, 0.0) + amount

    def set(self, value: float, *labels: str) -> None:
        """What a gauge shows now. Raises ValueError for a counter, or a wrong number of labels."""
        if self.kind == "counter":
            raise ValueError(f"{self.name} is a counter: add to it")
        self.values[self._place(labels)] = value

    def _place(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}")
        if labels not in self.values and len(self.values) >= MOST_LABELS:
            return ("other",) * len(labels)
        return labels


class Meters:
    """All of one plugin, by name."""

    def __init__(self) -> None:
        self.all: dict[str, Meter] = {}

    def make(self, kind: Literal["counter", "gauge"], name: str, help: str, labels: tuple[str, ...]) -> Meter:
        """The meter of that name, made if need be. Raises ValueError for a name that is none, or too many."""
        found = self.all.get(name)
        if found is not None:
            if (found.kind, found.labels) != (kind, labels):
                raise ValueError(f"there is a {found.kind} {name} with the labels {found.labels} already")
            return found
        if not _NAME.fullmatch(name) or not all(_NAME.fullmatch(label) for label in labels):
            raise ValueError(f"{name!r} or one of its labels is no name: lower-case letters, digits and _")
        if len(self.all) >= MOST_METERS:
            raise ValueError(f"a plugin may have {MOST_METERS} meters")
        meter = self.all[name] = Meter(kind, name, help, labels)
        return meter
