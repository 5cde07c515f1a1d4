"""Durable rooms: heard once it is on disk, in order, and a number that came to nothing is given again."""

from __future__ import annotations

from typing import Any

import pytest

from relay.errors import Refused
from relay.rooms.hub import Hub
from relay.rooms.journal import ENTRY, Journal
from relay.rooms.room import Room
from tests.unit.rooms.kit import Guest, House


class Durable(House):
    """A house whose rooms are durable."""

    def __init__(self, most_bytes: int = 1 << 20) -> None:
        super().__init__(history=10, durable=True)
        self.journal = Journal(most_bytes)
        old = self.hub
        self.hub = Hub(
            self.channels, old.router, clock=old.clock, new_epoch=old.new_epoch, forward=old.forward,
            journal=self.journal,
        )  # fmt: skip

    def write(self, problem: str | None = None) -> None:
        self.journal.settle(self.journal.take(), problem)


def two() -> tuple[Durable, Guest, Guest, Room]:
    house = Durable()
    ann, bob = house.peer("ann"), house.peer("bob")
    return house, ann, bob, house.join("r", ann, bob)


def test_nothing_is_heard_or_remembered_before_it_is_written() -> None:
    house, ann, bob, room = two()
    assert [room.broadcast(text, sender=ann) for text in ("one", "two")] == [1, 2]
    assert (bob.hears(), room.offset, len(room.history or ())) == ([], 0, 0)
    house.write()
    assert (bob.hears(), ann.hears(), room.offset, len(room.history or ())) == (["one", "two"], [], 2, 2)
    assert [message.offset for message in house.forwarded] == [1, 2]


def test_what_could_not_be_written_is_heard_by_nobody_and_its_number_is_given_again() -> None:
    house, ann, bob, room = two()
    told: list[Any] = []
    room.broadcast("lost", sender=ann)
    house.journal.afterwards(lambda: told.append("ok"), lambda refused: told.append((refused.code, refused.setting)))
    taken = house.journal.take()
    room.broadcast("behind it", sender=ann)
    house.journal.settle(taken, "disk full")
    assert told == [("unavailable", "history.file")]
    assert (bob.hears(), room.offset, house.journal.bytes) == ([], 0, 0)
    assert room.broadcast("again", sender=ann) == 1
    house.write()
    assert bob.hears() == ["again"]


def test_who_waits_is_told_after_all_that_came_before_and_in_order() -> None:
    house, ann, bob, room = two()
    order: list[Any] = []
    house.journal.afterwards(lambda: order.append("at once: nothing waits"), order.append)
    room.broadcast("x", sender=ann)
    house.journal.afterwards(lambda: order.append(room.offset), order.append)
    room.broadcast("y", sender=ann)
    house.journal.afterwards(lambda: order.append(room.offset), order.append)
    taken = house.journal.take()
    house.journal.afterwards(lambda: order.append("behind the batch under way"), order.append)
    assert order == ["at once: nothing waits"]
    house.journal.settle(taken, None)
    house.write()
    assert order == ["at once: nothing waits", 1, 2, "behind the batch under way"]
    assert bob.hears() == ["x", "y"]


def test_a_disk_that_does_not_keep_up_refuses_the_publisher_and_names_the_setting() -> None:
    house = Durable(most_bytes=2 * (ENTRY + 10))
    room = house.join("r", house.peer("ann"))
    room.broadcast("0123456789")
    room.broadcast("0123456789")
    with pytest.raises(Refused) as caught:
        room.broadcast("0123456789")
    assert (caught.value.code, caught.value.setting) == ("unavailable", "history.queue_bytes")
    house.write()
    assert room.broadcast("0123456789") == 3


def test_a_room_whose_messages_are_being_written_is_not_freed() -> None:
    house, ann, bob, room = two()
    room.broadcast("bye", sender=ann)
    house.hub.leave(ann, room)
    house.hub.leave(bob, room)
    assert house.hub.rooms == {"r": room}
    house.write()
    assert house.hub.rooms == {}
    again = house.join("r", ann)
    assert (again.epoch, again.offset, again.numbered) == (room.epoch, 1, 1)


def test_one_bug_afterwards_keeps_nobody_else_waiting(caplog: pytest.LogCaptureFixture) -> None:
    house, ann, bob, room = two()

    def bug() -> None:
        raise RuntimeError("a bug")

    room.broadcast("x", sender=ann)
    house.journal.afterwards(bug, lambda refused: None)
    room.broadcast("y", sender=ann)
    house.write()
    assert bob.hears() == ["x", "y"]
    assert "a bug" in caplog.text


def test_a_room_of_which_nothing_is_remembered_any_more_is_forgotten_on_disk_too() -> None:
    house, ann, bob, room = two()
    gone: list[str] = []
    house.hub.archive.forgotten = gone.append
    room.broadcast("old", sender=ann)
    house.write()
    assert room.history is not None
    room.history.clear()  # as when all has expired, and somebody asked for it
    for peer in (ann, bob):
        house.hub.leave(peer, room)
    assert gone == ["r"]
    house.hub.leave(ann, house.join("never used", ann))
    assert gone == ["r"], "there was nothing of it"
