"""A relay with one plugin, for tests: real rooms, outboxes and supervision; no socket, and time that jumps.

Not here: what a client does and hears (member). The one rule: a plugin is checked and called exactly as in a relay.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final

import msgspec
import trio
import trio.testing

from relay.auth.grants import compile_patterns
from relay.config.schema import Channel, PluginTable, Supervision, default_channels
from relay.counters import Counters
from relay.decisions import Decisions, Feed
from relay.delivery.channels import Channels
from relay.delivery.tick import Tick
from relay.errors import ConfigError, ConfigProblem
from relay.plugin.api import Plugin
from relay.plugin.loader import accept
from relay.plugin.recorder import Recorder
from relay.plugin.routing import build_router
from relay.plugin.supervisor import Supervised
from relay.plugin.testing.member import Member
from relay.plugin.testing.transcript import Transcript, difference
from relay.plugin.watchdog import Watchdog
from relay.rooms.hub import Hub
from relay.rooms.moving import rename
from relay.rooms.room import Room

START: Final = 1_800_000_000.0  # Unix time at which every test begins


class _Booked:
    """A timer's booking."""

    def __init__(self, when: float, action: Callable[[], None]) -> None:
        self.when = when
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        self.action = None


class PluginTester:
    """A relay with one plugin. `table` takes the common keys of a plugin's table: history, presence, max_members, …

    `settings` are the plugin's own; `channels` adds to or changes the five default channels. The plugin is checked as
    at start: raises ConfigError for a misspelt hook or a wrong setting. `hook_timeout` in seconds; `failures` as in
    [supervision]. A plugin in front of others (`filters="*"`) has rooms of `owner`. Inside `async with` the plugin's
    `run` runs; at the end it is cancelled.
    """

    def __init__(
        self,
        plugin: type[Plugin],
        *,
        rooms: str | list[str] = "*",
        settings: Mapping[str, Any] | None = None,
        name: str = "",
        channels: Mapping[str, Channel] | None = None,
        hook_timeout: float = 10.0,
        failures: int = 0,
        owner: type[Plugin] | None = None,
        **table: Any,
    ) -> None:
        self.failures: list[BaseException] = []
        """What the plugin raised that was no Refused."""
        self.channels: Final = Channels({**default_channels(), **(channels or {})})
        self.counters: Final = Counters()
        self._stirred = trio.Event()
        self._tick = Tick(lambda: self._token.run_sync_soon(self.deliver, idempotent=True))
        self._recorder = Recorder()
        self._advanced = 0.0
        self._trio_start: float | None = None
        epochs = itertools.count(1)
        self.hub: Final = Hub(
            self.channels,
            lambda room: None,
            clock=self.now,
            new_epoch=lambda: f"epoch-{next(epochs)}",
            schedule=self._schedule,
        )
        self.hub.on_removed = _removed
        self._booked: list[_Booked] = []
        self._supervision = Supervision(
            failures=failures, retry=table.pop("retry", 0.0), trace=table.pop("trace", False)
        )
        self._hook_timeout = hook_timeout
        given = {**table} if owner is not None else {"rooms": rooms, **table}
        self.supervised: Final = self._supervise(name or plugin.__name__.lower(), plugin, given, settings or {})
        others = [] if owner is None else [self._supervise("owner", owner, {"rooms": rooms}, {})]
        self._all: Final = [self.supervised, *others]
        self.decisions: Final = Decisions(0, self.now)
        """`decisions.add(kind, code, subject=…)`: what the relay decides; the plugin hears of it where its table says
        `decisions=True`."""
        if self.supervised.hears_decisions:
            self.decisions.feed = Feed(self._schedule)
            self.decisions.feed.listeners.append(self.supervised.decisions)
        self.hub.router = build_router(self._all)

    def _supervise(
        self, name: str, plugin: type[Plugin], table: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Supervised:
        common = msgspec.convert(table, PluginTable)
        problems: list[ConfigProblem] = []
        loaded = accept(
            name,
            plugin,
            common,
            settings,
            patterns=compile_patterns([common.rooms] if isinstance(common.rooms, str) else common.rooms),
            channels=self.channels,
            where=lambda key: "test",
            problems=problems,
        )
        if loaded is None:
            raise ConfigError(problems)
        supervised = Supervised(
            loaded,
            self.hub,
            counters=self.counters,
            watchdog=Watchdog(self.counters, 0),
            supervision=self._supervision,
            hook_timeout=self._hook_timeout,
            clock=lambda: self.now() - START,
            schedule=self._schedule,
        )
        supervised.faults.on_failure = lambda hook, problem: self.failures.append(problem)
        return supervised

    def _schedule(self, seconds: float, action: Callable[[], None]) -> _Booked:
        booked = _Booked(self.now() + seconds, action)
        self._booked.append(booked)
        if self._trio_start is not None:
            self._nursery.start_soon(self._wait_for, booked)
        return booked

    async def _wait_for(self, booked: _Booked) -> None:
        await trio.sleep(max(0.0, booked.when - self.now()))
        self._run_due()

    def _run_due(self) -> None:
        """Does what is due, in order; what that books is due later."""
        now = self.now()
        due = sorted((one for one in self._booked if one.when <= now), key=lambda one: one.when)
        self._booked = [one for one in self._booked if one.when > now]
        for one in due:
            action, one.action = one.action, None
            if action is not None:
                action()

    @property
    def plugin(self) -> Any:
        """The plugin itself."""
        return self.supervised.plugin

    def room(self, name: str) -> Room:
        """An open room. Raises KeyError while there is none."""
        return self.hub.rooms[name]

    def rename(self, room: str, name: str) -> None:
        """Gives a room, open or remembered, another name, as the API does. Raises Refused."""
        rename(self.hub, room, name)

    def now(self) -> float:
        """Unix time in the test, seconds: moved by `advance`, and by Trio's MockClock if there is one."""
        moved = 0.0
        if self._trio_start is not None:
            moved = trio.current_time() - self._trio_start
        return START + self._advanced + moved

    async def advance(self, seconds: float) -> None:
        """Lets time pass, and all tasks do what they then have to do."""
        clock = trio.lowlevel.current_clock()
        if isinstance(clock, trio.testing.MockClock):
            clock.jump(seconds)
        else:
            self._advanced += seconds
        self._run_due()
        await self.settle()

    async def settle(self) -> None:
        """Waits until every other task waits for something: what `run` or an async on_leave had to do is done."""
        await trio.testing.wait_all_tasks_blocked()

    def connect(self, subject: str) -> Member:
        """A connection that is in no room yet."""
        return Member(self, subject)

    async def join(self, room: str, subject: str, *, last: int = 0, may_publish: bool = True) -> Member:
        """A new connection of `subject`, in `room`. Raises Refused."""
        member = self.connect(subject)
        await member.join(room, last=last, may_publish=may_publish)
        return member

    async def play(self, text: str) -> str:
        """Does what a transcript says, and returns it with all that everybody heard: to record one. See `check`."""
        return await Transcript(self).play(textwrap.dedent(text))

    async def check(self, text: str) -> None:
        """Plays a transcript, and fails where what is heard is not what it says (see `transcript`).

        Raises AssertionError with the difference, ValueError for a line that is none.
        """
        text = textwrap.dedent(text)
        wrong = difference(text, await Transcript(self).play(text))
        assert not wrong, f"\n{wrong}"

    def deliver(self) -> None:
        """Brings members what waits for them. Each action of a member and each turn of the loop does it."""
        self._tick.flush()
        stirred, self._stirred = self._stirred, trio.Event()
        stirred.set()

    async def __aenter__(self) -> PluginTester:
        if isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock):
            self._trio_start = trio.current_time()
        self._token = trio.lowlevel.current_trio_token()
        self._nursery_manager = trio.open_nursery()
        self._nursery = await self._nursery_manager.__aenter__()
        for plugin in self._all:
            await self._nursery.start(plugin.background.serve)
        if self._trio_start is not None:
            for booked in self._booked:  # by the plugin's `__init__`
                self._nursery.start_soon(self._wait_for, booked)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._nursery.cancel_scope.cancel()
        # The test's own exception is kept out of the nursery, which would wrap it in a group.
        await self._nursery_manager.__aexit__(None, None, None)


def _removed(peer: Any, room: Room, why: str, code: str) -> None:
    peer._kicked(room, why)
