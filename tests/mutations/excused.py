"""Guards that no test can miss, and why: what they keep out is kept out by something else too, or they only save time.

By module, function and text, as `python -m tests.mutations --list` writes them.
"""

from __future__ import annotations

from typing import Final

EXCUSED: Final[dict[tuple[str, str, str], str]] = {}
