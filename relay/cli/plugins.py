"""`relay plugins`: which there are, and a new one.

Not here: finding and checking them (plugin/loader). The one rule: a new plugin works and passes its test as it is
written.
"""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from relay.cli.api import ApiClient, ApiError, api_options
from relay.cli.check_plugins import plugins_check
from relay.cli.source import Source, config_options, fail

if TYPE_CHECKING:
    from relay.config import LoadedConfig
    from relay.plugin.api import Plugin


@click.group()
def plugins() -> None:
    """List, begin, check or exchange plugins.

    \b
    Examples:
      relay plugins list
      relay plugins new hello
      relay plugins check hello --test
      relay plugins reload hello
    """


plugins.add_command(plugins_check)


@dataclass(slots=True)
class Row:
    """One plugin as it is listed; `tables` are the config tables that use it, with their patterns."""

    name: str
    origin: str
    about: str
    hooks: list[str]
    tables: list[str]
    problem: str = ""


@plugins.command("list")
@config_options
def plugins_list(source: Source) -> None:
    """List the plugins found: shipped, installed (entry points) and in the plugin directory, and which are on."""
    loaded = source.load_or_exit()
    rows = find_all(loaded)
    width = max(len(row.name) for row in rows)
    for row in rows:
        state = click.style("on ", fg="green") if row.tables else "off"
        click.echo(f"{state}  {row.name:<{width}}  {row.problem or row.about}")
        pad = " " * (width + 7)
        click.echo(f"{pad}{row.origin}" + (f"; {', '.join(row.hooks)}" if row.hooks else ""))
        for table in row.tables:
            click.echo(f"{pad}{table}")
    click.echo(f"\nplugin directory: {loaded.resolve(loaded.config.supervision.directory)}")


def find_all(loaded: LoadedConfig) -> list[Row]:
    """All plugins that can be named in `use`, by name; one that cannot be loaded is listed with its problem."""
    import importlib.metadata

    from relay.errors import PluginError
    from relay.plugin.loader import GROUP, files, find, shipped

    directory = loaded.resolve(loaded.config.supervision.directory)
    points = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    own = {name for name in files(directory) if not name.startswith("test_")}
    used: dict[str, list[str]] = {}
    for tenant in ("", *loaded.config.tenants):
        before, found = loaded.tables_of(tenant)
        if tenant and not before:
            continue  # it has those of the top
        for table, (common, _) in found.items():
            patterns = [common.rooms] if isinstance(common.rooms, str) else common.rooms
            text = f"[{before}plugins.{table}]" + (f" rooms {' '.join(patterns)}" if patterns else "")
            if common.filters:
                filters = [common.filters] if isinstance(common.filters, str) else common.filters
                text += f" filters {' '.join(filters)}"
            if common.isolate == "process":
                text += " in a process of its own"
            used.setdefault(common.use or table, []).append(text if common.enabled else f"{text} (enabled = false)")
    rows = []
    for name in sorted({*shipped(), *points, *own, *used}):
        if name in own:
            origin = f"{directory / name}.py"
        elif name in shipped():
            origin = "comes with the relay"
        else:
            origin = f"installed: {points[name].value}" if name in points else "named by the configuration"
        tables = used.get(name, [])
        try:
            plugin = find(name, directory)
        except PluginError as error:
            problem = error.what + (f" ({error.hint})" if error.hint else "")
            rows.append(Row(name, origin, "", [], tables, problem))
            continue
        rows.append(Row(name, origin, _about(plugin), _hooks(plugin), tables))
    return rows


def _about(plugin: type[Plugin]) -> str:
    """The first sentence of its own docstring."""
    text = " ".join((plugin.__doc__ or "").split())
    return text.split(". ")[0].rstrip(".") or "no description"


def _hooks(plugin: type[Plugin]) -> list[str]:
    from relay.plugin.api import Plugin as Base
    from relay.plugin.checks import HOOKS

    return [name for name in HOOKS if getattr(plugin, name) is not getattr(Base, name)]


PLUGIN = '''\
"""{title}: counts what is said in a room.

[plugins.{name}]
rooms = "{name}:*"
"""

from __future__ import annotations

from relay.plugin.api import Message, Peer, Plugin, Room


class {title}(Plugin):
    """Everybody hears how often something was said, and what."""

    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        count = room.state["count"] = room.state.get("count", 0) + 1
        room.broadcast(f"{{count}}: {{message.data.text()}}", sender=sender, echo=True)
'''

TEST = '''\
"""relay plugins check {name} --test"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import trio

from relay.plugin.testing import PluginTester

_spec = importlib.util.spec_from_file_location("{name}_plugin", Path(__file__).with_name("{name}.py"))
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

SAID = """
ann joins {name}:a
bob joins {name}:a
ann says "hi"
  ann hears "1: hi" from ann
  bob hears "1: hi" from ann
bob says "ho"
  ann hears "2: ho" from bob
  bob hears "2: ho" from bob
"""


async def _talk() -> None:
    async with PluginTester(_module.{title}, rooms="{name}:*") as tester:
        await tester.check(SAID)


def test_all_hear_what_was_said_and_how_often() -> None:
    trio.run(_talk)
'''

DOCS = """\
# {title}

Everybody in a room hears how often something was said in it, and what.

| key of `[plugins.{name}]` | default | meaning |
|---|---|---|
| `rooms` | | patterns of its rooms: `"{name}:*"` |

It has no settings of its own.

## What clients say and hear

| a client | hears |
|---|---|
| publishes text in `{name}:a` | everybody, the sender too: `N: TEXT`, the room's N-th message |

## What is refused

Nothing of its own. The room's count begins anew when the last member has left.
"""


@plugins.command("new")
@click.argument("name")
@click.option("--force", is_flag=True, help="Write over files that are there.")
@config_options
def plugins_new(source: Source, name: str, force: bool) -> None:
    """Write a small plugin NAME.py, its test and its page into the plugin directory, and print what to add to the
    configuration.

    \b
    Example:
      relay plugins new hello
    """
    from relay.plugin.loader import shipped

    if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name) or keyword.iskeyword(name):
        raise click.BadParameter(f"{name!r} is not a name: small letters, digits and _", param_hint="NAME")
    if name in shipped():
        raise click.BadParameter(f"the relay comes with a plugin {name!r}", param_hint="NAME")
    loaded = source.load_or_exit()
    folder = loaded.resolve(loaded.config.supervision.directory)
    plugin, test, docs = folder / f"{name}.py", folder / f"test_{name}.py", folder / f"{name}.md"
    title = "".join(part.capitalize() for part in name.split("_"))
    for path, text in ((plugin, PLUGIN), (test, TEST), (docs, DOCS)):
        _write(path, text.format(name=name, title=title), force)
    click.echo(f"wrote {plugin}, {test} and {docs}")
    click.echo(f"\nCheck and test it:\n\n  relay plugins check {name} --test")
    click.echo("\nSwitch it on in config.toml; a file without any [plugins.NAME] has the default plugins, one with at")
    click.echo("least one has just those:\n")
    click.echo(f'  [plugins.{name}]\n  rooms = "{name}:*"')


@plugins.command("reload")
@click.argument("name")
@click.option("--tenant", metavar="NAME", help="Only in that tenant; '' is the one without a name. Default: in all.")
@config_options
@api_options
def plugins_reload(source: Source, api: ApiClient, name: str, tenant: str | None) -> None:
    """Exchange the plugin of [plugins.NAME] of a running relay for its code and settings as they are now.

    Nobody is disconnected, and rooms keep what they are in the middle of. A version that is wrong is refused, with all
    that is wrong with it, and the old one stays.
    """
    del source
    try:
        where = "" if tenant is None else f"?tenant={quote(tenant, safe='')}"
        done = api.ask("POST", f"/plugins/{quote(name, safe='')}/reload{where}", {})
    except ApiError as error:
        fail(str(error))
    for now in done["plugins"]:
        at = f" of tenant {now['tenant']}" if now["tenant"] else ""
        click.echo(f"{name}{at} is {now['class']} from now on; open rooms: {now['rooms']}")


def _write(path: Path, text: str, force: bool) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if force else "x") as file:
            file.write(text)
    except FileExistsError:
        fail(f"{path} is there already", "--force writes over it")
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror or error}")
