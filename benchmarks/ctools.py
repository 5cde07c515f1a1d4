"""The two C programs: `loadgen`, which makes load and measures, and `climit`, the bare loop to compare with; and how
any is compiled.

Their sources are not part of this repository; RELAY_TOOLS names their folder. The one rule: what is missing is said
together with what to do about it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
BUILD: Final = ROOT / "benchmarks" / "build"
SIBLING: Final = ROOT.parent / "shared" / "tools" / "loadgen"
VARIABLE: Final = "RELAY_TOOLS"


class Missing(Exception):
    """Something a measurement needs is not there; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The compiled programs."""

    loadgen: Path
    climit: Path


def compile_tools() -> Tools:
    """Both programs, compiled again where the source is newer. Raises Missing."""
    folder = Path(os.environ.get(VARIABLE) or SIBLING)
    if (folder / "loadgen").is_dir():  # the folder of all tools
        folder /= "loadgen"
    return Tools(compile_program(folder / "loadgen.c"), compile_program(folder / "climit.c"))


def compile_program(source: Path) -> Path:
    """One program, compiled again where its source is newer. Raises Missing."""
    if not source.is_file():
        raise Missing(f"no {source.name} in {source.parent}: set {VARIABLE} to the folder that holds it")
    target = BUILD / source.stem
    if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
        return target
    if shutil.which("gcc") is None:
        raise Missing("no gcc: apt-get install gcc libc6-dev libssl-dev")
    BUILD.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-O2", "-w", "-o", str(target), str(source), "-lssl", "-lcrypto"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        hint = "; the headers of OpenSSL: apt-get install libssl-dev" if "openssl/" in done.stderr else ""
        raise Missing(f"gcc could not compile {source.name}{hint}\n{done.stderr.strip()}")
    return target
