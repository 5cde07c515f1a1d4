"""The hub against two dictionaries: whatever peers do, the maps agree and everybody hears what it should, once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relay.errors import Refused
from tests.sizes import examples
from tests.unit.rooms.kit import Counting, Guest, House

ROOMS = ["a", "b", "c"]
SUBJECTS = ["ann", "bob", "cid"]
MOST = 4
HISTORY = 3


class HubModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.house = House(presence=True, max_members=MOST, history=HISTORY)
        self.protocols = [Counting(), Counting(), Counting(silent=True)]
        self.peers = [
            self.house.peer(subject, self.protocols[number % 3])
            for number, subject in enumerate(subject for subject in SUBJECTS for _ in range(3))
        ]
        self.members: dict[str, list[Guest]] = {}
        self.offsets: Counter[str] = Counter()
        self.said: dict[str, list[str]] = {}
        self.expected: dict[Guest, list[Any]] = {peer: [] for peer in self.peers}

    def others_hear(self, room: str, what: Any, but: Guest | None = None) -> None:
        for peer in self.members.get(room, []):
            silent = isinstance(what, tuple) and peer.protocol is self.protocols[2]
            if peer is not but and not silent:
                self.expected[peer].append(what)

    @rule(number=st.integers(0, 8), room=st.sampled_from(ROOMS))
    def join(self, number: int, room: str) -> None:
        peer, members = self.peers[number], self.members.get(room, [])
        found = self.house.hub.open(room)
        if peer in members or len(members) == MOST:
            with pytest.raises(Refused, match="already_joined" if peer in members else "room_full"):
                self.house.hub.join(peer, found, may_publish=True)
            return
        self.house.hub.join(peer, found, may_publish=True)
        if peer.subject not in {member.subject for member in members}:
            self.others_hear(room, ("joined", room, peer.subject))
        self.members.setdefault(room, []).append(peer)

    def gone(self, peer: Guest, room: str) -> None:
        self.members[room].remove(peer)
        if peer.subject not in {member.subject for member in self.members[room]}:
            self.others_hear(room, ("left", room, peer.subject))
        if not self.members[room]:
            del self.members[room]
            if not self.said.get(room):  # nothing to remember: the next life begins anew
                self.offsets.pop(room, None)

    @precondition(lambda self: self.members)
    @rule(data=st.data(), kick=st.booleans())
    def leave(self, data: st.DataObject, kick: bool) -> None:
        room = data.draw(st.sampled_from(sorted(self.members)))
        peer = data.draw(st.sampled_from(self.members[room]))
        if kick:
            self.house.hub.rooms[room].kick(peer)
        else:
            assert self.house.hub.leave(peer, self.house.hub.rooms[room])
        self.gone(peer, room)

    @rule(number=st.integers(0, 8))
    def drop(self, number: int) -> None:
        peer = self.peers[number]
        rooms = list(peer.rooms)
        for room in rooms:
            self.house.hub.leave(peer, self.house.hub.rooms[room])
            self.gone(peer, room)

    @precondition(lambda self: self.members)
    @rule(
        data=st.data(),
        echo=st.booleans(),
        from_outside=st.booleans(),
        to=st.one_of(st.none(), st.sampled_from([*SUBJECTS, "zoe"])),
    )
    def publish(self, data: st.DataObject, echo: bool, from_outside: bool, to: str | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.members)))
        room = self.house.hub.rooms[name]
        sender = None if from_outside else data.draw(st.sampled_from(self.members[name]))
        self.offsets[name] += 1
        text = f"{name}{room.epoch}{self.offsets[name]}"
        if to is None:
            assert room.broadcast(text, sender=sender, echo=echo) == self.offsets[name]
            self.others_hear(name, text, None if echo else sender)
            self.said.setdefault(name, []).append((to, text))
            used = {peer.protocol for peer in self.members[name] if echo or peer is not sender}
            for protocol in self.protocols:
                assert protocol.encoded.pop((name, self.offsets[name]), 0) == (protocol in used)
        else:
            assert room.send(to, text, sender=sender) == self.offsets[name]
            self.said.setdefault(name, []).append((to, text))
            for peer in self.members[name]:
                if peer.subject == to:
                    self.expected[peer].append(text)
            for protocol in self.protocols:
                protocol.encoded.clear()

    @rule(number=st.integers(0, 8))
    def hear(self, number: int) -> None:
        peer = self.peers[number]
        assert peer.hears() == self.expected[peer]
        self.expected[peer].clear()

    @rule(room=st.sampled_from(["nobodys", "no"]))
    def open_what_nobody_serves(self, room: str) -> None:
        with pytest.raises(Refused):
            self.house.hub.open(room)

    @invariant()
    def both_maps_agree_with_the_model(self) -> None:
        hub = self.house.hub
        assert set(hub.rooms) == set(self.members)
        by_peer = {(peer, name) for name, members in self.members.items() for peer in members}
        assert {(peer, name) for peer in self.peers for name in peer.rooms} == by_peer
        for name, room in hub.rooms.items():
            assert len(room) == len(self.members[name])
            assert sorted(map(id, room.peers())) == sorted(map(id, self.members[name]))
            assert room.subjects == Counter(peer.subject for peer in self.members[name])
            audiences = list(room.audiences())
            assert sorted(id(peer) for some in audiences for peer in some) == sorted(map(id, self.members[name]))
            assert all(peer.protocol is some.protocol for some in audiences for peer in some)
            assert len({some.protocol for some in audiences}) == len(audiences), "one for each protocol"
            assert all(audiences), "nobody is left in it, and it is there"
            assert room.offset == self.offsets[name]
            assert all(peer.rooms[name] is room for peer in self.members[name])
            assert not any(room.has(peer) for peer in self.peers if peer not in self.members[name])
            assert room.history is not None
            kept = [message.data.value() for message in room.history.last(99, self.house.now)]
            assert kept == [text for to, text in self.said.get(name, [])[-HISTORY:] if to is None]

    @invariant()
    def every_room_is_opened_and_freed_once_a_life(self) -> None:
        opened, freed = Counter(self.house.handler.opened_rooms), Counter(self.house.handler.freed_rooms)
        for room in ROOMS:
            assert opened[room] - freed[room] == (room in self.members)

    def teardown(self) -> None:
        for peer in self.peers:
            assert peer.hears() == self.expected[peer]


HubModel.TestCase.settings = settings(deadline=None, max_examples=examples(100, 20_000), stateful_step_count=40)
TestHubModel = HubModel.TestCase
