"""Presence: how members of a room are (online, away, busy, a few words), and who is typing just now.

    [plugins.presence]
    filters = ["chat:*"]      # or rooms of its own
    statuses = ["online", "away", "busy"]
    idle_seconds = 300.0      # who has given no sign for so long is away, until the next one
    typing_seconds = 6.0

A member calls `presence.status` (`status`, `text`), `presence.typing` (`on`) and, as a sign of life, `presence.active`;
in a room of the plugin's own without the prefix. What one says in the room is a sign too, and ends one's typing. All
hear, in `state`: {"subject", "status", "text", "since"} with the key `status:NAME`, and {"subject", "typing"} with the
key `typing:NAME`. Who joins gets {"presence": {NAME: {…}}, "typing": [NAME, …]} in `bulk`. Who has left is told of as
"offline" after `linger_seconds`, so that a reload of a page tells nothing. None of this is in the room's history.

The relay's own presence (`presence = true`) tells who comes and goes, and nothing more.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import msgspec
import trio
from msgspec import Meta, field

from relay.plugin import api
from relay.plugin.api import Message, Peer, Plugin, Refused, Room, call

KEPT: Final = "presence"
"""Where a room's state has its people."""
DUE: Final = "presence due"
"""Where it has when one of them is to be looked at next; not there: at once."""
TICK: Final = 0.5  # seconds between two looks at what is over


class Person(msgspec.Struct):
    """One subject in one room. Times are of Trio's clock; 0: none."""

    status: str
    text: str
    since: float  # Unix time
    sign: float
    idle: bool = False
    typing_until: float = 0.0
    gone_at: float = 0.0

    def told(self, away: str) -> dict[str, Any]:
        return {"status": away if self.idle else self.status, "text": self.text, "since": self.since}


class Presence(Plugin):
    """Statuses and typing, in rooms of others or of its own."""

    class Settings(api.Settings, frozen=True):
        statuses: Annotated[
            list[str], Meta(min_length=2, description="The first is how one comes, the second who is idle.")
        ] = field(default_factory=lambda: ["online", "away", "busy"])
        text_chars: Annotated[int, Meta(ge=0, le=1000, description="Longest text of a status.")] = 100
        idle_seconds: Annotated[float, Meta(ge=0, description="Without a sign for so long: away; 0: never.")] = 300.0
        typing_seconds: Annotated[float, Meta(ge=1, description="How long typing holds.")] = 6.0
        linger_seconds: Annotated[float, Meta(ge=0, description="How long who has left is not missed.")] = 5.0

    settings: Settings

    # As the owner of rooms, and in front of those of others, the same is done.

    def on_joined(self, room: Room, peer: Peer) -> None:
        self.filter_joined(room, peer)

    def on_leave(self, room: Room, peer: Peer) -> None:
        self.filter_leave(room, peer)

    def filter_joined(self, room: Room, peer: Peer) -> None:
        people = _people(room)
        person = people.get(peer.subject)
        if person is None:
            person = people[peer.subject] = Person(self.settings.statuses[0], "", time.time(), trio.current_time())
            self._tell(room, peer.subject, person)
        person.gone_at = 0.0
        room.state.pop(DUE, None)
        said = {subject: one.told(self._away) for subject, one in people.items() if not one.gone_at}
        typing = [subject for subject, one in people.items() if one.typing_until]
        peer.send(room, {"presence": said, "typing": typing}, channel="bulk")

    def filter_leave(self, room: Room, peer: Peer) -> None:
        person = _people(room).get(peer.subject)
        if person is not None and peer.subject not in room:
            self._stop_typing(room, peer.subject, person)
            person.gone_at = trio.current_time()
            room.state.pop(DUE, None)
            if not self.settings.linger_seconds:
                self._gone(room, peer.subject)

    def filter_message(self, room: Room, sender: Peer, message: Message) -> None:
        person = _people(room).get(sender.subject)
        if person is not None:
            self._sign(room, sender.subject, person)
            self._stop_typing(room, sender.subject, person)

    @call
    def status(self, room: Room, caller: Peer, status: str, text: str = "") -> None:
        person = self._person(room, caller)
        if status not in self.settings.statuses:
            setting = f"plugins.{self.name}.statuses"
            raise Refused("bad_request", f"a status is one of {', '.join(self.settings.statuses)}", setting=setting)
        if len(text) > self.settings.text_chars:
            raise Refused("too_large", "the text is too long", setting=f"plugins.{self.name}.text_chars")
        person.sign = trio.current_time()
        room.state.pop(DUE, None)
        if (person.status, person.text, person.idle) != (status, text, False):
            person.status, person.text, person.idle, person.since = status, text, False, time.time()
            self._tell(room, caller.subject, person)

    @call
    def typing(self, room: Room, caller: Peer, on: bool = True) -> None:
        """To be said again while it goes on; the others hear when it begins and when it ends."""
        person = self._person(room, caller)
        self._sign(room, caller.subject, person)
        if not on:
            self._stop_typing(room, caller.subject, person)
            return
        if not person.typing_until:
            self._tell_typing(room, caller.subject, True)
        person.typing_until = trio.current_time() + self.settings.typing_seconds
        room.state.pop(DUE, None)

    @call
    def active(self, room: Room, caller: Peer) -> None:
        self._sign(room, caller.subject, self._person(room, caller))

    async def run(self) -> None:
        while True:
            await trio.sleep(TICK)
            now = trio.current_time()
            for room in self.relay.rooms():
                if now >= room.state.get(DUE, now):
                    room.state[DUE] = self._look(room, now)

    def _look(self, room: Room, now: float) -> float:
        """Does what is due; returns when something can be due next."""
        idle, linger = self.settings.idle_seconds, self.settings.linger_seconds
        due = float("inf")
        for subject, person in list(_people(room).items()):
            if person.gone_at:
                if now >= person.gone_at + linger:
                    self._gone(room, subject)
                else:
                    due = min(due, person.gone_at + linger)
                continue
            if person.typing_until:
                if now >= person.typing_until:
                    self._stop_typing(room, subject, person)
                else:
                    due = min(due, person.typing_until)
            if idle and not person.idle and person.status == self.settings.statuses[0]:
                if now >= person.sign + idle:
                    person.idle, person.since = True, time.time()
                    self._tell(room, subject, person)
                else:
                    due = min(due, person.sign + idle)
        return due

    @property
    def _away(self) -> str:
        return self.settings.statuses[1]

    def _person(self, room: Room, caller: Peer) -> Person:
        """Raises Refused."""
        if not room.may_publish(caller):
            raise Refused("forbidden", "your token does not let you publish in this room")
        person = _people(room).get(caller.subject)
        if person is None:
            raise Refused("not_joined")
        return person

    def _sign(self, room: Room, subject: str, person: Person) -> None:
        person.sign = trio.current_time()
        if person.idle:
            person.idle, person.since = False, time.time()
            room.state.pop(DUE, None)
            self._tell(room, subject, person)

    def _stop_typing(self, room: Room, subject: str, person: Person) -> None:
        if person.typing_until:
            person.typing_until = 0.0
            self._tell_typing(room, subject, False)

    def _gone(self, room: Room, subject: str) -> None:
        del _people(room)[subject]
        said = {"subject": subject, "status": "offline", "text": "", "since": time.time()}
        room.tell(said, channel="state", key=f"status:{subject}")

    def _tell(self, room: Room, subject: str, person: Person) -> None:
        room.tell({"subject": subject, **person.told(self._away)}, channel="state", key=f"status:{subject}")

    def _tell_typing(self, room: Room, subject: str, on: bool) -> None:
        room.tell({"subject": subject, "typing": on}, channel="state", key=f"typing:{subject}")


def _people(room: Room) -> dict[str, Person]:
    """By subject; those that have just left are still among them."""
    people: dict[str, Person] = room.state.setdefault(KEPT, {})
    return people
