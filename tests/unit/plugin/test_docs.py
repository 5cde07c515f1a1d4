"""docs/plugins.md says all there is, and its examples run."""

from __future__ import annotations

import inspect
import re
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from relay.config.schema import PluginTable, default_channels
from relay.delivery.channels import Channels
from relay.plugin import api
from relay.plugin.checks import HOOKS
from relay.plugin.loader import find, load_plugins, shipped

PAGE = Path(__file__).parents[3] / "docs" / "plugins.md"
TEXT = PAGE.read_text()
PROSE = " ".join(TEXT.split())


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", TEXT, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for _, text in found]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the page shows."""
    directory = tmp_path_factory.mktemp("plugins")
    for block in blocks("python"):
        if name := re.match(r"# plugins/(\w+\.py)\n", block):
            (directory / name[1]).write_text(block)
    return directory


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_there_with_its_arguments(hook: str) -> None:
    arguments = list(inspect.signature(getattr(api.Plugin, hook)).parameters)[1:]
    assert f"| `{hook}({', '.join(arguments)})` |" in TEXT


@pytest.mark.parametrize("key", PluginTable.__struct_fields__)
def test_every_common_key_is_there(key: str) -> None:
    table = TEXT.split("### Keys that every table may have")[1].split("\n## ")[0]
    assert f"`{key}`" in table


@pytest.mark.parametrize("name", shipped())
def test_every_plugin_that_comes_along_is_there_with_its_settings(name: str) -> None:
    (row,) = re.findall(rf"^\| `{name}` \|.*$", TEXT, re.MULTILINE)
    settings = [field.encode_name for field in msgspec.structs.fields(find(name, Path("/nowhere")).Settings)]
    assert re.findall(r"`(\w+)`", row.split("|")[3]) == settings


@pytest.mark.parametrize("method", [name for name in vars(api.Relay) if name[0] != "_"])
def test_all_that_a_background_task_may_use_is_there(method: str) -> None:
    assert f"self.relay.{method}(" in TEXT


@pytest.mark.parametrize("member", ["broadcast", "send", "peers", "kick"])
def test_all_that_a_room_can_do_is_there_with_arguments_it_has(member: str) -> None:
    (shown,) = re.findall(rf"^\| `room\.{member}\((.*?)\)` \|", TEXT, re.MULTILINE)
    known = inspect.signature(getattr(api.Room, member)).parameters
    assert {argument.split("=")[0] for argument in shown.split(", ")} == set(known) - {"self"}


def test_it_says_that_plugins_are_trusted() -> None:
    assert "In-process plugins are trusted code" in PROSE


def test_the_tables_shown_switch_on_the_plugins_shown(written: Path) -> None:
    channels = Channels(default_channels())
    names = set()
    for block in blocks("toml"):
        tables = {}
        for name, table in tomllib.loads(block).get("plugins", {}).items():
            common = {key: value for key, value in table.items() if key in PluginTable.__struct_fields__}
            own = {key: value for key, value in table.items() if key not in common}
            tables[name] = msgspec.convert(common, PluginTable), own
        names |= {one.name for one in load_plugins(tables, written, channels, lambda key: key)}
    assert names == {"alarm", "shout", "chat", "quiet-chat", "quiz", "polite", "heavy"}


def test_every_file_shown_is_a_plugin_that_loads(written: Path) -> None:
    files = sorted(file.stem for file in written.glob("*.py"))
    assert files == ["alarm", "cards", "clock", "members", "notes", "polite", "quiz", "shout", "votes"]
    for name in files:
        assert issubclass(find(name, written), api.Plugin)


def shown_tests(written: Path) -> dict[str, Any]:
    space: dict[str, Any] = {
        plugin.__name__: plugin for plugin in (find(file.stem, written) for file in written.glob("*.py"))
    }
    for block in blocks("python"):
        if "async def test_" in block:
            exec(compile(block, str(PAGE), "exec"), space)
    return space


@pytest.mark.parametrize("name", re.findall(r"^async def (test_\w+)", TEXT, re.MULTILINE))
def test_the_tests_shown_pass(name: str, written: Path) -> None:
    test = shown_tests(written)[name]
    clock = trio.testing.MockClock(autojump_threshold=0)
    arguments = [clock] * len(inspect.signature(test).parameters)
    trio.run(test, *arguments, clock=clock)


async def test_notes_are_written_before_they_are_heard(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from relay.plugin.testing import PluginTester

    monkeypatch.chdir(tmp_path)
    async with PluginTester(find("notes", written)) as tester:
        ann, bob = await tester.join("a", "ann"), await tester.join("a", "bob")
        await ann.publish("milk")
        assert bob.received == ["milk"]
    assert (tmp_path / "notes.txt").read_text() == "milk\n"


def test_names_of_settings_elsewhere_are_right() -> None:
    from relay.config.schema import Config

    for section, key in re.findall(r"`(supervision|timeouts|websocket|limits)\.(\w+)`", TEXT):
        assert hasattr(getattr(Config(), section), key), f"{section}.{key}"
