"""What a room may be called.

Not here: what a pattern looks like (`auth.grants`) or who serves the room (the plugins). The one rule: a name reads the
same to people, logs, patterns and brokers, so it holds nothing invisible and nothing that is syntax elsewhere.
"""

from __future__ import annotations

import re
from typing import Final

# Controls, every kind of white space, formatting characters that hide or turn text round, lone surrogates, and the
# three that patterns use. Joiners (U+200C, U+200D) stay: some scripts and emoji need them.
_FORBIDDEN: Final = re.compile(
    "[\x00-\x20\x7f-\xa0\xad\u061c\u1680\u180e\u2000-\u200b\u200e\u200f\u2028-\u202f\u205f-\u206f"
    "\u3000\ufeff\ufff9-\ufffb\ud800-\udfff*{}]"
)


def check_room_name(name: str, max_bytes: int) -> str | None:
    """Why `name` cannot be a room's name, as the end of a sentence; None when it can. `max_bytes` of UTF-8."""
    if not name:
        return "it is empty"
    if len(name) > max_bytes:  # before any work that grows with its length
        return f"it is longer than {max_bytes} bytes"
    if found := _FORBIDDEN.search(name):
        return f"it holds the character U+{ord(found[0]):04X}"
    if len(name.encode()) > max_bytes:
        return f"it is longer than {max_bytes} bytes"
    if name[0] == ":" or name[-1] == ":" or "::" in name:
        return "it has an empty part between colons"
    return None
