"""What a room remembers, and whether that is all a client has missed."""

from __future__ import annotations

import pytest

from relay.model import Kind, Message, Payload
from relay.rooms.history import OVERHEAD, History


def filled(size: int, count: int, seconds: float = 0.0) -> History:
    """`count` messages, one a second, the first at 1.0 with offset 1."""
    history = History(size, seconds)
    for offset in range(1, count + 1):
        history.add(Message("r", Payload(Kind.TEXT, b"x"), offset=offset, at=float(offset)))
    return history


def offsets(messages: list[Message]) -> list[int]:
    return [message.offset for message in messages]


@pytest.mark.parametrize(("count", "expected"), [(-1, []), (0, []), (1, [5]), (3, [3, 4, 5]), (9, [2, 3, 4, 5])])
def test_the_last_come_oldest_first_and_never_more_than_are_kept(count: int, expected: list[int]) -> None:
    assert offsets(filled(4, 5).last(count, 5.0)) == expected


@pytest.mark.parametrize(
    ("since", "recovered", "missed"),
    [
        (5, True, []),
        (4, True, [5]),
        (1, True, [2, 3, 4, 5]),
        (0, False, [2, 3, 4, 5]),
        (-7, False, [2, 3, 4, 5]),
        (6, False, []),
    ],
)
def test_since_gives_what_came_after_and_says_whether_that_is_all(
    since: int, recovered: bool, missed: list[int]
) -> None:
    complete, messages = filled(4, 5).since(since, 5, 5.0)
    assert (complete, offsets(messages)) == (recovered, missed)


def test_a_message_for_one_subject_is_remembered_for_that_one_alone() -> None:
    history = filled(10, 2)
    history.add(Message("r", Payload(Kind.TEXT, b"x"), to="ann", offset=3, at=3.0))
    assert offsets(history.since(1, 3, 3.0, "ann")[1]) == [2, 3]
    assert (history.since(1, 3, 3.0, "bob")[0], offsets(history.since(1, 3, 3.0, "bob")[1])) == (True, [2])
    assert offsets(history.last(2, 3.0, "bob")) == [1, 2]
    assert offsets(history.last(2, 3.0, "ann")) == [2, 3]


def test_pages_go_back_from_an_offset() -> None:
    history = filled(10, 7)
    assert offsets(history.before(6, 2, 7.0)) == [4, 5]
    assert offsets(history.before(4, 9, 7.0)) == [1, 2, 3]
    assert history.before(1, 9, 7.0) == []


def test_bytes_are_bounded_and_what_had_to_go_is_known_to_be_gone() -> None:
    history = History(100, 0.0, most_bytes=3 * (OVERHEAD + 10))
    for offset in range(1, 6):
        history.add(Message("r", Payload(Kind.TEXT, b"0123456789"), offset=offset, at=0.0))
    assert offsets(history.last(9, 0.0)) == [3, 4, 5]
    assert (history.floor, history.bytes) == (2, 3 * (OVERHEAD + 10))
    assert history.since(2, 5, 0.0)[0] is True
    assert history.since(1, 5, 0.0)[0] is False


def test_narrower_bounds_hold_at_once() -> None:
    history = filled(10, 6)
    history.adopt(2, 0.0, 0)
    assert (offsets(history.last(9, 0.0)), history.floor) == ([5, 6], 4)


def test_what_begins_after_a_restart_knows_that_it_has_nothing_from_before() -> None:
    history = History(10, 0.0)
    history.floor = 41
    assert history.since(41, 41, 0.0) == (True, [])
    assert history.since(40, 41, 0.0) == (False, [])


def test_what_is_too_old_is_forgotten_when_somebody_asks() -> None:
    history = filled(10, 5, seconds=2.0)
    assert offsets(history.last(10, 5.0)) == [3, 4, 5]
    assert history.since(1, 5, 6.5) == (False, history.last(10, 6.5))
    assert len(history) == 1
    assert history.since(4, 5, 7.0)[0] is True
    assert history.last(10, 100.0) == []


def test_with_no_age_nothing_is_too_old() -> None:
    assert len(filled(10, 5).last(10, 1e12)) == 5
