"""Every recipe of docs/cookbook.md is a plugin that loads, and does what its transcript says."""

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
from relay.errors import Refused
from relay.plugin.api import Arrival, Plugin
from relay.plugin.loader import find, load_plugins
from relay.plugin.testing import PluginTester

PAGE = Path(__file__).parents[3] / "docs" / "cookbook.md"
TEXT = PAGE.read_text()
PLUGINS = dict(re.findall(r"```python\n# plugins/(\w+)\.py\n(.*?)```", TEXT, re.DOTALL))
TESTS = dict(re.findall(r"```python\n# test of (\w+)\n(.*?)```", TEXT, re.DOTALL))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cookbook")
    for name, code in PLUGINS.items():
        (folder / f"{name}.py").write_text(code)
    return folder


def classes(folder: Path) -> dict[str, type[Plugin]]:
    found = [find(name, folder) for name in PLUGINS]
    return {plugin.__name__: plugin for plugin in found}


def test_there_are_at_least_ten_and_each_has_its_test() -> None:
    assert len(PLUGINS) >= 10
    assert set(PLUGINS) == set(TESTS)


def test_the_chat_has_ten_lines_and_the_game_sixty() -> None:
    assert len([line for line in PLUGINS["talk"].strip().splitlines() if line]) <= 10
    assert len(PLUGINS["noughts"].strip().splitlines()) <= 60


@pytest.mark.parametrize("name", PLUGINS)
def test_a_recipe_does_what_its_test_says(name: str, written: Path) -> None:
    space: dict[str, Any] = {"PluginTester": PluginTester, "Arrival": Arrival, "Refused": Refused, **classes(written)}
    body = textwrap.indent(TESTS[name], "    ")
    exec(compile(f"async def cook():\n{body}", f"{PAGE}: {name}", "exec"), space)
    assert inspect.iscoroutinefunction(space["cook"])
    trio.run(space["cook"], clock=trio.testing.MockClock())


def test_the_tables_shown_switch_them_on(written: Path) -> None:
    tables = {}
    for block in re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL):
        for name, table in tomllib.loads(block)["plugins"].items():
            common = {key: value for key, value in table.items() if key in PluginTable.__struct_fields__}
            own = {key: value for key, value in table.items() if key not in common}
            tables[name] = msgspec.convert(common, PluginTable), own
    loaded = load_plugins(tables, written, Channels(default_channels()), lambda key: key)
    assert {one.name for one in loaded} == set(tables)
