"""The nearest name."""

from __future__ import annotations

import pytest

from relay.config.suggest import did_you_mean, nearest


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("mesage_bytes", "message_bytes"),
        ("Message-Bytes", "message_bytes"),
        ("max_conections", "max_connections"),
        ("weigth", "weight"),
    ],
)
def test_a_slip_of_the_finger_finds_what_was_meant(word: str, meant: str) -> None:
    assert nearest(word, ["max_connections", "message_bytes", "weight"]) == meant


@pytest.mark.parametrize("word", ["", "zzz", "w" * 100_000])
def test_nothing_near_is_no_suggestion(word: str) -> None:
    assert nearest(word, ["max_connections", "weight"]) is None
    assert did_you_mean(word, ["weight"]) == ""


def test_the_candidate_is_returned_as_it_is_written() -> None:
    assert nearest("ON_MESSAGE", ["On-Message"]) == "On-Message"


def test_a_hint_names_the_candidate() -> None:
    assert did_you_mean("weigt", {"weight": 1}) == "did you mean `weight`?"
