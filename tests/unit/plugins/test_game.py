"""Positions as state, moves at once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from plugins.game import Game
from relay.config.schema import Channel
from relay.errors import ConfigError, Refused
from relay.plugin.api import Kind, Payload
from relay.plugin.testing import Member, PluginTester


def said(member: Member, channel: str) -> list[tuple[str | None, str | None, Any]]:
    """(sender, key, data) of what was heard in a channel."""
    return [(one.sender, one.key, one.data.value()) for one in member.messages if one.channel == channel]


async def test_a_move_is_heard_at_once_as_it_was_said_in_the_urgent_channel() -> None:
    async with PluginTester(Game) as tester:
        ann, bob = await tester.join("game:a", "ann"), await tester.join("game:a", "bob")
        await ann.publish({"move": {"to": "e4"}})
        await ann.publish({"move": None}, echo=True)
        assert said(bob, "urgent") == [("ann", None, {"move": {"to": "e4"}}), ("ann", None, {"move": None})]
        assert said(ann, "urgent") == [("ann", None, {"move": None})]


async def test_a_position_is_told_with_the_next_tick_and_only_the_newest(autojump_clock: MockClock) -> None:
    async with PluginTester(Game, settings={"ticks": 10.0}) as tester:
        ann, bob = await tester.join("game:a", "ann"), await tester.join("game:a", "bob")
        for step in range(5):
            await ann.publish({"at": [step, 0.5]}, key="ann")
        await bob.publish({"at": [7, 7]})
        assert said(bob, "state") == []
        await trio.sleep(0.15)
        assert said(bob, "state") == [("ann", "ann", {"at": [4, 0.5]})]
        assert said(ann, "state") == [("bob", "bob", {"at": [7, 7]})]
        await trio.sleep(1)
        assert len(said(bob, "state")) == 1, "who stands still is not told again"


async def test_a_slow_player_finds_the_newest_position_of_each_and_misses_no_move(autojump_clock: MockClock) -> None:
    async with PluginTester(Game, settings={"ticks": 100.0}) as tester:
        ann, bob = await tester.join("game:a", "ann"), await tester.join("game:a", "bob")
        slow = await tester.join("game:a", "slow")
        slow.stop_reading()
        for step in range(10):
            await ann.publish({"at": [step, 0]})
            await bob.publish({"at": [0, step]})
            await ann.publish({"move": step})
            await trio.sleep(0.02)
        slow.read_on()
        assert sorted(said(slow, "state")) == [("ann", "ann", {"at": [9, 0]}), ("bob", "bob", {"at": [0, 9]})]
        assert [data["move"] for _, _, data in said(slow, "urgent")] == list(range(10))


async def test_who_comes_in_gets_a_snapshot_in_bulk(autojump_clock: MockClock) -> None:
    async with PluginTester(Game) as tester:
        ann = await tester.join("game:a", "ann")
        assert said(ann, "bulk") == [(None, None, {"positions": {}, "offset": 0})]
        await ann.publish({"at": [1.5, -2]})
        await trio.sleep(1)
        bob = await tester.join("game:a", "bob")
        assert said(bob, "bulk") == [(None, None, {"positions": {"ann": [1.5, -2]}, "offset": 1})]


async def test_a_snapshot_can_be_called_for_and_tells_which_messages_are_newer(autojump_clock: MockClock) -> None:
    async with PluginTester(Game) as tester:
        ann, bob = await tester.join("game:a", "ann"), await tester.join("game:a", "bob")
        await ann.publish({"at": [1, 1]})
        assert await bob.call("snapshot") == {"players": 1}
        snapshot = said(bob, "bulk")[-1][2]
        assert snapshot == {"positions": {"ann": [1, 1]}, "offset": 0}
        await trio.sleep(1)
        (later,) = [message for message in bob.messages if message.channel == "state"]
        assert later.offset > snapshot["offset"]


async def test_who_leaves_is_gone_and_a_slow_player_hears_that_in_the_place_of_its_last_position(
    autojump_clock: MockClock,
) -> None:
    async with PluginTester(Game) as tester:
        ann, bob = await tester.join("game:a", "ann"), await tester.join("game:a", "bob")
        await ann.publish({"at": [1, 1]})
        await trio.sleep(1)
        assert len(said(bob, "state")) == 1
        bob.stop_reading()
        await ann.publish({"at": [2, 2]})
        await trio.sleep(1)
        await ann.publish({"at": [3, 3]})
        await ann.leave()
        await trio.sleep(1)
        bob.read_on()
        assert said(bob, "state")[1:] == [(None, "ann", {"gone": "ann"})]
        assert await bob.call("snapshot") == {"players": 0}


async def test_who_leaves_with_one_of_two_connections_is_still_there(autojump_clock: MockClock) -> None:
    async with PluginTester(Game) as tester:
        first, second = await tester.join("game:a", "ann"), await tester.join("game:a", "ann")
        bob = await tester.join("game:a", "bob")
        await first.publish({"at": [1, 1]})
        await first.leave()
        assert await bob.call("snapshot") == {"players": 1}
        await second.leave()
        assert said(bob, "state") == [(None, "ann", {"gone": "ann"})]


async def test_a_game_has_room_for_so_many_players_each_on_any_number_of_connections() -> None:
    async with PluginTester(Game, name="arena", settings={"players": 2}) as tester:
        for subject in ("ann", "bob", "ann"):
            await tester.join("game:a", subject)
        with pytest.raises(Refused) as caught:
            await tester.join("game:a", "cat")
        assert (caught.value.code, caught.value.setting) == ("room_full", "plugins.arena.players")


async def test_nobody_speaks_with_another_s_key() -> None:
    async with PluginTester(Game) as tester:
        ann = await tester.join("game:a", "ann")
        for data in ({"at": [0, 0]}, {"move": 1}):
            with pytest.raises(Refused, match="forbidden: the key of a player's messages is its own name"):
                await ann.publish(data, key="bob")


async def test_only_players_speak() -> None:
    async with PluginTester(Game) as tester:
        await tester.join("game:a", "ann")
        with pytest.raises(Refused, match="not_joined"):
            await tester.connect("eve").publish({"move": 1}, room="game:a")


@pytest.mark.parametrize(
    "data",
    [
        "hello", b"\0", [1], {}, {"at": [1]}, {"at": [1, 2, 3]}, {"at": ["1", "2"]}, {"at": None},
        {"at": [1, 2], "move": 1}, {"move": 1, "also": 2}, Payload(Kind.JSON, b"{broken"),
    ],
)  # fmt: skip
async def test_anything_else_is_refused(data: Any) -> None:
    async with PluginTester(Game) as tester:
        ann = await tester.join("game:a", "ann")
        with pytest.raises(Refused, match="bad_request"):
            await ann.publish(data)
        assert await ann.call("snapshot") == {"players": 0}
        assert tester.failures == []


@pytest.mark.parametrize("place", [100.5, -101, float("nan"), float("inf"), float("-inf")])
async def test_no_place_is_beyond_the_edge(place: float) -> None:
    async with PluginTester(Game, settings={"edge": 100.0}) as tester:
        ann = await tester.join("game:a", "ann")
        await ann.publish({"at": [100, -100]})
        with pytest.raises(Refused) as caught:
            await ann.publish(Payload(Kind.MSGPACK, msgspec.msgpack.encode({"at": [0.0, place]})))
        assert (caught.value.code, caught.value.setting) == ("bad_request", "plugins.game.edge")


async def test_another_method_is_refused() -> None:
    async with PluginTester(Game) as tester:
        ann = await tester.join("game:a", "ann")
        with pytest.raises(Refused, match="no_such_method"):
            await ann.call("score")


async def test_two_hundred_players_that_move_all_the_time_take_no_more_than_their_places(
    autojump_clock: MockClock,
) -> None:
    """What waits for one who does not read is one message for each player, within the channel's capacity."""
    state = Channel(weight=4, capacity=16384, overflow="latest")
    async with PluginTester(Game, settings={"ticks": 60.0, "players": 201}, channels={"state": state}) as tester:
        players = [await tester.join("game:a", f"player{number}") for number in range(200)]
        slow = await tester.join("game:a", "slow")
        slow.stop_reading()
        for step in range(5):
            for player in players:
                await player.publish({"at": [step, step]})
            await trio.sleep(1 / 60)
        await trio.sleep(1)
        assert slow.outbox.size < 16384 + 4096
        slow.read_on()
        newest = {sender: data["at"] for sender, _, data in said(slow, "state")}
        assert newest == {player.subject: [4, 4] for player in players}
        assert len(said(slow, "state")) == 200
        assert slow.gaps == []


@pytest.mark.parametrize(
    ("setting", "value"), [("ticks", 0.5), ("ticks", 121), ("players", 0), ("edge", 0), ("edge", 1e300)]
)
def test_settings_have_bounds(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"plugins\.game\.{setting}"):
        PluginTester(Game, settings={setting: value})
