"""The environment and the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config import Config, load
from relay.config.schema import Key, PluginTable, default_plugins
from relay.errors import ConfigError, ConfigProblem
from tests.unit.config.conftest import Fails, Loads


def config_of(**environ: str) -> Config:
    return load(None, environ=environ).config


def test_other_variables_mean_nothing() -> None:
    assert config_of(RELAY_CONFIG="x", RELAY_LIMITS_FRAGMENTS="x", relay__limits="x") == Config()


@pytest.mark.parametrize(
    ("text", "value"),
    [("16", 16), (" 16 ", 16), ("1_000", 1000), ("0x10", 16)],
)
def test_an_integer_is_written_as_in_toml(text: str, value: int) -> None:
    assert config_of(RELAY__LIMITS__FRAGMENTS=text).limits.fragments == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("https://id.example", "https://id.example"),
        ('"quoted"', "quoted"),
        ("123", "123"),
        ("true", "true"),
        ("", ""),
        ("a = b # [c]", "a = b # [c]"),
        ("two\nlines = 1", "two\nlines = 1"),
        ("[1, 2", "[1, 2"),
    ],
)
def test_a_text_needs_no_quotes(text: str, value: str) -> None:
    assert config_of(RELAY__AUTH__ISSUER=text).auth.issuer == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[':1', '[::1]:2']", [":1", "[::1]:2"]),
        (":1, [::1]:2", [":1", "[::1]:2"]),
        (":1", [":1"]),
        ('":1"', [":1"]),
    ],
)
def test_a_list_may_be_toml_or_have_commas(text: str, value: list[str]) -> None:
    assert config_of(RELAY__SERVER__LISTEN=text).server.listen == value


def test_an_empty_text_is_an_empty_list() -> None:
    assert config_of(RELAY__INTERNAL__LISTEN="").internal.listen == []


def test_a_list_of_tables_is_set_as_a_whole() -> None:
    loaded = load(
        None, environ={"RELAY__AUTH__KEYS": '[{ algorithm = "HS256", secret = "0123456789012345678901234567890123" }]'}
    )
    assert loaded.config.auth.keys == [Key(algorithm="HS256", secret="0123456789012345678901234567890123")]
    assert loaded.where("auth.keys[0].secret") == "environment RELAY__AUTH__KEYS"
    assert loaded.where("auth.keys[0].kid") == "default"


def test_nested_tables_channels_and_plugins_are_reached(loads: Loads) -> None:
    loaded = loads(
        "[plugins.My-Chat]\nrooms = 'x'\nGreeting = 'old'",
        {
            "RELAY__AUTH__JWKS__REFRESH": "60",
            "RELAY__CHANNELS__BULK__CAPACITY": "5000",
            "RELAY__CHANNELS__VOICE__PRIORITY": "urgent",
            "RELAY__PLUGINS__MY_CHAT__HISTORY": "7",
            "RELAY__PLUGINS__MY_CHAT__GREETING": "hello",
            "RELAY__PLUGINS__MY_CHAT__DEEP__LEVEL": "2",
            "RELAY__PLUGINS__NEW__ROOMS": "a:*",
        },
    )
    assert loaded.config.auth.jwks.refresh == 60.0
    assert loaded.config.channels["bulk"].capacity == 5000
    assert loaded.config.channels["bulk"].overflow == "pause"
    assert loaded.config.channels["voice"].priority == "urgent"
    assert loaded.plugin_tables == {
        "My-Chat": (PluginTable(rooms="x", history=7), {"Greeting": "hello", "deep": {"level": 2}}),
        "new": (PluginTable(rooms="a:*"), {}),
    }
    assert loaded.where("plugins.My-Chat.history") == "environment RELAY__PLUGINS__MY_CHAT__HISTORY"
    assert loaded.where("plugins.My-Chat.rooms") == "config.toml:2"


def test_the_default_plugins_can_be_changed_without_a_file() -> None:
    plugins = config_of(RELAY__PLUGINS__CHAT__HISTORY="5").plugins
    assert plugins == {**default_plugins(), "chat": {**default_plugins()["chat"], "history": 5}}


def test_a_table_is_merged_and_the_more_exact_variable_wins() -> None:
    limits = config_of(RELAY__LIMITS="{ fragments = 3, head_fields = 9 }", RELAY__LIMITS__FRAGMENTS="4").limits
    assert (limits.fragments, limits.head_fields, limits.message_bytes) == (4, 9, 65536)


def test_the_command_line_goes_before_the_environment_and_that_before_the_file(loads: Loads) -> None:
    file = "[limits]\nfragments = 1\nhead_fields = 10\nmessages_burst = 1"
    environ = {"RELAY__LIMITS__FRAGMENTS": "2", "RELAY__LIMITS__HEAD_FIELDS": "20"}
    loaded = loads(file, environ, [("limits.fragments", "9"), ("limits.fragments", "3")])
    limits = loaded.config.limits
    assert (limits.fragments, limits.head_fields, limits.messages_burst) == (3, 20, 1)
    assert [loaded.where(f"limits.{key}") for key in ("fragments", "head_fields", "messages_burst")] == [
        "--set",
        "environment RELAY__LIMITS__HEAD_FIELDS",
        "config.toml:4",
    ]


def test_the_command_line_takes_names_exactly(loads: Loads) -> None:
    loaded = loads("[plugins.'a.b']\nrooms = 'x'", None, [('plugins."a.b".My_Key', "v"), ("plugins.c.rooms", "y")])
    assert loaded.plugin_tables["a.b"][1] == {"My_Key": "v"}
    assert list(loaded.plugin_tables) == ["a.b", "c"]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("LIMITS__FRAGMENTS", "many", "limits.fragments: expected an integer, got a string"),
        ("LIMITS__FRAGMENTS", "0", "limits.fragments: must be at least 1, is 0"),
        ("LIMITS__FRAGMENTS", "1\nx = 2", "limits.fragments: expected an integer, got a string"),
        ("LIMITS__FRAGMNTS", "1", "limits.fragmnts: no such setting (did you mean RELAY__LIMITS__FRAGMENTS?)"),
        ("LIMIT__FRAGMENTS", "1", "limit: no such setting (did you mean RELAY__LIMITS?)"),
        ("NOTHING", "1", "nothing: no such setting"),
        (
            "LIMITS__FRAGMENTS__X",
            "1",
            "limits.fragments: is not a table (set it as a whole: RELAY__LIMITS__FRAGMENTS=...)",
        ),
        ("AUTH__KEYS__0__SECRET", "x", "auth.keys: is a list (set it as a whole: RELAY__AUTH__KEYS=...)"),
        ("LIMITS", "5", "limits: expected a table, got an integer"),
        ("SERVER__PLAYGROUND", "yes", "server.playground: expected true or false, got a string"),
        ("SERVER__LISTEN", "8443", "server.listen[0]: no port: write HOST:PORT, or :PORT for every address"),
        ("LOGGING__LEVEL", "inof", "logging.level: expected one of debug, error, info, warning (did you mean `info`?)"),
        ("AUTH__ISSUER", "\udcff", "auth.issuer: is not UTF-8"),
        (
            "PLUGINS__CHATT__HISTORY",
            "5",
            "plugins.chatt.rooms: is missing (or `filters`, for a plugin in front of other plugins' rooms)",
        ),
        ("PLUGINS__CHAT__CHANNEL", "bulc", "plugins.chat.channel: no such channel (did you mean `bulk`?)"),
        ("", "1", '"": no such setting'),
        ("LIMITS__", "1", 'limits."": no such setting'),
        ("PLUGINS____X", "1", 'plugins."".x: no such setting'),
    ],
)
def test_a_variable_that_does_not_fit_is_named(name: str, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, environ={f"RELAY__{name}": text})
    assert str(caught.value) == f"environment RELAY__{name}: {problem}"


@pytest.mark.parametrize(
    ("key", "text", "problem"),
    [
        ("limits.fragmnts", "1", "limits.fragmnts: no such setting (did you mean limits.fragments?)"),
        ("limits.Fragments", "1", "limits.Fragments: no such setting (did you mean limits.fragments?)"),
        ("limits.fragments", "x", "limits.fragments: expected an integer, got a string"),
        ("limits..x", "1", "limits..x: not a dotted key (as in limits.message_bytes=65536)"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(fails: Fails, key: str, text: str, problem: str) -> None:
    assert fails("", None, [(key, text)]) == [f"--set: {problem}"]


def test_problems_of_the_file_and_of_all_variables_are_reported_together(fails: Fails) -> None:
    found = fails(
        "[server]\nbacklog = 0",
        {"RELAY__LIMITS__FRAGMENTS": "0", "RELAY__X": "1"},
        [("timeouts.tls", "-1")],
    )
    assert sorted(found) == [
        "--set: timeouts.tls: must be at least 0, is -1",
        "config.toml:2: server.backlog: must be at least 1, is 0",
        "environment RELAY__LIMITS__FRAGMENTS: limits.fragments: must be at least 1, is 0",
        "environment RELAY__X: x: no such setting",
    ]


def test_a_variable_below_something_that_is_no_table_leaves_the_error_to_the_file(fails: Fails) -> None:
    assert fails("limits = 5", {"RELAY__LIMITS__FRAGMENTS": "1"}) == [
        "config.toml:1: limits: expected a table, got an integer"
    ]


def test_no_error_shows_the_value_of_a_variable() -> None:
    secret = "s3cr3t" * 10
    with pytest.raises(ConfigError) as caught:
        load(
            None,
            environ={
                "RELAY__AUTH__KEYS": f"[{{ algorithm = 'RS256', secret = '{secret}' }}, {{ secrt = '{secret}' }}]",
                "RELAY__LIMITS__FRAGMENTS": secret,
                "RELAY__LOGGING__LEVEL": secret,
                "RELAY__SERVER__LISTEN": secret,
                "RELAY__AUTH__JWKS__URL": secret,
                "RELAY__AUTH__ALLOWED_ORIGINS": f"https://{secret}/",
            },
        )
    assert len(caught.value.problems) >= 6
    assert "s3cr3t" not in f"{caught.value} {caught.value.problems!r}"


names = st.lists(
    st.sampled_from(["LIMITS", "FRAGMENTS", "AUTH", "KEYS", "PLUGINS", "CHAT", "ROOMS", "CHANNELS", "BULK", "X", ""]),
    min_size=1,
    max_size=4,
).map("__".join)
texts = st.one_of(
    st.text(st.characters(exclude_characters="\0")),
    st.sampled_from(["1", "true", "{}", "[]", "{ rooms = 5 }", "[[[", "{ a = { b = 1 } }", "x:*", "nan"]),
)


@given(st.dictionaries(names, texts, max_size=4))
def test_no_environment_raises_anything_but_config_error(variables: dict[str, str]) -> None:
    environ = {f"RELAY__{name}": text for name, text in variables.items()}
    problems: list[ConfigProblem] = []
    try:
        load(None, environ=environ)
    except ConfigError as error:
        problems = error.problems
    assert all(problem.where.removeprefix("environment ") in environ for problem in problems)


def test_base_is_the_working_directory_without_a_file() -> None:
    assert load(None, environ={}).resolve("x") == Path.cwd() / "x"
