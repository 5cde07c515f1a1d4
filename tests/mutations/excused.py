"""Guards that no test can miss, and why: what they keep out is kept out by something else too, or they only save time.

By module, function and text, as `python -m tests.mutations --list` writes them.
"""

from __future__ import annotations

from typing import Final

EXCUSED: Final[dict[tuple[str, str, str], str]] = {
    (
        "relay/auth/tokens.py", "is_clean", "… len(text) <= MAX_TEXT_BYTES …",
    ): "saves time: the bytes are counted behind it",
    (
        "relay/auth/revocation.py", "Revocation.problem", "… 0 < len(text) <= MAX_TEXT_BYTES // 4 …",
    ): "saves time: the bytes are counted behind it",
    ("relay/auth/revocation.py", "Entries.find", "if not self._all: …"): "saves time: nothing is found in nothing",
    (
        "relay/auth/grants.py", "check_pattern", "if len(text) > MAX_PATTERN_BYTES: …",
    ): "saves time: the bytes are counted behind it, with the same answer",
    (
        "relay/auth/grants.py", "RoomPattern.matches", "if self._tail is not None and (not self._parts): …",
    ): "saves time: what is behind it says the same of a pattern without parts",
}  # fmt: skip
