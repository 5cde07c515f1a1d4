"""Durable rooms on disk: what was answered is there at the next start, and a file that cannot be used is told why."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from relay.errors import ConfigError
from relay.model import Kind, Message, Payload
from relay.rooms.archive import Archive
from relay.rooms.hub import Hub
from relay.rooms.journal import Journal
from relay.rooms.room import Room
from relay.store.sqlite import SqliteStore
from tests.unit.rooms.kit import House


class Relay(House):
    """A hub whose durable rooms are in a file."""

    def __init__(self, file: Path, *, space: str = "", memory: int = 1 << 30, **rule: object) -> None:
        super().__init__(**{"history": 100, "durable": True, **rule})  # type: ignore[arg-type]
        old = self.hub
        self.journal = Journal(1 << 24, space)
        self.hub = Hub(
            self.channels, old.router, clock=old.clock, new_epoch=old.new_epoch, archive=Archive(memory),
            journal=self.journal,
        )  # fmt: skip
        self.store = SqliteStore(file)
        self.loaded = self.store.load(self.hub, self.journal)

    def room(self, name: str) -> Room:
        """Held open, with nobody in it."""
        room = self.hub.open(name)
        room.holds += 1
        return room

    async def written(self) -> None:
        """All that was said is on disk."""
        done = trio.Event()
        self.journal.afterwards(done.set, lambda refused: done.set())
        with trio.fail_after(10):
            await done.wait()


@asynccontextmanager
async def running(file: Path, **more: object) -> AsyncIterator[Relay]:
    async with trio.open_nursery() as nursery:
        relay = Relay(file, **more)  # type: ignore[arg-type]
        nursery.start_soon(relay.store.run)
        yield relay
        nursery.cancel_scope.cancel()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rooms.db"


async def test_a_restart_forgets_nothing_of_a_message(file: Path) -> None:
    said = [
        Message("r", Payload(Kind.TEXT, "grüße".encode()), "ann"),
        Message("r", Payload(Kind.BINARY, bytes(range(256))), "bob", "urgent", "key", "cid"),
        Message("r", Payload(Kind.JSON, b'{"a": [1]}'), None),
        Message("r", Payload(Kind.MSGPACK, b"\xc0"), "x" * 255),
    ]
    async with running(file) as relay:
        room = relay.room("r")
        for message in said:
            relay.hub.publish(room, message, None)
        await relay.written()
        epoch, offset = room.epoch, room.offset
        assert room.history is not None
        before = room.history.last(9, relay.now, "cid")
    async with running(file) as relay:
        room = relay.room("r")
        assert (relay.loaded, room.epoch, room.offset, room.numbered) == (1, epoch, offset, 4)
        assert room.history is not None
        after = room.history.last(9, relay.now, "cid")
        shown = [
            [(m.data.kind, m.data.raw, m.sender, m.channel, m.key, m.to, m.offset, m.at) for m in messages]
            for messages in (before, after)
        ]
        assert shown[0] == shown[1]
        assert len(shown[0]) == 4
        assert room.broadcast("next") == 5


async def test_what_is_queued_when_the_relay_ends_is_still_written(file: Path) -> None:
    async with running(file) as relay:
        room = relay.room("r")
        for number in range(500):
            room.broadcast(str(number))
    async with running(file) as relay:
        assert relay.room("r").offset == 500


async def test_what_history_forgot_is_gone_from_the_disk_and_known_to_be(file: Path) -> None:
    async with running(file, history=3) as relay:
        room = relay.room("r")
        for number in range(10):
            room.broadcast(str(number))
            await relay.written()
    with sqlite3.connect(file) as db:
        [count] = db.execute("SELECT count(*) FROM messages").fetchone()
        assert count <= 4, "the newest batch cleans up behind the one before it"
    db.close()
    async with running(file, history=3) as relay:
        room = relay.room("r")
        assert room.history is not None
        assert [m.offset for m in room.history.last(9, relay.now)] == [8, 9, 10]
        assert room.history.since(7, 10, relay.now)[0] is True
        assert room.history.since(6, 10, relay.now)[0] is False


async def test_receipts_survive_too(file: Path) -> None:
    async with running(file) as relay:
        room = relay.room("r")
        offset = room.broadcast("x")
        relay.journal.receipt(room, "ann", "k", offset, relay.now)
        await relay.written()
    async with running(file) as relay:
        room = relay.room("r")
        assert relay.hub.receipts(room).begin("ann", "k", relay.now + 1) == 1
        assert relay.hub.receipts(room).begin("ann", "other", relay.now + 1) is None


async def test_rooms_that_are_forgotten_leave_the_disk(file: Path) -> None:
    async with running(file, history_seconds=60.0) as relay:
        for name in ("old", "new"):
            room = relay.room(name)
            room.broadcast("x")
            await relay.written()
            room.holds -= 1
            relay.hub.free_if_empty(room)
            relay.now += 50.0
        relay.hub.archive.sweep(relay.now)
        await relay.written()
    async with running(file, history_seconds=60.0) as relay:
        assert relay.loaded == 1
        assert relay.hub.archive.look("new") is not None


async def test_no_more_is_loaded_than_memory_may_hold_and_the_rest_leaves_the_disk(file: Path) -> None:
    async with running(file) as relay:
        for number in range(20):
            relay.room(f"r{number}").broadcast(bytes(1000))
        await relay.written()
    async with running(file, memory=10_000) as relay:
        assert relay.hub.archive.bytes <= 10_000
        kept = len(relay.hub.archive)
        assert 0 < kept < 20
    async with running(file) as relay:
        assert relay.loaded == kept


async def test_spaces_share_a_file_and_nothing_else(file: Path) -> None:
    async with running(file, space="a") as relay:
        relay.room("r").broadcast("mine")
        await relay.written()
    async with running(file, space="b") as relay:
        assert relay.loaded == 0
        assert relay.room("r").broadcast("mine too") == 1
        await relay.written()
    async with running(file, space="a") as relay:
        assert relay.room("r").offset == 1


async def test_a_disk_that_is_full_refuses_and_goes_on_when_there_is_room_again(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(file) as relay:
        room = relay.room("r")
        room.broadcast("fits")
        await relay.written()
        [pages] = relay.store._db.execute("PRAGMA page_count").fetchone()
        relay.store._db.execute(f"PRAGMA max_page_count = {pages}")
        told: list[str] = []
        room.broadcast(bytes(100_000))
        done = trio.Event()
        relay.journal.afterwards(done.set, lambda refused: (told.append(refused.code), done.set()))  # type: ignore[func-returns-value]
        with trio.fail_after(10):
            await done.wait()
        assert (told, room.offset) == (["unavailable"], 1)
        assert "full" in caplog.text
        relay.store._db.execute("PRAGMA max_page_count = 1000000")
        assert room.broadcast("again") == 2
        await relay.written()
        assert room.offset == 2


def test_a_second_relay_is_told_that_the_file_is_in_use(file: Path) -> None:
    first = SqliteStore(file)
    with pytest.raises(ConfigError, match=r"in use.*file of its own"):
        SqliteStore(file)
    first._db.close()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"this is no database at all" * 50, "not a database"),
        (None, "some other program"),
    ],
)
def test_a_file_that_is_not_ours_is_left_alone(file: Path, content: bytes | None, told: str) -> None:
    if content is None:
        with sqlite3.connect(file) as db:
            db.execute("CREATE TABLE theirs (x)")
        db.close()
    else:
        file.write_bytes(content)
    before = file.read_bytes()
    with pytest.raises(ConfigError, match=told) as caught:
        SqliteStore(file)
    assert caught.value.problems[0].key == "history.file"
    if content is not None:
        assert file.read_bytes() == before


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot open .*rooms\.db"):
        SqliteStore(tmp_path / "nowhere" / "rooms.db")


def test_nobody_else_may_read_the_file(file: Path) -> None:
    SqliteStore(file)._db.close()
    assert file.stat().st_mode & 0o777 == 0o600
