"""A configuration written to a file and loaded."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from relay.config import LoadedConfig, load
from relay.errors import ConfigError

Loads = Callable[..., LoadedConfig]
Fails = Callable[..., list[str]]


@pytest.fixture
def loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loads:
    """Writes config.toml into the working directory and loads it by that relative name."""
    monkeypatch.chdir(tmp_path)

    def write_and_load(
        text: str = "", environ: Mapping[str, str] | None = None, overrides: Sequence[tuple[str, str]] = ()
    ) -> LoadedConfig:
        Path("config.toml").write_text(textwrap.dedent(text).lstrip("\n"))
        return load(Path("config.toml"), environ=environ or {}, overrides=overrides)

    return write_and_load


@pytest.fixture
def fails(loads: Loads) -> Fails:
    """The problems of a configuration that cannot be used, as lines."""

    def problems_of(
        text: str = "", environ: Mapping[str, str] | None = None, overrides: Sequence[tuple[str, str]] = ()
    ) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            loads(text, environ, overrides)
        return str(caught.value).splitlines()

    return problems_of
