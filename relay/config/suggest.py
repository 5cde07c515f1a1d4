"""The nearest name: "did you mean ...?" for config keys, plugins, hooks and commands.

Not here: what to do about it. The one rule: no suggestion is better than a far-fetched one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

CUTOFF: Final = 0.6  # of difflib's ratio: above it people agree that one was meant for the other
LONGEST: Final = 64  # characters; what is longer is no slip of the finger, and difflib takes square time


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `word` was most likely meant to be; None if none is near. Case and hyphens do not count."""
    if len(word) > LONGEST:
        return None
    by_form: dict[str, str] = {}
    for candidate in candidates:
        by_form.setdefault(_form(candidate), candidate)
    found = difflib.get_close_matches(_form(word), by_form, n=1, cutoff=CUTOFF)
    return by_form[found[0]] if found else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """A hint for an error: "did you mean `weight`?", or "" if nothing is near."""
    near = nearest(word, candidates)
    return f"did you mean `{near}`?" if near is not None else ""


def _form(name: str) -> str:
    return name.lower().replace("-", "_")
