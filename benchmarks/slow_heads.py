"""Handshakes of honest clients while 2,000 others hold theirs open and send a byte a second.

    python -m benchmarks.slow_heads                three rounds, with and without the attack in turn: two minutes
    python -m benchmarks.slow_heads --attackers 500 --rounds 1

The attackers come from addresses of the loopback (127.0.1.1 and on), 200 from each: what one address may have, with the
limits the relay is shipped with. Whoever is cut or turned away tries again after a second. Honest clients come from
127.0.0.1 at a fixed rate; what is measured is TCP, TLS, token and the 101 together. Not here: closed-loop handshakes
(the load `handshakes`). The one rule: both cases of a round have a relay of their own, started anew.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Final

import click
import trio

from benchmarks import report
from benchmarks.servers import SUBJECT, Paths, Running, Server, Stage, running
from relay.devcerts import make_dev_certificates

BAR: Final = 1.2
PER_ADDRESS: Final = 200
ROOM: Final = "/rooms/chat:bench"
HEAD: Final = (
    "GET {} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {}\r\n\r\n"
)
AGAIN: Final = 1.0  # seconds


def shipped(stage: Stage, port: int) -> list[str]:
    """The relay with its limits as they are shipped; only the address, the certificate and the key are its own."""
    made = stage.certificates
    path = stage.folder / "shipped.toml"
    path.write_text(
        f"""\
[server]
listen = ["127.0.0.1:{port}"]
[internal]
listen = []
[tls]
certificate = {json.dumps(str(made.certificate))}
key = {json.dumps(str(made.key))}
[auth]
keys = [{{ algorithm = "HS256", kid = "bench", secret_file = {json.dumps(str(made.token_secret))} }}]
[logging]
level = "warning"
format = "json"
"""
    )
    return [sys.executable, "-m", "relay", "serve", "-c", str(path)]


SHIPPED: Final = Server("shipped", "the relay as shipped", shipped, Paths(ROOM, ROOM, ROOM), token=True)


def handshakes(port: int, authority: Path, token: str, per_second: float, seconds: float) -> list[float]:
    """Milliseconds of each handshake, at that rate; one that fails raises."""
    context = ssl.create_default_context(cafile=str(authority))
    request = HEAD.format(ROOM, token).encode()
    took: list[float] = []
    begin = time.perf_counter()
    for number in range(int(per_second * seconds)):
        due = begin + number / per_second
        time.sleep(max(0.0, due - time.perf_counter()))
        start = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(raw, server_hostname="localhost") as stream:
                stream.sendall(request)
                answer = stream.recv(4096)
                took.append((time.perf_counter() - start) * 1000)
                if b" 101 " not in answer[:20]:
                    raise click.ClickException(f"an honest client was refused: {answer[:200]!r}")
    return took


async def attack(port: int, count: int) -> None:
    """Until it is killed."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    head = HEAD.format(ROOM, "x" * 2000).encode()

    async def one(number: int) -> None:
        while True:
            sock = trio.socket.socket()
            try:
                await sock.bind((f"127.0.1.{1 + number // PER_ADDRESS}", 0))
                await sock.connect(("127.0.0.1", port))
                stream = trio.SSLStream(trio.SocketStream(sock), context, https_compatible=True)
                await stream.do_handshake()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_until_end, stream, nursery.cancel_scope)
                    for byte in head:
                        await stream.send_all(bytes([byte]))
                        await trio.sleep(1.0)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, BaseExceptionGroup):
                pass
            finally:
                sock.close()
            await trio.sleep(AGAIN)

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, number)
            if number % 50 == 49:
                await trio.sleep(0.02)


async def _until_end(stream: trio.SSLStream[trio.SocketStream], scope: trio.CancelScope) -> None:
    """The server closes: it is no use to go on."""
    try:
        while await stream.receive_some():
            pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    scope.cancel()


@contextmanager
def attackers(started: Running, count: int, core: int) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.slow_heads", "--attack", str(started.port), "--attackers", str(count)]
    process = subprocess.Popen(["taskset", "-c", str(core), "nice", "-n", "19", *command])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--attackers", "count", default=2000, show_default=True, type=click.IntRange(0, 20000))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=15.0, show_default=True, help="Of measuring, for each case of a round.")
@click.option("--rate", default=40.0, show_default=True, help="Honest handshakes a second.")
@click.option("--warm", default=3.0, show_default=True, help="Seconds of attack before measuring begins.")
@click.option("--attack", "port", hidden=True, type=int)
def main(count: int, rounds: int, seconds: float, rate: float, warm: float, port: int | None) -> None:
    """Measure honest handshakes with and without slow ones beside them."""
    if port is not None:
        trio.run(attack, port, count)
        return
    ratios, rows = [], []
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as name:
        stage = _stage(Path(name))
        os.sched_setaffinity(0, {stage.load_core})
        for number in range(1, rounds + 1):
            p99: dict[int, float] = {}
            for many in (0, count):
                with running(SHIPPED, stage) as started, attackers(started, many, stage.load_core):
                    time.sleep(warm)
                    took = handshakes(started.port, stage.certificates.authority, stage.token, rate, seconds)
                p99[many] = quantiles(took, n=100)[98]
                rows.append((str(number), str(many), f"{median(took):.2f}", f"{p99[many]:.2f}", f"{max(took):.1f}"))
            ratios.append(p99[count] / p99[0])
            click.echo(f"round {number}: p99 {p99[0]:.2f} ms without, {p99[count]:.2f} ms with", err=True)
    click.echo(report.table(("round", "slow heads", "p50 ms", "p99 ms", "longest ms"), rows))
    found = median(ratios)
    verdict = "cleared" if found <= BAR else "missed"
    click.echo(f"\np99 with {count} slow heads over p99 without: median {found:.2f}; bar {BAR}: {verdict}")


def _stage(folder: Path) -> Stage:
    """As the other benchmarks', without their C tools."""
    import jwt

    made = make_dev_certificates(folder / "certs")
    claims = {"sub": SUBJECT, "exp": time.time() + 86400, "relay": {"join": ["*"]}}
    token = jwt.encode(claims, made.token_secret.read_bytes().removesuffix(b"\n"), "HS256", headers={"kid": "bench"})
    return Stage(folder, None, 0, 1, made, token)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
