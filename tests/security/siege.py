"""What must hold of a relay whatever is done to it: a bystander misses nothing, the right counters move, no traceback
is logged, and no task, descriptor, connection or room is left behind.

    async with under_attack(relay, {"tls_failures:timeout": 1}):
        ...  # the attack

Not here: attacks (attack.py, test_bad_*.py). The one rule: all of that is checked after every attack, so that a test
says only what it sends and what it expects back.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from relay.config.loader import load
from relay.ops.logs import JSONFormatter
from relay.server import Running, Server
from tests.e2e.harness import Overrides, RelayProcess, request
from tests.security.attack import Socket, socket_to

DEADLINE: Final = 20.0
"""Seconds for one attack. Nothing here takes long; a test that hangs shall say so."""
RECOVERY: Final = 5.0
"""Seconds until everything is as it was."""
PATIENCE: Final = 2.0
"""Seconds that a bystander's word may take, on a busy machine; usually it is a hundredth of that."""
PACE: Final = 0.01
"""Seconds between a bystander's words: often enough to notice, too seldom to matter."""

NO_LIMITS: Final = {
    "connections_per_address": 0, "connections_per_subject": 0, "handshakes_per_address": 0.0,
    "slow_handshakes_per_address": 0.0,
}  # fmt: skip
"""All tests come from one address."""

COUNTED_EXACTLY: Final = (
    "tls_failures", "handshakes_rejected", "requests_refused", "messages_dropped", "connections_dead",
    "plugin_failures", "proxy_failures",
)  # fmt: skip
"""Of these nothing may move but what a test names. Of `connections_closed` a test names those it cares for."""

_GAUGES: Final = ("connections", "guests", "pending_handshakes", "rooms", "memberships", "outbox_bytes", "unsent_bytes")
_SAMPLE: Final = re.compile(r"relay_(\w+?)(?:_total)?(?:\{(.*)\})? (\S+)")

Counts = Mapping[str, "int | range"]
"""By how much a metric must have moved: {"connections_closed:1002": 1, "tls_failures:eof": range(1, 9)}."""


class RelayThread(RelayProcess):
    """A relay in a thread of this process: real sockets and TLS, and its tasks can be counted."""

    def start(self) -> None:
        self.records: list[logging.LogRecord] = []
        self._ready = threading.Event()
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()
        self._ready.wait(DEADLINE)
        if self._failed:
            self._thread.join()
            raise self._failed[0]

    def stop(self) -> int:
        if self._thread.is_alive():
            self._token.run_sync_soon(self._running.stop)
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "the relay does not stop"
        return 0

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as problem:
            self._failed.append(problem)
            self._ready.set()

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self.server = Server(partial(load, self.config_path, environ={}))
        await self.server.run(self._listening)

    def _listening(self, running: Running) -> None:
        self._running = running
        self.addresses = running.addresses
        self.port = running.addresses[0][1]
        self.internal_port = running.internal_addresses[0][1]
        self._ready.set()

    def reload(self) -> None:
        """As SIGHUP does. Not from within the loop of Trio that asks."""
        assert trio.from_thread.run_sync(self.server.reload, trio_token=self._token), "the reload was refused"

    async def standing(self) -> dict[str, int]:
        """What there is of everything that could be left behind."""
        tasks = await trio.to_thread.run_sync(partial(trio.from_thread.run_sync, _tasks, trio_token=self._token))
        return {"tasks": tasks, "descriptors": len(os.listdir("/proc/self/fd")), **await _gauges(self)}

    @property
    def log(self) -> str:
        return "\n".join(map(JSONFormatter().format, list(self.records)))

    def logged(self, message: str) -> list[dict[str, Any]]:
        """The fields of each record with that message."""
        return [getattr(record, "fields", {}) for record in list(self.records) if record.getMessage() == message]

    def troubles(self, since: int) -> list[str]:
        return [
            JSONFormatter().format(record)
            for record in self.records[since:]
            if record.exc_info or record.levelno >= logging.ERROR or "bug" in record.getMessage()
        ]

    def lines(self) -> int:
        return len(self.records)


class RelayApart(RelayProcess):
    """A relay in a process of its own, for what would hit this one as well."""

    def memory(self) -> int:
        """Bytes in RAM."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def standing(self) -> dict[str, int]:
        return {"descriptors": len(os.listdir(f"/proc/{self.process.pid}/fd")), **await _gauges(self)}

    def troubles(self, since: int) -> list[str]:
        return [
            line
            for line in self.log.splitlines()[since:]
            if "Traceback" in line or '"level":"error"' in line or not line.startswith("{")
        ]

    def lines(self) -> int:
        return len(self.log.splitlines())


Relay = RelayThread | RelayApart


class _Keeper(logging.Handler):
    def __init__(self, relay: RelayThread) -> None:
        super().__init__(logging.DEBUG)
        self._relay = relay

    def emit(self, record: logging.LogRecord) -> None:
        self._relay.records.append(record)


@contextmanager
def besieged(folder: Path, overrides: Overrides = {}) -> Iterator[RelayThread]:  # noqa: B006 - only read
    """A relay with these settings. `folder` may hold `certs`, which take a while to make, and `plugins`."""
    tables = {**overrides, "limits": {**NO_LIMITS, **overrides.get("limits", {})}}
    relay = RelayThread(folder, tables)
    logger = logging.getLogger("relay")
    keeper = _Keeper(relay)
    logger.setLevel(logging.DEBUG)
    logger.addHandler(keeper)
    try:
        relay.start()
        try:
            yield relay
        finally:
            relay.stop()
    finally:
        logger.removeHandler(keeper)
        if not any(isinstance(handler, _Keeper) for handler in logger.handlers):  # relays may end in any order
            logger.setLevel(logging.NOTSET)


@asynccontextmanager
async def apart(
    folder: Path,
    overrides: Overrides = {},  # noqa: B006 - only read
    *,
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] = {},
) -> AsyncIterator[RelayApart]:
    """As `besieged`, in a process of its own, which `prefix` may start: ["prlimit", "--nofile=300"]."""
    relay = RelayApart(folder, {**overrides, "limits": {**NO_LIMITS, **overrides.get("limits", {})}})
    relay.prefix, relay.environment = prefix, environment
    await trio.to_thread.run_sync(relay.start)
    try:
        yield relay
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(relay.stop)


def folder_with(certificates: Path, folder: Path, **plugins: str) -> Path:
    """`folder` with a copy of the certificates, and the source of plugins by name."""
    shutil.copytree(certificates, folder / "certs", dirs_exist_ok=True)
    (folder / "plugins").mkdir(exist_ok=True)
    for name, source in plugins.items():
        (folder / "plugins" / f"{name}.py").write_text(source)
    return folder


class Bystander:
    """Two who talk all the while. Each word is answered before the next is said, so none can get lost unnoticed."""

    def __init__(self, one: Socket, other: Socket) -> None:
        self._ends = (one, other)
        self.words = 0
        self.slowest = 0.0
        self._heard = trio.Event()

    async def talk(self) -> None:
        while True:
            speaker, listener = self._ends if self.words % 2 else self._ends[::-1]
            began = trio.current_time()
            await speaker.say(f"word {self.words}")
            assert await listener.hear() == f"word {self.words}"
            self.words += 1
            self.slowest = max(self.slowest, trio.current_time() - began)
            self._heard.set()
            self._heard = trio.Event()
            await trio.sleep(PACE)

    async def a_word(self) -> None:
        """Waits until another word has got through: whoever comes after that has been served."""
        await self._heard.wait()


@asynccontextmanager
async def under_attack(
    relay: Relay,
    moved: Counts = {},  # noqa: B006 - only read
    *,
    tells: str | None = None,
    seconds: float = DEADLINE,
    tokens_last: float = 300.0,
    patience: float = PATIENCE,
) -> AsyncIterator[Bystander]:
    """The attack goes into the block; see above for what is checked when it is over.

    `moved`: what metrics must have moved, by how much. `tells`: what stands in those lines of the log that
    may report an error.
    """
    with trio.fail_after(seconds):
        async with (
            socket_to(relay, "/rooms/chat:bystanders", relay.token("bill", expires_in=tokens_last)) as one,
            socket_to(relay, "/rooms/chat:bystanders", relay.token("bess", expires_in=tokens_last)) as other,
            trio.open_nursery() as nursery,
        ):
            bystander = Bystander(one, other)
            nursery.start_soon(bystander.talk)
            await bystander.a_word()
            lines = relay.lines()
            standing = await relay.standing()
            counted = await _counters(relay)
            yield bystander
            await _recovered(relay, standing, counted, moved, bystander)
            troubles = [line for line in relay.troubles(lines) if tells is None or tells not in line]
            assert not troubles, "\n".join(troubles)
            assert bystander.slowest < patience
            nursery.cancel_scope.cancel()


async def _recovered(
    relay: Relay, standing: Mapping[str, int], counted: Mapping[str, int], moved: Counts, bystander: Bystander
) -> None:
    """Waits until what there is and what was counted are as they should be; fails with what is not."""
    wrong: list[str] = ["nothing was looked at"]
    with trio.move_on_after(RECOVERY):
        while wrong:
            await bystander.a_word()
            now, counts = await relay.standing(), await _counters(relay)
            wrong = [f"{key}: {now[key]}, before {standing[key]}" for key in standing if now[key] > standing[key]]
            wrong += _miscounted({key: counts[key] - counted.get(key, 0) for key in counts}, moved)
    assert not wrong, wrong


def _miscounted(delta: Mapping[str, int], moved: Counts) -> list[str]:
    expected: dict[str, range] = {
        key: count if isinstance(count, range) else range(count, count + 1) for key, count in moved.items()
    }
    wrong = [f"{key}: {delta.get(key, 0)}, not {moved[key]}" for key in moved if delta.get(key, 0) not in expected[key]]
    for key, count in delta.items():
        exact = key.partition(":")[0] in COUNTED_EXACTLY or key == "connections_closed:1011"
        if count and exact and key not in moved:
            wrong.append(f"{key}: {count}, which nobody expected")
    return wrong


async def _gauges(relay: RelayProcess) -> dict[str, int]:
    samples = await _samples(relay)
    return {
        gauge: sum(value for name, value in samples.items() if name.partition(":")[0] == gauge) for gauge in _GAUGES
    }


async def _counters(relay: RelayProcess) -> dict[str, int]:
    return {name: value for name, value in (await _samples(relay)).items() if name.partition(":")[0] not in _GAUGES}


async def _samples(relay: RelayProcess) -> dict[str, int]:
    """Every metric, as an operator sees it: {"connections": 3, "messages_dropped:bulk,closed": 2}."""
    text = (await request(relay, "/metrics", internal=True)).body.decode()
    found = {}
    for line in text.splitlines():
        if sample := _SAMPLE.fullmatch(line):
            labels = re.findall(r'"([^"]*)"', sample[2] or "")
            found[":".join(filter(None, (sample[1], ",".join(labels))))] = int(float(sample[3]))
    return found


def _tasks() -> int:
    """All tasks of the running Trio loop."""
    root = trio.lowlevel.current_root_task()
    waiting = [root] if root else []
    count = 0
    while waiting:
        task = waiting.pop()
        count += 1
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return count
