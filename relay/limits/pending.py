"""Connections on their way in: how many there may be, and which of them has to go when there are too many.

Who holds a place and sends nothing, or a byte now and then, costs others theirs. So when all places are taken, the
connection that has waited longest for its client is cut: at once where its address holds more than its share, else
after `GRACE` seconds in one step of the handshake, which an honest client needs only where the network is very slow.
And an address whose connections had to be cut is let in no further for a while: what it costs is the TLS handshakes.
Before that, it is in arrears: what it wants done is done when nobody else wants anything (limits/turns).

Not here: sockets and tasks. The one rule: a place is cut only while the connection waits for its client, so a storm of
honest clients, who wait for us, cuts nobody; they wait in the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from relay.config import schema
from relay.errors import Rejected
from relay.limits.buckets import Buckets, Rate

GRACE: Final = 2.0  # seconds
LEAST_SHARE: Final = 8
SHARES: Final = 16  # an address may hold one of so many parts of the places while all are taken
_ANY: Final = 1 << 62
LONGEST: Final = 30.0  # seconds an address is kept out after its last slow connection, at most
ARREARS: Final = Rate(1.0, 30.0)
"""What an address may owe: a second for each handshake that came to nothing, half a minute in all."""


class Place:
    """One connection's. `interrupt` is set while it waits for its client, and not while it waits for us; `was_cut`
    once it has been called.
    """

    __slots__ = ("interrupt", "key", "since", "was_cut")

    def __init__(self, key: str) -> None:
        self.key = key  # "": it is not known yet for whom a proxy speaks, or that is not limited
        self.since = 0.0
        self.interrupt: Callable[[], None] | None = None
        self.was_cut = False


class Pending:
    """All places. Times are the caller's `now`, in seconds."""

    def __init__(self, limits: schema.Limits) -> None:
        self._by_key: dict[str, dict[Place, None]] = {}
        self._waiting: dict[Place, None] = {}  # for their clients, or we are at it; who began first comes first
        self._count = 0
        self._arrears = Buckets(ARREARS)
        self.adopt(limits)

    def adopt(self, limits: schema.Limits) -> None:
        """New limits, from now on."""
        self._limit = limits.pending_handshakes
        share = max(LEAST_SHARE, self._limit // SHARES)
        self._share = share if 2 * share < self._limit else _ANY  # so few places are not shared out
        self._slow = Buckets(Rate(limits.slow_handshakes_per_address, limits.slow_handshakes_burst))

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        return self._limit > 0 and self._count >= self._limit

    @property
    def crowded(self) -> bool:
        """More than half of the places are taken."""
        return self._limit > 0 and self._count > self._limit // 2

    # Coming and going.

    def check(self, key: str, now: float) -> None:
        """Raises Rejected for an address whose connections were slow, or hold more than their share of full places."""
        if self._slow.rate.per_second:
            bucket = self._slow.find(key)
            wait = bucket.try_take(now, 0.0) if bucket is not None else 0.0
            if wait:
                raise Rejected(
                    429,
                    "too_many_slow",
                    "connections from your address did not finish their handshakes",
                    retry_after=wait,
                    setting="limits.slow_handshakes_per_address",
                )
        if key and self.full and len(self._by_key.get(key, ())) >= self._share:
            raise self.crowded_out()

    def crowded_out(self) -> Rejected:
        return Rejected(
            503,
            "crowded_out",
            "too many connections are on their way in, and yours waited longest or its address has most of them",
            retry_after=1.0,
            setting="limits.pending_handshakes",
        )

    def enter(self, key: str, now: float) -> Place:
        """Takes a place, and one more away where all are taken and one can be."""
        if self.full:
            self._make_room(now)
        place = Place(key)
        self._count += 1
        self._by_key.setdefault(key, {})[place] = None
        return place

    def move(self, place: Place, key: str) -> None:
        """It has turned out whose it is."""
        if not place.was_cut and place.key != key:
            self._drop(place)
            place.key = key
            self._by_key.setdefault(key, {})[place] = None

    def leave(self, place: Place) -> None:
        """Gives a place back; more than once is as once."""
        self._waiting.pop(place, None)
        if self._drop(place):
            self._count -= 1

    def _drop(self, place: Place) -> bool:
        places = self._by_key.get(place.key)
        if places is None or place not in places:
            return False
        del places[place]
        if not places:
            del self._by_key[place.key]
        return True

    # Waiting for the client.

    def waits(self, place: Place, interrupt: Callable[[], None], now: float) -> None:
        """One step of the handshake begins, in which the client has its turn."""
        place.since = now
        place.interrupt = interrupt
        self._waiting[place] = None

    def is_ours(self, place: Place) -> None:
        """The client has said something, and it is our turn; the step goes on."""
        place.interrupt = None

    def is_theirs(self, place: Place, interrupt: Callable[[], None]) -> None:
        """That was not enough: it is the client's turn again."""
        place.interrupt = interrupt

    def heard(self, place: Place) -> None:
        """The step has ended."""
        place.interrupt = None
        self._waiting.pop(place, None)

    def slow(self, key: str, now: float) -> None:
        """A connection of this address had to be cut, or its time was up."""
        self.failed(key, now)
        if key and self._slow.rate.per_second:
            bucket = self._slow.get(key, now)
            if bucket.try_take(now, 0.0) < LONGEST:
                bucket.take(now)

    def failed(self, key: str, now: float) -> None:
        """A handshake with this address came to nothing."""
        if key:
            self._arrears.get(key, now).try_take(now)

    def in_arrears(self, key: str, now: float) -> bool:
        """Whether handshakes with this address came to nothing lately: then others have their turn before it."""
        bucket = self._arrears.find(key)
        return bucket is not None and not bucket.is_full(now)

    # When all places are taken.

    def patience(self, now: float) -> float:
        """Seconds until room can be made for one more; 0.0: now. Infinite: not before somebody leaves."""
        if not self.full or self._over_share() is not None:
            return 0.0
        place = self._longest()
        if place is not None:
            return max(0.0, place.since + GRACE - now)
        return GRACE if self._waiting else float("inf")

    def _make_room(self, now: float) -> None:
        place = self._over_share()
        if place is None:
            place = self._longest()
            if place is None or now - place.since < GRACE:
                return
        interrupt = place.interrupt
        place.was_cut = True
        self.slow(place.key, now)
        self.heard(place)
        self.leave(place)
        if interrupt is not None:
            interrupt()

    def _longest(self) -> Place | None:
        """Of those who wait for their client the one that began first."""
        return next((place for place in self._waiting if place.interrupt is not None), None)

    def _over_share(self) -> Place | None:
        """Of the address that holds most places, if they are more than its share, the one that has waited longest."""
        most = max((key for key in self._by_key if key), key=lambda key: len(self._by_key[key]), default=None)
        if most is None or len(self._by_key[most]) <= self._share:
            return None
        waiting = [place for place in self._by_key[most] if place.interrupt is not None]
        return min(waiting, key=lambda place: place.since, default=None)
