"""That what takes guards out takes them out, and that a run of it says what is missed by nobody."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.components import ROOT
from tests.mutations.__main__ import MODULES, modules, stages
from tests.mutations.excused import EXCUSED
from tests.mutations.sites import sites, without

MODULE = """
def enter(self, key):
    if not key or self.off:
        return False
    if len(self) >= self.limit:
        self.prune()
    if key in self.gone:
        raise KeyError(key)
    found = 1
    return found and self.open and not self.full
"""


def test_each_guard_is_found_and_each_of_several_conditions() -> None:
    assert [f"{site.within}: {site.text}" for site in sites(MODULE)] == [
        "enter: if not key or self.off: …",
        "enter: … not key …",
        "enter: … self.off …",
        "enter: if len(self) >= self.limit: …",
        "enter: if key in self.gone: raise KeyError(key)",
        "enter: … found …",
        "enter: … self.open …",
        "enter: … not self.full …",
    ]


@pytest.mark.parametrize(
    ("number", "gone", "instead"),
    [
        (0, "if not key or self.off:", "if False:"),
        (1, "if not key or self.off:", "if self.off:"),
        (2, "if not key or self.off:", "if not key:"),
        (3, "if len(self) >= self.limit:", "if False:"),
        (4, "if key in self.gone:", "if False:"),
        (7, "return found and self.open and (not self.full)", "return found and self.open"),
    ],
)
def test_without_it_all_else_is_as_it_was(number: int, gone: str, instead: str) -> None:
    whole = ast.unparse(ast.parse(MODULE))
    assert gone in whole
    assert ast.unparse(without(MODULE, number)) == whole.replace(gone, instead)


def test_every_module_still_is_one_without_any_of_its_guards() -> None:
    for path in modules([]):
        source = path.read_text()
        for site in sites(source):
            compile(without(source, site.number), str(path), "exec")


def test_every_module_has_guards_and_tests_that_are_there() -> None:
    found = modules([])
    assert {str(path.parent) if path.parent.name in ("limits", "auth") else str(path) for path in found} == set(MODULES)
    for path in found:
        for tests in stages(path):
            assert all((ROOT / name).exists() for name in tests)
    assert sum(len(sites((ROOT / path).read_text())) for path in found) > 300


def test_what_is_excused_is_still_there_and_has_a_reason() -> None:
    there = {
        (str(path), site.within, site.text)
        for path in modules([])
        for site in sites(Path(ROOT, path).read_text())
    }  # fmt: skip
    assert EXCUSED.keys() <= there
    assert all(len(reason) > 10 for reason in EXCUSED.values())


def test_a_run_says_which_guards_a_test_misses() -> None:
    command = [sys.executable, "-m", "tests.mutations", "--no-baseline", "--stages", "1", "relay/limits/counts.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 guards: 4 are missed by a test, 0 by none" in done.stdout
