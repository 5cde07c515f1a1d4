"""Relays to be attacked: one with usual settings, one with very short deadlines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.devcerts import make_dev_certificates
from tests.security.siege import RelayThread, besieged, folder_with


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with development certificates and a token secret."""
    folder = tmp_path_factory.mktemp("certificates")
    make_dev_certificates(folder)
    return folder


@pytest.fixture
def folder(certificates: Path, tmp_path: Path) -> Path:
    """For a relay of one test's own."""
    return folder_with(certificates, tmp_path)


@pytest.fixture(scope="package")
def relay(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayThread]:
    with besieged(folder_with(certificates, tmp_path_factory.mktemp("relay")), {"timeouts": {"close": 2.0}}) as relay:
        yield relay


@pytest.fixture(scope="package")
def impatient(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayThread]:
    """Deadlines of 0.3 s. Its bystanders connect before anything is done to it."""
    short = {"tls": 0.3, "head": 0.3, "auth": 0.3, "http_idle": 0.3, "http_request": 0.3, "close": 0.3}
    folder = folder_with(certificates, tmp_path_factory.mktemp("impatient"))
    with besieged(folder, {"timeouts": short}) as relay:
        yield relay
