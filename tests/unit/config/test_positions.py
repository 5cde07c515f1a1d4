"""The line finder against tomllib, on documents nobody would write."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.positions import Path, join_key, positions, split_key

DOCUMENT = '''# a comment with [brackets] and key = "value"
title = "a # b" # trailing

[server]
listen = [
  ":1", # ] not the end
  """:2
]
x = 1
""",
]
"quoted key" = 'C:\\path'
text = """
[fake]
fake = 1
\\""" still """
a.b.c = 1
a.b."d.e" = { x = 1, y = [1, { z = 2 }] }

[[auth.keys]]
kid = "one"
[auth.keys.more]
n = 1
[[auth.keys]]
kid = "two"
[[auth.keys.deep]]
[[auth.keys.deep]]
when = 1979-05-27 07:32:00
'''


def paths(value: Any, at: Path = ()) -> set[Path]:
    """Every key and list position of a parsed document."""
    found = {at} if at else set()
    inside: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inside:
        found |= paths(below, (*at, key))
    return found


def test_every_key_of_a_document_has_its_line() -> None:
    found = positions(DOCUMENT)
    assert set(found) == paths(tomllib.loads(DOCUMENT))
    assert {join_key(path): line for path, line in found.items() if line > 11} == {
        'server."quoted key"': 12,
        "server.text": 13,
        "server.a": 17,
        "server.a.b": 17,
        "server.a.b.c": 17,
        'server.a.b."d.e"': 18,
        'server.a.b."d.e".x': 18,
        'server.a.b."d.e".y': 18,
        'server.a.b."d.e".y[0]': 18,
        'server.a.b."d.e".y[1]': 18,
        'server.a.b."d.e".y[1].z': 18,
        "auth": 20,
        "auth.keys": 20,
        "auth.keys[0]": 20,
        "auth.keys[0].kid": 21,
        "auth.keys[0].more": 22,
        "auth.keys[0].more.n": 23,
        "auth.keys[1]": 24,
        "auth.keys[1].kid": 25,
        "auth.keys[1].deep": 26,
        "auth.keys[1].deep[0]": 26,
        "auth.keys[1].deep[1]": 27,
        "auth.keys[1].deep[1].when": 28,
    }
    assert found[("server", "listen", 0)] == 6
    assert found[("server", "listen", 1)] == 7


def test_windows_line_ends_count_once() -> None:
    assert positions("a = 1\r\nb = '''\r\n'''\r\nc = 1\r\n") == {("a",): 1, ("b",): 2, ("c",): 4}


bare = st.text("ab1_-", min_size=1, max_size=3)
nasty = st.text("a\"'\\#[]{}=.,\n\tü ", max_size=6)


def basic(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\t", "\\t") + '"'


def multi_line(text: str) -> str:
    return '"""' + text.replace("\\", "\\\\").replace('"""', '""\\"') + '"""'


def literal(text: str) -> str:
    return "'" + text.replace("'", "").replace("\n", "") + "'"


def multi_line_literal(text: str) -> str:
    return "'''" + text.replace("'''", "").rstrip("'") + "'''"


key_part = st.one_of(bare, nasty.map(basic), nasty.map(literal))
key = st.lists(key_part, min_size=1, max_size=3).map(" . ".join)
scalar = st.one_of(
    st.sampled_from(["1", "-1.5e3", "true", "nan", "0xff", "1979-05-27T07:32:00Z", "1979-05-27 07:32:00", "07:32:00"]),
    *(nasty.map(form) for form in (basic, multi_line, literal, multi_line_literal)),
)
gap = st.sampled_from(["", " ", "\n", " # ]}\n", "\n\n  "])


def arrays(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    item = st.builds("{}{}{}".format, gap, inner, gap)
    return st.builds("[{}{}]".format, st.lists(item, max_size=3).map(",".join), gap)


def inline_tables(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.builds("{} = {}".format, key, inner)
    return st.lists(pair, max_size=3).map(lambda pairs: "{ " + ", ".join(pairs) + " }")


value = st.recursive(scalar, lambda inner: arrays(inner) | inline_tables(inner), max_leaves=6)
statement = st.one_of(
    st.builds("{} = {}".format, key, value),
    key.map("[{}]".format),
    key.map("[[{}]]".format),
    st.sampled_from(["", "# [comment] = '''", "[[a]]", "[a.b]", "[[a.b]]", "[[a]] # again"]),
)


@given(st.lists(statement, max_size=12))
def test_whatever_tomllib_accepts_has_the_same_keys_here(statements: list[str]) -> None:
    good: list[str] = []
    starts: set[int] = set()
    for text in statements:  # keep what still makes a valid document: most random headers contradict each other
        try:
            document = tomllib.loads("\n".join([*good, text]))
        except tomllib.TOMLDecodeError:
            continue
        starts.add("\n".join([*good, ""]).count("\n") + 1)
        good.append(text)
        found = positions("\n".join(good))
        assert set(found) == paths(document)
        assert {line for path, line in found.items() if not isinstance(path[-1], int) and len(path) == 1} <= starts


@given(st.lists(st.builds(lambda name, text: (name, multi_line(text)), bare, nasty), unique_by=lambda pair: pair[0]))
def test_multi_line_text_moves_the_lines_of_what_follows(pairs: list[tuple[str, str]]) -> None:
    text, expected = "", {}
    for name, written in pairs:
        expected[(name,)] = text.count("\n") + 1
        text += f"{name} = {written}\n"
    assert positions(text) == expected


@given(st.lists(nasty | bare, min_size=1, max_size=4))
def test_a_joined_key_splits_into_the_same_parts(parts: list[str]) -> None:
    assert split_key(join_key(tuple(parts)).replace("\n", "\\n").replace("\t", "\\t")) == tuple(parts)


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a b", "a # b", "a=1", "a\n", '"a', "a..b", "a[0]"])
def test_what_is_no_dotted_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="dotted key"):
        split_key(text)
