"""How much memory the process uses, and how much it may.

Not here: what follows from it (limits/pressure). The one rule: what the system does not tell is None, never a guess.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")


def resident_bytes(statm: Path = Path("/proc/self/statm")) -> int | None:
    """Memory of this process that is in RAM, bytes; None where /proc does not tell."""
    try:
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


class Cgroup:
    """A cgroup (version 2) with a memory limit. The kernel ends its processes when `used` reaches `limit`."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder: Final = folder
        self.limit: Final = limit

    @classmethod
    def of_this_process(cls, membership: Path = Path("/proc/self/cgroup"), root: Path = CGROUPS) -> Cgroup | None:
        """The one with the tightest limit, of that of this process and all around it; None: there is no limit."""
        try:
            lines = membership.read_text().splitlines()
        except OSError:
            return None
        path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
        if path is None:
            return None
        found: list[Cgroup] = []
        folder = root / path.lstrip("/")
        while True:
            try:
                found.append(cls(folder, int((folder / "memory.max").read_text())))
            except (OSError, ValueError):  # "max": no limit here
                pass
            if folder == root or root not in folder.parents:
                break
            folder = folder.parent
        return min(found, key=lambda group: group.limit, default=None)

    def used(self) -> int | None:
        """Bytes in use but for the cache of files, which the kernel would give up first."""
        try:
            current = int((self.folder / "memory.current").read_text())
            for line in (self.folder / "memory.stat").read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "inactive_file":
                    return max(0, current - int(value))
        except (OSError, ValueError):
            return None
        return current


def give_back() -> None:
    """Freed memory goes back to the system, where the C library has a way (glibc: malloc_trim(3))."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
