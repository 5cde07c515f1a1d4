"""HTTP to this machine's relay where its internal listener is a Unix socket: `unix:/run/relay/internal.sock`.

Not here: what is asked (api, health). The one rule: for everybody else it is a URL like any other, with an opener.
"""

from __future__ import annotations

import http.client
import socket
from functools import partial
from pathlib import Path
from urllib.request import BaseHandler, HTTPHandler, OpenerDirector, ProxyHandler, Request, build_opener

from relay.config import LoadedConfig, parse_listen, unix_path

LOCAL = "http://localhost"


class _Connection(http.client.HTTPConnection):
    def __init__(self, host: str, *, path: Path, timeout: float) -> None:
        super().__init__(host, timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _Handler(HTTPHandler):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def http_open(self, request: Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_Connection, path=self._path), request)


def opener_to(path: Path | None, *handlers: BaseHandler) -> OpenerDirector:
    """What opens http:// URLs, by that socket or by TCP. No proxy stands between us and ourselves."""
    return build_opener(ProxyHandler({}), *handlers, *([] if path is None else [_Handler(path)]))


def internal_address(loaded: LoadedConfig) -> tuple[str, Path | None] | None:
    """Where the internal listener is, as a URL without a path, and the socket that leads there; None: it is off."""
    listen = loaded.config.internal.listen
    if not listen:
        return None
    if (path := unix_path(listen[0])) is not None:
        return LOCAL, loaded.resolve(path)
    host, port = parse_listen(listen[0])[0]
    host = {"::": "localhost", "0.0.0.0": "127.0.0.1"}.get(host, host)  # noqa: S104 - what we connect to
    return f"http://{f'[{host}]' if ':' in host else host}:{port}", None
