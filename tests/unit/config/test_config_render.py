"""What is made from the schema is what is committed, and it says the truth."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from plugins.bridge import Bridge
from relay.config import Config, load
from relay.config.describe import settings
from relay.config.quotas import Quota
from relay.config.render import configuration_md, default_toml, json_schema
from relay.config.schema import Channel, Key, PluginTable

ROOT = Path(__file__).parents[3]


def paths_of(table: type[msgspec.Struct], prefix: str = "") -> list[str]:
    """Every key of a table and the tables in it."""
    found = []
    for setting in settings(table):
        inner = setting.table or setting.items
        if setting.named and prefix:
            found += paths_of(setting.named, f"{prefix}{setting.name}.NAME.")
        found += [prefix + setting.name] if not (setting.table or setting.named) else []
        found += paths_of(inner, f"{prefix}{setting.name}.") if inner else []
    return found


ALL = [*paths_of(Config), *paths_of(Channel, "channels.NAME."), *paths_of(PluginTable, "plugins.NAME.")]


def settings_of_bridge(table: dict[str, Any]) -> Bridge.Settings:
    """As the plugin itself takes them."""
    own = {key: value for key, value in table.items() if key not in PluginTable.__struct_fields__}
    return msgspec.convert(own, Bridge.Settings)


def test_the_committed_config_toml_is_made_from_the_schema() -> None:
    assert (ROOT / "config.toml").read_text() == default_toml()


def test_the_committed_config_toml_loads_to_the_defaults() -> None:
    loaded = load(ROOT / "config.toml", environ={})
    assert loaded.config == Config()
    assert list(loaded.plugin_tables) == list(Config().plugins)
    assert list(loaded.config.channels) == list(Config().channels)


def test_the_committed_reference_is_made_from_the_schema() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == configuration_md()


def test_config_toml_with_everything_switched_on_loads(tmp_path: Path) -> None:
    text = re.sub(r"^#(?=[\[a-z])", "", default_toml(), flags=re.MULTILINE)
    path = tmp_path / "config.toml"
    path.write_text(text)
    config = load(path, environ={}).config
    assert [pair.names for pair in config.tls.sni] == [["other.example"]]
    assert config.auth.keys[1] == Key(algorithm="Ed25519", kid="issuer-1", public_key_file="certs/issuer.pub.pem")
    assert settings_of_bridge(config.plugins["bridge"]).room == "bridge:news"


def test_config_toml_fits_a_terminal() -> None:
    assert max(map(len, default_toml().splitlines())) <= 110


@pytest.mark.parametrize(
    "key", [key for key in ALL if not re.match(r"(aliases|channels|quotas|plugins)(\.|$)|.*\.NAME\.", key)]
)
def test_config_toml_names_every_key(key: str) -> None:
    assert re.search(rf"^#?{key.rpartition('.')[2]} = |\[\[{re.escape(key)}\]\]", default_toml(), re.MULTILINE)


@pytest.mark.parametrize("key", [key for key in ALL if key not in ("channels", "quotas", "plugins")])
def test_the_reference_has_every_key_with_its_variable(key: str) -> None:
    [row] = re.findall(rf'^\| <a id="{re.escape(key)}"></a>.*$', configuration_md(), re.MULTILINE)
    if not re.search(r"(^|\.)(keys|sni)\.", key):
        assert row.endswith(f"| `RELAY__{key.replace('.', '__').upper()}` |")


@pytest.mark.parametrize("table", [Config, PluginTable, Channel, Quota, Key])
def test_every_setting_has_a_meaning(table: type[msgspec.Struct]) -> None:
    for setting in settings(table):
        assert setting.meaning or setting.table, setting.name
        if setting.table:
            test_every_setting_has_a_meaning(setting.table)


def test_the_reference_shows_bounds_and_choices() -> None:
    page = configuration_md()
    assert "| number, at least 0, at most 300 | `10.0` |" in page
    assert '| one of "debug", "info", "warning", "error" | `"info"` |' in page
    assert "| integer, at least 1 | `1024` |" in page


def test_every_row_of_the_reference_has_as_many_cells_as_its_header() -> None:
    for table in re.findall(r"(?:^\|.*\n)+", configuration_md(), re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_the_json_schema_knows_every_table_and_default() -> None:
    document: dict[str, Any] = json.loads(json_schema())
    parts = document["$defs"]
    assert document["$ref"] == "#/$defs/Config"
    assert set(parts["Config"]["properties"]) == set(Config.__struct_fields__)
    assert parts["Config"]["additionalProperties"] is False
    assert parts["Config"]["properties"]["plugins"]["additionalProperties"] == {"$ref": "#/$defs/PluginTable"}
    assert parts["PluginTable"]["required"] == []
    assert "additionalProperties" not in parts["PluginTable"]  # the plugin's own settings stand there, too
    assert parts["Server"]["properties"]["listen"]["default"] == [":8443"]
    assert parts["Limits"]["properties"]["fragments"] == {
        "description": "Most fragments in a message; beyond it close code 1009.",
        "type": "integer",
        "minimum": 1,
        "default": 1024,
    }
