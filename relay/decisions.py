"""What the relay decided against somebody, lately: refused, throttled, dropped, closed. A bounded ring for those who
ask why (`relay explain`, /api/v1/decisions); and a feed of them, for plugins that want to hear of each.

Not here: deciding, and words for a code. The one rule: no token and no payload is ever kept, and whoever causes many
decisions washes away their own kind only: repeats are counted in one entry, and when the ring is full the kind that has
most entries loses its oldest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["tls", "rejected", "refused", "throttled", "dropped", "kicked", "closed", "left"]
KINDS: Final[tuple[Kind, ...]] = ("tls", "rejected", "refused", "throttled", "dropped", "kicked", "closed", "left")
"""TLS handshake failed; WebSocket handshake refused; request refused; not read for a while; messages not delivered;
taken out of a room; closed by the relay; gone by itself."""

CODE_CHARS: Final = 64
NAME_CHARS: Final = 255
DETAIL_CHARS: Final = 200
ROOMS_APART: Final = 16
"""Entries one session, or one address without a session, may have before its decisions in different rooms share one."""

FEED_EVERY: Final = 0.1  # seconds between two batches of the feed
FEED_SIZE: Final = 1000  # different decisions in one batch

Key: TypeAlias = tuple[str, str, str, str, str, str]
Listener: TypeAlias = "Callable[[Sequence[Decision], int], None]"
"""Is given a batch, in the order in which they were made, and how many there were beyond it. Raises nothing."""


class Decision:
    """One decision, or `count` of the same. `at` is when it was first made, `last` when last, Unix time in seconds.

    `setting` is the config key behind it, `plugin` the plugin that asked for it; "" is what does not apply.
    """

    __slots__ = (
        "address", "at", "code", "count", "detail", "kind", "last", "plugin", "room", "session", "setting", "subject",
        "tenant",
    )  # fmt: skip

    def __init__(
        self, at: float, kind: Kind, code: str, setting: str, session: str, subject: str, address: str, room: str,
        plugin: str, tenant: str, detail: str,
    ) -> None:  # fmt: skip
        self.at = self.last = at
        self.kind = kind
        self.code = code
        self.setting = setting
        self.session = session
        self.subject = subject
        self.address = address
        self.room = room
        self.plugin = plugin
        self.tenant = tenant
        self.detail = detail
        self.count = 1

    @property
    def who(self) -> str:
        """Whom it is about: the session, where there was one already, else the address."""
        return self.session or self.address

    def __repr__(self) -> str:
        return f"<Decision {self.kind} {self.code} {self.who} x{self.count}>"


class Feed:
    """Decisions on their way to listeners, in batches. What is decided again within one batch is counted in it.

    `later` calls something after so many seconds.
    """

    def __init__(self, later: Callable[[float, Callable[[], None]], object], size: int = FEED_SIZE) -> None:
        self.listeners: list[Listener] = []
        self._later = later
        self._size = size
        self._batch: dict[Key, Decision] = {}
        self._missed = 0
        self._booked = False

    def hear(self, key: Key, decision: Decision) -> None:
        """Costs about as much as keeping it; raises nothing."""
        found = self._batch.get(key)
        if found is not None:
            found.count += decision.count
            found.last = decision.last
        elif len(self._batch) < self._size:
            self._batch[key] = decision
        else:
            self._missed += decision.count
        if not self._booked:
            self._booked = True
            self._later(FEED_EVERY, self.flush)

    def flush(self) -> None:
        """Tells what has come since the last time."""
        self._booked = False
        batch, self._batch = self._batch, {}
        missed, self._missed = self._missed, 0
        if batch:
            for listener in self.listeners:
                listener(tuple(batch.values()), missed)


class Decisions:
    """The ring. `size` entries at most, 0: none are kept. `clock` gives Unix time in seconds.

    `feed` is there while somebody listens. It hears what the ring has forgotten, or never kept.
    """

    __slots__ = ("_by_key", "_by_who", "_ring", "clock", "feed", "size", "tenant")

    def __init__(self, size: int = 10000, clock: Callable[[], float] = lambda: 0.0, tenant: str = "") -> None:
        self.size = size
        self.clock = clock
        self.tenant = tenant
        self.feed: Feed | None = None
        self._ring: dict[str, deque[tuple[Key, Decision]]] = {kind: deque() for kind in KINDS}
        self._by_key: dict[Key, Decision] = {}
        self._by_who: dict[str, int] = {}  # how many entries are about each

    def of_tenant(self, tenant: str) -> Decisions:
        """The same ring, for what happens in one tenant. It has a feed of its own."""
        view = Decisions(self.size, self.clock, tenant)
        view._ring, view._by_key, view._by_who = self._ring, self._by_key, self._by_who
        return view

    def add(
        self,
        kind: Kind,
        code: str,
        *,
        setting: str | None = None,
        session: str = "",
        subject: str = "",
        address: str = "",
        room: str = "",
        plugin: str = "",
        detail: str = "",
        count: int = 1,
    ) -> None:
        """Keeps a decision, or counts it where the same was made before. Costs about a microsecond; raises nothing."""
        feed = self.feed
        if not self.size and feed is None:
            return
        code, room, subject = code[:CODE_CHARS], room[:NAME_CHARS], subject[:NAME_CHARS]
        who = session or address
        key = (kind, code, setting or "", who, room, self.tenant)
        if feed is not None:
            decision = Decision(
                self.clock(), kind, code, setting or "", session, subject, address, room, plugin, self.tenant,
                detail[:DETAIL_CHARS],
            )  # fmt: skip
            decision.count = count
            feed.hear(key, decision)
            if not self.size:
                return
        found = self._by_key.get(key)
        if found is None and room and self._by_who.get(who, 0) >= ROOMS_APART:
            room, detail = "", "in several rooms"
            key = (kind, code, setting or "", who, "", self.tenant)
            found = self._by_key.get(key)
        now = self.clock()
        if found is not None:
            found.count += count
            found.last = now
            if subject:
                found.subject = subject
            return
        if len(self._by_key) >= self.size:
            self._forget()
        decision = Decision(
            now, kind, code, setting or "", session, subject, address, room, plugin, self.tenant,
            detail[:DETAIL_CHARS],
        )  # fmt: skip
        decision.count = count
        self._ring[kind].append((key, decision))
        self._by_key[key] = decision
        self._by_who[who] = self._by_who.get(who, 0) + 1

    def _forget(self) -> None:
        key, decision = max(self._ring.values(), key=len).popleft()
        del self._by_key[key]
        left = self._by_who[decision.who] - 1
        if left:
            self._by_who[decision.who] = left
        else:
            del self._by_who[decision.who]

    def find(
        self,
        *,
        session: str | None = None,
        subject: str | None = None,
        room: str | None = None,
        address: str | None = None,
        code: str | None = None,
        kind: str | None = None,
        tenant: str | None = None,
        since: float = 0.0,
    ) -> list[Decision]:
        """Those that match all that is given, the latest first. Looks at every entry: for people who ask."""
        wanted = {
            name: value
            for name, value in (
                ("session", session), ("subject", subject), ("room", room), ("address", address), ("code", code),
                ("kind", kind), ("tenant", tenant),
            )
            if value is not None
        }  # fmt: skip
        found = [
            decision
            for decision in self
            if decision.last >= since and all(getattr(decision, name) == value for name, value in wanted.items())
        ]
        found.sort(key=lambda decision: decision.last, reverse=True)
        return found

    def __iter__(self) -> Iterator[Decision]:
        return (decision for ring in self._ring.values() for _, decision in ring)

    def __len__(self) -> int:
        return len(self._by_key)
