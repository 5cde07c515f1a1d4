"""One relay for all tests that only need a relay, and the components that some of them need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.components import require_chromium, require_haproxy, require_nginx, require_node
from tests.e2e.harness import RelayProcess


@pytest.fixture(scope="session")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """A relay with the default settings. Shared: a test that stops or configures one makes its own with
    `running_relay`.
    """
    relay = RelayProcess(tmp_path_factory.mktemp("relay"))
    relay.start()
    yield relay
    relay.stop()


@pytest.fixture(scope="session")
def chromium_path() -> str:
    return require_chromium()


@pytest.fixture(scope="session")
def node() -> tuple[str, Path]:
    return require_node()


@pytest.fixture(scope="session")
def haproxy() -> str:
    return require_haproxy()


@pytest.fixture(scope="session")
def nginx() -> str:
    return require_nginx()
