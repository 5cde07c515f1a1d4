"""No document raises anything but ConfigError, and none of its errors shows a secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.config import load
from relay.errors import ConfigError, ConfigProblem
from tests.unit.config.conftest import Loads

SECRET = "s3cr3t-" * 10

KEYS = """server limits auth keys tls sni channels plugins chat bulk rooms listen jwks url algorithm secret fragments
priority channel slow_down control default_grants a.b"""
keys = st.sampled_from(["", *KEYS.split()])
plain = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["HS256", "strict", ":1", "https://x", "x:*", "control"]),
)
trees = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


def write(value: Any) -> str:
    """Any tree as an inline TOML value."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{write(key)} = {write(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(write, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
    return repr(value)


def load_text(directory: Path, text: str) -> None:
    path = directory / "config.toml"
    path.write_bytes(text.encode())
    problems: list[ConfigProblem] = []
    try:
        load(path, environ={})
    except ConfigError as error:
        problems = error.problems
    assert all(problem.where.startswith(str(path)) for problem in problems)


@given(st.dictionaries(keys, trees, max_size=5))
@example({"limits": {"slow_down": 10**400}})
@example({"plugins": {"": {"rooms": ["x"], "channel": 5}}})
@example({"auth": {"keys": [{"algorithm": "HS256", "secret": []}], "jwks": 5}})
def test_no_document_raises_anything_but_config_error(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    text = "\n".join(f"{write(key)} = {write(value)}" for key, value in document.items())
    load_text(tmp_path_factory.getbasetemp(), text)


@given(st.text() | st.text("[]{}=.\"'\n #ab1\\,"))
def test_no_text_raises_anything_but_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    load_text(tmp_path_factory.getbasetemp(), text)


@pytest.mark.parametrize(
    "wrong",
    [
        "public_key = 'x'",
        "algorithm = 5",
        "kid = 5",
        "nonsense = 1",
        "algorithm = 'HS256",
        "algorithm = 'RS256'",
        "algorithm = 'HS384'",
        f"algorithm = '{SECRET}'",
        f"public_key = '{SECRET}'",
        f"kid = ['{SECRET}']",
        f"kid = '{SECRET}",
        f"kid = {SECRET}",
        f"kid = '{SECRET}' '{SECRET}'",
        f"secret = '{SECRET}'",
    ],
)
def test_no_error_shows_a_secret(loads: Loads, wrong: str) -> None:
    good = "" if wrong.startswith("algorithm") else "algorithm = 'HS256'\n"
    with pytest.raises(ConfigError) as caught:
        loads(f"[[auth.keys]]\nsecret = '{SECRET[:45]}'\n{good}{wrong}")
    assert "s3cr3t" not in f"{caught.value} {caught.value!r} {caught.value.problems!r}"


def test_no_repr_shows_a_secret(loads: Loads) -> None:
    loaded = loads(f"""
        [[auth.keys]]
        algorithm = "HS256"
        secret = "{SECRET}"
        [plugins.x]
        rooms = "x"
        password = "{SECRET}"
    """)
    assert loaded.config.auth.keys[0].secret == SECRET
    shown = f"{loaded!r} {loaded} {loaded.config!r} {loaded.config.auth!r} {loaded.config.__rich_repr__()}"
    assert "s3cr3t" not in shown
    assert "secret='...'" in shown
