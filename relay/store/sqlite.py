"""Durable rooms on disk: one SQLite file, written in batches by one thread, read once at start.

What is in memory is the truth while the relay runs; the file is what the next start begins with. Not here: which rooms
are durable, and who waits for what (rooms/journal). The one rule: a batch is one transaction; only when it has been
committed is anything of it heard or answered.

With `sync = "full"` a commit has reached the disk (fsync), so that it also survives a power failure; with "normal" it
survives the end of the process, however that comes (https://www.sqlite.org/wal.html).
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import trio

from relay.errors import ConfigError, ConfigProblem
from relay.model import Kind, Message, Payload
from relay.rooms.archive import Record
from relay.rooms.hub import Hub
from relay.rooms.journal import Entry, Forgotten, Journal, Receipted, Renamed, Trimmed, Written
from relay.rooms.receipts import Receipts

log = logging.getLogger("relay.store")

VERSION: Final = 1
APPLICATION: Final = 0x52654C79  # in the file's header, so that nobody else's file is written to
LAST_WORDS: Final = 5.0  # seconds for what is queued when the relay ends
TELL_EVERY: Final = 10.0  # seconds between two log lines about a disk that does not take anything
SETTING: Final = "history.file"

SCHEMA: Final = """
CREATE TABLE rooms (
    space TEXT, room TEXT, epoch TEXT NOT NULL, offset INTEGER NOT NULL, floor INTEGER NOT NULL,
    PRIMARY KEY (space, room)) WITHOUT ROWID;
CREATE TABLE messages (
    space TEXT, room TEXT, offset INTEGER, at REAL NOT NULL, sender TEXT, channel TEXT, key TEXT, subject TEXT,
    kind INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (space, room, offset)) WITHOUT ROWID;
CREATE TABLE receipts (
    space TEXT, room TEXT, subject TEXT, key TEXT, offset INTEGER NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (space, room, subject, key)) WITHOUT ROWID;
"""

Row = Sequence[object]


class Batch(NamedTuple):
    """What one transaction does, as rows of plain values: nothing that the event loop may change meanwhile."""

    rooms: list[Row]
    messages: list[Row]
    receipts: list[Row]
    forgotten: list[Row]
    renamed: list[Row]


class SqliteStore:
    """Raises ConfigError for a file that cannot be used. `run` must run while anything is published."""

    def __init__(self, file: Path, *, sync: str = "full", receipt_seconds: float = 300.0) -> None:
        self.file = file
        self._receipt_seconds = receipt_seconds
        self._journals: list[Journal] = []
        self._wake = trio.Event()
        self._told = -TELL_EVERY
        try:
            self._db = self._open(file, sync)
        except (sqlite3.Error, OSError) as error:
            raise ConfigError([ConfigProblem("configuration", SETTING, *_told(file, error))]) from None

    @staticmethod
    def _open(file: Path, sync: str) -> sqlite3.Connection:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))  # messages are nobody else's business
        db = sqlite3.connect(file, timeout=0.0, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {'FULL' if sync == 'full' else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            [application] = db.execute("PRAGMA application_id").fetchone()
            [version] = db.execute("PRAGMA user_version").fetchone()
            [tables] = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if not tables:
                for statement in SCHEMA.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {APPLICATION}")
                db.execute(f"PRAGMA user_version = {VERSION}")
            elif application != APPLICATION:
                raise sqlite3.DatabaseError("it is some other program's database")
            elif version != VERSION:
                raise sqlite3.DatabaseError(f"it has version {version}; this relay reads version {VERSION}")
            db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db

    def load(self, hub: Hub, journal: Journal) -> int:
        """Gives a hub what is remembered of its durable rooms, as far as its archive holds it. Returns the rooms.

        From then on its journal is written here. Rooms that no durable plugin owns any more stay on disk.
        """
        journal.wake = self._awake
        self._journals.append(journal)
        hub.archive.forgotten = journal.forget
        loaded = 0
        rows = self._db.execute("SELECT room, epoch, offset, floor FROM rooms WHERE space = ?", (journal.space,))
        for room, epoch, offset, floor in rows.fetchall():
            owner = hub.router(room)
            if owner is None or not owner[0].durable:
                log.warning("room %s is on disk, and no durable plugin owns it", room)
                continue
            rule = owner[0]
            history = hub.archive.history(rule.history, rule.history_seconds, rule.history_bytes)
            history.floor = floor
            for message in self._messages(journal.space, room, floor):
                history.add(message)
            receipts = self._receipts(hub, journal.space, room)
            hub.archive.sleep(room, Record(epoch, offset, history, receipts))
            loaded += 1
        return loaded

    async def release(self, hub: Hub) -> None:
        """What a hub has queued is written, or cannot be; from then on nothing of it is."""
        journal = hub.journal
        if journal is None:
            return
        written = trio.Event()
        journal.afterwards(written.set, lambda refused: written.set())
        await written.wait()
        self.let_go(hub)

    def let_go(self, hub: Hub) -> None:
        """The contrary of `load`, of a hub that has nothing queued."""
        if hub.journal is not None and hub.journal in self._journals:
            self._journals.remove(hub.journal)
            hub.archive.forgotten = None
            hub.journal.wake = lambda: None

    def _messages(self, space: str, room: str, floor: int) -> Iterable[Message]:
        rows = self._db.execute(
            "SELECT offset, at, sender, channel, key, subject, kind, data FROM messages"
            " WHERE space = ? AND room = ? AND offset > ? ORDER BY offset",
            (space, room, floor),
        )
        for offset, at, sender, channel, key, subject, kind, data in rows:
            payload = Payload(Kind(kind), data)
            yield Message(room, payload, sender, channel, key, subject, offset=offset, at=at)

    def _receipts(self, hub: Hub, space: str, room: str) -> Receipts:
        receipts = hub.new_receipts()
        rows = self._db.execute(
            "SELECT subject, key, offset, at FROM receipts WHERE space = ? AND room = ? ORDER BY at", (space, room)
        )
        for subject, key, offset, at in rows:
            receipts.done(subject, key, offset, at)
        return receipts

    def _awake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Writes what the journals bring, one batch after the other, until cancelled; then what is left, and closes."""
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                await self._write_all()
        finally:
            with trio.move_on_after(LAST_WORDS, shield=True):
                await self._write_all()
            self._db.close()

    async def _write_all(self) -> None:
        for journal in list(self._journals):
            if len(journal):
                entries = journal.take()
                problem = await trio.to_thread.run_sync(self._commit, _batches(journal.space, entries))
                if problem is not None and trio.current_time() - self._told >= TELL_EVERY:
                    self._told = trio.current_time()
                    fields = {"file": str(self.file), "setting": SETTING}
                    log.error("messages cannot be written: %s", problem, extra={"fields": fields})
                journal.settle(entries, None if problem is None else "the message could not be written to disk")

    def _commit(self, batches: list[Batch]) -> str | None:
        """In a thread, one transaction. What went wrong; None: all of it is on disk."""
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            try:
                for batch in batches:
                    self._write(batch)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        except Exception as error:  # a full disk, and whatever else: those who wait are told
            return str(error)
        return None

    def _write(self, batch: Batch) -> None:
        db = self._db
        for table in ("rooms", "messages", "receipts"):
            db.executemany(f"DELETE FROM {table} WHERE space = ? AND room = ?", batch.forgotten)  # noqa: S608
            replaced = [(space, new) for new, space, _ in batch.renamed]  # nobody's: else there would be no such rename
            db.executemany(f"DELETE FROM {table} WHERE space = ? AND room = ?", replaced)  # noqa: S608
            db.executemany(f"UPDATE {table} SET room = ? WHERE space = ? AND room = ?", batch.renamed)  # noqa: S608
        db.executemany("INSERT OR REPLACE INTO rooms VALUES (?, ?, ?, ?, ?)", batch.rooms)
        db.executemany("INSERT OR REPLACE INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", batch.messages)
        db.executemany("INSERT OR REPLACE INTO receipts VALUES (?, ?, ?, ?, ?, ?)", batch.receipts)
        past = [(space, room, floor) for space, room, _, _, floor in batch.rooms]
        db.executemany("DELETE FROM messages WHERE space = ? AND room = ? AND offset <= ?", past)
        if batch.receipts:
            oldest = max(at for *_, at in batch.receipts) - self._receipt_seconds  # type: ignore[type-var,operator]
            old = {(space, room, oldest) for space, room, *_ in batch.receipts}
            db.executemany("DELETE FROM receipts WHERE space = ? AND room = ? AND at < ?", old)


def _batches(space: str, entries: list[Entry]) -> list[Batch]:
    """What is forgotten or renamed comes before all else of its batch, so each of them begins another one."""
    starts = [place for place, entry in enumerate(entries) if isinstance(entry, Forgotten | Renamed)]
    cuts = [0, *starts, len(entries)]
    return [_batch(space, entries[begin:end]) for begin, end in pairwise(cuts) if begin < end]


def _batch(space: str, entries: list[Entry]) -> Batch:
    rooms: dict[str, Row] = {}
    messages: list[Row] = []
    receipts: list[Row] = []
    forgotten: list[Row] = []
    renamed: list[Row] = []
    for entry in entries:
        if isinstance(entry, Written):
            room, message = entry.room, entry.message
            floor = room.history.floor if room.history is not None else message.offset
            rooms[entry.name] = (space, entry.name, room.epoch, message.offset, floor)
            data = message.data
            messages.append(
                (
                    space, entry.name, message.offset, message.at, message.sender, message.channel, message.key,
                    message.to, int(data.kind), data.raw,
                )
            )  # fmt: skip
        elif isinstance(entry, Receipted):
            receipts.append((space, entry.name, entry.subject, entry.key, entry.offset, entry.at))
        elif isinstance(entry, Forgotten):
            forgotten.append((space, entry.name))
        elif isinstance(entry, Renamed):
            renamed.append((entry.new, space, entry.old))
        elif isinstance(entry, Trimmed):
            rooms[entry.name] = (space, entry.name, entry.epoch, entry.offset, entry.floor)
    return Batch(list(rooms.values()), messages, receipts, forgotten, renamed)


def _told(file: Path, error: Exception) -> tuple[str, str]:
    """What is wrong, and a hint."""
    if isinstance(error, OSError):
        return f"cannot open {file}: {error.strerror}", "its folder must be there, and writable"
    if "locked" in str(error):
        return f"{file} is in use", "another relay writes to it; each needs a file of its own"
    return f"cannot use {file}: {error}", "give another name, or move the file away"
