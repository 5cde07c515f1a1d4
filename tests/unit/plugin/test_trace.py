"""Where it is asked for, each call of a plugin's hooks is told."""

from __future__ import annotations

import logging

import pytest

from relay.plugin.api import Message, Peer, Plugin, Refused, Room, call
from relay.plugin.testing import PluginTester


class Quiz(Plugin):
    def on_join(self, room: Room, peer: Peer) -> None:
        if peer.subject == "eve":
            raise Refused("forbidden")

    async def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        room.broadcast(message, echo=True)

    @call
    def twice(self, room: Room, caller: Peer, number: int) -> int:
        return 2 * number


async def play(*, trace: bool) -> None:
    async with PluginTester(Quiz, trace=trace) as tester:
        ann = await tester.join("r", "ann")
        with pytest.raises(Refused):
            await tester.join("r", "eve")
        await ann.publish("hi")
        assert await ann.call("twice", {"number": 4}) == 8
        assert ann.received == ["hi"]


async def test_each_call_is_told_with_who_where_and_how_it_ended(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "relay.plugin.trace")
    await play(trace=True)
    told = [record.getMessage() for record in caplog.records]
    assert told == ["quiz.on_join: ok", "quiz.on_join: refused forbidden", "quiz.on_message: ok", "quiz.twice: ok"]
    for record, who in zip(caplog.records, ("ann", "eve", "ann", "ann"), strict=True):
        fields = record.fields  # type: ignore[attr-defined]
        assert (fields["plugin"], fields["room"], fields["subject"]) == ("quiz", "r", who)
        assert fields["microseconds"] >= 0


async def test_without_it_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "relay.plugin.trace")
    await play(trace=False)
    assert not caplog.records
