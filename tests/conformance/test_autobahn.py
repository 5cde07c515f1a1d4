"""The Autobahn test-suite against the echo plugin, through real TLS, a token and a room; with the fast path on, and
with it off.

The limits here are a relaxed profile for this suite (it sends messages of 16 MiB in 65,536 fragments), never one for
production.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.components import require_autobahn
from tests.e2e.harness import RelayProcess

pytestmark = [pytest.mark.e2e, pytest.mark.autobahn]

RELAXED: dict[str, dict[str, Any]] = {
    "limits": {
        "message_bytes": 32 << 20,
        "fragments": 70_000,
        "control_frames": 0.0,
        "messages_per_second": 0.0,
        "bytes_per_second": 0.0,
        "handshakes_per_address": 0.0,
        "connections_per_subject": 0,
    },
    "channels": {
        "default": {"weight": 8, "capacity": 64 << 20},
        "control": {"priority": "strict", "capacity": 64 << 20},
    },
    "plugins": {"echo": {"rooms": "echo:*"}},
    "logging": {"level": "info"},
}


@pytest.mark.parametrize("cases", ["core", "limits"])
@pytest.mark.parametrize("fast_path", [True, False], ids=["fast path", "wsproto only"])
def test_no_autobahn_case_fails(tmp_path: Path, fast_path: bool, cases: str) -> None:
    run(tmp_path, cases, {"fast_path": fast_path})


@pytest.mark.parametrize(
    "websocket",
    [
        pytest.param({}, id="shared"),
        pytest.param(
            {"deflate_context": True, "deflate_window_bits": 15, "deflate_min_bytes": 0, "fast_path": False},
            id="contexts, wsproto only",
        ),
    ],
)
def test_no_compression_case_fails_or_is_not_implemented(tmp_path: Path, websocket: dict[str, Any]) -> None:
    """A part of sections 12 and 13; all 216 take ten minutes: `--set deflate`."""
    run(tmp_path, "deflate-quick", {"deflate": True, **websocket}, "--require-deflate")


def run(tmp_path: Path, cases: str, websocket: dict[str, Any], *options: str) -> None:
    suite, environment = require_autobahn()
    relay = RelayProcess(tmp_path, {**RELAXED, "websocket": websocket})
    relay.start()
    try:
        done = subprocess.run(
            [
                "bash",
                suite / "run.sh",
                relay.wss("/rooms/echo:autobahn"),
                "--set", cases,
                "--jobs", "1",
                "--timeout", "300",
                "--out", tmp_path / "reports",
                "--header", f"Authorization: Bearer {relay.token('autobahn', expires_in=3600)}",
                *options,
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )  # fmt: skip
    finally:
        relay.stop()
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr + relay.log[-5000:]
    assert '"level":"error"' not in relay.log
