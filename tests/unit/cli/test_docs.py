"""docs/cli.md and the commands: each command has its section, each section its command's options, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from relay.cli.root import cli

DOCS = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
EVERYWHERE = {"-c", "--config", "--set", "-h", "--help"}


def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from walk(inner, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = dict(walk(cli, ("relay",)))
SECTIONS = dict(re.findall(r"^## (relay [^\n]+)\n(.*?)(?=^## |\Z)", DOCS, re.MULTILINE | re.DOTALL))


def options_of(command: click.Command) -> set[str]:
    return {name for option in command.params if isinstance(option, click.Option) for name in option.opts}


def test_every_command_has_a_section_and_every_section_a_command():
    assert set(SECTIONS) == set(COMMANDS)


@pytest.mark.parametrize("title", COMMANDS)
def test_a_section_lists_the_options_of_its_command_and_no_others(title: str):
    rows = [row.split(" | ")[0] for row in SECTIONS[title].splitlines() if row.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", row)}
    assert documented == options_of(COMMANDS[title]) - EVERYWHERE


@pytest.mark.parametrize("title", COMMANDS)
def test_a_section_names_the_arguments_of_its_command(title: str):
    for argument in COMMANDS[title].params:
        if isinstance(argument, click.Argument):
            name = argument.metavar or (argument.name or "").upper()
            assert name.strip("[]").removesuffix("...") in SECTIONS[title]


def test_the_options_of_every_command_are_documented_once():
    common = DOCS[: DOCS.index("\n## relay ")]
    for name in EVERYWHERE:
        assert f"`{name}" in common


def test_the_help_of_the_whole_shows_every_command_with_an_uncut_line():
    answer = CliRunner().invoke(cli, ["--help"], terminal_width=80, prog_name="relay")
    listed = re.search(r"Commands:\n(.*?)\n\n", answer.output, re.DOTALL)
    assert listed is not None
    lines = listed[1].splitlines()
    assert {line.split()[0] for line in lines} == set(cli.commands)
    assert not [line for line in lines if line.endswith("...")]


def test_every_option_explains_itself():
    for title, command in COMMANDS.items():
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{title} {option.opts}"
                assert option.help[0].isupper(), f"{title} {option.opts}"
