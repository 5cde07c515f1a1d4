"""All codes, by name; and what somebody may have typed for one.

Not here: the entries. The one rule: a code is explained once, whatever it can appear as.
"""

from __future__ import annotations

from typing import Final

from relay.config.suggest import nearest
from relay.errors import CLOSE_CODES
from relay.explain import closing, doors, handshake, requests, tokens
from relay.explain.entry import Explanation

ALL: Final[dict[str, Explanation]] = {
    one.code: one for part in (closing, requests, handshake, doors, tokens) for one in part.ENTRIES
}
_BY_NAME: Final = {code.name.lower(): str(int(code)) for code in CLOSE_CODES}


def find(text: str) -> Explanation | None:
    """The explanation of a code as people type it: `4208`, `TOO_SLOW`, `rate-limited`."""
    wanted = text.strip().lower().replace("-", "_").replace(" ", "_")
    return ALL.get(wanted) or ALL.get(_BY_NAME.get(wanted, ""))


def near(text: str) -> str | None:
    """A code that looks like what was typed."""
    return nearest(text.strip(), [*ALL, *_BY_NAME])
