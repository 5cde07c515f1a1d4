"""Where newcomers wait: turns and deadlines, without sockets that say anything."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import trio
import trio.testing

from relay.config.schema import Config
from relay.delivery.tick import Tick
from relay.front.doors import Visit
from relay.front.lobby import ANSWERS, CUTS, TURN, Lobby
from relay.front.newcomer import Newcomer
from relay.limits.counts import AddressLimits
from relay.limits.pending import Pending


class Poller:
    """Tells nothing by itself."""

    def __init__(self) -> None:
        self.tick = Tick(lambda: None)
        self.now = 0.0
        self.tick.clock = lambda: self.now
        self.afterwards: Callable[[float], bool] = lambda now: False
        self.known: set[int] = set()

    def ask(self) -> None: ...
    def drained(self, fd: int) -> None: ...
    def add(self, fd: int, handler: object, *, once: bool = False) -> None:
        self.known.add(fd)


class House:
    """A lobby, and what is done about those in it. A turn of a newcomer takes `cost` seconds."""

    def __init__(self, *, tells: bool = False, cost: float = TURN / 4) -> None:
        self.config = msgspec.convert({"timeouts": {"tls": 5.0, "head": 5.0}}, Config)
        self.pending = Pending(self.config.limits)
        self.poller = Poller()
        self.tells, self.cost = tells, cost
        self.busy = False
        self.served: list[str] = []
        self.cut: list[str] = []
        self.names: dict[Newcomer, str] = {}
        self.socks: list[socket.socket] = []
        state: Any = SimpleNamespace(pending=self.pending)
        services: Any = SimpleNamespace(config=self.config)
        poller: Any = self.poller
        self.lobby = Lobby(state, services, poller, self, lambda: not self.busy)

    def come(self, key: str, name: str = "", *, secured: bool = False) -> Newcomer:
        ours, theirs = socket.socketpair()
        self.socks += [ours, theirs]
        visit = Visit(AddressLimits(self.config.limits), key)
        host: Any = self
        place = self.pending.enter(key, trio.current_time())
        newcomer = Newcomer(host, self.lobby, ours, place, visit, None, late=False, tls=not secured)
        self.names[newcomer] = name or key
        self.lobby.enter(newcomer, trio.current_time())
        return newcomer

    def ready(self, *newcomers: Newcomer) -> None:
        for newcomer in newcomers:
            newcomer.readable(trio.current_time())

    # What the lobby asks of its host.

    def proceed(self, newcomer: Newcomer, now: float) -> None:
        self.served.append(self.names[newcomer])
        self.poller.now += self.cost

    def too_slow(self, newcomer: Newcomer) -> bool:
        self.cut.append(self.names[newcomer])
        self.lobby.leave(newcomer)
        self.pending.leave(newcomer.place)
        return self.tells


@asynccontextmanager
async def house(**settings: Any) -> AsyncIterator[House]:
    made = House(**settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.lobby.run)
        await trio.testing.wait_all_tasks_blocked()
        yield made
        nursery.cancel_scope.cancel()
    for sock in made.socks:
        sock.close()


async def test_one_turn_is_short_and_says_that_there_is_more(autojump_clock: trio.testing.MockClock) -> None:
    async with house() as made:
        crowd = [made.come("mallory", f"mallory {number}") for number in range(20)]
        ann = made.come("ann")
        made.ready(*crowd, ann)
        assert made.poller.afterwards(0.0)
        assert made.served == ["mallory 0", "ann", "mallory 1", "mallory 2"]
        while made.poller.afterwards(0.0):
            pass
        assert len(made.served) == 21


async def test_those_in_arrears_come_last_and_a_step_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    async with house() as made:
        made.pending.failed("mallory", trio.current_time())
        crowd = [made.come("mallory", f"mallory {number}") for number in range(3)]
        made.ready(*crowd)
        assert made.poller.afterwards(0.0)
        made.ready(made.come("ann"))
        assert made.poller.afterwards(0.0)
        assert made.served == ["mallory 0", "ann"]
        assert made.poller.afterwards(0.0)
        assert not made.poller.afterwards(0.0)
        assert made.served == ["mallory 0", "ann", "mallory 1", "mallory 2"]


async def test_who_says_more_before_its_turn_has_one_turn(autojump_clock: trio.testing.MockClock) -> None:
    async with house() as made:
        ann = made.come("ann")
        made.ready(ann, ann, ann)
        assert not made.poller.afterwards(0.0)
        assert made.served == ["ann"]


async def test_who_is_gone_before_its_turn_has_none(autojump_clock: trio.testing.MockClock) -> None:
    async with house() as made:
        ann, bob = made.come("ann"), made.come("bob")
        made.ready(ann, bob)
        made.lobby.leave(ann)
        assert not made.poller.afterwards(0.0)
        assert made.served == ["bob"]


async def test_each_step_has_its_own_time(autojump_clock: trio.testing.MockClock) -> None:
    async with house() as made:
        made.come("silent")
        ann = made.come("ann")
        await trio.sleep(4.0)
        made.lobby.secured(ann, trio.current_time())
        await trio.sleep(4.0)
        assert made.cut == ["silent"]
        await trio.sleep(2.0)
        assert made.cut == ["silent", "ann"]


async def test_who_waits_for_us_is_not_cut(autojump_clock: trio.testing.MockClock) -> None:
    async with house() as made:
        ann = made.come("ann")
        made.ready(ann)
        await trio.sleep(30.0)
        assert made.cut == []
        made.poller.afterwards(0.0)
        made.lobby.waits(ann)
        await trio.sleep(5.1)
        assert made.cut == ["ann"]


async def test_hundreds_whose_time_is_up_together_are_cut_over_many_turns(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with house() as made:
        for number in range(10 * CUTS):
            made.come(f"address {number}")
        begun = trio.current_time()
        with trio.move_on_at(begun + 5.0):
            await trio.sleep_forever()
        most = 0
        while len(made.cut) < 10 * CUTS:
            before = len(made.cut)
            await trio.lowlevel.checkpoint()
            most = max(most, len(made.cut) - before)
        assert most <= 2 * CUTS, "others have had turns in between"


async def test_few_of_them_are_told_why_in_one_turn(autojump_clock: trio.testing.MockClock) -> None:
    async with house(tells=True) as made:
        for number in range(20):
            made.come(f"address {number}", secured=True)
        with trio.move_on_after(5.0):
            await trio.sleep_forever()
        most = 0
        while len(made.cut) < 20:
            before = len(made.cut)
            await trio.lowlevel.checkpoint()
            most = max(most, len(made.cut) - before)
        assert most <= 2 * ANSWERS


async def test_it_closes_when_the_last_one_has_gone(autojump_clock: trio.testing.MockClock) -> None:
    made = House()
    ended = trio.Event()

    async def run() -> None:
        await made.lobby.run()
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        ann = made.come("ann")
        made.busy = True
        made.lobby.close()
        await trio.sleep(1.0)
        made.lobby.leave(ann)
        made.lobby.look()
        await trio.sleep(1.0)
        assert not ended.is_set()
        made.busy = False
        made.lobby.look()
        await ended.wait()
    for sock in made.socks:
        sock.close()
