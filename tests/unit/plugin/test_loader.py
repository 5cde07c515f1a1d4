"""Finding plugins, and saying all that is wrong with them at once."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relay.auth.grants import compile_patterns
from relay.config.schema import PluginTable, default_channels, default_plugins
from relay.delivery.channels import Channels
from relay.errors import ConfigError, ConfigProblem, PluginError
from relay.plugin import loader
from relay.plugin.loader import LoadedPlugin, find, load_plugins
from relay.plugin.routing import build_router

CHANNELS = Channels(default_channels())
NOTHING = Path("/nowhere")

GOOD = """
from relay.plugin.api import Plugin, Room
class Mine(Plugin):
    def on_open(self, room: Room) -> None: ...
"""


def where(key: str) -> str:
    return f"config.toml#{key}"


def load(directory: Path = NOTHING, /, **tables: dict[str, Any]) -> list[LoadedPlugin]:
    common = PluginTable.__struct_fields__
    split = {
        name: (
            PluginTable(**{key: value for key, value in table.items() if key in common}),
            {key: value for key, value in table.items() if key not in common},
        )
        for name, table in tables.items()
    }
    return load_plugins(split, directory, CHANNELS, where)


def problems(directory: Path = NOTHING, /, **tables: dict[str, Any]) -> list[ConfigProblem]:
    with pytest.raises(ConfigError) as caught:
        load(directory, **tables)
    return caught.value.problems


@pytest.fixture
def plugin_file(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        (tmp_path / f"{name}.py").write_text(text)
        return tmp_path

    return write


def test_the_default_tables_load_without_being_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: importlib.metadata.EntryPoints())
    loaded = load(**default_plugins())
    assert [one.name for one in loaded] == ["chat", "direct", "feed", "echo"]
    assert loaded[0].rule.history == 100
    assert loaded[0].rule.channel == CHANNELS.index("default")
    assert loaded[0].where == "config.toml#plugins.chat"


def test_a_file_in_the_plugin_directory_is_found_by_its_name(plugin_file: Callable[[str, str], Path]) -> None:
    plugin = find("mine", plugin_file("mine", GOOD))
    assert plugin.__name__ == "Mine"
    assert plugin.__module__ == "_relay_plugin_mine"


def test_a_file_goes_before_what_comes_with_the_relay(plugin_file: Callable[[str, str], Path]) -> None:
    assert find("chat", plugin_file("chat", GOOD)).__name__ == "Mine"


def test_a_file_that_imports_another_plugin_defines_only_its_own(plugin_file: Callable[[str, str], Path]) -> None:
    text = "from plugins.chat import Chat\nclass Loud(Chat): ...\n"
    assert find("loud", plugin_file("loud", text)).__name__ == "Loud"


def test_a_base_class_in_the_same_file_is_not_the_plugin(plugin_file: Callable[[str, str], Path]) -> None:
    text = "from relay.plugin.api import Plugin\nclass Base(Plugin): ...\nclass Real(Base): ...\n"
    assert find("real", plugin_file("real", text)).__name__ == "Real"


def test_use_gives_a_table_another_plugin() -> None:
    (loaded,) = load(talk={"rooms": "talk:*", "use": "chat"})
    assert (loaded.name, loaded.plugin.__name__) == ("talk", "Chat")
    assert loaded.rule.plugin == "talk"


def test_use_may_name_a_module_and_a_class() -> None:
    assert find("plugins.feed:Feed", NOTHING).__name__ == "Feed"


def test_an_installed_plugin_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("elsewhere", "plugins.echo:Echo", loader.GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: importlib.metadata.EntryPoints([point]))
    assert find("elsewhere", NOTHING).__name__ == "Echo"


def test_a_table_that_is_not_enabled_is_not_even_looked_for() -> None:
    assert load(nonsense={"rooms": "a", "enabled": False}) == []


def test_an_unknown_plugin_is_told_with_the_nearest_name() -> None:
    (problem,) = problems(cht={"rooms": "a"})
    assert str(problem) == "config.toml#plugins.cht: plugins.cht: no plugin named 'cht' (did you mean `chat`?)"


def test_an_unknown_plugin_with_no_near_name_is_told_what_there_is(plugin_file: Callable[[str, str], Path]) -> None:
    (problem,) = problems(plugin_file("mine", GOOD), a={"rooms": "a", "use": "zzzzzz"})
    assert problem.key == "plugins.a.use"
    assert "chat" in problem.hint
    assert "mine" in problem.hint


@pytest.mark.parametrize("use", ["../chat", "/etc/passwd", "a b", ".hidden", "chat.py"])
def test_use_cannot_leave_the_plugin_directory(use: str) -> None:
    with pytest.raises(PluginError, match="is not the name of a plugin"):
        find(use, Path())


def test_an_import_error_is_one_line_with_the_place_in_the_plugins_file(
    plugin_file: Callable[[str, str], Path],
) -> None:
    directory = plugin_file("bad", "import json\n\njson.loads('{')\n")
    (problem,) = problems(directory, bad={"rooms": "a"})
    assert f"{directory}/bad.py:3: JSONDecodeError" in problem.what
    assert "\n" not in problem.what
    assert "_relay_plugin_bad" not in sys.modules


def test_a_syntax_error_is_told_with_its_line(plugin_file: Callable[[str, str], Path]) -> None:
    directory = plugin_file("bad", "x = 1\ndef broken(:\n")
    (problem,) = problems(directory, bad={"rooms": "a"})
    assert f"{directory}/bad.py:2: SyntaxError" in problem.what


def test_a_plugin_that_exits_while_it_is_imported_ends_nothing(plugin_file: Callable[[str, str], Path]) -> None:
    (problem,) = problems(plugin_file("bad", "raise SystemExit(3)"), bad={"rooms": "a"})
    assert "SystemExit: 3" in problem.what


@pytest.mark.parametrize(
    ("use", "what"),
    [
        ("no.such.module:Plugin", "cannot import no.such.module"),
        ("plugins.chat:Caht", "plugins.chat has no 'Caht'"),
        ("plugins.direct:room_name", "is not a subclass of relay.plugin.api.Plugin"),
    ],
)
def test_what_is_wrong_with_a_module_and_class_is_told(use: str, what: str) -> None:
    (problem,) = problems(a={"rooms": "a", "use": use})
    assert what in problem.what


def test_a_misspelt_class_gets_a_hint() -> None:
    (problem,) = problems(a={"rooms": "a", "use": "plugins.chat:Caht"})
    assert problem.hint == "did you mean `Chat`?"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x = 1", "defines no subclass"),
        (GOOD + "class Other(Plugin): ...", "defines several plugins: Mine, Other"),
    ],
)
def test_a_file_must_hold_exactly_one_plugin(plugin_file: Callable[[str, str], Path], text: str, what: str) -> None:
    (problem,) = problems(plugin_file("bad", text), bad={"rooms": "a"})
    assert what in problem.what


def test_a_channel_that_does_not_exist_is_told_with_the_nearest() -> None:
    (problem,) = problems(chat={"rooms": "a", "channel": "urgnt"})
    assert (problem.key, problem.hint) == ("plugins.chat.channel", "did you mean `urgent`?")


def test_the_control_channel_is_not_for_plugins() -> None:
    (problem,) = problems(chat={"rooms": "a", "channel": "control"})
    assert problem.key == "plugins.chat.channel"


def test_one_pattern_cannot_belong_to_two_plugins() -> None:
    (problem,) = problems(chat={"rooms": ["a", "b:*"]}, echo={"rooms": "b:*"})
    assert str(problem) == "config.toml#plugins.echo.rooms: plugins.echo.rooms: 'b:*' belongs to plugins.chat already"


@pytest.mark.parametrize("rooms", ["", "a::b", "a*b", []])
def test_patterns_are_checked(rooms: Any) -> None:
    (problem,) = problems(chat={"rooms": rooms})
    assert problem.key == "plugins.chat.rooms"


def test_all_problems_of_all_tables_are_told_at_once() -> None:
    found = problems(
        chat={"rooms": "a::b", "channel": "nope", "histroy": 1},
        feed={"rooms": "f", "publishers": "ann"},
        nope={"rooms": "a", "channel": "nope"},
    )
    assert [problem.key for problem in found] == [
        "plugins.chat.rooms",
        "plugins.chat.channel",
        "plugins.feed.publishers",
        "plugins.nope.channel",
        "plugins.nope",
    ]


def test_a_wrong_key_of_the_plugins_own_settings_is_told_with_its_line() -> None:
    (problem,) = problems(chat={"rooms": "a", "histroy": 1})
    assert str(problem) == (
        "config.toml#plugins.chat.histroy: plugins.chat.histroy: no such setting (did you mean `history`?)"
    )


def routed(**tables: str | list[str]) -> Callable[[str], str | None]:
    plugins: Any = [
        SimpleNamespace(rule=name, patterns=compile_patterns([rooms] if isinstance(rooms, str) else rooms), filters=())
        for name, rooms in tables.items()
    ]
    route = build_router(plugins)

    def owner(room: str) -> str | None:
        found: Any = route(room)
        return None if found is None else found[0]

    return owner


def test_the_closest_pattern_owns_a_room() -> None:
    owner = routed(all="*", chat="chat:*", team="chat:team:*", log="chat:*:log", lobby=["lobby", "chat:lobby"])
    assert [owner(room) for room in ("x", "chat:a", "chat:team:a", "chat:a:log", "chat:lobby", "lobby")] == [
        "all", "chat", "team", "log", "lobby", "lobby",
    ]  # fmt: skip


def test_a_room_that_no_pattern_matches_belongs_to_nobody() -> None:
    owner = routed(chat="chat:*")
    assert owner("chat") is None
    assert owner("chat:") is None


def test_the_order_of_tables_does_not_matter_for_different_patterns() -> None:
    one, other = routed(a="a:*", b="a:b:*"), routed(b="a:b:*", a="a:*")
    assert one("a:b:c") == other("a:b:c") == "b"
