"""A message in parts that cannot be had is refused once, with its envelope; the rest of it is passed over."""

from __future__ import annotations

import pytest

from relay.protocols.parts import FIRST, GIVEN_UP, LAST, Joiner, Part, PartRefused


def first(stream: int, size: int = 10, envelope: bytes = b"{}") -> Part:
    return Part(FIRST, stream, 0, size, envelope, b"12345")


def last(stream: int, size: int = 10) -> Part:
    return Part(LAST, stream, size - 5, size, b"", b"67890")


def refusal(joiner: Joiner, part: Part) -> tuple[str, str | None, bytes]:
    with pytest.raises(PartRefused) as caught:
        joiner.add(part, 0.0)
    return caught.value.code, caught.value.setting, caught.value.envelope


def test_whatever_limit_is_met_it_is_said_once_and_others_are_not_concerned() -> None:
    joiner = Joiner(10, 15, 2)
    assert refusal(joiner, first(1, 11, b"one")) == ("too_large", "limits.parted_message_bytes", b"one")
    joiner.add(first(2, envelope=b"two"), 0.0)
    joiner.add(first(3, envelope=b"three"), 0.0)
    assert refusal(joiner, first(4, envelope=b"four")) == ("too_many_requests", "limits.parted_streams", b"four")
    joiner.add(Part(0, 2, 5, 10, b"", b"678"), 0.0)
    assert refusal(joiner, last(3)) == ("too_large", "limits.parted_bytes", b"three")
    for part in (Part(0, 1, 5, 11, b"", b"6"), last(1, 11), Part(0, 4, 5, 10, b"", b"6"), last(4)):
        assert joiner.add(part, 0.0) is None
    assert joiner.add(Part(LAST, 2, 8, 10, b"", b"90"), 0.0) == (b"two", b"1234567890")


@pytest.mark.parametrize(
    "wrong",
    [Part(0, 7, 4, 10, b"", b"1"), Part(0, 7, 6, 10, b"", b"1"), Part(0, 7, 5, 11, b"", b"1"), first(7)],
    ids=["again", "missing", "another size", "begun again"],
)
def test_a_wrong_part_is_said_once(wrong: Part) -> None:
    joiner = Joiner(20, 20, 2)
    joiner.add(first(7, envelope=b"seven"), 0.0)
    assert refusal(joiner, wrong) == ("bad_part", None, b"seven")
    assert joiner.add(last(7), 0.0) is None
    assert joiner.held == 0


def test_what_came_too_late_is_passed_over() -> None:
    joiner = Joiner(20, 20, 2)
    joiner.add(first(1, envelope=b"one"), 0.0)
    assert joiner.expire(8.0, 8, 10) == [(1, b"one")]
    assert joiner.add(last(1), 9.0) is None


def test_a_part_of_what_never_began_is_refused_each_time() -> None:
    joiner = Joiner(20, 20, 2)
    for _ in range(2):
        assert refusal(joiner, last(9)) == ("bad_part", None, b"")


def test_a_number_that_was_refused_may_be_used_again() -> None:
    joiner = Joiner(10, 10, 2)
    refusal(joiner, first(1, 11))
    joiner.add(first(1), 0.0)
    assert joiner.add(last(1), 0.0) == (b"{}", b"1234567890")


def test_how_many_are_passed_over_is_bounded() -> None:
    joiner = Joiner(10, 10, 1)
    for stream in range(GIVEN_UP + 1):
        refusal(joiner, first(stream, 11))
    assert refusal(joiner, last(0, 11)) == ("bad_part", None, b"")
    assert joiner.add(last(1, 11), 0.0) is None
