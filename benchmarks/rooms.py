"""What joining and leaving costs as a relay grows, and what a room and a membership take of memory.

    python -m benchmarks.rooms              up to 100,000 rooms and a million memberships: about 1 GB, a minute
    python -m benchmarks.rooms --quick      up to 10,000 rooms

In memory: real Hub and Rooms, each connection an Outbox in ten rooms, each size in a process of its own. Not
here: sockets, plugins' hooks. The one rule: CPU time, and the process's own memory as the kernel counts it.

Joins come in no order, and twice: by a thousand newcomers in a thousand rooms, whatever there is beside them, which
shows what the relay does; and by any connection in any room, which shows what memory does that no cache holds. Beside
that one stands the least that two maps can cost in Python: an entry in a dict of the room and one in a dict of the
connection, of as many and as large ones, with nothing else done.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.report import table
from relay.config.schema import default_channels
from relay.delivery.channels import Channels
from relay.delivery.outbox import Outbox
from relay.delivery.tick import Tick
from relay.protocols.plain import Plain
from relay.rooms.hub import Hub
from relay.rooms.room import Rights, Room, RoomRule

ROOMS_EACH: Final = 10
MEASURED: Final = 10_000  # joins and leaves that are timed
SPREAD: Final = 1_000  # rooms that these are in, of all sizes the same number: so many dictionaries grow on the way
TRIES: Final = 9
SIZES: Final = ((1_000, 10_000), (10_000, 100_000), (100_000, 1_000_000))

PLAIN: Final = Plain()

Pairs = list[tuple[Any, Any]]
"""Who comes into what."""


class Handler:
    """A plugin without hooks."""

    owner = None
    has_joined = False

    def opened(self, room: Room) -> None: ...
    def freed(self, room: Room) -> None: ...


class Guest:
    """A connection, as the hub sees one."""

    __slots__ = ("outbox", "protocol", "rights", "rooms", "session", "subject")

    def __init__(self, subject: str, protocol: Plain, outbox: Outbox) -> None:
        self.subject = self.session = subject
        self.protocol = protocol
        self.outbox = outbox
        self.rooms: dict[str, Room] = {}
        self.rights: dict[Room, Rights] | None = None


class Scene:
    """A hub with that many rooms and memberships, and what they took of memory."""

    def __init__(self, rooms: int, memberships: int) -> None:
        self.channels = Channels(default_channels())
        self.tick = Tick(lambda: None)
        routed: Any = (RoomRule("bench", self.channels.default), Handler())
        self.hub = Hub(self.channels, lambda name: routed, clock=lambda: 1.0, new_epoch=lambda: "epoch")
        names = [f"chat:{number}" for number in range(rooms)]
        self.guests = [self.guest(f"user-{number}") for number in range(memberships // ROOMS_EACH)]
        gc.collect()
        start = resident()
        self.rooms = [self.hub.open(name) for name in names]
        gc.collect()
        of_rooms = resident() - start
        for number, guest in enumerate(self.guests):
            for place in range(ROOMS_EACH):
                self.hub.join(guest, self.rooms[(number * ROOMS_EACH + place) % rooms], may_publish=True)
        gc.collect()
        self.bytes_a_room = of_rooms / rooms
        self.bytes_a_membership = (resident() - start - of_rooms) / memberships
        begin = time.process_time_ns()
        gc.collect()
        self.collection = (time.process_time_ns() - begin) / 1e6

    def guest(self, subject: str) -> Any:
        owner: Any = None
        return Guest(subject, PLAIN, Outbox(self.channels, owner, self.tick))

    def join(self, pairs: Pairs) -> None:
        join = self.hub.join
        for guest, room in pairs:
            join(guest, room, may_publish=True)

    def leave(self, pairs: Pairs) -> None:
        leave = self.hub.leave
        for guest, room in pairs:
            leave(guest, room)


class Least:
    """The same with dicts alone. A room is its name and a dict; a guest has one in `rooms`."""

    def __init__(self, rooms: int, memberships: int) -> None:
        self.channels, self.tick = Channels(default_channels()), Tick(lambda: None)
        self.guests = [self.guest("") for _ in range(memberships // ROOMS_EACH)]
        self.rooms: list[tuple[str, dict[Any, Any]]] = [(f"chat:{number}", {}) for number in range(rooms)]
        for number, guest in enumerate(self.guests):
            places = range(ROOMS_EACH)
            self.join([(guest, self.rooms[(number * ROOMS_EACH + place) % rooms]) for place in places])

    def guest(self, subject: str) -> Any:
        owner: Any = None
        return Guest(subject, PLAIN, Outbox(self.channels, owner, self.tick))

    def join(self, pairs: Pairs) -> None:
        for guest, room in pairs:
            name, inside = room
            inside[guest] = guest.outbox
            guest.rooms[name] = room

    def leave(self, pairs: Pairs) -> None:
        for guest, (name, inside) in pairs:
            del inside[guest]
            del guest.rooms[name]


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def of_some(scene: Scene | Least, chance: random.Random) -> Callable[[], Pairs]:
    """A thousand newcomers, in a thousand rooms: the same ones in each try."""
    rooms = scene.rooms[:: len(scene.rooms) // SPREAD]
    pairs: Pairs = []
    for number in range(MEASURED // ROOMS_EACH):
        newcomer = scene.guest(f"late-{number}")
        pairs += [(newcomer, room) for room in chance.sample(rooms, ROOMS_EACH)]
    chance.shuffle(pairs)
    return lambda: pairs


def of_any(scene: Scene | Least, chance: random.Random) -> Callable[[], Pairs]:
    """Any of all connections, in any rooms it is not in yet: others in each try."""

    def choose() -> Iterator[tuple[Any, Any]]:
        chosen = set()
        while len(chosen) < MEASURED:
            guest, number = chance.choice(scene.guests), chance.randrange(len(scene.rooms))
            room: Any = scene.rooms[number]
            name = room[0] if isinstance(scene, Least) else room.name
            if name not in guest.rooms and (guest, number) not in chosen:
                chosen.add((guest, number))
                yield guest, room

    return lambda: list(choose())


def nanoseconds(scene: Scene | Least, choose: Callable[[], Pairs]) -> tuple[float, float]:
    """A join, and a leave."""
    joins, leaves = [], []
    gc.disable()
    for _ in range(TRIES):
        pairs = choose()
        begin = time.process_time_ns()
        scene.join(pairs)
        joined = time.process_time_ns()
        scene.leave(pairs)
        leaves.append((time.process_time_ns() - joined) / len(pairs))
        joins.append((joined - begin) / len(pairs))
    gc.enable()
    return min(joins), min(leaves)


def measure(rooms: int, memberships: int) -> tuple[list[str], list[str]]:
    """A row of each table, but for the least."""
    scene, chance = Scene(rooms, memberships), random.Random(1)
    costs = *nanoseconds(scene, of_some(scene, chance)), *nanoseconds(scene, of_any(scene, chance))
    size = [f"{rooms:,}", f"{memberships:,}"]
    return (
        [*size, *(f"{cost:,.0f}" for cost in costs)],
        [*size, f"{scene.bytes_a_room:,.0f}", f"{scene.bytes_a_membership:,.0f}", f"{scene.collection:,.0f}"],
    )


def measure_least(rooms: int, memberships: int) -> list[str]:
    """The rest of a row."""
    scene = Least(rooms, memberships)
    return [f"{cost:,.0f}" for cost in nanoseconds(scene, of_any(scene, random.Random(1)))]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Not the largest size.")
def main(quick: bool) -> None:
    """Measure joining, leaving and memory at several sizes."""
    costs, memory = [], []
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        for size in SIZES[:-1] if quick else SIZES:
            of_costs, of_memory = processes.submit(measure, *size).result()
            costs.append((*of_costs, *processes.submit(measure_least, *size).result()))
            memory.append(tuple(of_memory))
    head = "rooms", "memberships"
    every = "join, ns", "leave, ns", "any join, ns", "any leave, ns", "two dicts, in", "two dicts, out"
    click.echo(table((*head, *every), costs))
    click.echo()
    click.echo(table((*head, "bytes a room", "bytes a membership", "full collection, ms"), memory))


if __name__ == "__main__":
    main()
