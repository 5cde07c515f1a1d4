"""Where newcomers wait: for their turn, when it is ours to do something; and for their deadline, when it is theirs.

What a newcomer's handshake costs is done in turns, one address after the other, a bounded time at once, and after the
poller has served all sessions; an address whose handshakes came to nothing lately has its turn when nobody else waits
(limits/turns). Not here: what is done in a turn (newcomer), what becomes of the slow (reception). The one rule: nobody
who waits for a turn is cut for being slow, and no turn and no cutting is so long that others notice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Protocol

import trio

from relay.front.newcomer import Newcomer
from relay.front.state import State
from relay.limits.patience import Patience
from relay.limits.turns import Turns
from relay.net.poller import Poller
from relay.session.services import Services

TURN: Final = 0.002
"""Seconds of newcomers' work, then sessions come first again. One step takes a quarter of a millisecond, nearly all of
it signing; of the work of those in arrears it is one step at a time.
"""
CUTS: Final = 16
"""Newcomers cut for being slow, then others have a turn."""
ANSWERS: Final = 2
"""Of these, how many are told why: that costs as much as a handshake."""


class Host(Protocol):
    """Who decides about those who wait here."""

    def proceed(self, newcomer: Newcomer, now: float) -> None:
        """It is its turn. Raises nothing."""

    def too_slow(self, newcomer: Newcomer) -> bool:
        """Its time is up. Whether it is told."""


class Lobby:
    """`idle` tells, once nobody comes any more, whether nobody is left elsewhere either."""

    def __init__(self, state: State, services: Services, poller: Poller, host: Host, idle: Callable[[], bool]) -> None:
        self._state = state
        self._services = services
        self._poller = poller
        self._host = host
        self._idle = idle
        self._turns: Turns[Newcomer] = Turns()
        self._through: list[Newcomer] = []  # TLS, in this turn
        self._securing: Patience[Newcomer] = Patience()
        self._reading: Patience[Newcomer] = Patience()
        self._wake = trio.Event()
        self._asleep = False  # until something happens
        self._closing = False
        self.here: set[Newcomer] = set()
        poller.afterwards = self.serve

    # Turns.

    def ready(self, newcomer: Newcomer, now: float) -> None:
        """Something has come: it is our turn."""
        pending, place = self._state.pending, newcomer.place
        newcomer.queued = True
        pending.is_ours(place)
        self._turns.put(place.key, newcomer, last=pending.in_arrears(place.key, now))
        self._poller.ask()

    def waits(self, newcomer: Newcomer, *, to_write: bool = False) -> None:
        """All that had come was read, or there is no room for an answer: it is the client's turn again."""
        self._state.pending.is_theirs(newcomer.place, newcomer.interrupt)
        if to_write:
            self._poller.watch(newcomer.fd, read=False, write=True)
        else:
            self._poller.drained(newcomer.fd)

    def written(self, newcomer: Newcomer) -> None:
        """There was room."""
        self._poller.watch(newcomer.fd, read=True, write=False)

    def serve(self, now: float) -> bool:
        """Does some of what is ours to do. True: there is more."""
        turns = self._turns
        if not turns:
            return False
        tick = self._poller.tick
        tick.running, tick.alone = True, False
        until = tick.clock() + TURN
        while (newcomer := turns.take()) is not None:
            newcomer.queued = False
            if not newcomer.over:
                self._host.proceed(newcomer, now)
                if not turns.pressing or tick.clock() >= until:
                    break
        # One kind of work after the other: what a request takes finds in the processor's cache what the last one left.
        through, self._through = self._through, []
        for newcomer in through:
            if not newcomer.over:
                self._host.proceed(newcomer, now)
        tick.flush()
        return len(turns) > 0

    # Deadlines.

    def enter(self, newcomer: Newcomer, now: float) -> None:
        """Its first step begins. Raises OSError where the poller has no room for it."""
        self._poller.add(newcomer.fd, newcomer, once=True)
        self.here.add(newcomer)
        self._begin(newcomer, now)

    def secured(self, newcomer: Newcomer, now: float) -> None:
        """TLS is done, and the request head's time begins. It may have come already: that is looked at in this turn."""
        self._through.append(newcomer)
        self._end(newcomer)
        newcomer.secured = True
        self._begin(newcomer, now)

    def leave(self, newcomer: Newcomer) -> None:
        """It is none any more. The poller still knows its descriptor."""
        newcomer.over = True
        self.here.discard(newcomer)
        self._end(newcomer)

    def _begin(self, newcomer: Newcomer, now: float) -> None:
        self._state.pending.waits(newcomer.place, newcomer.interrupt, now)
        timeouts = self._services.config.timeouts
        if newcomer.secured:
            self._reading.begin(newcomer, now + timeouts.head)
        else:
            self._securing.begin(newcomer, now + timeouts.tls)
        if self._asleep:
            self._wake.set()

    def _end(self, newcomer: Newcomer) -> None:
        self._state.pending.heard(newcomer.place)
        (self._reading if newcomer.secured else self._securing).end(newcomer)

    def _cut(self, now: float) -> bool:
        """Some of those whose time is up. True: there may be more."""
        answers = 0
        for patience in (self._securing, self._reading):
            for _ in range(CUTS):
                newcomer = patience.late(now)
                if newcomer is None:
                    break
                if newcomer.queued:  # it waits for us
                    self._begin(newcomer, now)
                    self._state.pending.is_ours(newcomer.place)
                    continue
                answers += self._host.too_slow(newcomer)
                if answers >= ANSWERS:
                    return True
            else:
                return True
        return False

    async def run(self) -> None:
        """Sees to deadlines, until `close` was called and nobody is left."""
        while not (self._closing and not self.here and self._idle()):
            if self._cut(trio.current_time()):
                await trio.lowlevel.checkpoint()
                continue
            until = min(self._securing.next, self._reading.next)
            self._asleep = until == math.inf
            with trio.move_on_at(until):
                await self._wake.wait()
            # Where this process was held up, what has come meanwhile is read before anybody is judged.
            await trio.lowlevel.checkpoint()
            self._asleep = False
            self._wake = trio.Event()

    def look(self) -> None:
        """Somebody has gone: it may have been the last one."""
        if self._closing:
            self._wake.set()

    def close(self) -> None:
        """Nobody comes any more."""
        self._closing = True
        self._wake.set()
