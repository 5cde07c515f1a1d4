"""What joining and leaving costs as a relay grows, and what a room and a membership take of memory.

    python -m benchmarks.rooms              up to 100,000 rooms and a million memberships: about 1 GB, a minute
    python -m benchmarks.rooms --quick      up to 10,000 rooms

In memory: real Hub, Room and Membership, each connection an Outbox in ten rooms. Not here: sockets, plugins' hooks. The
one rule: CPU time, and the process's own memory as the kernel counts it.
"""

from __future__ import annotations

import gc
import time
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
from relay.rooms.room import Room, RoomRule

ROOMS_EACH: Final = 10
MEASURED: Final = 10_000  # joins and leaves that are timed
SPREAD: Final = 1_000  # rooms that these are in, of all sizes the same number: so many dictionaries grow on the way
TRIES: Final = 5
SIZES: Final = ((1_000, 10_000), (10_000, 100_000), (100_000, 1_000_000))


class Handler:
    """A plugin without hooks."""

    owner = None

    def opened(self, room: Room) -> None: ...
    def freed(self, room: Room) -> None: ...


class Guest:
    """A connection, as the hub sees one."""

    __slots__ = ("outbox", "protocol", "session", "subject")

    def __init__(self, subject: str, protocol: Plain, outbox: Outbox) -> None:
        self.subject = self.session = subject
        self.protocol = protocol
        self.outbox = outbox


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(rooms: int, memberships: int) -> tuple[str, ...]:
    """One row of the table."""
    channels = Channels(default_channels())
    rule, handler, protocol = RoomRule("bench", channels.default), Handler(), Plain()
    owner: Any = None
    tick = Tick(lambda: None)
    routed: Any = (rule, handler)
    hub = Hub(channels, lambda name: routed, clock=lambda: 1.0, new_epoch=lambda: "epoch")
    names = [f"chat:{number}" for number in range(rooms)]
    guests: list[Any] = [
        Guest(f"user-{number}", protocol, Outbox(channels, owner, tick)) for number in range(memberships // ROOMS_EACH)
    ]
    gc.collect()
    start = resident()
    opened = [hub.open(name) for name in names]
    gc.collect()
    of_rooms = resident() - start
    for number, guest in enumerate(guests):
        for place in range(ROOMS_EACH):
            hub.join(guest, opened[(number * ROOMS_EACH + place) % rooms], may_publish=True)
    gc.collect()
    of_memberships = resident() - start - of_rooms
    late: list[Any] = [
        Guest(f"late-{number}", protocol, Outbox(channels, owner, tick)) for number in range(MEASURED // ROOMS_EACH)
    ]
    step = rooms // SPREAD
    chosen = [
        (guest, opened[(number * ROOMS_EACH + place) * step % rooms])
        for number, guest in enumerate(late)
        for place in range(ROOMS_EACH)
    ]
    gc.disable()
    joins, leaves = [], []
    for _ in range(TRIES):
        begin = time.process_time_ns()
        for guest, room in chosen:
            hub.join(guest, room, may_publish=True)
        joined = time.process_time_ns()
        for guest, room in chosen:
            hub.leave(guest, room)
        joins.append((joined - begin) / len(chosen))
        leaves.append((time.process_time_ns() - joined) / len(chosen))
    gc.enable()
    return (
        f"{rooms:,}", f"{memberships:,}", f"{min(joins):,.0f}", f"{min(leaves):,.0f}",
        f"{of_rooms / rooms:,.0f}", f"{of_memberships / memberships:,.0f}",
    )  # fmt: skip


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Not the largest size.")
def main(quick: bool) -> None:
    """Measure joining, leaving and memory at several sizes."""
    rows = [measure(*size) for size in (SIZES[:-1] if quick else SIZES)]
    head = ("rooms", "memberships", "join, ns", "leave, ns", "bytes a room", "bytes a membership")
    click.echo(table(head, rows))


if __name__ == "__main__":
    main()
