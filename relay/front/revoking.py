"""Revocation while the relay runs: entries made here, the file, and the live sessions that either ends.

Not here: which entry covers which token (auth/revocation), who may ask for one (the API). The one rule: an entry is in
force, and its sessions are closed, before anything is written; a disk that fails un-revokes nobody.

Sessions are looked through when an entry comes, some hundreds at a time: that is rare, and an index would cost every
connection something.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import trio

from relay.auth.revocation import (
    FILE_SETTING,
    BadRevocations,
    Conditions,
    Entries,
    Revocation,
    Revocations,
    RevocationsFull,
    bounded,
    entries_in,
    line_of,
    without,
)
from relay.config.loader import LoadedConfig
from relay.config.schema import Auth, issuers_of
from relay.errors import ConfigError, ConfigProblem
from relay.front.state import State
from relay.session.connection import Connection
from relay.session.everybody import for_each

log = logging.getLogger("relay")

NO_GOOD: Final = (UnicodeDecodeError, BadRevocations, RevocationsFull)
"""What a file may be that can be read."""
LONGEST_LINE: Final = 2048  # bytes; four texts of 255 bytes, escaped, and two numbers

Signature: TypeAlias = tuple[str, int, int, int, int]
"""Path, mtime and ctime in ns, inode, size: a file that was written anew, or may be read now, differs in one."""


@dataclass(slots=True, frozen=True)
class Outcome:
    """What became of a request. `closed`: sessions; `kept`: a restart will not forget it, `problem` why it would."""

    entry: Revocation
    closed: int = 0
    kept: bool = True
    problem: str = ""


class Revoking:
    """Of one process. `sessions` are the live ones, `wall` gives Unix time, `seen` is the file as it was read at start
    (`read_at_start`).
    """

    def __init__(
        self,
        state: State,
        sessions: Callable[[], Iterable[Connection]],
        wall: Callable[[], float],
        seen: Signature | None = None,
    ) -> None:
        self.revocations: Final = state.revocations
        self._state = state
        self._sessions = sessions
        self.wall: Final = wall
        self._seen = seen  # the file as it was last read, or found to be no good
        self._problems: list[str] = []  # as they were last told
        self._lock = trio.Lock()  # of those who read and write the file

    async def add(self, entry: Revocation) -> Outcome:
        """Revokes, closes the sessions concerned (4401), and writes it down. Raises RevocationsFull, ValueError."""
        entry = bounded(entry, self.wall(), _longest_life(self._state.rules.config.auth))
        self.revocations.add(entry)
        closed = await self.sweep()
        problem = await self._write(partial(_append, line=line_of(entry)))
        return Outcome(entry, closed, not problem, problem)

    async def undo(self, conditions: Conditions) -> Outcome | None:
        """Takes an entry back, in the file too; None: there is none. Nobody is called back."""
        found = next((entry for entry in self.revocations if entry.conditions == conditions), None)
        if not self.revocations.undo(conditions) or found is None:
            return None
        problem = await self._write(partial(_rewrite, change=partial(without, conditions=conditions, now=self.wall())))
        return Outcome(found, 0, not problem, problem)

    async def sweep(self) -> int:
        """Closes every session whose token is revoked; how many."""
        now = self.wall()
        return await for_each(self._sessions(), lambda connection: connection.credentials.end_if_revoked(now))

    # The file.

    async def look(self) -> None:
        """Once a second: forgets what is over, and reads the file if it is another one."""
        self.revocations.capacity = self._state.rules.config.auth.max_revocations
        self.revocations.forget(self.wall())
        async with self._lock:
            changed = await self._look_at_file()
        if changed:
            closed = await self.sweep()
            fields = {"entries": len(self.revocations.filed), "sessions_closed": closed, "setting": FILE_SETTING}
            log.info("revocations read", extra={"fields": fields})

    async def _look_at_file(self) -> bool:
        path = self._path()
        if path is None:
            if self._seen is not None:  # the setting was taken away
                self._seen = None
                self.revocations.replace_file(Entries())
            return False
        try:
            signature = _signature(path)
            if signature == self._seen:
                return False
            if signature is None:
                self._seen = None
                raise FileNotFoundError(0, "the file is gone")
            most = self.revocations.capacity
            try:
                self.revocations.replace_file(await trio.to_thread.run_sync(_read, path, self.wall(), most))
            except NO_GOOD:
                self._seen = signature  # nothing is gained by reading it again before it changes
                raise
            self._seen = signature
        except (OSError, *NO_GOOD) as error:
            problems = _told(path, error)
            if problems != self._problems:
                self._problems = problems
                fields = {"problems": problems, "setting": FILE_SETTING}
                log.error("revocations not read, those of before stay in force", extra={"fields": fields})
            return False
        self._problems = []
        return True

    async def _write(self, write: Callable[[Path], None]) -> str:
        """Changes the file; what is wrong, "" if nothing is. Not read again at once: the next look does that."""
        path = self._path()
        if path is None:
            await trio.lowlevel.checkpoint()
            return f"there is no file to keep it in [{FILE_SETTING}]"
        try:
            async with self._lock:
                await trio.to_thread.run_sync(write, path)
        except (OSError, UnicodeDecodeError) as error:
            (what,) = _told(path, error)
            log.error("a revocation was not written down", extra={"fields": {"problem": what, "setting": FILE_SETTING}})
            return f"{what} [{FILE_SETTING}]"
        return ""

    def _path(self) -> Path | None:
        rules = self._state.rules
        name = rules.config.auth.revocation_file
        return rules.loaded.resolve(name) if name else None


def read_at_start(loaded: LoadedConfig, revocations: Revocations, now: float) -> Signature | None:
    """Reads the file of a configuration. Raises ConfigError where it cannot be used; one that is not there is empty."""
    name = loaded.config.auth.revocation_file
    if not name:
        return None
    path = loaded.resolve(name)
    try:
        signature = _signature(path)
        if signature is not None:
            revocations.replace_file(_read(path, now, revocations.capacity))
    except (OSError, *NO_GOOD) as error:
        where = loaded.where(FILE_SETTING)
        raise ConfigError([ConfigProblem(where, FILE_SETTING, what) for what in _told(path, error)]) from None
    return signature


def _longest_life(auth: Auth) -> float:
    """Seconds that a token of any issuer lives at most; 0: any."""
    lives = [one.max_lifetime + one.leeway if one.max_lifetime else math.inf for one in issuers_of(auth).values()]
    longest = max(lives, default=math.inf)
    return 0.0 if longest == math.inf else longest


def _signature(path: Path) -> Signature | None:
    """None: there is no such file. Raises OSError."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return str(path), found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size


def _read(path: Path, now: float, capacity: int) -> Entries:
    """Raises OSError, UnicodeDecodeError, BadRevocations, RevocationsFull."""
    with path.open("rb") as file:
        data = file.read(capacity * LONGEST_LINE + 1)
    if len(data) > capacity * LONGEST_LINE:
        raise RevocationsFull(capacity)
    return entries_in(data.decode("utf-8-sig"), now, capacity)


def _append(path: Path, line: str) -> None:
    """Adds a line, durably; makes the file if need be, for its owner alone. Raises OSError."""
    with open(path, "a+b", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _rewrite(path: Path, change: Callable[[str], str]) -> None:
    """Puts another text in the place of a file's, all at once. Raises OSError, UnicodeDecodeError."""
    try:
        old = path.read_bytes()
    except FileNotFoundError:
        return
    new = change(old.decode("utf-8-sig")).encode()
    if new == old:
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "wb", opener=lambda name, flags: os.open(name, flags, path.stat().st_mode & 0o777)) as file:
            file.write(new)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def _told(path: Path, error: Exception) -> list[str]:
    match error:
        case BadRevocations(problems=problems):
            return [f"{path}:{line}: {what}" for line, what in problems]
        case UnicodeDecodeError():
            return [f"{path}: is not UTF-8"]
        case OSError():
            return [f"{path}: {error.strerror or error}"]
    return [f"{path}: {error}"]
