"""Two clients of a live relay who say anything: join, publish, resume, acknowledge, ask for patches, lose their sockets
and come back. A function of bytes for the fuzzer.

Each line of the input is one message; its first byte says whose, or that a socket is lost or taken up again. Sockets
and clocks are left out: what is written is read right out of the outbox.

Not here: frames and envelopes (on_the_wire). The one rule: as in targets; and whatever is said, nothing is raised, no
plugin fails, each request is answered once, and nothing is left when both have gone.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import trio
from trio.testing import MockClock

from relay.auth.grants import compile_grants
from relay.auth.tokens import Identity
from relay.config.loader import load
from relay.delivery.outbox import Outbox, Tick
from relay.errors import CloseReason, Refused
from relay.front.state import relay_v1
from relay.process.assembly import Assembly, assemble
from relay.protocols.base import Publish, Resume
from relay.session.connection import Connection
from relay.session.metered import make_connection
from relay.session.resume import Resuming
from tests.fuzz.noise import twisted
from tests.unit.delivery.kit import AtEase
from tests.unit.session.kit import heard

CONFIG: Final = """
[server]
insecure_plaintext = true
[auth]
keys = [{ algorithm = "HS256", kid = "k", secret = "a secret that is long enough for anybody" }]
[limits]
rooms_per_connection = 3
[plugins.chat]
rooms = "chat:*"
history = 5
presence = true
max_members = 2
[plugins.state]
rooms = "state:*"
max_keys = 5
[plugins.game]
rooms = "game:*"
[plugins.echo]
rooms = "echo:*"
"""
NOW: Final = 1_790_000_000.0
SUBJECTS: Final = ("ann", "bob")
JSON: Final = relay_v1("relay.v1.json")


def _assembled() -> Assembly:
    def no_work(job: object) -> None:
        """What is asynchronous waits for ever: it is not answered."""

    with tempfile.TemporaryDirectory(prefix="relay-fuzz-") as folder:
        path = Path(folder) / "config.toml"
        path.write_text(CONFIG)
        parts = assemble(load(path, environ={}), no_work)
    services = parts.services
    services.monotonic, services.wall = (lambda: 0.0), (lambda: NOW)
    services.bad_token = lambda address, code: None
    services.resumption.ended = lambda connection, code, luggage: None  # nobody was counted in
    parts.hub.clock = lambda: NOW  # type: ignore[misc]
    return parts


class Wire(AtEase):
    """What stands for a link."""

    def __init__(self, world: World) -> None:
        self.outbox = Outbox(world.parts.channels, self, world.tick)
        self.session: Any = None
        self.closed: CloseReason | None = None
        self.gone = False

    def close(self, reason: CloseReason, farewell: bytes | None) -> None:
        self.closed = reason

    def abort(self) -> None:
        if not self.gone:
            self.gone = True
            if self.closed is not None or not self.session.park(None):
                self.session.lost()
            self.outbox.clear()

    def adopt(self, connection: Any, message: Any, luggage: Any) -> None:
        self.session, self.tell = connection, message

    def tell(self, opcode: int, payload: bytes) -> None:
        raise AssertionError("nobody listens yet")

    def hold(self, reason: object, held: bool) -> None: ...


class World:
    """A relay, and its two clients anew for each input."""

    def __init__(self) -> None:
        self.parts = _assembled()
        self.tick = Tick(lambda: None)
        self.tick.clock = lambda: 0.0
        self.names = itertools.count()
        self.wires: list[Wire] = []
        self.tickets = ["", ""]

    def begin(self) -> None:
        self.wires = [self._connect(number) for number in range(2)]

    def _connect(self, number: int) -> Wire:
        wire = Wire(self)
        grants = compile_grants({name: ["*"] for name in ("join", "publish", "presence", "history", "call")}, "ann")
        who = Identity(SUBJECTS[number], NOW + 3600.0, None, None, grants, b"")
        connection: Connection = make_connection(
            self.parts.services, wire, who, JSON, f"session{next(self.names)}", "", "192.0.2.1"
        )
        connection.resumes = 0
        wire.adopt(connection, connection.message, None)
        connection.start()
        self._listen(number, wire)
        return wire

    def _listen(self, number: int, wire: Wire) -> list[Any]:
        """What it is told; a hello brings a ticket."""
        try:
            said = heard(wire.outbox, JSON)
        except msgspec.ValidationError:  # a number beyond any range is JSON all the same, and passed on as it came
            return []
        for one in said:
            if one["t"] == "hello":
                self.tickets[number] = one["resume"]["ticket"]
        return said

    def say(self, number: int, message: bytes) -> str:
        wire = self.wires[number]
        if wire.gone or wire.closed is not None:
            return "gone"
        self._listen(number, wire)
        wire.tell(1, message)
        told = self._listen(number, wire)
        answers = [one for one in told if one["t"] in ("ok", "error", "pong")]
        if not told and b"e" in message.lower():
            return "said"
        try:
            command = JSON.decode(1, message, "")
        except Refused:
            assert [one["t"] for one in answers][-1:] == ["error"] or wire.closed is not None
            return "refused"
        waits = isinstance(command, Publish) and command.confirm is not None
        if command.id is not None and wire.closed is None and not waits and not isinstance(command, Resume):
            mine = [one for one in answers if one.get("id") == command.id]
            assert len(mine) == 1, f"{len(mine)} answers"
            return str(mine[0].get("code", "ok"))
        return "said"

    def lose(self, number: int) -> str:
        self.wires[number].abort()
        return "lost"

    def come_back(self, number: int) -> str:
        """With the ticket, else anew."""
        old = self.wires[number]
        if not old.gone and old.closed is not None:
            old.abort()
        services = self.parts.services
        session = services.resumption.find(self.tickets[number], services.sessions)
        if session is None:
            if not old.gone:
                old.abort()
            self.wires[number] = self._connect(number)
            return "anew"
        wire = self.wires[number] = Wire(self)
        resuming = Resuming(session, wire, "")  # type: ignore[arg-type]
        wire.adopt(resuming, resuming.message, None)
        resuming.start()
        return "resumed"

    def end(self) -> None:
        services, hub = self.parts.services, self.parts.hub
        for wire in self.wires:
            wire.abort()
        for parked in list(services.resumption.parked.values()):
            parked.connection.close(CloseReason(1001, "the end"))  # type: ignore[arg-type]
        services.timers.run(0.0)
        self.tick.touched.clear()
        assert services.sessions == {}, services.sessions
        assert services.resumption.parked == {}
        hub.archive.sweep(NOW + 1e9)
        assert hub.rooms == {}
        assert not services.counters.plugin_failures, services.counters.plugin_failures


_world: list[World] = []


async def _live(data: bytes) -> str:
    if not _world:
        _world.append(World())
    world = _world[0]
    outcomes = set()
    world.begin()
    try:
        for line in data.split(b"\n")[:40]:
            number = line[0] & 1 if line else 0
            match line[:1]:
                case b"-" | b".":
                    outcomes.add(world.lose(number))
                case b"+" | b"*":
                    outcomes.add(world.come_back(number))
                case _:
                    try:
                        line[1:].decode()
                    except UnicodeDecodeError:  # the engine lets no other text through
                        continue
                    outcomes.add(world.say(number, line[1:]))
        world.end()
    except BaseException:
        _world.clear()
        raise
    return " ".join(sorted(outcomes)) or "nothing"


def session(data: bytes) -> str:
    """In a loop of Trio, because plugins may ask it for the time."""
    return trio.run(_live, data, clock=MockClock())


ACTS: Final[list[dict[str, Any]]] = [
    {"t": "join", "id": 1, "room": "chat:a", "members": True, "last": 3},
    {"t": "join", "id": 2, "room": "state:a", "delta": True},
    {"t": "join", "id": 3, "room": "game:a", "since": {"epoch": "e", "offset": 1}},
    {"t": "leave", "id": 4, "room": "chat:a"},
    {"t": "publish", "id": 5, "room": "chat:a", "data": "hello", "key": "k", "once": "o"},
    {"t": "publish", "id": 6, "room": "state:a", "data": {"set": {"x": [1, 2]}}, "key": "k"},
    {"t": "publish", "id": 7, "room": "state:a", "data": {"patch": {"x": None, "y": {"z": 1}}}, "key": "k"},
    {"t": "publish", "id": 8, "room": "chat:a", "data": 1, "confirm": 2.0, "to": "bob", "echo": True},
    {"t": "publish", "id": 9, "room": "echo:a", "data": [[]], "ttl": 1.0, "channel": "urgent"},
    {"t": "ack", "id": 10, "room": "chat:a", "offset": 1},
    {"t": "resume", "id": 11, "rooms": {"chat:a": {"epoch": "e", "offset": 1}}},
    {"t": "resync", "id": 12, "room": "state:a", "key": "k"},
    {"t": "call", "id": 13, "room": "state:a", "method": "get", "data": {"key": "k"}},
    {"t": "call", "id": 14, "room": "state:a", "method": "set", "data": {"key": "k", "set": 1, "if_version": 0}},
    {"t": "presence", "id": 15, "room": "chat:a"},
    {"t": "history", "id": 16, "room": "chat:a", "last": 2, "before": 9},
    {"t": "auth", "id": 17, "token": "e30.e30.e30"},
    {"t": "ping", "id": 18},
]


def build_session(source: Random) -> bytes:
    """A short life of two clients."""
    lines = []
    for _ in range(source.randint(3, 14)):
        if source.random() < 0.2:
            lines.append(source.choice((b"-", b".", b"+", b"*")))
            continue
        act = source.choice(ACTS)
        if source.random() < 0.35:
            act = twisted(source, act)
        lines.append(source.choice((b"0", b"1")) + json.dumps(act).encode())
    return b"\n".join(lines)


SESSIONS: Final = [
    b"\n".join(b"%d" % (number % 2) + json.dumps(act).encode() for number, act in enumerate(ACTS)),
    b"\n".join(
        [b"0" + json.dumps(ACTS[0]).encode(), b"1" + json.dumps(ACTS[0]).encode(), b".",
         b"1" + json.dumps(ACTS[4]).encode(), b"*", b"0" + json.dumps(ACTS[10]).encode(), b"-", b"+"]
    ),
    *(b"0" + msgspec.json.encode(act) + b"\n1" + msgspec.json.encode(act) for act in ACTS),
]  # fmt: skip
SESSION_WORDS: Final = [
    *(b"\n0" + json.dumps(act).encode() for act in ACTS),
    b"\n", b"\n0", b"\n1", b"\n-", b"\n+", b"\n.", b"\n*", b'"chat:a"', b'"state:a"',
    b"-1", b"1e400", b"null", b"18446744073709551616", b'"epoch":',
]  # fmt: skip
