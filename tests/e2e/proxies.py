"""A real HAProxy and a real nginx in front of a relay, each with the configuration a test gives it.

Not here: what is expected of the relay behind them. The one rule: a proxy inherits its listening socket, bound to
a port the system chose, so nothing has to be guessed and nobody waits for it to start.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

STOP: Final = 10.0

HAPROXY: Final = """
global
    maxconn 100
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
listen front
    bind fd@{fd}
    server relay {relay} {options}
"""

NGINX: Final = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 100; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream relay {{ server {relay}; {upstream} }}
    server {{
        listen 127.0.0.1:{own};
        location / {{
            proxy_pass http://relay;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection {connection};
            {header}
        }}
    }}
}}
"""


@asynccontextmanager
async def haproxy_before(haproxy: str, folder: Path, relay: int | Path, options: str) -> AsyncIterator[tuple[str, int]]:
    """Passes TCP on to that port or Unix socket; `options` are those of its `server` line. Yields its address."""
    with _listening() as listener:
        config = folder / "haproxy.cfg"
        config.write_text(HAPROXY.format(fd=listener.fileno(), relay=_place(relay, "unix@"), options=options))
        with _running([haproxy, "-db", "-f", str(config)], listener):
            yield listener.getsockname()


@asynccontextmanager
async def nginx_before(
    nginx: str, folder: Path, relay: int | Path, header: str, *, keepalive: bool = False
) -> AsyncIterator[tuple[str, int]]:
    """Passes requests on to that port or Unix socket, in plain text, with this line about the client. Yields its
    address.

    `keepalive`: one connection to the relay serves the requests of many clients.
    """
    with _listening() as listener:
        own = listener.getsockname()[1]
        config = folder / "nginx.conf"
        upstream, connection = ("keepalive 1;", '""') if keepalive else ("", "upgrade")
        place = _place(relay, "unix:")
        config.write_text(
            NGINX.format(
                folder=folder, relay=place, own=own, header=header, upstream=upstream, connection=connection
            )
        )  # fmt: skip
        with _running([nginx, "-c", str(config), "-p", str(folder)], listener, f"{listener.fileno()};"):
            yield listener.getsockname()


def _place(relay: int | Path, kind: str) -> str:
    return f"127.0.0.1:{relay}" if isinstance(relay, int) else f"{kind}{relay}"


def _listening() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(100)
    return listener


@contextmanager
def _running(command: list[str], listener: socket.socket, inherited: str = "") -> Iterator[None]:
    process = subprocess.Popen(
        command,
        pass_fds=[listener.fileno()],
        env={**os.environ, **({"NGINX": inherited} if inherited else {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
        assert process.poll() is None, f"{command[0]} has ended with {process.returncode}"
    finally:
        process.terminate()
        process.wait(STOP)
