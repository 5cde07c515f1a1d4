"""The servers that are measured: how each is started, where its rooms are, and when it is ready.

Not here: what load they get (loads) and what is measured (runs). The one rule: all get the same certificate, the same
core and the same kind of clients; only the relay also checks tokens and counts against limits, because it always does.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jwt

from benchmarks.ctools import ROOT, Tools
from relay.devcerts import DevCertificates, make_dev_certificates

START: Final = 20.0  # seconds until a server must answer
STOP: Final = 10.0
LOWEST_PORT: Final = 20000
HANDED_OUT: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
PEERS: Final = ROOT / "benchmarks" / "peers"
ALL_ROOMS: Final = {name: ["*"] for name in ("join", "publish", "presence", "history", "call", "channels")}
SUBJECT: Final = "bench"


class ServerFailed(Exception):
    """A server did not start; the text holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What all servers of a measurement share: a folder, certificates, the compiled tools, and the two cores."""

    folder: Path
    tools: Tools
    server_core: int
    load_core: int
    certificates: DevCertificates
    token: str

    @classmethod
    def prepare(cls, folder: Path, tools: Tools, server_core: int, load_core: int) -> Stage:
        """Makes certificates and a token in `folder`."""
        made = make_dev_certificates(folder / "certs")
        claims = {"sub": SUBJECT, "exp": time.time() + 86400, "relay": ALL_ROOMS}
        secret = made.token_secret.read_bytes().removesuffix(b"\n")
        token = jwt.encode(claims, secret, "HS256", headers={"kid": "bench"})
        return cls(folder, tools, server_core, load_core, made, token)


@dataclass(frozen=True, slots=True)
class Paths:
    """Where subscribers, the publisher and ping-pong clients connect to."""

    subscribe: str
    publish: str
    echo: str


@dataclass(frozen=True, slots=True)
class Server:
    """One contestant. `needs` are modules it cannot run without."""

    name: str
    title: str
    command: Callable[[Stage, int], list[str]]
    paths: Paths
    needs: tuple[str, ...] = ()
    token: bool = False

    def missing(self) -> list[str]:
        return [module for module in self.needs if importlib.util.find_spec(module) is None]


def relay_with(stage: Stage, port: int, name: str, tables: str, internal: str = "") -> list[str]:
    """How to start a relay on that port, with the stage's certificate and secret, and `tables` of a config file that is
    called `name`. `internal`: the address of its internal listener; it has none unless one is given.
    """
    made = stage.certificates
    path = stage.folder / name
    path.write_text(
        f"""\
[server]
listen = ["127.0.0.1:{port}"]
[internal]
listen = {json.dumps([internal] if internal else [])}
[tls]
certificate = {json.dumps(str(made.certificate))}
key = {json.dumps(str(made.key))}
[auth]
keys = [{{ algorithm = "HS256", kid = "bench", secret_file = {json.dumps(str(made.token_secret))} }}]
{tables}"""
    )
    return [sys.executable, "-m", "relay", "serve", "-c", str(path)]


RAISED: Final = """\
[limits]
connections_per_address = 20000
connections_per_subject = 0
handshakes_per_address = 100000
handshakes_burst = 20000
messages_per_second = 1000000
[plugins.chat]
rooms = ["chat:*"]
[plugins.echo]
rooms = ["echo:*"]
[logging]
level = "warning"
format = "json"
"""
"""The relay as a user runs it: TLS, tokens, every limit on. Only those that the load would run into are raised: it is
one subject at one address.
"""


def _relay(stage: Stage, port: int) -> list[str]:
    return relay_with(stage, port, "bench.toml", RAISED, internal="127.0.0.1:0")


def _c_loop(*options: str) -> Callable[[Stage, int], list[str]]:
    return lambda stage, port: [str(stage.tools.climit), str(port), *options]


def _peer(script: str) -> Callable[[Stage, int], list[str]]:
    return lambda stage, port: [
        sys.executable,
        str(PEERS / script),
        str(port),
        str(stage.certificates.certificate),
        str(stage.certificates.key),
    ]


_PEER_PATHS: Final = Paths("/sub", "/pub", "/echo")

SERVERS: Final[Mapping[str, Server]] = {
    server.name: server
    for server in (
        Server("c", "bare C loop", _c_loop(), _PEER_PATHS),
        Server("c-batch", "bare C loop that coalesces", _c_loop("-b"), _PEER_PATHS),
        Server(
            "relay",
            "the relay",
            _relay,
            Paths("/rooms/chat:bench", "/rooms/chat:bench", "/rooms/echo:bench"),
            token=True,
        ),
        Server(
            "websockets", "websockets `broadcast()`", _peer("websockets_broadcast.py"), _PEER_PATHS, ("websockets",)
        ),
        Server("aiohttp", "aiohttp", _peer("aiohttp_echo.py"), _PEER_PATHS, ("aiohttp",)),
        Server("starlette", "Starlette on uvicorn", _peer("starlette_echo.py"), _PEER_PATHS, ("starlette", "uvicorn")),
        Server("picows", "picows on uvloop", _peer("picows_broadcast.py"), _PEER_PATHS, ("picows", "uvloop")),
    )
}


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    server: Server
    port: int
    pid: int
    log: Path

    def end_of_log(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])


@contextmanager
def running(server: Server, stage: Stage) -> Iterator[Running]:
    """A server on its core, from its first TLS handshake to its end. Raises ServerFailed."""
    port = _free_port()
    log = stage.folder / f"{server.name}.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    environment |= {
        "CERT": str(stage.certificates.certificate),
        "KEY": str(stage.certificates.key),
        "PYTHONPATH": str(ROOT),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(stage.server_core), *server.command(stage, port)],
            cwd=stage.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    started = Running(server, port, process.pid, log)
    try:
        _wait_until_ready(started, stage.certificates.authority, process)
        yield started
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(started: Running, authority: Path, process: subprocess.Popen[bytes]) -> None:
    """Ready is who has done a TLS handshake; the load generator does not try again."""
    context = ssl.create_default_context(cafile=str(authority))
    deadline = time.monotonic() + START
    while True:
        try:
            with socket.create_connection(("127.0.0.1", started.port), timeout=2) as raw:
                context.wrap_socket(raw, server_hostname="localhost").close()
                return
        except OSError as error:
            status = process.poll()
            if status is None and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            why = f"does not answer after {START:g} s ({error})" if status is None else f"ended with status {status}"
            raise ServerFailed(f"{started.server.title} did not start: it {why}\n{started.end_of_log()}") from None


def _free_port() -> int:
    """A port that nobody gets by chance: below those the system hands out to outgoing connections and to port 0.

    One of those may be taken again by somebody else before the server has come to listen on it.
    """
    for port in random.sample(range(LOWEST_PORT, _first_handed_out()), 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerFailed("no free port was found")


def _first_handed_out() -> int:
    try:
        return max(LOWEST_PORT + 1000, int(HANDED_OUT.read_text().split()[0]))
    except OSError:
        return 32768
