"""How many examples a test of hypothesis has: few with each run of all tests, and as many as its promise is worth when
asked.

    HYPOTHESIS_PROFILE=thorough python -m pytest tests/unit/limits
    HYPOTHESIS_PROFILE=thorough RELAY_EXAMPLES=1000 python -m pytest --hypothesis-seed=3 tests/unit/rooms

The second is a piece of a long run: another seed, other examples.

Not here: the profiles (conftest). The one rule: a test that sets its own number takes it from here, so that the profile
decides for all of them.
"""

from __future__ import annotations

import os
from typing import Final

THOROUGH: Final = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
BRIEF: Final = os.environ.get("HYPOTHESIS_PROFILE") == "brief"
"""For who runs the same tests hundreds of times (tests/mutations)."""
MANY: Final = 10_000
_PIECE: Final = int(os.environ.get("RELAY_EXAMPLES", "0"))


def examples(usual: int, thorough: int = MANY) -> int:
    """For `settings(max_examples=...)`: `usual`, or `thorough` under the profile of that name."""
    if BRIEF:
        return min(usual, 25)
    return (_PIECE or thorough) if THOROUGH else usual
