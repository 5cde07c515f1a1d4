"""Every code that is raised anywhere is explained, nothing else is, and the pages say what the entries say."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.auth.refusals import TOKEN_CODES
from relay.config.schema import Channel, Config, PluginTable
from relay.errors import CLOSE_CODES, ERROR_CODES
from relay.explain import closing, doors, handshake, requests, tokens
from relay.explain.codes import ALL, find, near
from relay.explain.entry import WHERE
from relay.explain.pages import pages

ROOT = Path(__file__).parents[3]
PAGES = ROOT / "docs" / "codes"

RAISED_BY = {"Refused": 0, "PartRefused": 0, "Rejected": 1, "refuse": 0, "_give_up": 2, "note": 1}
"""Calls that name a code, and which argument it is."""
NOT_RAISED = {*map(str, CLOSE_CODES), "1005", "1006", *TOKEN_CODES, *ERROR_CODES}
"""Codes of tables of their own; other tests see to it that these are used."""
BY_TABLE = {
    "overflow",
    "ttl",
    "tls_timeout",
    "tls_protocol",
    "tls_eof",
    "tls_certificate",
    "proxy_malformed",
    "proxy_timeout",
    "proxy_eof",
}
"""Made from a reason or a kind where they are kept."""


def raised(folder: Path) -> Iterator[tuple[str, str]]:
    """(code, file:line) of each code that a call names in the text of the program."""
    for file in sorted(folder.rglob("*.py")):
        if file.parts[-2:] == ("plugin", "testing.py") or "client" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                place = RAISED_BY.get(name)
                if place is not None and len(node.args) > place:
                    yield from ((code, f"{file}:{node.lineno}") for code in words(node.args[place]))


def words(node: ast.expr) -> list[str]:
    """The texts an argument may be: `"a"`, or `"a" if x else "b"`."""
    if isinstance(node, ast.IfExp):
        return words(node.body) + words(node.orelse)
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


RAISED = sorted({*raised(ROOT / "relay"), *raised(ROOT / "plugins")})


def test_the_search_finds_codes() -> None:
    assert {"origin", "not_joined", "no_such_file", "slow_reader"} <= {code for code, _ in RAISED}
    assert len(RAISED) > 80


@pytest.mark.parametrize(("code", "where"), RAISED, ids=lambda value: str(value).rpartition("/")[2])
def test_every_code_that_is_raised_is_explained(code: str, where: str) -> None:
    assert code in ALL, f"{where}: explain it in relay/explain"


def test_every_code_of_the_tables_is_explained() -> None:
    for table in (map(str, map(int, CLOSE_CODES)), ERROR_CODES, TOKEN_CODES):
        assert set(table) <= ALL.keys()


def test_nothing_is_explained_that_does_not_exist() -> None:
    assert ALL.keys() - {code for code, _ in RAISED} - NOT_RAISED - BY_TABLE == set()
    assert set(requests.ABOUT) == set(ERROR_CODES)
    assert set(tokens.ABOUT) == set(TOKEN_CODES)
    assert set(closing.ABOUT) == set(CLOSE_CODES)


def test_no_code_is_explained_twice() -> None:
    assert sum(len(part.ENTRIES) for part in (closing, requests, handshake, doors, tokens)) == len(ALL)


def test_every_entry_says_all_there_is_to_say() -> None:
    for one in ALL.values():
        for text in (one.meaning, one.cause, one.client, one.operator):
            assert text.endswith((".", "?")), f"{one.code}: {text!r}"
            assert text[0].isupper() or text[0] in "`'4H", f"{one.code}: {text!r}"
        assert one.where
        assert set(one.where) <= WHERE.keys()
        assert one.status is None or 400 <= one.status < 600


def test_every_setting_that_an_entry_names_exists() -> None:
    for one in ALL.values():
        for key in one.settings:
            table: object = Config()
            parts = key.split(".")
            if parts[0] == "channels" and len(parts) == 3:
                assert parts[2] in Channel.__struct_fields__, f"{one.code}: {key}"
            elif parts[0] == "plugins" and len(parts) == 3:
                assert parts[2] in PluginTable.__struct_fields__, f"{one.code}: {key}"
            else:
                for part in parts:
                    assert hasattr(table, part), f"{one.code}: no setting {key}"
                    table = getattr(table, part)


def test_the_committed_pages_are_made_from_the_entries() -> None:
    wanted = pages()
    there = {page.name: page.read_text() for page in PAGES.glob("*.md")}
    assert there.keys() == wanted.keys()
    for name, text in wanted.items():
        assert there[name] == text, f"{name}: python -m relay.explain.pages docs/codes"


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("4208", "4208"),
        ("TOO_SLOW", "4208"),
        ("too-slow", "4208"),
        (" Rate_Limited ", "rate_limited"),
        ("1006", "1006"),
    ],
)
def test_a_code_is_found_as_people_type_it(typed: str, code: str) -> None:
    found = find(typed)
    assert found is not None
    assert found.code == code


def test_what_is_no_code_gets_the_nearest_one() -> None:
    assert find("ratelimited") is None
    assert near("rate_limitd") == "rate_limited"
    assert near("zzzzzzzzzz") is None
