"""Other names of rooms, as the configuration may give them: what is wrong with one.

Not here: looking a name up (rooms/aliases). The one rule: an alias leads to a name that is none, however many steps
that takes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

NAME: Final = re.compile(r"[^\s*{}:]+(?::[^\s*{}:]+)*")


def alias_problem(alias: str, room: str, every: Mapping[str, str]) -> str | None:
    """What is wrong with one of `every`, as the end of a sentence; None: nothing."""
    for name in (alias, room):
        if not NAME.fullmatch(name):
            return f"needs names of rooms, which {name!r} is not"
    return "leads round in a circle" if is_circle(alias, every) else None


def is_circle(alias: str, every: Mapping[str, str]) -> bool:
    """Whether following an alias does not end."""
    seen = {alias}
    name = every.get(alias)
    while name is not None and name not in seen:
        seen.add(name)
        name = every.get(name)
    return name is not None
