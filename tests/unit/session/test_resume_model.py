"""Clients that join, leave, publish, lose their sockets and come back or do not, against a few dicts: whoever stays a
member hears everything once and in order, a publish that is sent again is heard once, and presence never flaps.
"""

from __future__ import annotations

from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.sizes import examples
from tests.unit.session.kit import House, open_house
from tests.unit.session.plugins import Quick
from tests.unit.session.sockets import WINDOW, Socket, arrive, come_back, end, ticket_of

ROOMS = ["q:1", "q:2"]
SUBJECTS = ["ann", "bob", "cid"]
PLUGINS: dict[str, Any] = {"q": (Quick, {"history": 10_000, "history_seconds": 0.0, "presence": True})}

Operation = tuple[str, int, int, int]
KINDS = ["join", "leave", "publish", "publish", "read", "lose", "lose", "resume", "resume", "kill", "wait"]
OPERATION = st.tuples(st.sampled_from(KINDS), st.integers(0, 2), st.integers(0, 1), st.integers(0, 5))
OPERATIONS = st.lists(OPERATION, max_size=60) | st.lists(OPERATION, min_size=20, max_size=60)
"""Short ones shrink well; but a list without a least size has six on average, and that is no long life."""


class Member:
    """A client that does what a good one does: it knows where it is in each room, and says again what was not
    answered.
    """

    def __init__(self, model: Model, subject: str) -> None:
        self.model = model
        self.subject = subject
        self.socket: Socket | None = arrive(model.house, subject)
        self.ticket = ticket_of(model.house, self.socket)
        self.positions: dict[str, tuple[str, int]] = {}
        self.got: dict[str, list[Any]] = {room: [] for room in ROOMS}
        self.unanswered: dict[str, dict[str, Any]] = {}

    def hear(self, most: int = 1 << 30) -> None:
        """Reads what was written; of more than `most` the rest was lost on its way."""
        assert self.socket is not None
        for said in self.socket.heard()[:most]:
            match said:
                case {"t": "hello"}:
                    self.ticket = said["resume"]["ticket"]
                case {"t": "message", "room": room, "offset": offset, "data": data}:
                    epoch, before = self.positions[room]
                    assert offset > before, "doubled, or out of order"
                    self.positions[room] = epoch, offset
                    if said["from"] != self.subject:  # as with `since`, one's own come too
                        self.got[room].append(data)
                case {"t": "ok", "id": str() as key}:
                    self.unanswered.pop(key, None)  # an answer may come twice: it was asked for twice
                case {"t": "ok", "rooms": rooms}:
                    assert all(told["recovered"] for told in rooms.values()), rooms

    def say(self, **request: Any) -> Any:
        assert self.socket is not None
        self.socket.say(**request)

    def publish_again(self) -> None:
        for request in list(self.unanswered.values()):
            self.say(**request)


class Model:
    def __init__(self, house: House) -> None:
        self.house = house
        self.witness = {room: house.client(f"witness of {room}") for room in ROOMS}
        for room, witness in self.witness.items():
            witness.join(room)
        self.events: dict[str, list[Any]] = {room: [] for room in ROOMS}
        self.seen: dict[str, list[Any]] = {room: [] for room in ROOMS}
        self.said: dict[str, list[Any]] = {room: [] for room in ROOMS}
        self.members = [Member(self, subject) for subject in SUBJECTS]
        self.inside: dict[str, set[int]] = {room: set() for room in ROOMS}
        self.expected: dict[tuple[int, str], list[Any]] = {}
        self.numbers = iter(range(1 << 30))

    def watch(self) -> None:
        for room, witness in self.witness.items():
            for said in witness.heard():
                if said["t"] == "message":
                    self.seen[room].append(said["data"])
                else:
                    self.events[room].append((said["t"], said["subject"]))

    async def do(self, kind: str, who: int, which: int, number: int) -> None:
        member, room = self.members[who], ROOMS[which]
        connected = member.socket is not None
        if kind == "join" and connected and who not in self.inside[room]:
            member.hear()
            answer = member.socket.join(room)  # type: ignore[union-attr]
            member.positions[room] = answer["epoch"], answer["offset"]
            self.inside[room].add(who)
            self.expected[who, room] = []
            member.got[room] = []
            self.tell(room, "joined", member.subject)
        elif kind == "leave" and connected and who in self.inside[room]:
            member.hear()
            self.check(who, room)
            member.say(t="leave", room=room)
            self.inside[room].discard(who)
            self.tell(room, "left", member.subject)
        elif kind == "publish" and connected and who in self.inside[room]:
            data = f"{member.subject} {next(self.numbers)}"
            request = {"t": "publish", "room": room, "data": data, "once": data, "id": data}
            member.unanswered[data] = request
            member.say(**request)
            self.said[room].append(data)
            for other in self.inside[room] - {who}:
                self.expected[other, room].append(data)
        elif kind == "read" and connected:
            member.hear()
        elif kind == "lose" and connected:
            if number < 5:  # else nothing of it was written
                member.hear(number)
            member.socket.abort()  # type: ignore[union-attr]
            member.socket = None
        elif kind == "resume" and not connected:
            self.come_back(who, number)
        elif kind == "kill":
            await self.kill(who)
        elif kind == "wait":
            await trio.sleep(number / 10)

    def come_back(self, who: int, number: int) -> None:
        member = self.members[who]
        member.socket = come_back(self.house, member.ticket)
        if member.socket is None:  # somebody's killing took longer than the window
            self.begin_anew(who)
            return
        rooms = {room: member.positions[room] for room in ROOMS if who in self.inside[room]}
        given = {room: {"epoch": epoch, "offset": offset} for room, (epoch, offset) in rooms.items()}
        member.say(t="resume", id=0, rooms=given)
        member.hear()
        if number % 2:  # sometimes it is lost again before that
            member.publish_again()

    async def kill(self, who: int) -> None:
        member = self.members[who]
        if member.socket is not None:
            member.socket.abort()
            member.socket = None
        await trio.sleep(WINDOW + 1)
        assert come_back(self.house, member.ticket) is None
        for number, other in enumerate(self.members):  # all who were away were so for too long
            if other.socket is None:
                self.begin_anew(number)

    def begin_anew(self, who: int) -> None:
        member = self.members[who]
        unanswered = member.unanswered
        for room in ROOMS:
            if who in self.inside[room]:
                self.inside[room].discard(who)
                self.tell(room, "left", member.subject)
        self.members[who] = Member(self, member.subject)
        self.members[who].unanswered = unanswered
        self.members[who].publish_again()

    def tell(self, room: str, what: str, subject: str) -> None:
        self.told.setdefault(room, []).append((what, subject))

    told: dict[str, list[Any]]

    def check(self, who: int, room: str) -> None:
        assert self.members[who].got[room] == self.expected[who, room], "lost"

    def finish(self) -> None:
        for who in range(len(self.members)):
            if self.members[who].socket is None:
                self.come_back(who, 1)
            member = self.members[who]
            member.publish_again()
            member.hear()
            assert member.unanswered == {}
        self.watch()
        for room in ROOMS:
            for who in self.inside[room]:
                self.members[who].hear()
                self.check(who, room)
            assert self.seen[room] == self.said[room], "what is sent again is heard once"
            assert sorted(self.events[room]) == sorted(self.told.get(room, [])), "presence flapped"
        end(*(member.socket for member in self.members if member.socket is not None))


async def run(operations: list[Operation]) -> None:
    async with open_house(PLUGINS) as house:
        model = Model(house)
        model.told = {}
        for operation in operations:
            await model.do(*operation)
            model.watch()
        model.finish()
        assert house.services.resumption.parked == {}


@settings(deadline=None, max_examples=examples(150, 20_000))
@given(OPERATIONS)
def test_whatever_happens_nothing_is_lost_doubled_or_noticed(operations: list[Operation]) -> None:
    trio.run(run, operations, clock=MockClock(autojump_threshold=0))
