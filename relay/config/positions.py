"""In which line of a TOML text every key stands, which tomllib does not tell.

Not here: values, types, or whether the text is right: tomllib has accepted it before. The one rule: every key, table
and list item of the parsed document has a line, and nothing else has one; a property test compares with tomllib.

A path is a tuple of keys and list positions: `("auth", "keys", 0, "kid")` stands in the first table `[[auth.keys]]`.
"""

from __future__ import annotations

import bisect
import re
import tomllib
from typing import Final, TypeAlias

Path: TypeAlias = tuple[str | int, ...]

BLANK: Final = re.compile(r"(?:[ \t\n]|#[^\n]*)*")  # white space and comments
BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
DOTTED: Final = re.compile(r"""({0})(\.({0}))*""".format(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'"""))
SCALAR: Final = re.compile(r"[^,\]}#\n]*")  # a number, a date or a boolean: up to what ends it
STRINGS: Final = (  # the longer delimiters first; a multi-line string may end with two more quotes than its delimiter
    re.compile(r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}', re.DOTALL),
    re.compile(r"'''(?:[^']|'(?!''))*'{3,5}", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)


def positions(text: str) -> dict[Path, int]:
    """The line, from 1, of every key of `text`; a table stands where it is first named.

    `text` must be valid TOML; for anything else the answer may be wrong, or ValueError.
    """
    return _Scanner(text.replace("\r\n", "\n")).scan()


def split_key(text: str) -> tuple[str, ...]:
    """The parts of a dotted key, as in `channels.bulk` or `plugins."a.b"`. Raises ValueError for anything else."""
    if not DOTTED.fullmatch(text):
        raise ValueError("not a dotted key")
    return _Scanner(text).key()


def join_key(path: Path) -> str:
    """A path as people write it: `auth.keys[0].kid`, `plugins."a.b".rooms`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part if BARE.fullmatch(part) else '"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"'
            text += f".{bare}" if text else bare
    return text


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text: Final = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self.lengths: dict[Path, int] = {}  # tables in each array of tables so far
        self.newlines: Final = [found.start() for found in re.finditer("\n", text)]

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        self.blank()
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)
            self.blank()
        return self.lines

    def header(self) -> Path:
        """`[a.b]` or `[[a.b]]`; returns the path of the table that now begins."""
        line = self.line()
        many = self.text.startswith("[[", self.at)
        self.at += 1 + many
        parts = self.key()
        self.at += 1 + many
        path: Path = ()
        for part in parts[:-1]:
            path = self.last((*path, part), line)
        path = (*path, parts[-1])
        self.lines.setdefault(path, line)
        if many:
            self.lengths[path] = self.lengths.get(path, 0) + 1
            path = (*path, self.lengths[path] - 1)
            self.lines[path] = line
        return path

    def last(self, path: Path, line: int) -> Path:
        """A table on the way to another one; of an array of tables the last (TOML 1.0, "Array of Tables")."""
        self.lines.setdefault(path, line)
        return (*path, self.lengths[path] - 1) if path in self.lengths else path

    def pair(self, table: Path) -> None:
        line = self.line()
        path = table
        for part in self.key():
            path = (*path, part)
            self.lines.setdefault(path, line)
        self.at += 1  # the "="
        self.blank()
        self.value(path)

    def key(self) -> tuple[str, ...]:
        parts: list[str] = []
        while True:
            self.blank()
            parts.append(self.key_part())
            self.blank()
            if not self.text.startswith(".", self.at):
                return tuple(parts)
            self.at += 1

    def key_part(self) -> str:
        bare = BARE.match(self.text, self.at)
        if bare:
            self.at = bare.end()
            return bare[0]
        raw = self.string()
        if raw is None:
            raise ValueError("not a key")
        return str(tomllib.loads(f"key = {raw}")["key"]) if "\\" in raw else raw[1:-1]

    def value(self, path: Path) -> None:
        """One value; what stands inside a list or an inline table is recorded below `path`."""
        opening = self.text[self.at : self.at + 1]
        if opening not in ("[", "{"):
            if self.string() is None:
                start = self.at
                self.skip(SCALAR)
                if self.at == start:
                    raise ValueError("not a value")
            return
        self.at += 1
        self.blank()
        closing = "]" if opening == "[" else "}"
        count = 0
        while self.at < len(self.text) and self.text[self.at] != closing:
            if opening == "{":
                self.pair(path)
            else:
                self.lines[(*path, count)] = self.line()
                self.value((*path, count))
                count += 1
            self.blank()
            if self.text.startswith(",", self.at):
                self.at += 1
                self.blank()
        self.at += 1

    def string(self) -> str | None:
        for pattern in STRINGS:
            found = pattern.match(self.text, self.at)
            if found:
                self.at = found.end()
                return found[0]
        return None

    def blank(self) -> None:
        self.skip(BLANK)

    def skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()

    def line(self) -> int:
        return bisect.bisect_left(self.newlines, self.at) + 1
