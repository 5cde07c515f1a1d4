"""What a room remembers, and whether that is all a client has missed."""

from __future__ import annotations

import pytest

from relay.model import Kind, Message, Payload
from relay.rooms.history import History


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


def test_a_message_that_was_not_kept_makes_the_answer_incomplete() -> None:
    """One that was for somebody else is not remembered, and might have been for this client."""
    assert filled(10, 5).since(4, newest=6, now=5.0)[0] is False


def test_what_is_too_old_is_forgotten_when_somebody_asks() -> None:
    history = filled(10, 5, seconds=2.0)
    assert offsets(history.last(10, 5.0)) == [3, 4, 5]
    assert history.since(1, 5, 6.5) == (False, history.last(10, 6.5))
    assert len(history) == 1
    assert history.since(4, 5, 7.0)[0] is True
    assert history.last(10, 100.0) == []


def test_with_no_age_nothing_is_too_old() -> None:
    assert len(filled(10, 5).last(10, 1e12)) == 5
