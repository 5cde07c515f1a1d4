"""Asking the API of a running relay: where it is, with which key, and what went wrong.

Not here: what is asked (explain). The one rule: the key is never printed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from relay.cli.source import Source, fail

DEVELOPMENT_KEY: Final = Path("certs/api-key")
MOST_BYTES: Final = 64 << 20

Function = TypeVar("Function", bound=Callable[..., Any])


def api_options(function: Function) -> Function:
    """Adds --url, --key-file and --timeout to a command that has a `source`; it gets `api` as well."""

    @click.option("--url", help="Where the API is.  [default: the first address of internal.listen]")
    @click.option(
        "--key-file",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        envvar="RELAY_API_KEY_FILE",
        show_envvar=True,
        help="File whose first line is a key of the API.  [default: as the configuration says; else certs/api-key]",
    )
    @click.option("--timeout", default=5.0, show_default=True, type=click.FloatRange(min=0.1), help="Seconds to wait.")
    @wraps(function)
    def wrapped(*args: Any, source: Source, url: str | None, key_file: Path | None, timeout: float, **more: Any) -> Any:
        return function(*args, source=source, api=ApiClient.found(source, url, key_file, timeout), **more)

    return wrapped  # type: ignore[return-value]


class ApiError(Exception):
    """The relay said no: its status, its word and its sentence."""

    def __init__(self, status: int, code: str, reason: str, setting: str | None) -> None:
        super().__init__(f"{code}: {reason}" + (f" [{setting}]" if setting else ""))
        self.status = status
        self.code = code


@dataclass(slots=True, frozen=True, repr=False)
class ApiClient:
    """A relay's API. `url` is without /api/v1; `socket` leads there, where it is not TCP."""

    url: str
    key: str
    timeout: float
    socket: Path | None = None

    @classmethod
    def found(cls, source: Source, url: str | None, key_file: Path | None, timeout: float) -> ApiClient:
        """As options and configuration say; exits where they do not suffice."""
        from urllib.parse import urlsplit

        if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
            raise click.BadParameter(f"{url!r} is not an http:// or https:// URL", param_hint="--url")
        where, socket = (url.rstrip("/"), None) if url else _address(source)
        return cls(where, _key(source, key_file), timeout, socket)

    def get(self, path: str, **query: object) -> Any:
        """Raises ApiError; exits where nobody answers."""
        from urllib.parse import urlencode

        given = {name: value for name, value in query.items() if value is not None}
        return self.ask("GET", path + ("?" + urlencode(given) if given else ""))

    def ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """`path` is below /api/v1, encoded. Raises ApiError; exits where nobody answers."""
        import http.client
        from urllib.error import HTTPError, URLError
        from urllib.request import Request

        from relay.cli.unixhttp import opener_to

        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.key}"}
        request = Request(f"{self.url}/api/v1{path}", data, headers, method=method)  # noqa: S310 - http or https
        try:
            with opener_to(self.socket).open(request, timeout=self.timeout) as answer:
                return json.loads(answer.read(MOST_BYTES))
        except HTTPError as error:
            with error:
                raise _told(error.code, error.read(MOST_BYTES)) from None
        except (URLError, OSError, http.client.HTTPException, ValueError) as error:
            fail(
                f"no answer from {self.socket or self.url}: {getattr(error, 'reason', None) or error}",
                "is the relay running there?",
            )


def _told(status: int, body: bytes) -> ApiError:
    try:
        said = json.loads(body)
        return ApiError(status, str(said["error"]), str(said["reason"]), said.get("setting"))
    except (ValueError, KeyError, TypeError):
        return ApiError(status, "http", f"status {status}, and not from a relay's API", None)


def _address(source: Source) -> tuple[str, Path | None]:
    from relay.cli.unixhttp import internal_address

    found = internal_address(source.load_or_exit())
    if found is None:
        raise click.UsageError("internal.listen is [], so give --url")
    return found


def _key(source: Source, file: Path | None) -> str:
    from relay.config import read_api_keys
    from relay.errors import ConfigError

    if file is None:
        loaded = source.load_or_exit()
        try:
            keys = read_api_keys(loaded)
        except ConfigError as error:
            fail("; ".join(map(str, error.problems)), "--key-file names another file")
        if keys:
            return keys[0]
        file = loaded.resolve(str(DEVELOPMENT_KEY))
    try:
        lines = file.read_text().splitlines()
    except (OSError, ValueError):
        fail("no key for the API", "set internal.api_keys_file, or give --key-file")
    found = next((line.strip() for line in lines if line.strip() and not line.startswith("#")), None)
    return found or fail(f"{file} holds no key")
