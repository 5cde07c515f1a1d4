"""What a room may be called."""

from __future__ import annotations

import pytest

from relay.protocols.names import check_room_name


@pytest.mark.parametrize(
    "name", ["lobby", "chat:a", "a:b:c", "é", "日本", "a.b/c?d#e", "👨‍👩‍👧", "می‌خواهم", "x" * 255, "é" * 127]
)
def test_a_name_of_visible_characters_is_good(name: str) -> None:
    assert check_room_name(name, 255) is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        ("x" * 256, "longer than 255 bytes"),
        ("é" * 128, "longer than 255 bytes"),
        (":", "empty part"),
        (":a", "empty part"),
        ("a:", "empty part"),
        ("a::b", "empty part"),
        ("a b", "U+0020"),
        ("a\t", "U+0009"),
        ("a\x00", "U+0000"),
        ("a\x7f", "U+007F"),
        ("a\x85", "U+0085"),
        ("a\u00a0b", "U+00A0"),
        ("a\u2028", "U+2028"),
        ("a\u202e", "U+202E"),
        ("a\u200b", "U+200B"),
        ("\ufeffa", "U+FEFF"),
        ("a\u3000", "U+3000"),
        ("a\ud800", "U+D800"),
        ("*", "U+002A"),
        ("chat:*", "U+002A"),
        ("{sub}", "U+007B"),
    ],
)
def test_a_bad_name_is_refused_with_the_reason(name: str, why: str) -> None:
    problem = check_room_name(name, 255)
    assert problem is not None
    assert why in problem


def test_every_kind_of_white_space_is_refused() -> None:
    spaces = [chr(n) for n in range(0x110000) if chr(n).isspace()]
    assert len(spaces) > 20
    assert all(check_room_name(f"a{space}b", 255) for space in spaces)
