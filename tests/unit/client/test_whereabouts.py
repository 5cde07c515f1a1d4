"""What a client that resumes knows of where it is, and what it says of itself."""

from __future__ import annotations

from relay.client.events import Message
from relay.client.whereabouts import REMEMBERED, Whereabouts


def said(offset: int, channel: str | None = None) -> Message:
    return Message("r", "x", "bob", offset, channel)


def test_a_position_is_that_of_the_newest_message_of_the_rooms_own_channel() -> None:
    where = Whereabouts()
    where.joined("r", "e", 4)
    assert where.is_new(said(5))
    assert where.is_new(said(9, "urgent"))
    assert where.positions() == {"r": {"epoch": "e", "offset": 5}}


def test_what_comes_again_is_not_new() -> None:
    where = Whereabouts()
    where.joined("r", "e", 0)
    heard = [said(1), said(3, "urgent"), said(2)]
    assert all(where.is_new(message) for message in heard)
    assert not any(where.is_new(message) for message in heard)
    assert where.is_new(said(4))


def test_a_late_message_of_a_slow_channel_is_new() -> None:
    where = Whereabouts()
    where.joined("r", "e", 0)
    assert where.is_new(said(2))
    assert where.is_new(said(1, "bulk"))


def test_ones_own_are_known_by_the_answer() -> None:
    where = Whereabouts()
    where.joined("r", "e", 0)
    where.published("r", 1)
    where.published("elsewhere", 1)
    assert not where.is_new(said(1))
    assert where.positions() == {"r": {"epoch": "e", "offset": 0}}


def test_a_message_may_come_before_the_answer_to_the_join_is_read() -> None:
    where = Whereabouts()
    assert where.is_new(said(6))
    assert where.positions() == {}, "the room's epoch is not known yet"
    where.joined("r", "e", 5)
    assert where.positions() == {"r": {"epoch": "e", "offset": 6}}


def test_another_life_of_a_room_begins_anew() -> None:
    where = Whereabouts()
    where.joined("r", "e", 50)
    where.left("r")
    where.joined("r", "f", 1)
    assert where.offset("r") == 1
    where.joined("r", "g", 0)
    assert where.positions() == {"r": {"epoch": "g", "offset": 0}}


def test_what_is_known_is_bounded() -> None:
    where = Whereabouts()
    where.joined("r", "e", 0)
    for offset in range(1, REMEMBERED + 2):
        where.is_new(said(offset, "urgent"))
    assert where.is_new(said(1, "urgent")), "forgotten"
    assert not where.is_new(said(REMEMBERED, "urgent"))


def test_plugins_messages_without_a_number_are_always_new() -> None:
    where = Whereabouts()
    assert where.is_new(said(0))
    assert where.is_new(said(0))
