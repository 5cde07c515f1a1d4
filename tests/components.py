"""What the tests need beyond Python: a Chromium, Node.js with `ws`, HAProxy, nginx, sslyze, testssl.sh, faketime, the
Autobahn test-suite. Found, or installed where that is possible.

Not here: how they are driven. The one rule: what is missing is said. Outside CI a test without its component is skipped
with the reason and the line to type; where CI is set it fails, because a check that silently does not run is no check.
Autobahn alone may be missing in CI too: it needs a CPython 2.7, which current distributions do not carry.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trio-relay"
WS_VERSION = "8"
SSLYZE_VERSION = "6.3.1"
VIRTUALENV_FOR_PYTHON_2 = "virtualenv==20.15.1"  # the last one that runs on CPython 2.7


class Missing(Exception):
    """A component is not there and could not be installed: why, and what to type."""


def _or_skip(why: Missing, *, skip_in_ci: bool = False) -> NoReturn:
    if os.environ.get("CI") and not skip_in_ci:
        pytest.fail(f"missing in CI: {why}", pytrace=False)
    pytest.skip(f"NOT RUN: {why}")


def require_chromium() -> str:
    """The path of a Chromium. Where there is none and we are root on Debian, it is installed first."""
    try:
        return _chromium()
    except Missing as why:
        _or_skip(why)


def require_node() -> tuple[str, Path]:
    """The path of `node`, and the folder (outside the repository) in which `ws` is installed."""
    try:
        return _node(), _ws()
    except Missing as why:
        _or_skip(why)


def require_haproxy() -> str:
    """The path of `haproxy`."""
    try:
        return _daemon("haproxy", "haproxy")
    except Missing as why:
        _or_skip(why)


def require_nginx() -> str:
    """The path of `nginx`."""
    try:
        return _daemon("nginx", "nginx-light")
    except Missing as why:
        _or_skip(why)


def require_sslyze() -> str:
    """The path of `sslyze`, in an environment of its own: what it depends on is not what the relay does."""
    try:
        return _sslyze()
    except Missing as why:
        _or_skip(why)


def require_testssl() -> tuple[str, bool]:
    """The path of `testssl.sh`, and whether it gives a grade, which it does from 3.1 on. Looked for in
    $RELAY_TOOLS/testssl and, beside the repository, in shared/tools/testssl; then on the system.
    """
    try:
        return _testssl()
    except Missing as why:
        _or_skip(why)


def require_faketime() -> str:
    """The library that, loaded before all others, gives a process another wall clock."""
    try:
        return _faketime()
    except Missing as why:
        _or_skip(why)


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "1m") -> Iterator[Path]:
    """A file system of that size, in memory, mounted at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "relay-test", str(folder)]
    try:
        _run(command, "a small file system cannot be mounted (as root: mount -t tmpfs)")
    except Missing as why:
        _or_skip(why)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], stdin=subprocess.DEVNULL, check=True)


def require_autobahn() -> tuple[Path, dict[str, str]]:
    """The folder with `run.sh`, and the environment to run it in. Looked for in $RELAY_TOOLS/autobahn and, beside the
    repository, in shared/tools/autobahn."""
    try:
        return _autobahn()
    except Missing as why:
        _or_skip(why, skip_in_ci=True)


@functools.cache
def _chromium() -> str:
    found = _which("chromium", "chromium-browser", "google-chrome")
    if not found:
        _apt_install("chromium")
        found = _which("chromium")
    if not found:
        raise Missing("no Chromium; type: sudo apt-get install chromium")
    return found


@functools.cache
def _node() -> str:
    if not (_which("node") and _which("npm")):
        _apt_install("nodejs", "npm")
    node = _which("node")
    if not (node and _which("npm")):
        raise Missing("no Node.js with npm; type: sudo apt-get install nodejs npm")
    return node


@functools.cache
def _ws() -> Path:
    folder = CACHE / f"node-ws-{WS_VERSION}"
    if not (folder / "node_modules" / "ws" / "package.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            "npm",
            "install",
            "--prefix",
            str(folder),
            "--no-save",
            "--no-audit",
            "--no-fund",
            f"ws@{WS_VERSION}",
        ]
        _run(command, "npm could not install ws")
    return folder


@functools.cache
def _daemon(command: str, package: str) -> str:
    if not _which(command, f"/usr/sbin/{command}"):  # where a user's PATH does not lead
        _apt_install(package)
    found = _which(command, f"/usr/sbin/{command}")
    if not found:
        raise Missing(f"no {command}; type: sudo apt-get install {package}")
    return found


@functools.cache
def _sslyze() -> str:
    home = CACHE / f"sslyze-{SSLYZE_VERSION}"
    program = home / "bin" / "sslyze"
    if not _succeeds([str(program), "--help"]):
        shutil.rmtree(home, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(home)], "no environment for sslyze")
        install = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", f"sslyze=={SSLYZE_VERSION}"]
        _run(install, "pip could not install sslyze")
    return str(program)


@functools.cache
def _testssl() -> tuple[str, bool]:
    for place in _tools("testssl", "testssl.sh"):
        return str(place / "testssl.sh"), True
    if not _which("testssl", "testssl.sh"):
        _apt_install("testssl.sh", "bsdextrautils")
    found = _which("testssl", "testssl.sh")
    if not found:
        raise Missing("no testssl.sh; type: sudo apt-get install testssl.sh")
    said = subprocess.run([found, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    version = re.search(r"testssl\S* +(\d+)\.(\d+)", said.stdout)
    return found, version is not None and (int(version[1]), int(version[2])) >= (3, 1)


@functools.cache
def _faketime() -> str:
    for place in ("/usr/lib", "/usr/local/lib"):
        if found := sorted(Path(place).glob("**/faketime/libfaketimeMT.so.1")):
            return str(found[0])
    if not os.geteuid() and _which("apt-get"):
        _apt_install("libfaketime")
        if found := sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")):
            return str(found[0])
    raise Missing("no libfaketime; type: sudo apt-get install libfaketime")


def _tools(name: str, program: str) -> list[Path]:
    """Folders of tools for tests that hold this one."""
    places = [Path(os.environ["RELAY_TOOLS"])] if os.environ.get("RELAY_TOOLS") else []
    places.append(ROOT.parent / "shared" / "tools")
    return [place / name for place in places if (place / name / program).exists()]


@functools.cache
def _autobahn() -> tuple[Path, dict[str, str]]:
    folder = next(iter(_tools("autobahn", "run.sh")), None)
    if folder is None:
        raise Missing("the Autobahn test-suite was not found; set RELAY_TOOLS to the folder that holds autobahn/run.sh")
    home = CACHE / "autobahn"
    environment = {**os.environ, "AB_VENV": str(home)}
    loads = [str(home / "bin" / "python"), "-c", "import autobahntestsuite.case"]
    if not _succeeds(loads):
        _build_autobahn(folder, home, environment)
        _run(loads, "the Autobahn test-suite was built, but does not load")
    return folder, environment


def _build_autobahn(folder: Path, home: Path, environment: dict[str, str]) -> None:
    python = _python_2()
    if python is None:
        raise Missing(
            "the Autobahn test-suite needs a CPython 2.7 (pyenv install 2.7.18); the conformance run was left out"
        )
    with_virtualenv = dict(environment)
    if not _succeeds([python, "-m", "virtualenv", "--version"]):
        tools = CACHE / "virtualenv-for-python-2"
        install = [python, "-m", "pip", "install", "--quiet", "--target", str(tools), VIRTUALENV_FOR_PYTHON_2]
        _run(install, "pip could not install virtualenv for CPython 2.7")
        with_virtualenv["PYTHONPATH"] = str(tools)
    shutil.rmtree(home, ignore_errors=True)
    # Made here, because what setup.sh installs must not take virtualenv's own dependencies for its own.
    _run([python, "-m", "virtualenv", "--quiet", str(home)], "no environment for CPython 2.7", with_virtualenv)
    setup = ["bash", str(folder / "setup.sh")]
    _run(setup, "the Autobahn test-suite could not be built", {**environment, "PY2": python})


def _python_2() -> str | None:
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for python in (*map(str, sorted(pyenv.glob("2.7.*/bin/python2.7"))), _which("python2.7") or ""):
        if python and _succeeds([python, "-c", "import ssl, zlib"]):
            return python
    return None


def _which(*names: str) -> str | None:
    return next(filter(None, map(shutil.which, names)), None)


def _succeeds(command: list[str]) -> bool:
    try:
        return not subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode
    except OSError:
        return False


def _apt_install(*packages: str) -> None:
    """Does nothing where we may not: the caller looks again and says what is missing."""
    if os.geteuid() or not _which("apt-get"):
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    _run(install, f"apt-get could not install {' '.join(packages)}", environment)


def _run(command: list[str], failure: str, environment: dict[str, str] | None = None) -> None:
    """Raises Missing(failure) with the last lines of the output."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=600, check=False
    )
    if done.returncode:
        raise Missing(f"{failure}: {' / '.join((done.stdout + done.stderr).strip().splitlines()[-3:])}")
