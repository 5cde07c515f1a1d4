"""What a message costs more when its plugin runs in a process of its own.

    python -m benchmarks.isolated                        chat, in the relay and apart: about a minute

One client says something in a room and another hears it, over TLS: one after the other (each is sent when the one
before it was heard), and 16 at a time. CPU time is that of the relay and its children, as the kernel counts it, for
each message. Not here: what isolation protects from (plugin_faults). The one rule: both relays do the same, and differ
in one key of their configuration.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Final

import click
import jwt
import trio

from benchmarks import report
from benchmarks.ctools import Tools
from benchmarks.servers import ALL_ROOMS, Paths, Server, Stage, running
from relay.client.plain import PlainClient, connect_plain
from relay.devcerts import make_dev_certificates

TICKS: Final = os.sysconf("SC_CLK_TCK")
WARM: Final = 300  # messages
TRIES: Final = 3


def relay_with(isolate: str, stage: Stage, port: int) -> list[str]:
    """The relay as it is shipped, but for the rates, which the load itself would meet."""
    made = stage.certificates
    path = stage.folder / f"{isolate}.toml"
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
[limits]
messages_per_second = 0.0
bytes_per_second = 0.0
[plugins.chat]
rooms = "chat:*"
isolate = "{isolate}"
[logging]
level = "warning"
"""
    )
    return [sys.executable, "-m", "relay", "serve", "-c", str(path)]


def cpu(pid: int) -> float:
    """CPU seconds of a process and its children that live, user and system."""
    total = 0.0
    for one in (pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


async def say(ann: PlainClient, bob: PlainClient, messages: int, together: int) -> list[float]:
    """Seconds from saying each batch until all of it was heard."""
    took = []
    for _ in range(messages // together):
        began = time.perf_counter()
        for _ in range(together):
            await ann.send("x" * 100)
        for _ in range(together):
            await bob.receive()
        took.append(time.perf_counter() - began)
    return took


async def measure(port: int, pid: int, stage: Stage, messages: int) -> list[tuple[float, float, float]]:
    """For one at a time, and for 16: CPU microseconds of a message, and p50 and p99 of a batch in milliseconds."""
    claims = {"sub": "ann", "exp": time.time() + 3600, "relay": ALL_ROOMS}
    secret = stage.certificates.token_secret.read_bytes().removesuffix(b"\n")
    token = jwt.encode(claims, secret, "HS256", headers={"kid": "bench"})
    url, authority = f"wss://localhost:{port}/rooms/chat:a", stage.certificates.authority
    found = []
    async with (
        connect_plain(url, token=token, ca_file=authority) as ann,
        connect_plain(url, token=token, ca_file=authority) as bob,
    ):
        with trio.fail_after(60):
            heard = False
            while not heard:  # until then its process is being started
                await ann.send("ready?")
                with trio.move_on_after(1.0):
                    await bob.receive()
                    heard = True
            await say(ann, bob, WARM, 1)
        for together in (1, 16):
            tries = []
            for _ in range(TRIES):
                before = cpu(pid)
                took = await say(ann, bob, messages, together)
                cuts = quantiles(took, n=100, method="inclusive")
                tries.append(((cpu(pid) - before) / messages * 1e6, cuts[49] * 1000, cuts[98] * 1000))
            found.append(tuple(median(values) for values in zip(*tries, strict=True)))
    return found  # type: ignore[return-value]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--messages", default=3200, show_default=True, help="Of each try.")
@click.option("--load-core", default=1, show_default=True, help="Core of the clients; the relay has all others.")
def main(messages: int, load_core: int) -> None:
    """Measure what a message costs more when its plugin runs in a process of its own."""
    os.sched_setaffinity(0, {load_core})
    rows = []
    for isolate in ("none", "process"):
        with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder:
            place = Path(folder)
            made = make_dev_certificates(place / "certs")
            stage = Stage(place, Tools(place, place), 0, load_core, made, "")
            server = Server(isolate, isolate, partial(relay_with, isolate), Paths("", "", ""))
            with running(server, stage) as started:
                figures = trio.run(measure, started.port, started.pid, stage, messages)
        for together, (micros, p50, p99) in zip((1, 16), figures, strict=True):
            rows.append((isolate, str(together), f"{micros:,.0f}", f"{p50:.2f}", f"{p99:.2f}"))
    about = report.environment()
    click.echo(report.table(("isolate", "at a time", "CPU µs a message", "p50 ms", "p99 ms"), rows))
    click.echo(f"\n{about['date']}, {about['cpu']}, Python {about['python']}.")


if __name__ == "__main__":
    main()
