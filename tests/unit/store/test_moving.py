"""Durable rooms that are renamed or made to forget: the next start finds them as they were left."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.model import Kind, Message, Payload
from relay.rooms import moving
from relay.rooms.room import Room
from tests.unit.rooms.kit import Notes
from tests.unit.store.test_sqlite import Relay, running


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Notes, "renamed", lambda self, room, old: None, raising=False)


def say(relay: Relay, room: Room, text: str) -> None:
    relay.hub.publish(room, Message(room.name, Payload(Kind.TEXT, text.encode())), None)


def remembered(relay: Relay, name: str) -> list[tuple[str, int, str]]:
    record = relay.hub.archive.look(name)
    if record is None or record.history is None:
        return []
    return [(message.room, message.offset, message.data.text()) for message in record.history]


async def test_what_was_said_before_during_and_after_a_rename_is_under_the_new_name(tmp_path: Path) -> None:
    file = tmp_path / "rooms.db"
    async with running(file) as relay:
        room = relay.room("old")
        epoch = room.epoch
        say(relay, room, "written")
        await relay.written()
        say(relay, room, "queued")
        moving.rename(relay.hub, "old", "new")
        say(relay, room, "after")
        await relay.written()
    async with running(file) as relay:
        assert relay.loaded == 1
        assert remembered(relay, "old") == []
        assert remembered(relay, "new") == [("new", 1, "written"), ("new", 2, "queued"), ("new", 3, "after")]
        record = relay.hub.archive.look("new")
        assert record is not None
        assert (record.epoch, record.offset) == (epoch, 3)


async def test_a_sleeping_room_moves_and_its_old_name_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "rooms.db"
    async with running(file) as relay:
        room = relay.room("old")
        say(relay, room, "one")
        await relay.written()
        room.holds -= 1
        relay.hub.free_if_empty(room)
        assert moving.rename(relay.hub, "old", "new") is None
        again = relay.room("old")
        assert again.offset == 0
        say(relay, again, "other")
        await relay.written()
    async with running(file) as relay:
        assert remembered(relay, "new") == [("new", 1, "one")]
        assert remembered(relay, "old") == [("old", 1, "other")]


async def test_a_rename_that_could_not_be_written_is_written_with_what_comes_next(tmp_path: Path) -> None:
    file = tmp_path / "rooms.db"
    async with running(file) as relay:
        room = relay.room("old")
        say(relay, room, "one")
        await relay.written()
        moving.rename(relay.hub, "old", "new")
        assert relay.journal is not None
        relay.journal.settle(relay.journal.take(), "the disk is full")
        say(relay, room, "two")
        await relay.written()
    async with running(file) as relay:
        assert remembered(relay, "old") == []
        assert remembered(relay, "new") == [("new", 1, "one"), ("new", 2, "two")]


async def test_what_was_forgotten_stays_forgotten_and_with_nothing_left_the_room_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "rooms.db"
    async with running(file) as relay:
        room = relay.room("r")
        say(relay, room, "one")
        await relay.written()
        assert room.history is not None
        room.history.clear()
        assert relay.journal is not None
        relay.journal.trim("r", room.epoch, room.offset, room.offset)
        await relay.written()
    async with running(file) as relay:
        assert relay.hub.archive.look("r") is None  # nothing worth keeping: the next life has another epoch
