"""The file: what it may say, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config import Config, load
from relay.config.schema import (
    Channel,
    PluginTable,
    Quota,
    default_channels,
    default_plugins,
    default_quotas,
    issuers_of,
)
from tests.unit.config.conftest import Fails, Loads


def test_without_a_file_there_are_the_defaults() -> None:
    loaded = load(None, environ={})
    assert loaded.config == Config()
    assert loaded.where("limits.fragments") == "default"
    assert loaded.base == Path.cwd()


def test_an_empty_file_gives_the_defaults(loads: Loads) -> None:
    assert loads("").config == Config()


def test_a_setting_of_the_file_is_taken_and_its_line_is_known(loads: Loads) -> None:
    loaded = loads("""
        # a comment
        [limits]
        fragments = 16
        messages_per_second = 5
        [[auth.keys]]
        algorithm = "HS256"
        secret_file = "token"
    """)
    assert loaded.config.limits.fragments == 16
    assert loaded.config.limits.messages_per_second == 5.0
    assert loaded.where("limits.fragments") == "config.toml:3"
    assert loaded.where("limits") == "config.toml:2"
    assert loaded.where("auth.keys[0].secret_file") == "config.toml:7"
    assert loaded.where("limits.head_bytes") == "default"


def test_paths_are_relative_to_the_file_wherever_the_process_goes(loads: Loads, tmp_path: Path) -> None:
    loaded = loads("")
    assert loaded.base == tmp_path
    assert loaded.resolve("certs/a.pem") == tmp_path / "certs" / "a.pem"
    assert loaded.resolve("/etc/a.pem") == Path("/etc/a.pem")


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf[limits]\r\nfragments = 2\r\n")
    loaded = load(path, environ={})
    assert loaded.where("limits.fragments") == f"{path}:2"


@pytest.mark.parametrize(
    "origin", ["self", "*", "null", "https://app.example", "http://localhost:3000", "https://*.a.example"]
)
def test_origins_as_people_write_them_are_taken(loads: Loads, origin: str) -> None:
    assert loads(f"auth.allowed_origins = ['{origin}']").config.auth.allowed_origins == [origin]


def test_keys_may_come_from_a_key_set_alone(loads: Loads) -> None:
    assert loads("auth.keys = []\nauth.jwks.url = 'https://id.example/keys'").config.auth.keys == []


def test_a_channel_table_changes_what_it_names_and_adds_what_is_new(loads: Loads) -> None:
    channels = loads("""
        [channels.bulk]
        capacity = 2048
        [channels.voice]
        priority = "urgent"
        [plugins.x]
        rooms = "x"
        channel = "voice"
    """).config.channels
    assert channels == {
        **default_channels(),
        "bulk": Channel(weight=1, capacity=2048, overflow="pause"),
        "voice": Channel(priority="urgent"),
    }


def test_a_file_with_a_plugin_table_has_those_plugins_only(loads: Loads) -> None:
    loaded = loads("""
        [plugins.zoo]
        rooms = ["zoo:*", "cage"]
        history = 3
        greeting = "hello"
        nested = { depth = 2 }
        [plugins.art]
        rooms = "art"
    """)
    assert list(loaded.plugin_tables.items()) == [
        ("zoo", (PluginTable(rooms=["zoo:*", "cage"], history=3), {"greeting": "hello", "nested": {"depth": 2}})),
        ("art", (PluginTable(rooms="art"), {})),
    ]


def test_a_file_without_plugin_tables_has_the_default_ones(loads: Loads) -> None:
    assert list(loads("[plugins]").plugin_tables) == list(default_plugins())


def test_deep_settings_of_a_plugin_are_kept_as_they_are(loads: Loads) -> None:
    depth = 100
    loaded = loads(f"[plugins.x]\nrooms = 'x'\ndeep = {'[' * depth}{']' * depth}")
    value, found = loaded.plugin_tables["x"][1]["deep"], 1
    while value:
        value, found = value[0], found + 1
    assert found == depth


ISSUER = """
[auth.issuers.acme]
issuer = "https://acme.example"
{}
[[auth.issuers.acme.keys]]
algorithm = "HS256"
secret = "0123456789abcdef0123456789abcdef"
"""


def test_who_names_issuers_does_not_get_the_development_key_beside_them(loads: Loads) -> None:
    auth = loads(ISSUER.format("")).config.auth
    assert auth.keys == []
    assert list(issuers_of(auth)) == ["acme"]
    both = loads("[[auth.keys]]\nalgorithm = 'HS256'\nsecret_file = 'x'\n" + ISSUER.format("subject_prefix = 'acme:'"))
    assert list(issuers_of(both.config.auth)) == ["", "acme"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("room_prefix = 'acme'", "room_prefix: must end in ':' and hold no '*', '{' or white space (as in 'acme:')"),
        ("room_prefix = 'a*:'", "room_prefix: must end in ':' and hold no '*', '{' or white space (as in 'acme:')"),
        ("subject_prefix = '{sub}:'", "subject_prefix: must end in ':' and hold no '*', '{' or white space"),
        ("audiance = 'x'", "audiance: no such setting (did you mean `audience`?)"),
    ],
)
def test_an_issuer_s_table_is_checked(fails: Fails, line: str, problem: str) -> None:
    [found] = fails(ISSUER.format(line))
    assert f"config.toml:3: auth.issuers.acme.{problem}" in found


def test_two_issuers_cannot_have_one_name(fails: Fails) -> None:
    second = ISSUER.format("subject_prefix = 'b:'").replace("issuers.acme", "issuers.globex")
    [found] = fails(ISSUER.format("") + second)
    assert "auth.issuers.globex.issuer: is that of auth.issuers.acme too" in found


def test_two_issuers_say_whether_they_know_the_same_people(loads: Loads, fails: Fails) -> None:
    second = ISSUER.replace("issuers.acme", "issuers.globex").replace("https://acme", "https://globex")
    [found] = fails(ISSUER.format("") + second.format(""))
    assert "auth.issuers.globex.subject_prefix: its subjects would be those of auth.issuers.acme" in found
    loads(ISSUER.format("") + second.format("subject_prefix = 'globex:'"))
    loads(ISSUER.format("") + second.format("shares_subjects = true"))


def test_an_issuer_needs_a_key_and_a_name(fails: Fails) -> None:
    assert [line.partition(": ")[2] for line in fails("[auth.issuers.acme]\nissuer = ''\n")] == [
        "auth.issuers.acme.keys: no key to check its tokens with (add a keys table or set jwks)",
        "auth.issuers.acme.issuer: is empty: no token could name it",
    ]
    [found] = fails(ISSUER.format("").replace("issuers.acme", "issuers.'a b'"))
    assert 'auth.issuers."a b": is no name (letters, digits, - and _)' in found


def test_a_table_of_a_quota_that_always_exists_changes_it_and_another_name_adds_one(loads: Loads) -> None:
    quotas = loads("""
        [quotas.joins]
        rate = 5
        [quotas.crowd]
        counts = "messages_in"
        per = "room"
        rate = 100
    """).config.quotas
    assert quotas["joins"] == Quota(counts="joins", per="connection", rate=5.0, burst=500.0)
    assert quotas["calls"] == default_quotas()["calls"]
    assert quotas["crowd"].at_limit == "refuse"
