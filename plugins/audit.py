"""Audit: who came, what was said and asked, and who went, as lines of JSON that are only ever added to.

    [plugins.audit]
    filters = ["*"]
    file = "audit.jsonl"
    payloads = false        # true: what was said, too; else its size alone
    rotate_bytes = 67108864
    sync = "batch"          # fsync after each batch of lines; "never": the system decides

Each line has `prev`, the SHA-256 of the line before it, over the ends of files too: a line that was changed, taken out
or put in breaks the chain (`python -m plugins.audit FILE…` looks). Whoever can write the file can also write all of it
anew: keep the last hash elsewhere. Lines are written in a thread; while the disk is slow `queue` of them wait, more are
dropped, counted, and told of by a line "gap". In front of other filters (by the order of the tables) it sees what they
refuse; behind them, what they let pass. No token is ever written.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, Literal

import msgspec
import trio
from msgspec import Meta

from relay.plugin import api
from relay.plugin.api import Arrival, Message, Payload, Peer, Plugin, Relay, Room

FIRST: Final = "0" * 64
"""`prev` of the first line of all."""
_encode: Final = msgspec.json.Encoder(order="sorted").encode


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
        self._book = Book(Path(settings.file), settings.rotate_bytes, settings.rotate_daily, settings.sync == "batch")
        self._written = relay.counter("audit_lines", "Lines for the audit file.", ["what"])

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

    def _said(self, data: Payload | None) -> dict[str, Any]:
        if data is None:
            return {}
        said: dict[str, Any] = {"kind": data.kind.name.lower(), "bytes": len(data)}
        if self.settings.payloads:
            said["data"] = data.as_json()[: self.settings.payload_bytes].decode(errors="replace")
        return said

    def _note(self, what: str, **fields: Any) -> None:
        if len(self._waiting) >= self.settings.queue:
            self._missed += 1
            self._written.add(1, "dropped")
            return
        if self._missed:
            self._waiting.append({"at": time.time(), "what": "gap", "lines": self._missed})
            self._missed = 0
        self._waiting.append({"at": time.time(), "what": what, **fields})
        self._written.add(1, what)
        self._more.set()

    async def run(self) -> None:
        try:
            while True:
                await self._more.wait()
                self._more = trio.Event()
                batch = self._batch()
                try:
                    with trio.CancelScope(shield=True):  # a batch is written once, and in its turn
                        await trio.to_thread.run_sync(self._book.write, batch)
                except OSError:  # `run` is started again, later and later
                    self._missed += len(batch)
                    raise
        except trio.Cancelled:  # the end, or another version of the plugin: what waits is written yet
            self._book.write(self._batch())
            self._book.close()
            raise

    def _batch(self) -> list[dict[str, Any]]:
        batch = list(self._waiting)
        self._waiting.clear()
        if self._missed:
            batch.append({"at": time.time(), "what": "gap", "lines": self._missed})
            self._missed = 0
        return batch


class Book:
    """The file. `write` may be called from any thread, one at a time. Raises OSError."""

    def __init__(self, path: Path, rotate_bytes: int, daily: bool, sync: bool) -> None:
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._daily = daily
        self._sync = sync
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._day = ""
        self._prev = FIRST
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, batch: Iterable[dict[str, Any]]) -> None:
        with self._lock:
            try:
                for fields in batch:
                    file = self._opened(time.strftime("%Y%m%d", time.gmtime(fields["at"])))
                    line = _encode({**fields, "prev": self._prev})
                    file.write(line + b"\n")
                    self._prev = hashlib.sha256(line).hexdigest()
                if self._file is not None:
                    self._file.flush()
                    if self._sync:
                        os.fsync(self._file.fileno())
            except OSError:  # the next batch looks at what is there
                broken, self._file = self._file, None
                if broken is not None:
                    try:
                        broken.close()
                    except OSError:
                        pass
                raise

    def _opened(self, day: str) -> BinaryIO:
        if self._file is None:
            self._file = self._path.open("ab")
            os.chmod(self._path, 0o600)
            self._prev = self._mend()
            self._day = day
        full = self._rotate_bytes and self._file.tell() >= self._rotate_bytes
        if self._file.tell() and (full or (self._daily and day != self._day)):
            self._file.close()
            self._path.rename(self._aside())
            self._file = self._path.open("ab")
            os.chmod(self._path, 0o600)
        self._day = day
        return self._file

    def _aside(self) -> Path:
        number = 1
        while (aside := self._path.with_name(f"{self._path.name}.{self._day}.{number:04}")).exists():
            number += 1
        return aside

    def _mend(self) -> str:
        """The hash of the last line; what a crash left of a half one is cut off."""
        assert self._file is not None
        data = self._path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self._file.truncate(whole)
        lines = data[:whole].splitlines()
        return hashlib.sha256(lines[-1]).hexdigest() if lines else self._last_aside()

    def _last_aside(self) -> str:
        older = sorted(self._path.parent.glob(f"{self._path.name}.*.*"))
        lines = older[-1].read_bytes().splitlines() if older else []
        return hashlib.sha256(lines[-1]).hexdigest() if lines else FIRST

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def verify(files: Iterable[Path]) -> Iterator[str]:
    """What is wrong with a chain of files, oldest first, as lines "FILE:LINE: what"; nothing when all is well.

    The first line of the first file is taken as it comes: those before it may have been put away.
    """
    prev: str | None = None
    for path in files:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                line = raw.rstrip(b"\n")
                try:
                    said = msgspec.json.decode(line, type=dict[str, Any]).get("prev")
                except msgspec.DecodeError as problem:
                    yield f"{path}:{number}: no line of an audit: {problem}"
                    said = None
                else:
                    if prev is not None and said != prev:
                        yield f"{path}:{number}: the chain is broken: this line does not follow the one before it"
                prev = hashlib.sha256(line).hexdigest()


def _about(arrival: Arrival) -> dict[str, Any]:
    return {name: getattr(arrival, name) for name in ("subject", "session", "address", "protocol", "home")}


def _member(room: Room, peer: Peer) -> dict[str, Any]:
    return {"room": room.name, "subject": peer.subject, "session": peer.session}


if __name__ == "__main__":
    wrong = list(verify(map(Path, sys.argv[1:])))
    sys.stdout.write("".join(f"{one}\n" for one in wrong) or "the chain is whole\n")
    sys.exit(1 if wrong else 0)
