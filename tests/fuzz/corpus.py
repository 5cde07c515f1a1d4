"""What coverage has been found with: inputs of each target, kept in corpus.xz from one guided run to the next.

    python -m tests.fuzz --atheris 600 --corpus DIR && python -m tests.fuzz --keep DIR

Not here: finding them (guided). The one rule: the same inputs make the same file.
"""

from __future__ import annotations

import functools
import lzma
from pathlib import Path
from typing import Final

import msgspec

KEPT: Final = Path(__file__).with_name("corpus.xz")
LONGEST: Final = 1200  # bytes: as noise.MOST


@functools.cache
def _all() -> dict[str, list[bytes]]:
    if not KEPT.exists():
        return {}
    return msgspec.msgpack.decode(lzma.decompress(KEPT.read_bytes()), type=dict[str, list[bytes]])


def kept(target: str) -> list[bytes]:
    """The inputs of one target; none where none were kept."""
    return _all().get(target, [])


def keep(folder: Path) -> int:
    """Puts all inputs below FOLDER/TARGET into the file, in the place of what was there. How many there are."""
    found = {
        target.name: sorted({data for path in target.iterdir() if len(data := path.read_bytes()) <= LONGEST})
        for target in sorted(folder.iterdir())
    }
    KEPT.write_bytes(lzma.compress(msgspec.msgpack.encode(found), preset=9 | lzma.PRESET_EXTREME))
    return sum(map(len, found.values()))
