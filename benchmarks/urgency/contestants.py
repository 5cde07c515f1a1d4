"""What is measured: the relay in its modes and the peers with their defaults; how each is started and talked to.

Not here: running them (measure). The one rule: all have the same certificate and the same publishers and client; peers
keep every buffer as their library sets it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jwt

from benchmarks.ctools import ROOT, Missing
from relay.devcerts import DevCertificates, make_dev_certificates

PORT: Final = 8443  # the namespace is ours alone
PEERS: Final = ROOT / "benchmarks" / "urgency" / "peers"
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trio-relay" / "urgency"
PACKAGES: Final = ("ws@8", "socket.io@4")
ALL_ROOMS: Final = {name: ["*"] for name in ("join", "publish", "presence", "history", "call", "channels")}
KIB: Final = 1024
MIB: Final = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Stage:
    """Certificates and a token. `settings`: further `--set` options of the relay, whose code is in `source`."""

    folder: Path
    certificates: DevCertificates
    token: str
    settings: tuple[str, ...] = ()
    source: Path = ROOT

    @classmethod
    def prepare(cls, folder: Path, settings: Sequence[str] = (), source: Path = ROOT) -> Stage:
        made = make_dev_certificates(folder / "certs")
        claims = {"sub": "bench", "exp": time.time() + 86400, "relay": ALL_ROOMS}
        secret = made.token_secret.read_bytes().removesuffix(b"\n")
        return cls(folder, made, jwt.encode(claims, secret, "HS256", headers={"kid": "bench"}), tuple(settings), source)


@dataclass(frozen=True, slots=True)
class Contestant:
    """One row of the tables. `size`: bytes of a bulk message; paths are the client's, and of both publishers."""

    name: str
    title: str
    command: Callable[[Stage], list[str]]
    dialect: str
    size: int
    path: str
    publish: tuple[str, str] = ("/urgent", "/bulk")
    relay: bool = False
    second_socket: bool = False
    node: bool = False
    needs: str = ""

    def why_not(self) -> str:
        """What is missing to run it; "": nothing."""
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return f"{self.needs} is not installed"
        return "no node and npm" if self.node and not (shutil.which("node") and shutil.which("npm")) else ""


def relay_config(stage: Stage, extra: str = "", port: int = PORT) -> Path:
    """The relay as installed: TLS, tokens. Raised is what the one publisher and its megabytes would run into. `extra`
    goes on with the table of the chat plugin.
    """
    path = stage.folder / "relay.toml"
    path.write_text(
        f"""\
[server]
listen = ["0.0.0.0:{port}"]
drain_spread = 0.0
drain_timeout = 1.0
[internal]
listen = ["127.0.0.1:0"]
[tls]
certificate = {json.dumps(str(stage.certificates.certificate))}
key = {json.dumps(str(stage.certificates.key))}
[auth]
keys = [{{ algorithm = "HS256", kid = "bench", secret_file = {json.dumps(str(stage.certificates.token_secret))} }}]
[limits]
message_bytes = {4 * MIB}
messages_per_second = 0.0
bytes_per_second = 0.0
connections_per_address = 5000
connections_per_subject = 0
handshakes_per_address = 0.0
[channels.bulk]
capacity = {128 * MIB}
[logging]
level = "warning"
format = "json"
[plugins.chat]
rooms = ["chat:*"]
{extra}"""
    )
    return path


def relay_command(stage: Stage, extra: str = "", port: int = PORT) -> list[str]:
    chosen = [part for setting in stage.settings for part in ("--set", setting)]
    return [sys.executable, "-m", "relay", "serve", "-c", str(relay_config(stage, extra, port)), *chosen]


def _python(script: str, mode: str) -> Callable[[Stage], list[str]]:
    return lambda stage: [sys.executable, str(PEERS / script), *_peer_arguments(stage), mode]


def _node(script: str, mode: str) -> Callable[[Stage], list[str]]:
    return lambda stage: ["node", str(PEERS / script), *_peer_arguments(stage), mode]


def _peer_arguments(stage: Stage) -> list[str]:
    return [str(PORT), str(stage.certificates.certificate), str(stage.certificates.key)]


def _relay(name: str, title: str, dialect: str, size: int, path: str, *, second_socket: bool = False) -> Contestant:
    publish = ("/ws", "/ws")
    return Contestant(name, title, relay_command, dialect, size, path, publish, relay=True, second_socket=second_socket)


CONTESTANTS: Final[Mapping[str, Contestant]] = {
    one.name: one
    for one in (
        _relay("relay-two-sockets", "the relay, two sockets", "relay.v1", MIB, "/ws", second_socket=True),
        _relay("relay-parts", "the relay, 1 MiB in parts", "relay.v1", MIB, "/ws"),
        _relay("relay-16k", "the relay, 16 KiB messages", "relay.v1", 16 * KIB, "/ws?parts=0"),
        _relay("relay-plain", "the relay, plain client, 64 KiB", "bare", 64 * KIB, "/rooms/chat:bench"),
        Contestant(
            "websockets-await",
            "`websockets`, `await send`",
            _python("websockets_server.py", "await"),
            "bare",
            64 * KIB,
            "/sub",
            needs="websockets",
        ),
        Contestant(
            "websockets-fifo",
            "`websockets`, `broadcast`",
            _python("websockets_server.py", "fifo"),
            "bare",
            64 * KIB,
            "/sub",
            needs="websockets",
        ),
        Contestant(
            "ws-await", "`ws`, waiting for each", _node("ws_server.cjs", "await"), "bare", 64 * KIB, "/sub", node=True
        ),
        Contestant("ws-fifo", "`ws`, all at once", _node("ws_server.cjs", "fifo"), "bare", 64 * KIB, "/sub", node=True),
        Contestant(
            "socketio-fifo",
            "socket.io, `emit`",
            _node("socketio_server.cjs", "fifo"),
            "socket.io",
            64 * KIB,
            "/socket.io/?EIO=4&transport=websocket",
            node=True,
        ),
    )
}


def chosen(servers: Sequence[str], modes: Sequence[str]) -> list[Contestant]:
    """Those of these servers ("relay", "ws" ...) in these modes; both empty: all. Raises Missing if there is none."""
    found = [
        one
        for one in CONTESTANTS.values()
        if (not servers or one.name.split("-", 1)[0] in servers or one.name in servers)
        and (not modes or one.name.split("-", 1)[1] in modes)
    ]
    if not found:
        raise Missing(f"nothing of that name; there are: {', '.join(CONTESTANTS)}")
    return found


def install_packages() -> None:
    """The peers' packages, outside the repository. Raises Missing."""
    if all((CACHE / "node_modules" / package.split("@")[0]).is_dir() for package in PACKAGES):
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(CACHE), *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"npm could not install {', '.join(PACKAGES)}: {done.stderr.strip()[-300:]}")


def environment(source: Path = ROOT) -> dict[str, str]:
    """What every process of a run gets; `source` is where its Python packages are."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    return kept | {"PYTHONPATH": str(source), "NODE_PATH": str(CACHE / "node_modules")}
