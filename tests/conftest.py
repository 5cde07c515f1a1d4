"""How all tests run: what hypothesis may take for granted, the figures that tests have measured, and the line that says
loudly what did not run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, settings

from tests.sizes import examples

# A busy machine is slow at times, which says nothing about the code; `print_blob` lets a failure be repeated.
settings.register_profile("relay", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("thorough", settings.get_profile("relay"), max_examples=examples(100))
settings.register_profile("brief", settings.get_profile("relay"), max_examples=examples(100), database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "relay"))

Figures: TypeAlias = Callable[[str], None]
_figures = pytest.StashKey[list[str]]()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Takes a line to be printed at the end of the run: what was measured, not what was promised."""
    return request.config.stash.setdefault(_figures, []).append


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for Unix sockets, whose paths must be short; pytest's own may be too deep."""
    with TemporaryDirectory(prefix="relay-") as folder:
        yield Path(folder).resolve()


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Say what was measured and what was left out for lack of a component, whatever options pytest was given."""
    yield
    if lines := terminalreporter.config.stash.get(_figures, []):
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)
    reasons = {
        str(report.longrepr[2]).removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    }
    for reason in sorted(reasons):
        if reason.startswith("NOT RUN: "):
            terminalreporter.write_line(reason, yellow=True, bold=True)
