"""What a quiet room hears of a plugin that does its worst in another room of the same relay.

    python -m benchmarks.plugin_faults                   every fault, five seconds of each: about three minutes
    python -m benchmarks.plugin_faults spins floods      some of them

In the quiet room (chat) one client says a word a hundred times a second, at fixed times, and another hears it; what
is measured is from the time it was due until it is heard. Meanwhile clients provoke the faulty plugin without a pause.
Each fault has a relay of its own, with TLS, tokens and limits, which never switches a plugin off for the number of its
failures: that would end the load. Not here: what a fault costs its own room. The one rule: the bound is what the
configuration promises, supervision.interrupt + supervision.stall, and a fault that exceeds it fails the run.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Final

import click
import jwt
import trio

from benchmarks import report
from benchmarks.ctools import Tools
from benchmarks.servers import ALL_ROOMS, Paths, Running, Server, Stage, relay_with, running
from relay.client.errors import ConnectFailed, Disconnected
from relay.client.plain import connect_plain
from relay.config.plugin_table import Supervision
from relay.devcerts import make_dev_certificates

RATE: Final = 100.0
WARM: Final = 1.5  # seconds in which the fault gets going
PROVOKERS: Final = 4
GRACE: Final = 0.1  # seconds on top of the bound: the word's own way, and a machine that does other things too
BOUND: Final = Supervision().interrupt + Supervision().stall

FAULTY: Final = """\
import os, time
import trio
from relay.plugin.api import Plugin, Settings

class Faulty(Plugin):
    class Settings(Settings, frozen=True):
        how: str

    def on_message(self, room, sender, message):
        how = self.settings.how
        if how == "raises":
            raise ZeroDivisionError
        if how == "spins":
            while True:
                pass
        if how == "sleeps":
            time.sleep(5)
        if how == "dawdles":
            time.sleep(0.05)
        if how == "computes":
            end = time.perf_counter() + 0.005
            while time.perf_counter() < end:
                pass
        if how == "floods":
            while True:
                room.broadcast("x" * 100)
        if how == "times":
            for _ in range(100):
                self.relay.after(0, self.nap)
        if how == "spawns":
            for _ in range(100):
                self.relay.spawn(self.work, room)
        if how == "eats":
            hoard = []
            while True:
                hoard.append(bytearray(1 << 20))
        if how == "dies":
            os._exit(1)

    def nap(self):
        time.sleep(0.02)

    async def work(self, room):
        while True:
            room.broadcast("x" * 100)
            await trio.lowlevel.checkpoint()

    async def run(self):
        how = self.settings.how
        while how == "runs":
            pass
        while how == "storms":
            for room in self.relay.rooms():
                for _ in range(1000):
                    room.broadcast("x" * 100)
            await trio.lowlevel.checkpoint()
        await trio.sleep_forever()
"""
HANGING: Final = """\
import trio
from relay.plugin.api import Plugin, Settings

class Faulty(Plugin):
    class Settings(Settings, frozen=True):
        how: str

    async def on_message(self, room, sender, message):
        await trio.sleep_forever()
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """`paced`: seconds between what each client says to provoke it."""

    how: str
    what: str
    isolate: bool = False
    source: str = FAULTY
    paced: float = 0.005


FAULTS: Final = {
    fault.how: fault
    for fault in (
        Fault("nothing", "no fault: what the others are measured against"),
        Fault("raises", "`on_message` raises, every time"),
        Fault("hangs", "async `on_message` never returns", source=HANGING),
        Fault("spins", "`on_message` is `while True: pass`"),
        Fault("sleeps", "`on_message` is `time.sleep(5)`"),
        Fault("dawdles", "`on_message` is `time.sleep(0.05)`, below what is called a stall"),
        Fault("computes", "`on_message` computes for 5 ms, many in a row"),
        Fault("runs", "`run` is `while True: pass`"),
        Fault("floods", "`on_message` broadcasts without end"),
        Fault("storms", "`run` broadcasts 1,000 messages in each turn of the loop"),
        Fault("spawns", "1,000 tasks that broadcast in each turn"),
        Fault("times", "1,000 timers, each of which sleeps 20 ms"),
        Fault("eats", "takes all the memory there is, in a process of its own", isolate=True),
        Fault("dies", "its process dies at each message", isolate=True),
    )
}


def faulty_relay(fault: Fault, stage: Stage, port: int) -> list[str]:
    """The relay as it is shipped, but for what the load itself would run into."""
    (stage.folder / "plugins").mkdir(exist_ok=True)
    (stage.folder / "plugins" / "faulty.py").write_text(fault.source)
    apart = 'isolate = "process"\nmemory_bytes = 268435456' if fault.isolate else ""
    tables = f"""\
[supervision]
directory = {json.dumps(str(stage.folder / "plugins"))}
failures = 0
[plugins.chat]
rooms = "chat:*"
[plugins.faulty]
rooms = "faulty:*"
how = "{fault.how}"
{apart}
[logging]
level = "warning"
"""
    return relay_with(stage, port, "faults.toml", tables)


class Quiet:
    """The quiet room. `late`: for each word, milliseconds from when it was due until it was heard."""

    def __init__(self, started: Running, stage: Stage) -> None:
        self.late: list[float] = []
        self.lost = 0
        self._url = f"wss://localhost:{started.port}/rooms/"
        self._authority = stage.certificates.authority
        self._secret = stage.certificates.token_secret.read_bytes().removesuffix(b"\n")

    def token(self, subject: str) -> str:
        claims = {"sub": subject, "exp": time.time() + 3600, "relay": ALL_ROOMS}
        return jwt.encode(claims, self._secret, "HS256", headers={"kid": "bench"})

    async def measure(self, fault: Fault, seconds: float) -> None:
        async with (
            connect_plain(f"{self._url}chat:quiet", token=self.token("ann"), ca_file=self._authority) as ann,
            connect_plain(f"{self._url}chat:quiet", token=self.token("bob"), ca_file=self._authority) as bob,
            trio.open_nursery() as nursery,
        ):
            for number in range(PROVOKERS):
                nursery.start_soon(self._provoke, fault, number)
            await trio.sleep(WARM)
            words = int(seconds * RATE)
            begin = trio.current_time()

            async def talk() -> None:
                for word in range(words):
                    await trio.sleep_until(begin + word / RATE)
                    await ann.send(str(word))

            nursery.start_soon(talk)
            with trio.move_on_after(seconds + 10 * BOUND):
                while len(self.late) < words:
                    word = int(await bob.receive())
                    self.late.append((trio.current_time() - begin - word / RATE) * 1000)
            self.lost = words - len(self.late)
            nursery.cancel_scope.cancel()

    async def _provoke(self, fault: Fault, number: int) -> None:
        """Says something in the faulty room, again and again; whoever is thrown out comes back."""
        while True:
            try:
                token = self.token(f"mallory{number}")
                url = f"{self._url}faulty:room"
                async with (
                    connect_plain(url, token=token, ca_file=self._authority) as mallory,
                    trio.open_nursery() as n,
                ):
                    n.start_soon(partial(_drain, mallory))
                    while True:
                        for _ in range(16):
                            await mallory.send("x")
                        await trio.sleep(fault.paced)
            except* (ConnectFailed, Disconnected, OSError):
                pass
            await trio.sleep(0.2)


async def _drain(client: object) -> None:
    async for _ in client:  # type: ignore[attr-defined]
        pass


def measure(fault: Fault, stage: Stage, seconds: float) -> Quiet:
    server = Server("faults", fault.what, partial(faulty_relay, fault), Paths("", "", ""))
    with running(server, stage) as started:
        quiet = Quiet(started, stage)
        trio.run(quiet.measure, fault, seconds)
    return quiet


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("faults", nargs=-1, type=click.Choice(list(FAULTS)))
@click.option("--seconds", default=5.0, show_default=True, help="Of each.")
@click.option("--server-core", default=0, show_default=True, help="Core of the relay.")
@click.option("--load-core", default=1, show_default=True, help="Core of the clients.")
def main(faults: tuple[str, ...], seconds: float, server_core: int, load_core: int) -> None:
    """Measure how long a quiet room waits while a plugin of another room misbehaves; FAULTS: all unless named."""
    os.sched_setaffinity(0, {load_core})
    rows, failed = [], []
    for name in faults or FAULTS:
        fault = FAULTS[name]
        with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder:
            place = Path(folder)
            made = make_dev_certificates(place / "certs")
            stage = Stage(place, Tools(place, place), server_core, load_core, made, "")
            quiet = measure(fault, stage, seconds)
        late = sorted(quiet.late)
        cuts = quantiles(late, n=100, method="inclusive") if len(late) > 1 else [float("inf")] * 99
        if quiet.lost or cuts[98] > (BOUND + GRACE) * 1000:
            failed.append(name)
        rows.append(
            (name, fault.what, *(f"{value:,.1f}" for value in (cuts[49], cuts[98], late[-1] if late else -1.0)))
        )
        click.echo(f"{name}: {' '.join(rows[-1][1:])}", err=True)
    about = report.environment()
    click.echo(report.table(("what the plugin does", "p50 ms", "p99 ms", "max ms", "not heard"), rows))
    click.echo(f"\nBound: {BOUND * 1000:,.0f} ms. {about['date']}, {about['cpu']}, Python {about['python']}.")
    if failed:
        raise click.ClickException(f"beyond the bound, or words were lost: {', '.join(failed)}")


if __name__ == "__main__":
    main()
