"""What tests of connections begin with: each kind of poller, and a clock that gives the kernel time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from tests.unit.net.tls_kit import issue
from tests.unit.session.plugins import Quick, Slow

PLUGINS: dict[str, Any] = {"q": (Quick, {"history": 50}), "s": (Slow, {}), "bulky": (Quick, {"channel": "bulk"})}
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


@pytest.fixture(params=["epoll", "portable"])
def poller(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def patient_clock(mock_clock: MockClock) -> MockClock:
    """Jumps once nothing has happened for a while: long enough for the kernel to carry a byte over loopback."""
    mock_clock.autojump_threshold = 0.01
    return mock_clock


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return issue(tmp_path, "main", "main.example", "b.main.example")
