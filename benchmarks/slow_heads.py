"""Handshakes of honest clients while 2,000 others hold theirs open and send a byte a second.

    python -m benchmarks.slow_heads                three rounds, with and without the attack in turn: two minutes
    python -m benchmarks.slow_heads --attackers 500 --rounds 1

The attackers (slowheads.c: they share a core with the honest clients, and take as little of it as can be) come from
addresses of the loopback (127.0.1.1 and on), 200 from each: what one address may have, with the limits the relay is
shipped with. Whoever is cut or turned away tries again after a second. Honest clients come from 127.0.0.1 at a fixed
rate; what is measured is TCP, TLS, token and the 101 together. Not here: closed-loop handshakes (the load
`handshakes`). The one rule: both cases of a round have a relay of their own, started anew.
"""

from __future__ import annotations

import json
import os
import re
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

from benchmarks import report
from benchmarks.ctools import ROOT, compile_program
from benchmarks.servers import SUBJECT, Paths, Running, Server, Stage, running
from relay.devcerts import make_dev_certificates

BAR: Final = 1.2
PER_ADDRESS: Final = 200
ROOM: Final = "/rooms/chat:bench"
HEAD: Final = (
    "GET {} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {}\r\n\r\n"
)
SOURCE: Final = ROOT / "benchmarks" / "slowheads.c"
INTERNAL: Final = "internal.sock"


def shipped(stage: Stage, port: int) -> list[str]:
    """The relay with its limits as they are shipped; only the address, the certificate and the key are its own."""
    made = stage.certificates
    path = stage.folder / "shipped.toml"
    path.write_text(
        f"""\
[server]
listen = ["127.0.0.1:{port}"]
[internal]
listen = [{json.dumps(f"unix:{stage.folder / INTERNAL}")}]
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


@contextmanager
def attackers(started: Running, count: int, core: int) -> Iterator[dict[str, float]]:
    """What they did is in the dictionary afterwards."""
    did: dict[str, float] = {}
    if not count:
        yield did
        return
    program = compile_program(SOURCE)
    command = ["taskset", "-c", str(core), "nice", "-n", "19", str(program), str(started.port), str(count)]
    process = subprocess.Popen([*command, str(PER_ADDRESS)], stdout=subprocess.PIPE, text=True)
    try:
        yield did
    finally:
        process.terminate()
        said, _ = process.communicate()
    did.update(json.loads(said))


def cpu_seconds(pid: int) -> float:
    """Of a process, so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def longest_turn(folder: Path) -> float:
    """Milliseconds that the relay's loop was late at most, in the last ten seconds or more."""
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(str(folder / INTERNAL))
        asked.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while part := asked.recv(65536):
            answer += part
    found = re.search(rb"^relay_event_loop_lag_seconds (\S+)", answer, re.MULTILINE)
    assert found is not None
    return float(found[1]) * 1000


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--attackers", "count", default=2000, show_default=True, type=click.IntRange(0, 20000))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=15.0, show_default=True, help="Of measuring, for each case of a round.")
@click.option("--rate", default=40.0, show_default=True, help="Honest handshakes a second.")
@click.option("--warm", default=3.0, show_default=True, help="Seconds of attack before measuring begins.")
def main(count: int, rounds: int, seconds: float, rate: float, warm: float) -> None:
    """Measure honest handshakes with and without slow ones beside them."""
    ratios, rows = [], []
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as name:
        stage = _stage(Path(name))
        os.sched_setaffinity(0, {stage.load_core})
        for number in range(1, rounds + 1):
            p99: dict[int, float] = {}
            for many in (0, count):
                with running(SHIPPED, stage) as started, attackers(started, many, stage.load_core) as did:
                    time.sleep(warm)
                    spent = cpu_seconds(started.pid)
                    took = handshakes(started.port, stage.certificates.authority, stage.token, rate, seconds)
                    spent = (cpu_seconds(started.pid) - spent) / seconds
                    late = longest_turn(stage.folder)
                p99[many] = quantiles(took, n=100)[98]
                over = did.get("seconds", 1.0)
                rows.append(
                    (
                        str(number), str(many), f"{median(took):.2f}", f"{p99[many]:.2f}", f"{max(took):.1f}",
                        f"{spent:.0%}", f"{late:.1f}", f"{did.get('tried', 0) / over:.0f}",
                        f"{did.get('secured', 0) / over:.0f}",
                    )
                )  # fmt: skip
            ratios.append(p99[count] / p99[0])
            click.echo(f"round {number}: p99 {p99[0]:.2f} ms without, {p99[count]:.2f} ms with", err=True)
    heads = (
        "round", "slow heads", "p50 ms", "p99 ms", "longest ms", "relay's CPU", "loop late by ms", "tries a second",
        "TLS a second",
    )  # fmt: skip
    click.echo(report.table(heads, rows))
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
