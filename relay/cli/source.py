"""Where the configuration comes from: the options -c and --set, and how problems with it are told.

Not here: reading it (config/loader). The one rule: whatever is wrong with a configuration is told in full, one line a
problem, on standard error, and the exit status is 78.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from relay.config import LoadedConfig
    from relay.errors import ConfigProblem

DEFAULT_FILE = Path("config.toml")

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(slots=True, frozen=True)
class Source:
    """A configuration not yet read: the file (None: built-in defaults alone) and what --set says."""

    path: Path | None
    overrides: tuple[tuple[str, str], ...] = ()

    def load(self) -> LoadedConfig:
        """Reads it. Raises ConfigError."""
        from relay.config import load

        return load(self.path, environ=os.environ, overrides=self.overrides)

    def survey_or_exit(self) -> LoadedConfig:
        """What of it fits, beside its problems; or tells that it is no TOML and exits with 78."""
        from relay.config import survey
        from relay.errors import ConfigError

        try:
            return survey(self.path, environ=os.environ, overrides=self.overrides)
        except ConfigError as error:
            refuse_config(error.problems)

    def load_or_exit(self) -> LoadedConfig:
        """Reads it, or tells what is wrong and exits with 78."""
        from relay.errors import ConfigError

        try:
            return self.load()
        except ConfigError as error:
            refuse_config(error.problems)

    def __str__(self) -> str:
        return str(self.path) if self.path else "built-in defaults"


def config_options(function: Function) -> Function:
    """Adds -c/--config and --set to a command, which gets `source`."""

    @click.option(
        "-c",
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        envvar="RELAY_CONFIG",
        show_envvar=True,
        metavar="FILE",
        help="Configuration file.  [default: config.toml here, if there is one; else the built-in defaults]",
    )
    @click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="One setting, over file and environment, as in limits.message_bytes=1000000. May be repeated.",
    )
    @wraps(function)
    def wrapped(*args: Any, config_path: Path | None, settings: tuple[str, ...], **kwargs: Any) -> Any:
        overrides = []
        for setting in settings:
            key, equals, value = setting.partition("=")
            if not equals:
                raise click.BadParameter(f"{setting!r} is not KEY=VALUE", param_hint="--set")
            overrides.append((key.strip(), value))
        if config_path is None and DEFAULT_FILE.is_file():
            config_path = DEFAULT_FILE
        return function(*args, source=Source(config_path, tuple(overrides)), **kwargs)

    return wrapped  # type: ignore[return-value]


def refuse_config(problems: Iterable[ConfigProblem]) -> NoReturn:
    """Tells every problem and exits with 78."""
    from relay.errors import ConfigError

    lines = list(dict.fromkeys(map(str, problems)))
    for line in lines:
        click.echo(line, err=True)
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    click.secho(f"{count} with the configuration", fg="red", err=True)
    raise SystemExit(ConfigError.EXIT_STATUS)


def fail(what: str, hint: str = "") -> NoReturn:
    """Says no and exits with 1."""
    click.secho(what + (f" ({hint})" if hint else ""), fg="red", err=True)
    raise SystemExit(1)
