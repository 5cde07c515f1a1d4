"""Reads what the plugin `audit` has written: lines of JSON, each with the hash of the one before it.

Not here: writing it (plugins/audit), words for people (cli/audit). The one rule: a file is read once, line by line,
however large it is, and whatever stands in it is no reason to stop.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

_PART: Final = re.compile(r"\d{8}\.\d{4,}")
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


def parts_of(file: Path) -> list[Path]:
    """The file, and before it what was put aside of it (FILE.DAY.NUMBER), the oldest first."""
    cut = len(file.name) + 1
    aside = [path for path in file.parent.glob(f"{file.name}.*") if _PART.fullmatch(path.name[cut:])]
    return [*sorted(aside, key=lambda path: (path.name[: cut + 8], int(path.name[cut + 9 :]))), file]


class Chain:
    """Several files as one chain. `broken`: where it is, as lines "FILE:LINE: what". `last`: the last line's hash.

    The first line of the first file is taken as it comes: those before it may have been put away. `wanted`: a hash that
    was kept elsewhere; `found` then says whether a line of the chain has it.
    """

    def __init__(self, files: Iterable[Path], wanted: str = "") -> None:
        self.broken: list[str] = []
        self.lines = 0
        self.missing = 0
        """Lines that were never written, by what the chain itself says: the disk was slow or full."""
        self.half = False
        """The last line is not whole: it is being written, or a crash has left it."""
        self.last = ""
        self.found = False
        self._files = files
        self._wanted = wanted

    def __iter__(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """Each line as it stands there, and what it says. Raises OSError."""
        prev: str | None = None
        for path in self._files:
            self.half = False
            with path.open("rb") as file:
                for number, raw in enumerate(file, 1):
                    line = raw.removesuffix(b"\n")
                    if line == raw:
                        self.half = True
                        break
                    self.lines += 1
                    said = self._look(line, prev, f"{path}:{number}")
                    self.last = prev = hashlib.sha256(line).hexdigest()
                    self.found = self.found or prev == self._wanted
                    if said is not None:
                        yield line, said

    def _look(self, line: bytes, prev: str | None, place: str) -> dict[str, Any] | None:
        try:
            said = _decode(line)
        except msgspec.DecodeError as problem:
            self.broken.append(f"{place}: no line of an audit: {problem}")
            return None
        if prev is not None and said.get("prev") != prev:
            self.broken.append(f"{place}: the chain is broken: this line does not follow the one before it")
        lines = said.get("lines")
        if said.get("what") == "gap" and isinstance(lines, int):
            self.missing += lines
        return said
