"""Which claims of a token others may see."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.auth.public import PublicClaims
from relay.auth.tokens import Verifier
from relay.config import schema
from tests.unit.auth.kit import NOW, claims, keys, sign


def test_only_what_is_named_is_seen() -> None:
    shown = PublicClaims(["name", "picture", "name"]).of({"name": "Ann", "email": "ann@example.org", "picture": None})
    assert shown == {"name": "Ann"}
    assert PublicClaims(["name"]).of({"email": "ann@example.org"}) is None


def test_what_does_not_fit_is_left_out_and_what_comes_behind_it_is_not() -> None:
    assert PublicClaims(["a", "b", "c"], 40).of({"a": "x" * 20, "b": "x" * 20, "c": 1}) == {"a": "x" * 20, "c": 1}


@pytest.mark.parametrize("value", ["\ud800", 10**100, {"a": ["\udfff"]}])
def test_what_no_client_could_be_told_is_left_out(value: Any) -> None:
    assert PublicClaims(["a", "b"]).of({"a": value, "b": 1}) == {"b": 1}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from("abcd"), JSON_VALUES), st.integers(0, 100))
def test_whatever_a_token_says_what_is_seen_is_bounded_and_can_be_told(said: dict[str, Any], most: int) -> None:
    shown = PublicClaims("abcd", most).of(said) or {}
    assert sum(len(msgspec.json.encode({name: value})) for name, value in shown.items()) <= most
    msgspec.msgpack.encode(shown)
    assert all(said[name] == value for name, value in shown.items())


def test_they_are_read_when_the_token_is_verified() -> None:
    verifier = Verifier(keys("HS256"), schema.Auth(), public=PublicClaims(["name"]))
    token = sign(claims(name="Ann", email="ann@example.org"))
    assert verifier.verify(token, NOW).public == {"name": "Ann"}
    assert Verifier(keys("HS256"), schema.Auth()).verify(token, NOW).public is None
