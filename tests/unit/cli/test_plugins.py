"""plugins list and plugins new: what there is, and a beginning that works."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run

ROOT = Path(__file__).parents[3]


def test_the_plugins_of_the_relay_are_listed_with_their_rooms(folder: Path, run: Run):
    lines = run("plugins", "list").stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("on   chat"))
    assert lines[at + 1].split() == ["comes", "with", "the", "relay;", "on_message"]
    assert lines[at + 2].strip() == "[plugins.chat] rooms lobby chat:*"
    assert any(line.startswith("off  bridge") for line in lines)


def test_a_plugin_that_cannot_be_loaded_is_listed_with_what_is_wrong(folder: Path, run: Run):
    Path("plugins").mkdir()
    Path("plugins/broken.py").write_text("import nothing_of_that_name\n")
    result = run("plugins", "list")
    assert result.exit_code == 0
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("off  broken")]
    assert "No module named 'nothing_of_that_name'" in line


def test_a_switched_off_table_is_shown_as_such(folder: Path, run: Run):
    Path("config.toml").write_text('[plugins.a]\nuse = "echo"\nrooms = "a:*"\nenabled = false\n')
    assert "[plugins.a] rooms a:* (enabled = false)" in run("plugins", "list").stdout


def test_a_new_plugin_passes_its_test_and_can_be_switched_on(folder: Path, run: Run):
    result = run("plugins", "new", "dice_roll")
    assert result.exit_code == 0, result.output
    plugin, test = folder / "plugins" / "dice_roll.py", folder / "plugins" / "test_dice_roll.py"
    assert len(plugin.read_text().splitlines()) < 20
    passed = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", str(test)],
        env={"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert passed.returncode == 0, passed.stdout
    assert "1 passed" in passed.stdout
    table = result.stdout[result.stdout.index("[plugins.dice_roll]") :]
    Path("config.toml").write_text(table)
    assert "dice_roll  dice_roll:*" in run("check").stdout
    listed = run("plugins", "list").stdout
    assert "on   dice_roll" in listed
    assert "test_dice_roll  " not in listed


def test_files_that_are_there_are_not_written_over(folder: Path, run: Run):
    assert run("plugins", "new", "hello").exit_code == 0
    Path("plugins/hello.py").write_text("mine")
    result = run("plugins", "new", "hello")
    assert result.exit_code == 1
    assert "is there already" in result.stderr
    assert Path("plugins/hello.py").read_text() == "mine"
    assert run("plugins", "new", "hello", "--force").exit_code == 0
    assert Path("plugins/hello.py").read_text() != "mine"


@pytest.mark.parametrize("name", ["Hello", "../x", "class", "a-b", "", "chat", "x" * 50])
def test_what_cannot_be_a_name_is_refused(folder: Path, run: Run, name: str):
    assert run("plugins", "new", name).exit_code == 2
    assert not Path("plugins").exists()


def test_a_new_plugin_passes_its_check_with_its_types_and_its_test(folder: Path, run: Run):
    run("plugins", "new", "hello")
    page = (folder / "plugins" / "hello.md").read_text()
    assert "[plugins.hello]" in page
    checked = run("plugins", "check", "hello", "--test")
    assert checked.exit_code == 0, checked.output
    assert checked.stdout == (
        "good   hello: class; no settings: there is no [plugins.hello]; types (mypy); tests (pytest)\n"
    )


def test_what_is_wrong_with_a_plugin_is_told_line_by_line(folder: Path, run: Run):
    run("plugins", "new", "hello")
    Path("config.toml").write_text('[plugins.hello]\nrooms = "hello:*"\ncolour = 1\n[plugins.echo]\nrooms = "e:*"\n')
    checked = run("plugins", "check")
    assert checked.exit_code == 1
    assert "config.toml:3: plugins.hello.colour: no such setting" in checked.output
    assert "good   echo" in checked.output

    Path("config.toml").write_text('[plugins.hello]\nrooms = "hello:*"\n')
    with Path("plugins/hello.py").open("a") as file:
        file.write('wrong: int = "text"\n')
    Path("plugins/test_hello.py").write_text("def test_nothing() -> None:\n    assert False, 'as it must'\n")
    checked = run("plugins", "check", "hello", "--test")
    assert checked.exit_code == 1
    assert 'hello.py:18: error: Incompatible types in assignment (expression has type "str"' in checked.output
    assert "as it must" in checked.output
    assert checked.output.endswith("2 problems\n")


def test_a_plugin_may_be_named_by_its_path_wherever_that_is(folder: Path, run: Run):
    run("plugins", "new", "hello")
    Path("config.toml").write_text('[plugins.hello]\nrooms = "hello:*"\n')
    checked = run("plugins", "check", "plugins/hello.py")
    assert checked.stdout == "good   hello: class and settings of [plugins.hello]; types (mypy)\n"

    (folder / "elsewhere").mkdir()
    (folder / "plugins" / "hello.py").rename(folder / "elsewhere" / "hello.py")
    checked = run("plugins", "check", "elsewhere/hello.py")
    assert checked.stdout == "good   hello: class; no settings: there is no [plugins.hello]; types (mypy)\n"
    assert run("plugins", "check", "nowhere/hello.py").exit_code == 1


def test_what_could_not_be_checked_is_said(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch):
    run("plugins", "new", "hello")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("mypy", "pytest") else find(name))
    checked = run("plugins", "check", "hello", "--test")
    assert checked.exit_code == 1
    assert "types NOT CHECKED: mypy is not installed (pip install mypy)" in checked.output
    assert "tests not run: pytest is not installed" in checked.output
    assert run("plugins", "check", "nobody").exit_code == 1
