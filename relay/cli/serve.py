"""`relay serve`: the relay itself.

Not here: what it does (server). The one rule: the log is configured by the same file, before the first line of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import click

from relay.cli.source import Source, config_options, refuse_config

if TYPE_CHECKING:
    from relay.config import LoadedConfig
    from relay.errors import ConfigProblem
    from relay.server import Running


@click.command()
@config_options
@click.option("--check-config", is_flag=True, help="Only check the configuration, as `relay check` does, and exit.")
def serve(source: Source, check_config: bool) -> None:
    """Serve, until SIGTERM or SIGINT.

    Then it drains; a second signal stops it at once. SIGHUP reads configuration, keys and certificates again.

    \b
    Examples:
      relay serve -c /etc/relay/config.toml
      relay serve --set server.listen=127.0.0.1:9443 --set logging.level=debug
      RELAY__LIMITS__MAX_CONNECTIONS=500 relay serve
    """
    if check_config:
        from relay.cli.check import report

        report(source)
        return
    run_server(source.load, source.survey_or_exit)


def run_server(
    load: Callable[[], LoadedConfig],
    survey: Callable[[], LoadedConfig],
    on_ready: Callable[[Running], None] | None = None,
) -> None:
    """Runs the relay to its end. Exits with 78 for a configuration it cannot run with, and tells all that is wrong.

    `survey` gives what `load` refuses.
    """
    import trio

    from relay.errors import ConfigError
    from relay.ops import logs
    from relay.server import run

    def load_and_configure() -> LoadedConfig:
        loaded = load()
        logs.configure(loaded.config.logging.level, loaded.config.logging.format)
        return loaded

    problems: list[ConfigProblem] = []
    interrupted = False
    sys.unraisablehook, before = logs.log_unraisable, sys.unraisablehook
    try:
        trio.run(partial(run, load_and_configure, on_ready=on_ready))
    except* ConfigError as group:  # out of a nursery, or bare; anything else passes
        problems = _problems(group)
    except* KeyboardInterrupt:  # before the signals were ours
        interrupted = True
    finally:
        sys.unraisablehook = before
    if interrupted:
        raise SystemExit(130)
    if problems:
        from relay.cli.examine import examine

        # The relay stopped at the first part that failed; whoever mends it wants to know of all.
        found = examine(survey()).problems
        told = {problem.key for problem in found}
        refuse_config(found + [problem for problem in problems if problem.key not in told])


def _problems(error: BaseException) -> list[ConfigProblem]:
    """The problems of all the ConfigErrors in a group."""
    if isinstance(error, BaseExceptionGroup):
        return [problem for inner in error.exceptions for problem in _problems(inner)]
    return list(getattr(error, "problems", ()))
