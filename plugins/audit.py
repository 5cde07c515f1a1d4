"""Audit: who came, what was said and asked, what was refused, and who went, as lines of JSON that are only added to.

    [plugins.audit]
    filters = ["*"]
    decisions = true        # what the relay and other plugins refuse, throttle, drop and close, too
    file = "audit.jsonl"
    payloads = false        # true: what was said, too; else its size alone
    rotate_bytes = 67108864
    sync = "batch"          # fsync after each batch of lines; "never": the system decides

Each line has `prev`, the SHA-256 of the line before it, over the ends of files too: a line that was changed, taken out
or put in breaks the chain (`relay audit FILE` looks). Whoever can write the file can also write all of it anew: keep
the last hash elsewhere. Lines are written in a thread; while the disk is slow or full `queue` of them wait, more are
dropped, counted, and told of by a line "gap". In front of other filters (by the order of the tables) it sees what they
refuse; behind them, what they let pass. No token is ever written. Each tenant has a file of its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import trio
from msgspec import Meta

from relay.plugin import api
from relay.plugin.api import Arrival, Decision, Message, Payload, Peer, Plugin, Relay, Room

FIRST: Final = "0" * 64
"""`prev` of the first line of all."""
BATCH: Final = 1000  # lines that are written at a time
FIRST_PAUSE: Final = 1.0  # seconds until a disk that failed is tried again; doubles each time
LONGEST_PAUSE: Final = 60.0
_encode: Final = msgspec.json.Encoder(order="sorted").encode
_WORDS: Final = ("kind", "code", "setting", "subject", "session", "address", "room", "plugin", "detail")


class Audit(Plugin):
    """Sees, and refuses nothing."""

    class Settings(api.Settings, frozen=True):
        file: Annotated[str, Meta(min_length=1, description="Where the lines go.")]
        payloads: Annotated[bool, Meta(description="Write what was said and asked, not only its size.")] = False
        payload_bytes: Annotated[int, Meta(ge=0, description="Of it, so many bytes at most.")] = 4096
        rotate_bytes: Annotated[int, Meta(ge=0, description="A new file beyond that; 0: never.")] = 67108864
        rotate_daily: Annotated[bool, Meta(description="A new file each day (UTC).")] = False
        sync: Annotated[Literal["batch", "never"], Meta(description="fsync after each batch, or never.")] = "batch"
        queue: Annotated[int, Meta(ge=1, description="Lines that may wait for the disk.")] = 10000

    settings: Settings

    def __init__(self, name: str, settings: Settings, relay: Relay) -> None:
        super().__init__(name, settings, relay)
        self._waiting: deque[dict[str, Any]] = deque()
        self._missed = 0
        self._more = trio.Event()
        path = Path(settings.file)
        if relay.tenant:
            path = path.with_name(f"{path.stem}.{relay.tenant}{path.suffix}")
        self._book = Book(path, settings.rotate_bytes, settings.rotate_daily, settings.sync == "batch")
        self._written = relay.counter("audit_lines", "Lines for the audit file; dropped: the disk failed.", ["what"])

    def on_connect(self, arrival: Arrival) -> None:
        self._note("connect", **_about(arrival))

    def on_disconnect(self, arrival: Arrival, code: int) -> None:
        self._note("disconnect", **_about(arrival), code=code)

    def filter_joined(self, room: Room, peer: Peer) -> None:
        self._note("join", **_member(room, peer))

    def filter_leave(self, room: Room, peer: Peer) -> None:
        self._note("leave", **_member(room, peer))

    def filter_message(self, room: Room, sender: Peer, message: Message) -> None:
        more = {name: value for name in ("channel", "key", "to") if (value := getattr(message, name)) is not None}
        self._note("message", **_member(room, sender), **more, **self._said(message.data))

    def filter_call(self, room: Room, caller: Peer, method: str, data: Payload | None) -> None:
        self._note("call", **_member(room, caller), method=method, **self._said(data))

    def on_decisions(self, decisions: Sequence[Decision], missed: int) -> None:
        for one in decisions:
            if one.kind != "left":  # who has gone has a line already
                told = {name: value for name in _WORDS if (value := getattr(one, name))}
                self._note("decision", one.at, **told, **({"count": one.count} if one.count > 1 else {}))
        if missed:
            self._lose(missed)

    def _said(self, data: Payload | None) -> dict[str, Any]:
        if data is None:
            return {}
        said: dict[str, Any] = {"kind": data.kind.name.lower(), "bytes": len(data)}
        if self.settings.payloads:
            said["data"] = data.as_json()[: self.settings.payload_bytes].decode(errors="replace")
        return said

    def _note(self, what: str, at: float | None = None, **fields: Any) -> None:
        if len(self._waiting) >= self.settings.queue:
            self._lose(1)
            return
        self._tell_gap()
        self._waiting.append({"at": time.time() if at is None else at, "what": what, **fields})
        self._written.add(1, what)
        self._more.set()

    def _lose(self, lines: int) -> None:
        self._missed += lines
        self._written.add(lines, "dropped")

    def _tell_gap(self) -> None:
        if self._missed:
            self._waiting.append({"at": time.time(), "what": "gap", "lines": self._missed})
            self._missed = 0

    async def run(self) -> None:
        pause = FIRST_PAUSE
        try:
            while True:
                await self._more.wait()
                self._more = trio.Event()
                while self._waiting or self._missed:
                    with trio.CancelScope(shield=True):  # a batch is written once, and in its turn
                        problem = self._wrote(*await trio.to_thread.run_sync(self._book.write, self._batch()))
                    if problem is None:
                        pause = FIRST_PAUSE
                        continue
                    self.log.error(
                        "the audit cannot be written: %s; tried again in %g s, until then %d lines wait, at most %d",
                        problem, pause, len(self._waiting), self.settings.queue,
                    )  # fmt: skip
                    await trio.sleep(pause)
                    pause = min(pause * 2, LONGEST_PAUSE)
        except trio.Cancelled:  # the end, or another version of the plugin: what waits is written yet
            self._end()
            raise

    def _batch(self) -> list[dict[str, Any]]:
        self._tell_gap()
        return list(islice(self._waiting, BATCH))

    def _wrote(self, lines: int, problem: OSError | None) -> OSError | None:
        for _ in range(lines):
            self._waiting.popleft()
        return problem

    def _end(self) -> None:
        problem = None
        while problem is None and (self._waiting or self._missed):
            problem = self._wrote(*self._book.write(self._batch()))
        if problem is not None:
            self.log.error("the audit cannot be written: %s; %d lines are lost", problem, len(self._waiting))
        self._book.close()


class Book:
    """The file. `write` may be called from any thread, one at a time. Nobody else may write it meanwhile.

    What is not wholly written is taken back: lines are there once, or not at all, whatever the disk does.
    """

    def __init__(self, path: Path, rotate_bytes: int, daily: bool, sync: bool) -> None:
        self.path = path
        self._rotate_bytes = rotate_bytes
        self._daily = daily
        self._sync = sync
        self._lock = threading.Lock()
        self._file = -1
        self._size = 0  # bytes that are surely there
        self._day = ""
        self._prev = ""  # the hash of the last line that is; "": not looked at yet
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, batch: Iterable[dict[str, Any]]) -> tuple[int, OSError | None]:
        """How many of the lines are there now, and what kept the others from it."""
        with self._lock:
            done = 0
            pending: list[bytes] = []
            size = 0
            prev = ""
            try:
                for fields in batch:
                    day = time.strftime("%Y%m%d", time.gmtime(fields["at"]))
                    if not pending or self._is_over(day, size):
                        self._put(pending, prev)
                        done += len(pending)
                        pending, size = [], 0
                        self._open(day)
                        prev = self._prev
                    line = _encode({**fields, "prev": prev})
                    prev = hashlib.sha256(line).hexdigest()
                    pending.append(line + b"\n")
                    size += len(line) + 1
                self._put(pending, prev)
            except OSError as problem:
                self._take_back()
                return done, problem
            return done + len(pending), None

    def _put(self, lines: list[bytes], prev: str) -> None:
        """Raises OSError; then some of it may be there."""
        if not lines:
            return
        data = b"".join(lines)
        size = len(data)
        while data:
            data = data[os.write(self._file, data) :]
        if self._sync:
            os.fsync(self._file)
        self._size += size
        self._prev = prev

    def _take_back(self) -> None:
        """The file is as before; if even that fails, it is tried again when it is opened the next time."""
        if self._file >= 0:
            try:
                os.ftruncate(self._file, self._size)
            except OSError:
                pass
            self._close()

    def _is_over(self, day: str, more: int) -> bool:
        """Whether a line of that day belongs into another file."""
        size = self._size + more
        full = self._rotate_bytes and size >= self._rotate_bytes
        return bool(size and (full or (self._daily and day > self._day)))

    def _open(self, day: str) -> None:
        """Raises OSError."""
        if self._file < 0:
            self._file = self._opened()
            found = os.fstat(self._file)
            there = found.st_size
            if not self._prev:  # the first time: goes on where the last process has stopped
                self._prev, self._size = self._mended(there)
                self._day = time.strftime("%Y%m%d", time.gmtime(found.st_mtime)) if self._size else ""
            elif there < self._size:  # somebody has put another one in its place
                self._size = there
            os.ftruncate(self._file, self._size)
            self._day = self._day or day
        if self._is_over(day, 0):
            self._close()
            self.path.rename(self._aside())
            self._file, self._size = self._opened(), 0
        self._day = max(self._day, day)

    def _opened(self) -> int:
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise OSError(f"{self.path} is written by somebody else") from None
        return file

    def _aside(self) -> Path:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.{self._day}.{number:04}")).exists():
            number += 1
        return aside

    def _mended(self, size: int) -> tuple[str, int]:
        """The hash of the last line, and where it ends: behind it is what a crash left of a half one."""
        line, end = _last_line(self._file, size)
        if line is None:
            older = sorted(self.path.parent.glob(f"{self.path.name}.*.*"))
            if older:
                with older[-1].open("rb") as file:
                    line, _ = _last_line(file.fileno(), os.fstat(file.fileno()).st_size)
        return FIRST if line is None else hashlib.sha256(line).hexdigest(), end

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)


def _last_line(file: int, size: int) -> tuple[bytes | None, int]:
    """The last line that is whole, None: there is none; and where it ends."""
    wanted = 1 << 16
    while True:
        data = os.pread(file, wanted, max(0, size - wanted))
        end = data.rfind(b"\n")
        begin = data.rfind(b"\n", 0, max(0, end)) + 1
        if begin or wanted >= size:
            return (data[begin:end], size - len(data) + end + 1) if end >= 0 else (None, 0)
        wanted *= 2


def _about(arrival: Arrival) -> dict[str, Any]:
    return {name: getattr(arrival, name) for name in ("subject", "session", "address", "protocol", "home")}


def _member(room: Room, peer: Peer) -> dict[str, Any]:
    return {"room": room.name, "subject": peer.subject, "session": peer.session}
