"""A real relay for end-to-end tests: the process `python -m relay serve`, real TLS, ports chosen by the system.

Not here: clients (clients.py, browser.py). The one rule: nothing sleeps; what is waited for is a line of the log, an
answer or the end of the process, each under a deadline.
"""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import h11
import jwt
import trio

from relay.devcerts import DevCertificates, make_dev_certificates
from tests.components import ROOT

START: Final = 20.0
"""Seconds for the relay to start, on a busy machine."""
STOP: Final = 15.0

SERVE: Final = (sys.executable, "-m", "relay", "serve")

Overrides = Mapping[str, Mapping[str, Any]]
"""Settings by table, as in config.toml: {"limits": {"message_bytes": 100}}. A table under `plugins` replaces the
default plugins.
"""

ALL_ROOMS: Final = {name: ["*"] for name in ("join", "publish", "presence", "history", "call", "channels")}


class RelayProcess:
    """One relay, its folder of certificates and its configuration file. Use `running_relay`, or `start` and `stop`."""

    prefix: Sequence[str] = ()
    """A command that runs the relay: ["prlimit", "--nofile=300"]."""
    environment: Mapping[str, str] = {}
    """Variables of the relay's alone."""

    def __init__(self, folder: Path, overrides: Overrides = {}) -> None:  # noqa: B006 - only read
        self.folder = folder
        self.certificates = make_dev_certificates(folder / "certs")
        self.config_path = folder / "config.toml"
        self.configure(overrides)
        self.token_secret = self.certificates.token_secret.read_bytes()
        self.ssl_context: ssl.SSLContext
        self.trust(self.certificates)
        self.process: subprocess.Popen[str]
        self.port = self.internal_port = 0
        self._lines: list[str] = []
        self._news = threading.Condition()

    def configure(self, overrides: Overrides) -> None:
        """Write config.toml anew: what tests need, changed by `overrides`."""
        tables: dict[str, dict[str, Any]] = {
            "server": {"listen": ["127.0.0.1:0"], "playground": True, "drain_spread": 0.0},
            "internal": {"listen": ["127.0.0.1:0"]},
            "tls": {"certificate": str(self.certificates.certificate), "key": str(self.certificates.key)},
            "auth": {
                "keys": [{"algorithm": "HS256", "kid": "dev", "secret_file": str(self.certificates.token_secret)}]
            },
            "supervision": {"directory": str(self.folder / "plugins")},
            "logging": {"level": "debug", "format": "json"},
        }
        for name, table in overrides.items():
            tables[name] = {**tables.get(name, {}), **table}
        self.config_path.write_text(_toml(tables))

    def trust(self, certificates: DevCertificates) -> None:
        """From now on clients expect these."""
        self.certificates = certificates
        self.ssl_context = ssl.create_default_context(cafile=str(certificates.authority))

    def start(self) -> None:
        """Start it, maybe again, and wait until it listens. Raises RuntimeError, with the log, when it does not."""
        self._lines = []
        self.process = subprocess.Popen(
            [*self.prefix, *SERVE, "-c", str(self.config_path)],
            cwd=self.folder,
            env={key: value for key, value in os.environ.items() if not key.startswith("RELAY_")}
            | _FIND_THE_SOURCE
            | self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        try:
            ready = self.wait_for_log("listening", START)
        except RuntimeError:
            self.stop()
            raise
        self.port = _port(ready["addresses"])
        self.internal_port = _port(ready["internal"])

    def stop(self) -> int:
        """End it as an operator would, and return its exit status. May be called twice."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"the relay did not end within {STOP} s of SIGTERM; its log:\n{self.log}") from None
        finally:
            self._reader.join(STOP)
            assert self.process.stderr is not None  # a pipe, by `start`
            self.process.stderr.close()
        return status

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def internal_url(self) -> str:
        return f"http://127.0.0.1:{self.internal_port}"

    def wss(self, path: str) -> str:
        return f"wss://localhost:{self.port}{path}"

    def token(self, subject: str = "ann", *, expires_in: float = 300.0, **grants: list[str]) -> str:
        """A token of this relay's issuer; without `grants` it may do everything in every room."""
        claims = {"sub": subject, "exp": time.time() + expires_in, "relay": grants or ALL_ROOMS}
        return jwt.encode(claims, self.token_secret.removesuffix(b"\n"), "HS256", headers={"kid": "dev"})

    @property
    def log(self) -> str:
        with self._news:
            return "".join(self._lines)

    def log_lines(self) -> list[dict[str, Any]]:
        """The log so far, each line decoded. A line that is not JSON (a traceback of the interpreter) fails the
        test.
        """
        return [json.loads(line) for line in self.log.splitlines()]

    def wait_for_log(
        self, message: str, seconds: float = 5.0, *, matching: Callable[[dict[str, Any]], bool] = lambda _: True
    ) -> dict[str, Any]:
        """The first line with that message (and for which `matching` holds). Blocks; raises RuntimeError with the
        log.
        """
        deadline = time.monotonic() + seconds
        seen = 0
        with self._news:
            while True:
                for line in self._lines[seen:]:
                    fields = _decoded(line)
                    if fields.get("message") == message and matching(fields):
                        return fields
                seen = len(self._lines)
                left = deadline - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self._reader.is_alive()):
                    raise RuntimeError(f"no {message!r} in the log:\n{''.join(self._lines)}")
                self._news.wait(min(left, 0.5))

    async def until_log(self, message: str, seconds: float = 5.0, **fields: Any) -> dict[str, Any]:
        """`wait_for_log` for async tests; the line must also have these fields."""
        return await trio.to_thread.run_sync(
            partial(
                self.wait_for_log,
                message,
                seconds,
                matching=lambda line: all(line.get(k) == v for k, v in fields.items()),
            )
        )

    async def until_exit(self, seconds: float = STOP) -> int:
        """The exit status of a relay that was told to end."""
        return await trio.to_thread.run_sync(self.process.wait, seconds)

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()


_FIND_THE_SOURCE: Final = {"PYTHONPATH": str(ROOT)}  # the tests may run from a checkout that is not installed


@asynccontextmanager
async def running_relay(folder: Path, overrides: Overrides = {}) -> AsyncIterator[RelayProcess]:  # noqa: B006 - only read
    """A relay of its own for one test; `folder` is the test's tmp_path. It is ended when the block is left."""
    relay = RelayProcess(folder, overrides)
    await trio.to_thread.run_sync(relay.start)
    try:
        yield relay
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(relay.stop)


class Answer:
    """An HTTP response: status, headers with lower-case names (a repeated one: the last), body."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.body[:200]!r}>"


async def request(
    relay: RelayProcess,
    path: str,
    headers: Mapping[str, str] = {},
    *,
    method: str = "GET",
    internal: bool = False,
    body: bytes = b"",
) -> Answer:
    """One request on a connection of its own, exactly as given: nothing is added to the headers but Host and, for a
    body, its length.
    """
    with trio.fail_after(10):
        stream: trio.abc.Stream
        if internal:
            stream = await trio.open_tcp_stream("127.0.0.1", relay.internal_port)
        else:
            stream = await trio.open_ssl_over_tcp_stream("localhost", relay.port, ssl_context=relay.ssl_context)
        try:
            fields = [("Host", f"localhost:{relay.port}"), *headers.items()]
            fields += [("Content-Length", str(len(body)))] if body else []
            return await _exchange(stream, method, path, fields, body)
        finally:
            await trio.aclose_forcefully(stream)


async def _exchange(
    stream: trio.abc.Stream, method: str, path: str, headers: list[tuple[str, str]], sent: bytes
) -> Answer:
    client = h11.Connection(h11.CLIENT)
    head = h11.Request(method=method, target=path, headers=headers)
    request = client.send(head) or b""
    request += (client.send(h11.Data(data=sent)) or b"") if sent else b""
    await stream.send_all(request + (client.send(h11.EndOfMessage()) or b""))
    status, found, body = 0, {}, b""
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            client.receive_data(bytes(await stream.receive_some()))
        elif isinstance(event, h11.Response | h11.InformationalResponse):
            status = event.status_code
            found = {name.decode(): value.decode() for name, value in event.headers}
            if status == 101:
                return Answer(status, found, b"")
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            return Answer(status, found, body)


UPGRADE: Final = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
"""The headers of a good WebSocket handshake, without a token."""


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _decoded(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _port(addresses: Any) -> int:
    """The port of the first address: "127.0.0.1:4711"."""
    found = re.search(r"[:,] ?(\d+)", str(addresses))
    assert found is not None, f"no port in {addresses!r}"
    return int(found[1])


def _toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{_key(key)} = {_value(value)}" for key, value in table.items()]
    return "\n".join([*lines, ""])


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value)  # what JSON and TOML write alike: text, numbers, true and false


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)
