"""A publish that comes again is answered as before, and heard once."""

from __future__ import annotations

import pytest

from relay.errors import Refused
from relay.rooms.receipts import Receipts


def test_what_is_new_is_begun_and_what_was_done_has_its_offset() -> None:
    receipts = Receipts(10, 60.0)
    assert receipts.begin("ann", "k", 0.0) is None
    receipts.done("ann", "k", 7, 0.0)
    assert receipts.begin("ann", "k", 59.0) == 7
    assert receipts.begin("bob", "k", 59.0) is None, "each has its own keys"
    assert receipts.begin("ann", "other", 59.0) is None


def test_while_it_is_handled_the_second_is_told_to_come_later() -> None:
    receipts = Receipts(10, 60.0)
    receipts.begin("ann", "k", 0.0)
    with pytest.raises(Refused, match="in_progress") as caught:
        receipts.begin("ann", "k", 1e9)
    assert caught.value.retry_after


def test_what_was_refused_is_new_again() -> None:
    receipts = Receipts(10, 60.0)
    receipts.begin("ann", "k", 0.0)
    receipts.failed("ann", "k")
    assert receipts.begin("ann", "k", 0.0) is None


def test_an_old_receipt_is_forgotten_and_so_is_the_oldest_of_too_many() -> None:
    receipts = Receipts(2, 60.0)
    for number, key in enumerate("abc"):
        receipts.begin("ann", key, float(number))
        receipts.done("ann", key, number, float(number))
    assert len(receipts) == 2
    assert receipts.begin("ann", "a", 3.0) is None
    receipts.failed("ann", "a")
    assert receipts.begin("ann", "c", 62.0) == 2
    assert receipts.begin("ann", "c", 62.1) is None


def test_without_an_age_nothing_is_too_old() -> None:
    receipts = Receipts(2, 0.0)
    receipts.done("ann", "k", 1, 0.0)
    assert receipts.begin("ann", "k", 1e12) == 1
    assert receipts.newest_at == 0.0
