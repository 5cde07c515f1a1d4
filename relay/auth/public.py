"""The claims of a token that other members of a room may see: a name to show, the address of a picture.

Not here: who sees which of them (rooms/presence). The one rule: what is not named by the configuration stays in the
token, and what is named is bounded, because it is sent to everybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

MOST_BYTES: Final = 1024


class PublicClaims:
    """`names`: of claims that may be seen. `most`: bytes that those of one token have together, as JSON."""

    def __init__(self, names: Iterable[str], most: int = MOST_BYTES) -> None:
        self._names: Final = tuple(dict.fromkeys(names))
        self._most: Final = most

    def of(self, claims: Mapping[str, Any]) -> dict[str, Any] | None:
        """Those of one token, in the order of `names`. What would go beyond the bound, and what a wire format cannot
        express, is left out: nobody is locked out for the length of a picture's address. None: there are none.
        """
        found: dict[str, Any] = {}
        left = self._most
        for name in self._names:
            value = claims.get(name)
            if value is None:
                continue
            try:
                size = len(msgspec.json.encode({name: value}))
                msgspec.msgpack.encode(value)
            except (ValueError, TypeError, OverflowError, RecursionError):  # half a surrogate, an integer of 100 digits
                continue
            if size <= left:
                left -= size
                found[name] = value
        return found or None
