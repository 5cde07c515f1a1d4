"""Who is in a room, as its members are told: comings and goings in a small room, numbers in a big one.

Not here: who is in it (hub), who may see it (a member's `may_see`). The one rule: what a list says and what events
said is the same at any moment. So a subject whose leaving is not told yet is still on the list, and when events stop,
because a room has become a crowd, that is told too.

Several connections of one subject are one member. Nothing here costs a message anything, and no room has a task: what
is to be told later is a timer of the house's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from relay.delivery.outbox import Outbox
    from relay.protocols.base import WireProtocol
    from relay.rooms.room import Peer, Room

Claims = Mapping[str, Any]
ENVELOPE: Final = 8  # bytes around a subject in a list, about


class Later(Protocol):
    """Something that will be done."""

    def cancel(self) -> None: ...


Schedule = Callable[[float, Callable[[], None]], Later]
"""Does something after so many seconds."""


class Presence:
    """Of one room whose members may see each other. `counting`: it is a crowd, and only numbers are told."""

    __slots__ = ("_away", "_claims", "_next_count", "_room", "_schedule", "_stale", "counting")

    def __init__(self, room: Room, schedule: Schedule) -> None:
        self._room = room
        self._schedule = schedule
        self._claims: dict[str, Claims] = {}
        self._away: dict[str, Later] = {}  # who has left, and nobody was told yet
        self._next_count: Later | None = None  # until then no number is told
        self._stale = False  # the number has changed since it was told
        self.counting = not room.rule.presence_events_up_to

    # What the hub tells.

    def came(self, peer: Peer, claims: Claims | None, *, first: bool) -> None:
        """A connection has come into the room; `first` of its subject. The claims of the newest one count."""
        subject = peer.subject
        self.renewed(subject, claims)
        if not first:
            return
        away = self._away.pop(subject, None)
        if away is not None:  # for all that the others know it was here all the time
            away.cancel()
        else:
            self._changed(peer, partial(_joined, self._room.name, subject, self._claims.get(subject)))

    def went(self, subject: str) -> None:
        """The last connection of a subject has left."""
        room = self._room
        if not room.size:
            self.stop()  # nobody is left to tell
        elif room.rule.presence_debounce and room.rule.presence:
            self._away[subject] = self._schedule(room.rule.presence_debounce, partial(self._gone, subject))
        else:
            self._gone(subject)

    def renewed(self, subject: str, claims: Claims | None) -> None:
        """A subject has a newer token. The list shows its claims from now on."""
        wanted = self._room.rule.presence_claims
        shown = {name: claims[name] for name in wanted if name in claims} if claims and wanted else None
        if shown:
            self._claims[subject] = shown
        else:
            self._claims.pop(subject, None)

    def stop(self) -> None:
        """The room is empty: nothing more is told."""
        for away in self._away.values():
            away.cancel()
        self._away.clear()
        self._claims.clear()
        if self._next_count is not None:
            self._next_count.cancel()
            self._next_count = None
        self._stale = False

    # What clients ask.

    @property
    def count(self) -> int:
        """Members: those whose leaving is not told yet are among them."""
        return len(self._room.subjects) + len(self._away)

    def listed(self, most_bytes: int) -> dict[str, Any]:
        """`members` and their `count`; `claims` and `connections` by subject, where there is something to say: of
        somebody with one connection and without claims there is not. `events` False: only numbers are told here.

        Of a crowd there is the number alone, and never more than about `most_bytes`.
        """
        room = self._room
        found: dict[str, Any] = {"members": [], "count": self.count}
        if self.counting and room.rule.presence:
            found["events"] = False
        if self.count > room.rule.presence_list_up_to:
            return found
        members, claims, connections = found["members"], {}, {}
        for subject in sorted([*room.subjects, *self._away]):
            shown = self._claims.get(subject)
            most_bytes -= _size(subject, shown)
            if most_bytes < 0:
                break
            members.append(subject)
            if shown is not None:
                claims[subject] = shown
            if (number := room.subjects.get(subject, 0)) != 1:
                connections[subject] = number
        if claims:
            found["claims"] = claims
        if connections:
            found["connections"] = connections
        return found

    # What members are told.

    def _gone(self, subject: str) -> None:
        self._away.pop(subject, None)
        self._claims.pop(subject, None)
        self._changed(None, partial(_left, self._room.name, subject))

    def _changed(self, who: Peer | None, event: Callable[[WireProtocol], bytes | None]) -> None:
        """There is one member more or less. `who` has just come, and need not be told."""
        rule = self._room.rule
        if not rule.presence:
            return
        count, most = self.count, rule.presence_events_up_to
        if self.counting and count <= most - most // 4 and most:  # not at once: else it would change with each of them
            self.counting = False
            if self._next_count is not None:
                self._next_count.cancel()
                self._next_count = None
            self._tell_count(who)
        elif self.counting:
            self._stale = True
            if rule.presence_count_every and self._next_count is None:
                self._next_count = self._schedule(0.0, self._count_again)
        elif count > most:
            self.counting = True
            self._tell_count(who)
        else:
            self._tell(who, event)

    def _tell_count(self, who: Peer | None) -> None:
        room = self._room
        self._stale = False
        told = partial(_counted, room.name, self.count, not self.counting)
        if self.counting and room.rule.presence_count_every:
            self._next_count = self._schedule(room.rule.presence_count_every, self._count_again)
        self._tell(who, told)

    def _count_again(self) -> None:
        self._next_count = None
        if self._stale:
            self._tell_count(None)

    def _tell(self, who: Peer | None, event: Callable[[WireProtocol], bytes | None]) -> None:
        room = self._room
        index = room.rule.channel
        every: list[tuple[WireProtocol, Mapping[Peer, Outbox]]] = [(one.protocol, one) for one in room.audiences()]
        if room.delta is not None:
            every += room.delta.audience.items()
        for protocol, audience in every:
            told = event(protocol)
            if told is not None:
                for peer, outbox in audience.items():
                    if peer is not who and room.has(peer) and room.rights(peer).may_see:  # some only hear by a pattern
                        outbox.put(index, told)


def listed_without(subjects: Iterable[str], count: int, most_bytes: int) -> dict[str, Any]:
    """`Presence.listed` of a room whose table says nothing of presence."""
    members = []
    for subject in sorted(subjects):
        most_bytes -= _size(subject, None)
        if most_bytes < 0:
            break
        members.append(subject)
    return {"members": members, "count": count}


def _size(subject: str, claims: Claims | None) -> int:
    size = len(subject.encode()) + ENVELOPE
    return size if claims is None else size * 2 + len(repr(claims).encode(errors="replace"))


def _joined(room: str, subject: str, claims: Claims | None, protocol: WireProtocol) -> bytes | None:
    return protocol.joined(room, subject, claims)


def _left(room: str, subject: str, protocol: WireProtocol) -> bytes | None:
    return protocol.left(room, subject)


def _counted(room: str, count: int, events: bool, protocol: WireProtocol) -> bytes | None:
    return protocol.counted(room, count, events)
