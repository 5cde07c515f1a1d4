"""`relay check` and `relay config`: what is wrong with a configuration, what is right, and what can be set.

Not here: the checks themselves (examine). The one rule: what passes here starts, and what does not start fails here.
"""

from __future__ import annotations

import click

from relay.cli.source import Source, config_options, refuse_config


@click.command()
@config_options
def check(source: Source) -> None:
    """Say what is wrong with the configuration.

    Or, if nothing is, sum it up. Reads what the relay would read at start (certificates, keys, plugins), but opens no
    port. Exit status 78 when anything is wrong, with one line for each problem: file:line: key: what (hint).

    \b
    Examples:
      relay check
      relay check -c /etc/relay/config.toml
    """
    report(source)


def report(source: Source) -> None:
    """Prints the summary; exits with 78 when there are problems."""
    from relay.cli.examine import examine

    findings = examine(source.survey_or_exit())
    for warning in findings.warnings:
        click.secho(f"warning: {warning}", fg="yellow", err=True)
    if findings.problems:
        refuse_config(findings.problems)
    click.echo(f"{source}: good")
    width = max(len(title) for title, _ in findings.summary)
    for title, lines in findings.summary:
        for number, line in enumerate(lines):
            click.echo(f"  {title if number == 0 else '':<{width}}  {line}")


@click.group()
def config() -> None:
    """Print the default configuration, or its JSON Schema.

    \b
    Examples:
      relay config default > config.toml
      relay config schema > config.schema.json
    """


@config.command("default")
def config_default() -> None:
    """Print a config.toml with every setting, its default and its meaning."""
    from relay.config.render import default_toml

    click.echo(default_toml(), nl=False)


@config.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of config.toml, for editors."""
    from relay.config.render import json_schema

    click.echo(json_schema().rstrip("\n"))
