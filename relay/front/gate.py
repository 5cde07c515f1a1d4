"""The places for connections on their way in: who gets one, who waits in the kernel, who is turned away unheard.

Not here: which connection loses its place to another (limits/pending). The one rule: turning away costs no task and no
TLS handshake, because whoever is turned away comes back at once.
"""

from __future__ import annotations

import trio

from relay.errors import Rejected
from relay.front.refusals import Refusals
from relay.front.state import State
from relay.limits.pending import Pending, Place
from relay.net.sieve import Shut
from relay.session.services import Services


class Gate:
    """`refusals` counts and keeps whom it turns away."""

    def __init__(self, state: State, services: Services, refusals: Refusals) -> None:
        self._state = state
        self._counters = services.counters
        self._refusals = refusals
        self._pending: Pending = state.pending
        self._room = trio.Event()  # set when somebody gives a place back

    async def may_accept(self) -> None:
        """Waits while as many connections as allowed are on their way in, and none of them can be cut; the next wait in
        the kernel's backlog.
        """
        while patience := self._pending.patience(trio.current_time()):
            if self._room.is_set():  # else another listener waits already, for the same event
                self._room = trio.Event()
            with trio.move_on_after(patience):
                await self._room.wait()

    @property
    def crowded(self) -> bool:
        return self._pending.crowded

    def enter(self, address: str, now: float) -> Place | Shut:
        """A place for a connection, or for how long its address is let in no further."""
        doors = self._state.rules.doors
        key = ""  # whom a proxy speaks for will be known later
        if not (doors.expects_header(address) or doors.waits_for_head(address)):
            key = self._state.addresses.key(address)
            rejected = self._refuses(key, address, now)
            if rejected is not None:
                return Shut(key, rejected.retry_after or 0.0)
        place = self._pending.enter(key, now)
        self._counters.pending = len(self._pending)
        return place

    def known(self, place: Place, address: str) -> bool:
        """A PROXY header has told the address. False: it is let in no further."""
        key = self._state.addresses.key(address)
        if self._refuses(key, address, trio.current_time()) is not None:
            return False
        self._pending.move(place, key)
        return True

    def leave(self, place: Place) -> None:
        """It is not on its way in any more. More than once is as once."""
        self._pending.leave(place)
        self._counters.pending = len(self._pending)
        self._room.set()

    def too_slow(self, place: Place, otherwise: Rejected) -> Rejected:
        """Why a step was cut short: its place was needed, or `otherwise`: its time was up. The place is given back."""
        if place.was_cut:
            return self._pending.crowded_out()
        self._pending.slow(place.key, trio.current_time())
        self.leave(place)
        return otherwise

    def _refuses(self, key: str, address: str, now: float) -> Rejected | None:
        try:
            self._pending.check(key, now)
        except Rejected as rejected:
            self._refusals.rejected(rejected, address)
            return rejected
        return None
