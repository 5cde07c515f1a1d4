"""The schema as people and editors read it: config.toml with comments, JSON Schema, and the reference in docs/.

Not here: any fact about a setting; all come from the schema. The one rule: what `default_toml` writes loads to
`Config()`.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from relay.config.describe import Setting, about_table, settings
from relay.config.quotas import Quota, default_quotas
from relay.config.schema import (
    Certificate,
    Channel,
    Config,
    Grants,
    Issuer,
    Key,
    PluginTable,
    Tenant,
    TenantLimits,
    default_channels,
    default_plugins,
)

WIDTH: Final = 110
RULE: Final = "# " + "-" * (WIDTH - 2)

TOML_INTRO: Final = """\
Configuration of the relay. Every setting is here with its default; what is left out has that default too.

What the command line says (--set limits.fragments=16) goes before the environment (RELAY__LIMITS__FRAGMENTS=16),
that before this file. Paths are relative to the directory of this file. `relay check` says all that is wrong with it,
line by line. The same as a reference, with types, bounds and environment variables: docs/configuration.md.

Lines that begin with # and a space explain. Lines that begin with # and no space are settings to switch on.
"""

MARKDOWN_INTRO: Final = """\
# Configuration

*Made from `relay/config/schema.py` by `relay.config.render`; a test compares them. Change the schema, not this page.*

`config.toml` at the root of the repository holds every setting with its default and a comment. Copy what you want to
change; what is left out has its default.

**Where a value comes from.** First what the command line says (`--set limits.fragments=16`), then the environment,
then the file, then the default. `relay check` looks at all of them and names everything that is wrong, with its line
or its variable and the nearest right name. An unknown key is an error, and the relay does not start with one (exit
status 78): a misspelt limit would silently keep its default.

**Environment.** `RELAY__SECTION__KEY`, with two underscores between the parts: `RELAY__LIMITS__FRAGMENTS=16`. A value
is read as TOML where that suits the setting (`16`, `true`, `["a", "b"]`), else it is text and needs no quotes. A list
of texts may be written with commas: `RELAY__SERVER__LISTEN=127.0.0.1:8443,[::1]:8443`. A list of tables is set as a
whole: `RELAY__AUTH__KEYS='[{ algorithm = "HS256", secret_file = "/run/secrets/token" }]'`. Channels and plugins have
the names of their tables; capitals and hyphens do not count: `RELAY__PLUGINS__MY_CHAT__HISTORY` is `history` in
`[plugins.my-chat]`.

**Files and secrets.** Paths are relative to the directory of the configuration file, or to the working directory if
there is none. Keep secrets out of the file: `secret_file` names one that holds nothing but the secret (a newline at
its end is ignored), such as those of systemd's `LoadCredential=`, Docker or Kubernetes. No error message shows a
secret.

**Reload.** On SIGHUP the relay reads the file, the certificates and the keys again. If anything is wrong with them, it
says so in the log and goes on with what it had. Changes in `[server]`, `[internal]`, `[channels]`, `[outbox]`,
`[supervision]` and `[plugins]` wait for the next start, the keys of the API excepted; the log names the tables.

Sizes are in bytes, times in seconds. Texts follow TOML: in double quotes a backslash is written twice, in single
quotes once.
"""

EXAMPLES: Final[dict[type[msgspec.Struct], tuple[str, msgspec.Struct]]] = {
    Certificate: (
        "For example:",
        Certificate(certificate="certs/other.pem", key="certs/other-key.pem", names=["other.example"]),
    ),
    Key: (
        "The key of an issuer who keeps its private half, for example:",
        Key(algorithm="Ed25519", kid="issuer-1", public_key_file="certs/issuer.pub.pem"),
    ),
}
NAMED_EXAMPLES: Final[dict[type[msgspec.Struct], str]] = {
    Grants: """\
#[auth.mtls.subjects."sensor-7.example"]
#join = ["sensors:7"]
#publish = ["sensors:7"]""",
    Issuer: """\
#[auth.issuers.acme]
#issuer = "https://login.acme.example"
#audience = "https://relay.example"
#room_prefix = "acme:"
#subject_prefix = "acme:"

#[[auth.issuers.acme.keys]]
#algorithm = "Ed25519"
#kid = "1"
#public_key_file = "certs/acme.pub.pem\"""",
    Tenant: """\
#[tenants.acme]
#issuers = ["acme"]
#hosts = ["acme.example.com"]
#limits.max_connections = 500

#[tenants.acme.plugins.chat]
#rooms = "chat:*"
#history = 50""",
}
"""Tables with names of the operator's choice: there are none by default."""
MORE_PLUGINS: Final = """\
# Further plugins that come with the relay, for example:
#[plugins.game]
#rooms = "game:*"
#presence = true
#ticks = 20.0

#[plugins.files]
#rooms = "files:*"
#max_bytes = 4194304
#keep = 10

#[plugins.state]
#rooms = "state:*"
#delta = true
#own_keys = false
#keep_seconds = 60.0

#[plugins.signalling]
#rooms = "call:*"
#ice_servers = [{ urls = ["stun:stun.example.org:3478"] }, { urls = ["turn:turn.example.org:3478"] }]
#turn_secret_file = "turn.secret"

# In front of rooms of others, for example:
#[plugins.moderation]
#filters = ["chat:*", "lobby"]
#moderators = ["ann"]
#words = ["darn"]
#file = "moderation.json"

#[plugins.presence]
#filters = ["chat:*"]

#[plugins.audit]
#filters = ["*"]
#decisions = true
#file = "audit.jsonl"

# A room that joins another WebSocket service, for example:
#[plugins.bridge]
#rooms = "bridge:news"
#room = "bridge:news"
#url = "wss://service.example/socket\""""


def default_toml() -> str:
    """The complete config.toml: every setting with its default, explained in comments."""
    lines = comment(TOML_INTRO)
    for setting in settings(Config):
        lines += ["", RULE]
        if setting.name == "channels":
            lines += toml_named(setting, Channel, {name: as_written(each) for name, each in default_channels().items()})
        elif setting.name == "quotas":
            lines += toml_named(setting, Quota, {name: told(each) for name, each in default_quotas().items()})
        elif setting.name == "plugins":
            lines += [*toml_named(setting, PluginTable, default_plugins()), "", MORE_PLUGINS]
        elif setting.named:
            lines += toml_example(setting, setting.named)
        elif setting.name == "aliases":
            lines += [*comment(setting.meaning), "[aliases]", '#"general" = "chat:main"']
        else:
            lines += toml_table(setting.name, table_of(setting))
    return "\n".join(lines) + "\n"


def table_of(setting: Setting) -> type[msgspec.Struct]:
    assert setting.table, f"{setting.name} needs a rendering of its own"
    return setting.table


def toml_table(path: str, table: type[msgspec.Struct]) -> Iterator[str]:
    """A table of fixed keys, then those inside it."""
    yield from comment(about_table(table))
    yield f"[{path}]"
    inner: list[Setting] = []
    for setting in settings(table):
        if setting.table or setting.items or setting.named:
            inner.append(setting)
            continue
        yield from ["", *comment(words(setting))]
        yield f"{setting.name} = {toml(setting.default)}"
    for setting in inner:
        yield ""
        if setting.table:
            yield from toml_table(f"{path}.{setting.name}", setting.table)
        elif setting.items:
            yield from toml_list(f"{path}.{setting.name}", setting, setting.items)
        elif setting.named:
            yield from toml_example(setting, setting.named)


def toml_example(setting: Setting, table: type[msgspec.Struct]) -> Iterator[str]:
    """Tables with names of the operator's choice, of which there is none by default."""
    yield from comment(f"{setting.meaning} {about_table(table)} For example:")
    yield from NAMED_EXAMPLES[table].splitlines()


def toml_list(path: str, setting: Setting, item: type[msgspec.Struct]) -> Iterator[str]:
    """A list of tables: the default ones, with what they leave out switched off, and an example."""
    yield from comment(f"{setting.meaning} {about_table(item)}")
    for table in setting.default:
        yield f"[[{path}]]"
        for each in settings(item):
            off = "#" if table[each.name] == each.default else ""
            yield from ["", *comment(words(each)), f"{off}{each.name} = {toml(table[each.name])}"]
        yield ""
    text, example = EXAMPLES[item]
    yield from (*comment(text), f"#[[{path}]]")
    for each in settings(item):
        if getattr(example, each.name) != each.default:
            yield f"#{each.name} = {toml(getattr(example, each.name))}"


def toml_named(setting: Setting, table: type[msgspec.Struct], tables: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Tables with names of the operator's choice: their keys explained once, then the default ones."""
    yield from comment(setting.meaning)
    yield "#"
    width = max(len(each.name) for each in settings(table)) + 2
    for each in settings(table):
        default = "" if each.default is msgspec.UNSET else f" Default {toml(each.default)}."
        yield from comment(f"{each.name:{width}}{words(each)}{default}", " " * width)
    for name, values in tables.items():
        yield from ["", f"[{setting.name}.{name}]", *(f"{key} = {toml(value)}" for key, value in values.items())]


def as_written(channel: Channel) -> dict[str, Any]:
    """A channel's settings; the weight only where it counts."""
    written: dict[str, Any] = msgspec.to_builtins(channel)
    if channel.priority != "fair":
        del written["weight"]
    return written


def told(quota: Quota) -> dict[str, Any]:
    """A quota's settings but for those that are at their defaults."""
    written: dict[str, Any] = msgspec.to_builtins(quota)
    usual = {each.name: each.default for each in settings(Quota)}
    return {key: value for key, value in written.items() if value != usual[key]}


def words(setting: Setting) -> str:
    """Meaning, choices and bounds; that a count is not negative needs no words."""
    text = setting.meaning
    if setting.kind.startswith("one of"):
        text += f" O{setting.kind[1:]}."
    if setting.range not in ("", "at least 0"):
        text += f" {setting.range.capitalize()}."
    return text


def comment(text: str, hanging: str = "") -> list[str]:
    """Text as comment lines; an empty line stays between its paragraphs."""
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        lines += ["", *textwrap.wrap(paragraph, WIDTH - 2, subsequent_indent=hanging, break_on_hyphens=False)]
    return [f"# {line}".rstrip() for line in lines[1:]]


def toml(value: object) -> str:
    """A plain value as TOML."""
    return json.dumps(value, ensure_ascii=False)  # of booleans, numbers, short texts and lists, JSON is TOML


def json_schema() -> str:
    """The JSON Schema (draft 2020-12) of the file, for editors that complete and check TOML."""
    (whole, *_), parts = msgspec.json.schema_components(
        (Config, PluginTable, TenantLimits), ref_template="#/$defs/{name}"
    )
    # A plugin's own settings are not known here: any further key may stand beside the common ones.
    for part in ("Config", "Tenant"):
        parts[part]["properties"]["plugins"]["additionalProperties"] = {"$ref": "#/$defs/PluginTable"}
    parts["Tenant"]["properties"]["limits"] |= {"$ref": "#/$defs/TenantLimits"}
    tables: list[type[msgspec.Struct]] = [Config, PluginTable]
    tables += [setting.table for setting in settings(Config) if setting.table]
    for table in tables:
        for setting in settings(table):
            if setting.default is not msgspec.UNSET and not setting.table:
                parts[table.__name__]["properties"][setting.name]["default"] = setting.default
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "config.toml of the relay"}
    return json.dumps({**document, **whole, "$defs": parts}, indent=2, ensure_ascii=False) + "\n"


def configuration_md() -> str:
    """docs/configuration.md: every setting with type, default, meaning and environment variable."""
    lines = [MARKDOWN_INTRO]
    for setting in settings(Config):
        if setting.name == "channels":
            lines += [f"## `[channels.NAME]`\n\n{about_table(Channel)}\n\n{setting.meaning}\n"]
            lines += [*markdown_rows("channels.NAME", Channel), *markdown_channels()]
        elif setting.name == "quotas":
            lines += [f"## `[quotas.NAME]`\n\n{about_table(Quota)}\n\n{setting.meaning}\n"]
            lines += [*markdown_rows("quotas.NAME", Quota), *markdown_quotas()]
        elif setting.name == "plugins":
            lines += [f"## `[plugins.NAME]`\n\n{about_table(PluginTable)}\n\n{setting.meaning}\n"]
            lines += [*markdown_rows("plugins.NAME", PluginTable), *markdown_plugins()]
        elif setting.named:
            lines += [*markdown_table(f"{setting.name}.NAME", setting.named), f"{escaped(setting.meaning)}\n"]
        elif setting.name == "aliases":
            row = f'| <a id="aliases"></a>`"ALIAS"` | string | none | {setting.meaning} | `RELAY__ALIASES` |'
            lines += [
                "## `[aliases]`\n",
                "| key | type | default | meaning | environment |\n|---|---|---|---|---|",
                row,
                "",
            ]
        else:
            lines += markdown_table(setting.name, table_of(setting))
    return "\n".join(lines)


def markdown_table(path: str, table: type[msgspec.Struct], header: str = "") -> Iterator[str]:
    yield f"## `{header or f'[{path}]'}`\n\n{escaped(about_table(table))}\n"
    yield from markdown_rows(path, table, environment=not header)
    for setting in settings(table):
        inner = f"{path}.{setting.name}"
        if setting.table:
            yield from markdown_table(inner, setting.table)
        elif setting.named:
            yield from markdown_table(f"{inner}.NAME", setting.named)
        elif setting.items:
            yield from markdown_table(inner, setting.items, f"[[{inner}]]")


def markdown_rows(path: str, table: type[msgspec.Struct], environment: bool = True) -> Iterator[str]:
    columns = ["key", "type", "default", "meaning", *(["environment"] if environment else [])]
    yield f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
    for setting in settings(table):
        if setting.table or setting.named:
            continue
        key = f"{path}.{setting.name}"
        bounds = f", {setting.range}" if setting.range else ""
        default = "required" if setting.default is msgspec.UNSET else f"`{toml(setting.default)}`"
        if setting.items:
            default = "below" if setting.default else "none"
        cells = [f'<a id="{key}"></a>`{setting.name}`', setting.kind + bounds, default, escaped(setting.meaning)]
        if environment:
            cells.append(f"`RELAY__{key.replace('.', '__').upper()}`")
        yield f"| {' | '.join(cells)} |"
    yield ""


def markdown_channels() -> Iterator[str]:
    names = [setting.name for setting in settings(Channel)]
    yield f"The channels that always exist:\n\n| name | {' | '.join(names)} |\n|---|{'---|' * len(names)}"
    for name, channel in default_channels().items():
        written = as_written(channel)
        yield f"| `{name}` | {' | '.join(str(written.get(key, '-')) for key in names)} |"
    yield ""


def markdown_quotas() -> Iterator[str]:
    yield "The quotas that always exist:\n\n```toml"
    for name, quota in default_quotas().items():
        yield f"[quotas.{name}]"
        yield from (f"{key} = {toml(value)}" for key, value in told(quota).items())
    yield "```\n"


def markdown_plugins() -> Iterator[str]:
    yield "The tables of a file that has none:\n\n```toml"
    for name, table in default_plugins().items():
        yield f"[plugins.{name}]"
        yield from (f"{key} = {toml(value)}" for key, value in table.items())
    yield "```\n"


def escaped(text: str) -> str:
    """Prose in Markdown, where a star or a bar would mean something."""
    return text.replace("*", r"\*").replace("|", r"\|")
