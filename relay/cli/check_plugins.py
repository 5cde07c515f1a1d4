"""`relay plugins check`: are the plugins good? Each is loaded as at start, type-checked and, if wanted, tested.

Not here: what a plugin must be (plugin/loader, plugin/checks). The one rule: what was not done is said, with how to
have it done; it is never taken for good.
"""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from relay.cli.source import Source, config_options, fail

if TYPE_CHECKING:
    from relay.config import LoadedConfig
    from relay.plugin.api import Plugin

PATIENCE: Final = 300.0  # seconds for the types or the tests of one plugin


@click.command("check")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--test", "tests", is_flag=True, help="Run the tests too: test_NAME.py beside each.")
@config_options
def plugins_check(source: Source, names: tuple[str, ...], tests: bool) -> None:
    """Check plugins as the relay does at start, and their types with mypy where that is installed.

    NAME is a table of the configuration, a file of the plugin directory, or the path of a file (NAME.py). Without any,
    all of them are checked. Exit status 1 when anything is wrong, with a line for each problem.

    \b
    Examples:
      relay plugins check
      relay plugins check hello --test
    """
    loaded = source.load_or_exit()
    wrong = sum(_check(name, loaded, tests=tests) for name in names or _all(loaded))
    if wrong:
        fail("1 problem" if wrong == 1 else f"{wrong} problems")


def _all(loaded: LoadedConfig) -> list[str]:
    """Tables that are on, then files that no table uses."""
    from relay.plugin.loader import files

    tables = {name: common for name, (common, _) in loaded.plugin_tables.items() if common.enabled}
    used = {common.use or name for name, common in tables.items()}
    directory = loaded.resolve(loaded.config.supervision.directory)
    return [*tables, *(name for name in files(directory) if name not in used and not name.startswith("test_"))]


def _check(name: str, loaded: LoadedConfig, *, tests: bool) -> int:
    """Checks one and tells of it; returns the number of problems."""
    home = loaded.resolve(loaded.config.supervision.directory)
    name, directory = _place(name, home)
    plugin, told, problems = _load(name, directory, loaded, table=directory == home)
    if plugin is None:
        _tell(name, told, problems)
        return len(problems)
    file = Path(inspect.getfile(plugin)).resolve()
    if file.is_relative_to(directory.resolve()):
        told.append(_run("mypy", "types", ["--strict", "--no-error-summary", str(file)], file.parent, problems))
        test = file.with_name(f"test_{file.name}")
        if tests and test.is_file():
            told.append(_run("pytest", "tests", ["-q", "-p", "no:cacheprovider", str(test)], file.parent, problems))
        elif tests:
            problems.append(f"no test: {test} is not there")
    _tell(name, told, problems)
    return len(problems)


def _place(name: str, home: Path) -> tuple[str, Path]:
    """(its name, the directory it is looked for in): `home` is the plugin directory, a path may lead elsewhere."""
    if not name.endswith(".py"):
        return name, home
    file = Path(name)
    return file.stem, home if file.parent.resolve() == home.resolve() else file.parent


def _load(
    name: str, directory: Path, loaded: LoadedConfig, *, table: bool
) -> tuple[type[Plugin] | None, list[str], list[str]]:
    """(its class, what was done, what is wrong); `table`: by the settings of its table, if it has one."""
    from relay.delivery.channels import Channels
    from relay.errors import ConfigError, PluginError
    from relay.plugin.checks import check_class
    from relay.plugin.loader import find, load_one

    found = loaded.plugin_tables.get(name) if table else None
    if found is not None:
        channels = Channels(loaded.config.channels)
        try:
            one = load_one(name, *found, directory, channels, loaded.where, fresh=False)
        except ConfigError as error:
            return None, [], [str(problem) for problem in error.problems]
        return one.plugin, [f"class and settings of [plugins.{name}]"], []
    try:
        plugin = find(name, directory)
    except PluginError as error:
        return None, [], [error.what + (f" ({error.hint})" if error.hint else "")]
    wrong = [what + (f" ({hint})" if hint else "") for what, hint in check_class(plugin)]
    return plugin, [f"class; no settings: there is no [plugins.{name}]"], wrong


def _run(module: str, what: str, arguments: list[str], folder: Path, problems: list[str]) -> str:
    """Runs a module of Python over a file. Returns what was done; what it finds are problems."""
    if importlib.util.find_spec(module) is None:
        if module == "pytest":  # they were asked for
            problems.append("tests not run: pytest is not installed (pip install pytest)")
            return ""
        return f"{what} NOT CHECKED: {module} is not installed (pip install {module})"
    try:
        done = subprocess.run(  # noqa: S603 - our own Python
            [sys.executable, "-m", module, *arguments],
            cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        problems.append(f"{module} did not end within {PATIENCE:g} s")
        return ""
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        if module == "mypy":
            problems.extend(line for line in lines if ": error:" in line)
        if module == "pytest" or not problems:
            problems.append("\n    ".join([f"{module} fails with status {done.returncode}:", *lines[-20:]]))
        return ""
    return f"{what} ({module})"


def _tell(name: str, told: list[str], problems: list[str]) -> None:
    state = click.style("wrong", fg="red") if problems else click.style("good ", fg="green")
    click.echo(f"{state}  {name}: {'; '.join(filter(None, told))}" if told else f"{state}  {name}")
    for problem in problems:
        click.echo(f"       {problem}", err=True)
