"""A relay without sockets: real hub, real plugins under watch, real connections; only the wire takes notes.

Time is Trio's, so tests use its MockClock: `await trio.sleep(10)` costs nothing, and timers run.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import msgspec
import trio
import trio.testing

from relay.auth.grants import compile_grants, compile_patterns
from relay.auth.tokens import Identity
from relay.config.schema import Config, PluginTable, Supervision, default_channels
from relay.counters import Counters
from relay.delivery.channels import Channels, Lane
from relay.delivery.outbox import Outbox
from relay.delivery.tick import Tick
from relay.errors import CloseReason, ConfigProblem, Rejected
from relay.limits.buckets import Rate
from relay.plugin.api import Plugin
from relay.plugin.loader import accept
from relay.plugin.routing import build_router
from relay.plugin.supervisor import Supervised
from relay.plugin.watchdog import Watchdog
from relay.protocols.base import WireProtocol
from relay.rooms.archive import Archive
from relay.rooms.hub import Hub
from relay.rooms.journal import Journal
from relay.session import joining, patterns
from relay.session.metered import make_connection
from relay.session.services import Services
from relay.session.spending import compile_quotas
from relay.session.timers import Timers, Wheel
from relay.session.wire import Hold
from tests.unit.delivery.kit import AtEase, payloads
from tests.unit.protocols.table import JSON

START = 1_800_000_000.0
ALL = {"join": ["*"], "publish": ["*"]}


def settings(**tables: Mapping[str, Any]) -> Config:
    """The defaults, with some tables changed: settings(limits={"fragments": 3})."""
    return msgspec.convert(tables, Config)


def channels(**changed: Mapping[str, Any]) -> dict[str, Any]:
    """The table of channels, with some keys of some changed or some added."""
    table: dict[str, Any] = {name: msgspec.to_builtins(channel) for name, channel in default_channels().items()}
    for name, keys in changed.items():
        table[name] = {**table.get(name, {}), **keys}
    return table


def identity(subject: str, grants: Mapping[str, Any] | None = None, expires_in: float = 3600.0) -> Identity:
    compiled = compile_grants(dict(ALL if grants is None else grants), subject)
    return Identity(subject, START + trio.current_time() + expires_in, None, None, compiled, b"")


class House:
    """All that connections share. `plugins`: a class, and the keys of its table, by name."""

    def __init__(
        self,
        nursery: trio.Nursery,
        plugins: Mapping[str, tuple[type[Plugin], dict[str, Any]]],
        config: Config,
        tick: Tick | None = None,
    ) -> None:
        self.config = config
        self.nursery = nursery
        self.channels = Channels(config.channels)
        self.counters = Counters()
        self.bugs: list[BaseException] = []
        self.tokens: dict[str, Identity] = {}
        self.gone: list[str] = []
        self.address = "192.0.2.1"  # of the clients that come
        self.tick = tick or Tick(lambda: None)
        self.tick.clock = trio.current_time
        epochs = itertools.count(1)
        memory = config.history
        self.journal = Journal(memory.queue_bytes) if memory.file else None
        self.hub = Hub(
            self.channels,
            lambda name: None,
            clock=lambda: START + trio.current_time(),
            new_epoch=lambda: f"epoch-{next(epochs)}",
            part_bytes=config.outbox.part_bytes,
            archive=Archive(memory.memory_bytes),
            journal=self.journal,
            receipts=(memory.receipts, memory.receipt_seconds),
            schedule=lambda seconds, action: self.services.timers.at(trio.current_time() + seconds, action),
        )
        self.plugins = {name: self._plugin(name, *what) for name, what in plugins.items()}
        self.hub.router = build_router(list(self.plugins.values()))
        self.hub.on_removed = joining.removed  # type: ignore[assignment]
        self.hub.on_renamed = joining.renamed  # type: ignore[assignment]
        self.hub.watching.ended = patterns.ended  # type: ignore[assignment]
        self.hub.aliases.adopt(config.aliases)
        limits, heartbeat = config.limits, config.websocket
        self.services = Services(
            config=config,
            hub=self.hub,
            channels=self.channels,
            counters=self.counters,
            timers=Timers(),
            wheel=Wheel(heartbeat.heartbeat, heartbeat.heartbeat_timeout),
            wall=lambda: START + trio.current_time(),
            monotonic=trio.current_time,
            spawn=self._spawn,
            verify=self._verify,
            message_rate=Rate(limits.messages_per_second, limits.messages_burst),
            byte_rate=Rate(limits.bytes_per_second, limits.bytes_burst),
            version="test",
            closed=self.gone.append,
            quotas=compile_quotas(config.quotas),
        )

    def _plugin(self, name: str, plugin: type[Plugin], table: dict[str, Any]) -> Supervised:
        common = msgspec.convert({"rooms": f"{name}:*", **table}, PluginTable)
        rooms = [common.rooms] if isinstance(common.rooms, str) else common.rooms
        problems: list[ConfigProblem] = []
        loaded = accept(
            name, plugin, common, {}, patterns=compile_patterns(rooms), channels=self.channels,
            where=lambda key: "test", problems=problems,
        )  # fmt: skip
        assert loaded is not None, problems
        supervised = Supervised(
            loaded, self.hub, counters=self.counters, watchdog=Watchdog(self.counters, 0),
            supervision=Supervision(failures=0), hook_timeout=self.config.timeouts.hook, clock=trio.current_time,
        )  # fmt: skip
        supervised.faults.on_failure = lambda hook, problem: self.bugs.append(problem)
        return supervised

    def _spawn(self, job: Callable[[], Awaitable[None]]) -> None:
        self.nursery.start_soon(job)

    def _verify(self, token: str) -> Identity:
        try:
            return self.tokens[token]
        except KeyError:
            raise Rejected(401, "token_bad", "no such token", setting="auth.keys") from None

    def plugin(self, name: str) -> Any:
        return self.plugins[name].plugin

    def write(self, problem: str | None = None) -> None:
        """What the store does: all that durable rooms have said is on disk now, or cannot be written."""
        assert self.journal is not None
        self.journal.settle(self.journal.take(), problem)

    def client(
        self,
        subject: str = "ann",
        grants: Mapping[str, Any] | None = None,
        *,
        protocol: WireProtocol = JSON.protocol,
        home: str = "",
        last: int = 0,
        expires_in: float = 3600.0,
    ) -> Client:
        return Client(self, identity(subject, grants, expires_in), protocol, home, last)

    async def run_timers(self) -> None:
        """As the server does."""
        timers = self.services.timers
        changed = trio.Event()

        def wake() -> None:
            changed.set()

        timers.changed = wake
        while True:
            due = timers.next()
            with trio.move_on_at(float("inf") if due is None else due):
                await changed.wait()
            changed = trio.Event()
            timers.run(trio.current_time())

    async def run_wheel(self) -> None:
        """As the server does."""
        wheel = self.services.wheel
        while wheel.slots:
            await trio.sleep(wheel.step)
            wheel.turn(trio.current_time())


@contextlib.asynccontextmanager
async def open_house(
    plugins: Mapping[str, tuple[type[Plugin], dict[str, Any]]], config: Config | None = None
) -> AsyncIterator[House]:
    """A house while the block runs. Nothing may be left of it: no room, no hold, no plugin's bug, no task."""
    mocked = isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)
    with trio.fail_after(1e6 if mocked else 10):
        async with trio.open_nursery() as nursery:
            house = House(nursery, plugins, config or settings())
            nursery.start_soon(house.run_timers)
            await trio.testing.wait_all_tasks_blocked()
            yield house
            clients = Client.of(house)
            for client in clients:
                client.connection.lost()
            await trio.testing.wait_all_tasks_blocked()
            assert house.hub.rooms == {}
            assert not any(client.connection.rooms for client in clients)
            assert len(nursery.child_tasks) == 1, "work is left behind"
            nursery.cancel_scope.cancel()


class Client(AtEase):
    """A connection without a socket: what it is told is read right out of its outbox."""

    _all: list[Client] = []  # noqa: RUF012 - of the test that runs

    def __init__(self, house: House, who: Identity, protocol: WireProtocol, home: str, last: int) -> None:
        self.house = house
        self.outbox = Outbox(house.channels, self, house.tick)
        self.closed: CloseReason | None = None
        self.farewell: bytes | None = None
        self.held: list[bool] = []
        self._holds = Hold(0)
        self.connection = make_connection(
            house.services, self, who, protocol, f"session of {who.subject}", home, house.address
        )
        self._all.append(self)
        self.connection.start(last)

    @classmethod
    def of(cls, house: House) -> list[Client]:
        mine = [client for client in cls._all if client.house is house]
        cls._all.clear()
        return mine

    # The wire.

    def close(self, reason: CloseReason, farewell: bytes | None) -> None:
        assert self.closed is None
        self.closed, self.farewell = reason, farewell

    def hold(self, reason: Hold, held: bool) -> None:
        self._holds = self._holds | reason if held else self._holds & ~reason
        self.held.append(bool(self._holds))

    def congested(self, lane: Lane) -> None:
        raise AssertionError(f"{lane.name} is congested")

    # The client.

    def say(self, **request: Any) -> None:
        """One envelope: say(t="join", room="r", id=1)."""
        self.connection.message(1, msgspec.json.encode(request))

    def say_plainly(self, data: str | bytes) -> None:
        self.connection.message(1 if isinstance(data, str) else 2, data.encode() if isinstance(data, str) else data)

    def heard(self) -> list[Any]:
        """What it was told since it was last asked: envelopes as values; str and bytes in plain mode."""
        return heard(self.outbox, self.connection.protocol)

    def ask(self, **request: Any) -> Any:
        """A request and the answer that came at once; fails if anything else came with it."""
        self.heard()
        self.say(**request, id=7)
        (answer,) = self.heard()
        assert answer.pop("id") == 7
        return answer

    def refused(self, **request: Any) -> tuple[str, str | None]:
        """(code, config key) of the refusal of a request."""
        answer = self.ask(**request)
        assert answer["t"] == "error", answer
        return answer["code"], answer.get("limit")

    def join(self, room: str, **more: Any) -> Any:
        answer = self.ask(t="join", room=room, **more)
        assert answer["t"] == "ok", answer
        return answer

    def messages(self) -> list[Any]:
        """The data of the messages it heard, and nothing else may have come."""
        heard = self.heard()
        assert all(said["t"] == "message" for said in heard), heard
        return [said["data"] for said in heard]


def heard(outbox: Outbox, protocol: WireProtocol) -> list[Any]:
    """What waits in an outbox, as a client hears it."""
    data, found = b"", []
    while more := outbox.take(1 << 30):
        data += more
    for opcode, payload in payloads(data):
        if protocol.bare:
            found.append(payload.decode() if opcode == 1 else payload)
        else:
            found.append(msgspec.json.decode(payload))
    return found
