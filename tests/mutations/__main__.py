"""`make mutations`: takes each limit and each guard out of the code that keeps strangers out, one at a time, and shows
that a test fails without it.

    python -m tests.mutations                                 all of them; about an hour on one core
    python -m tests.mutations relay/limits relay/net/head.py  of these
    python -m tests.mutations --list relay/auth               only say which there are

Exit status 1 if one is missed by nobody and not excused (excused.py says why each of those cannot be).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Final

from tests.mutations import runner
from tests.mutations.excused import EXCUSED
from tests.mutations.sites import Site, sites

MODULES: Final = ("relay/limits", "relay/front/gate.py", "relay/front/guard.py", "relay/front/doors.py",
                  "relay/net/head.py", "relay/net/handshake.py", "relay/net/origins.py", "relay/auth")  # fmt: skip

ALSO: Final = {
    "relay/auth/tokens.py": ("tests/security/test_token_forgeries.py", "tests/security/test_token_malformed.py",
                             "tests/unit/auth/test_issuers.py", "tests/unit/auth/test_certificates.py"),
    "relay/limits/pace.py": ("tests/unit/limits/test_quotas.py", "tests/unit/session/test_quotas.py"),
    "relay/front/gate.py": ("tests/unit/limits/test_pending.py", "tests/security/test_bad_slow_heads.py"),
}  # fmt: skip
"""Tests that are near a module and have another name."""
STAGES: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "relay/limits": (
        ("tests/unit/limits",),
        ("tests/unit/session", "tests/unit/front", "tests/unit/config"),
        ("tests/security/test_bad_crowds.py", "tests/security/test_bad_slow_heads.py",
         "tests/security/test_bad_quotas.py", "tests/security/test_bad_credentials.py"),
    ),
    "relay/front": (
        ("tests/unit/front",),
        ("tests/security/test_bad_crowds.py", "tests/security/test_bad_slow_heads.py",
         "tests/security/test_bad_moments.py", "tests/security/test_bad_proxies.py",
         "tests/security/test_bad_addresses.py", "tests/security/test_bad_credentials.py",
         "tests/security/test_bad_requests.py", "tests/security/test_bad_guests.py"),
        ("tests/e2e/test_http.py", "tests/e2e/test_api.py", "tests/e2e/test_proxies.py", "tests/e2e/test_tenants.py"),
    ),
    "relay/net": (
        ("tests/unit/net/test_head.py", "tests/unit/net/test_handshake.py", "tests/unit/net/test_origins.py",
         "tests/unit/net/test_http.py"),
        ("tests/fuzz", "tests/security/test_bad_requests.py", "tests/unit/explain", "tests/unit/config"),
    ),
    "relay/auth": (
        ("tests/unit/auth",),
        ("tests/unit/front", "tests/unit/session/test_credentials.py", "tests/unit/config",
         "tests/security/test_token_forgeries.py"),
        ("tests/unit/explain", "tests/unit/cli", "tests/unit/session", "tests/security/test_bad_tokens.py",
         "tests/security/test_bad_revoked.py", "tests/security/test_bad_certificates.py"),
    ),
}  # fmt: skip
"""What is run, one after the other, until something fails: the nearest first."""


def modules(wanted: list[str]) -> list[Path]:
    """Raises SystemExit for what is no module of a stage."""
    found: list[Path] = []
    for name in wanted or MODULES:
        path = Path(name)
        found += sorted(path.glob("*.py")) if path.is_dir() else [path]
    for path in found:
        if not path.is_file() or str(path.parent) not in STAGES:
            raise SystemExit(f"{path}: no module whose tests are known; there are those of {', '.join(STAGES)}")
    return [path for path in found if path.name != "__init__.py"]


def excuse(module: Path, site: Site) -> str | None:
    return EXCUSED.get((str(module), site.within, site.text))


def stages(module: Path) -> list[tuple[str, ...]]:
    """What is run for a module, in this order: first the tests that have its name."""
    folder = Path("tests", "unit", *module.parent.parts[1:])
    own = tuple(sorted(map(str, {*folder.glob(f"test_{module.stem}.py"), *folder.glob(f"test_{module.stem}_*.py")})))
    own += tuple(name for name in ALSO.get(str(module), ()) if Path(name).exists())
    return [*([own] if own else []), *STAGES[str(module.parent)]]


def run(paths: list[Path], processes: int, until: float, most: int) -> int:
    """Prints what survives; the exit status."""
    waiting = [(path, site, 0) for path in paths for site in sites(path.read_text()) if not excuse(path, site)]
    total, caught, left = len(waiting), 0, []
    began = time.monotonic()
    runs = runner.Runs(processes)
    while waiting or len(runs):
        while waiting and not runs.full and time.monotonic() < until:
            path, site, stage = waiting.pop()
            runs.start((path, site, stage), path, site.number, stages(path)[stage])
        if not len(runs):
            break
        (path, site, stage), status, said = runs.finish()
        if status == 0 and stage + 1 < min(most, len(stages(path))):
            waiting.append((path, site, stage + 1))
        elif status == 0:
            left.append((path, site))
            print(f"SURVIVES {path}:{site}", flush=True)
        elif status in (1, -1):
            caught += 1
        else:
            left.append((path, site))
            print(f"NO TESTS {path}:{site}: status {status}\n{said[-500:]}", flush=True)
        done = caught + len(left)
        if done % 25 == 0:
            print(f"{done} of {total} after {time.monotonic() - began:.0f} s", flush=True)
    print(f"{total} guards: {caught} are missed by a test, {len(left)} by none, {len(waiting)} were not tried")
    return 1 if left or waiting else 0


def check_baseline(paths: list[Path]) -> None:
    """With all guards in place all tests pass; else nothing would be said by one that fails."""
    for group in sorted({str(path.parent) for path in paths}):
        runs = runner.Runs(1)
        for number, tests in enumerate(STAGES[group]):
            runs.start((group, number), None, 0, tests)
            _, status, said = runs.finish()
            if status:
                raise SystemExit(f"{group}: tests fail with nothing taken out:\n{said[-3000:]}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations")
    parser.add_argument("modules", nargs="*", help="files or folders; all that are known")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begins no run later than that")
    parser.add_argument("--stages", type=int, default=9, help="only so many of a module's stages, the nearest first")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests unchanged first")
    given = parser.parse_args()
    paths = modules(given.modules)
    if given.list:
        for path in paths:
            for site in sites(path.read_text()):
                print(f"{path}:{site}{'  (excused)' if excuse(path, site) else ''}")
        return 0
    os.nice(5)
    runner.prepare()
    if not given.no_baseline:
        check_baseline(paths)
    return run(paths, given.processes, time.monotonic() + given.seconds, given.stages)


if __name__ == "__main__":
    sys.exit(main())
