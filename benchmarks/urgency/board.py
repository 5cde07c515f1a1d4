"""A few numbers that the processes of one run share: how far they are, and what they may do now.

Not here: results. The one rule: each field has one writer, so nothing needs a lock.
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Final


class Phase(IntEnum):
    """Written by the runner."""

    STARTING = 0
    IDLE = 1  # urgent messages alone
    BULK = 2  # and bulk
    DRAIN = 3  # nobody sends any more


class Field(IntEnum):
    PHASE = 0
    READER_READY = 1
    RECEIVED = 2  # bytes of bulk payload the client has got, by the reader
    URGENT_SENT = 3  # by the urgent source
    BULK_SENT = 4  # bytes of bulk payload, by the bulk source


_SIZE: Final = 8 * len(Field)


class Board:
    """Floats in a file that is mapped into every process."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)

    def get(self, field: Field) -> float:
        value: float = struct.unpack_from("d", self._map, 8 * field)[0]
        return value

    def set(self, field: Field, value: float) -> None:
        struct.pack_into("d", self._map, 8 * field, value)

    @property
    def phase(self) -> int:
        return int(self.get(Field.PHASE))

    def wait(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Looks every 5 ms; False: it did not hold in time."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True
