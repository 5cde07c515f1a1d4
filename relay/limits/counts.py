"""How many at once, per key; and what one network address may do.

Not here: sockets, and the process-wide limit. The one rule: what nobody uses is not stored; after everyone has left,
the tables are empty.
"""

from __future__ import annotations

from typing import Final

from relay.config import schema
from relay.errors import Rejected
from relay.limits.addresses import UNIX, address_key
from relay.limits.buckets import Buckets, Rate


class Counts:
    """How many of each key are inside, never more than `limit` (0: any number)."""

    __slots__ = ("_inside", "limit", "total")

    def __init__(self, limit: int) -> None:
        self.limit = limit  # may be changed; who is inside stays
        self.total = 0
        self._inside: dict[str, int] = {}

    def enter(self, key: str) -> bool:
        """One more, unless that is too many. Whoever got True owes one `leave`."""
        count = self._inside.get(key, 0)
        if self.limit and count >= self.limit:
            return False
        self._inside[key] = count + 1
        self.total += 1
        return True

    def leave(self, key: str) -> None:
        """One less. Raises KeyError when nobody is inside, because then somebody left twice."""
        count = self._inside[key]
        if count == 1:
            del self._inside[key]
        else:
            self._inside[key] = count - 1
        self.total -= 1

    def count(self, key: str) -> int:
        return self._inside.get(key, 0)

    def __len__(self) -> int:
        """Keys with anybody inside."""
        return len(self._inside)


class AddressLimits:
    """Connections of one address, and how fast it opens new ones.

    An address is an IPv4 address or an IPv6 network of `ipv6_prefix` bits, which is what one subscriber gets. Who has
    none is not limited by it.
    """

    def __init__(self, limits: schema.Limits) -> None:
        self._counts: Final = Counts(limits.connections_per_address)
        self._prefix = limits.ipv6_prefix
        self._buckets = Buckets(Rate(limits.handshakes_per_address, limits.handshakes_burst))

    def key(self, address: str) -> str:
        """What an address counts as; "": as nobody's. Who comes through a Unix socket has none to be counted by."""
        return "" if address == UNIX else address_key(address, self._prefix)

    def enter(self, address: str, now: float) -> str:
        """Let one connection in. Returns its key, which `leave` wants back.

        Raises Rejected 429 `too_many_handshakes` or `too_many_connections`, with `retry_after` in seconds. The second
        spends of the rate all the same: an address that is full may not knock without end either.
        """
        key = self.key(address)
        if not key:
            return key
        if self._buckets.rate.per_second:
            wait = self._buckets.get(key, now).try_take(now)
            if wait:
                raise Rejected(
                    429,
                    "too_many_handshakes",
                    "your address opens connections too fast",
                    retry_after=wait,
                    setting="limits.handshakes_per_address",
                )
        if not self._counts.enter(key):
            raise Rejected(
                429,
                "too_many_connections",
                "your address has as many connections as it may have",
                retry_after=10.0,
                setting="limits.connections_per_address",
            )
        return key

    def adopt(self, limits: schema.Limits) -> None:
        """New limits, from now on; who is inside stays."""
        self._counts.limit = limits.connections_per_address
        self._prefix = limits.ipv6_prefix
        self._buckets = Buckets(Rate(limits.handshakes_per_address, limits.handshakes_burst))

    def leave(self, key: str) -> None:
        """The connection that `enter` gave this key is gone. Raises KeyError when it was not inside."""
        if key:
            self._counts.leave(key)

    def prune(self, now: float) -> None:
        """Forget the addresses that have their whole burst again. Done by itself as the table grows."""
        self._buckets.prune(now)

    @property
    def connections(self) -> int:
        return self._counts.total

    def __len__(self) -> int:
        """Addresses remembered, for whatever reason, at most; what memory grows with."""
        return len(self._counts) + len(self._buckets)
