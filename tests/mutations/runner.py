"""Tests against a module that lacks a guard: at least one must fail.

Each run is a process of its own, forked off one that has all libraries loaded; there an import hook gives the module
without its guard. No file is touched, so runs go side by side, also with other work.

Not here: what a guard is (sites), what is run for which module (__main__). The one rule: a test that does not end is a
test that fails.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import CodeType
from typing import Any, Final

from tests.mutations.sites import without

IMPORTED: Final = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
PATIENCE: Final = 300.0
"""Seconds for the tests of one module."""
_LIBRARIES: Final = (
    "trio", "trio.testing", "pytest", "pytest_trio", "hypothesis", "hypothesis.strategies", "hypothesis.stateful",
    "h11", "msgspec", "jwt", "cryptography.x509", "cryptography.hazmat.primitives.asymmetric.ec", "wsproto",
    "websockets", "trustme", "prometheus_client", "click", "httpx2", "trio_websocket",
)  # fmt: skip


def prepare() -> None:
    """Loads what every run needs, once."""
    os.environ["HYPOTHESIS_PROFILE"] = "brief"
    for name in _LIBRARIES:
        importlib.import_module(name)


class _Mutated(importlib.machinery.SourceFileLoader):
    """The module without one guard. Nothing is cached."""

    def __init__(self, name: str, path: str, number: int) -> None:
        super().__init__(name, path)
        self._number = number

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path).decode()
        return compile(without(source, self._number), self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, path: Path, number: int) -> None:
        self._name, self._path, self._number = name, str(path), number

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != self._name:
            return None
        return importlib.util.spec_from_file_location(name, self._path, loader=_Mutated(name, self._path, self._number))


def start(module: Path | None, number: int, tests: Sequence[str]) -> tuple[int, Path]:
    """Forks a run. Its process id, and the file its output goes to."""
    out, name = tempfile.mkstemp(prefix="relay-mutation-", suffix=".log")
    pid = os.fork()
    if pid:
        os.close(out)
        return pid, Path(name)
    status = 3
    try:
        os.setsid()
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if module is not None:
            sys.meta_path.insert(0, _Finder(".".join(module.with_suffix("").parts), module, number))
        import pytest

        status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--no-header", "-W", IMPORTED, *tests]))
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


class Runs:
    """Some runs side by side. `finish` gives each one's key and exit status; -1: it did not end."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: dict[int, tuple[Any, Path, float]] = {}

    def __len__(self) -> int:
        return len(self._running)

    @property
    def full(self) -> bool:
        return len(self._running) >= self._most

    def start(self, key: Any, module: Path | None, number: int, tests: Sequence[str]) -> None:
        pid, out = start(module, number, tests)
        self._running[pid] = key, out, time.monotonic()

    def finish(self) -> tuple[Any, int, str]:
        """Waits for one. Its key, its status and the end of its output."""
        while True:
            for pid, (key, out, began) in self._running.items():
                done, status = os.waitpid(pid, os.WNOHANG)
                code = os.waitstatus_to_exitcode(status) if done else None
                if code is None and time.monotonic() - began > PATIENCE:
                    os.killpg(pid, 9)
                    os.waitpid(pid, 0)
                    code = -1
                if code is not None:
                    del self._running[pid]
                    said = out.read_text(errors="replace")
                    out.unlink()
                    return key, code, said
            time.sleep(0.02)
