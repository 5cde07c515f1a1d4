"""A session whose socket is lost waits for its client: nothing is lost or doubled, and nobody else notices."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from relay.protocols.deflated import Compressor, Deflated
from relay.rooms import moving
from relay.session.parked import PATIENCE
from tests.unit.protocols.table import JSON, MSGPACK
from tests.unit.session.kit import open_house
from tests.unit.session.plugins import Quick
from tests.unit.session.sockets import PLUGINS, WINDOW, arrive, come_back, data, end, resumed, ticket, ticket_of, two_in


async def test_nobody_notices_and_nothing_is_missed(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        bob, ann, word, epoch = two_in(house, "q:a")
        bob.heard()
        house.plugin("q").log.clear()
        bob.ask(t="publish", room="q:a", data="read")
        assert data(ann.heard()) == ["read"]
        bob.ask(t="publish", room="q:a", data="not sent")
        ann.abort()
        bob.ask(t="publish", room="q:a", data="while away")
        await trio.sleep(WINDOW - 1)
        again, rooms, said = resumed(house, word, q_a={"epoch": epoch, "offset": 1})
        assert rooms == {"q:a": {"epoch": epoch, "offset": 3, "recovered": True}}
        assert data(said) == ["not sent", "while away"]
        bob.ask(t="publish", room="q:a", data="live")
        assert data(again.heard()) == ["live"]
        again.say(t="publish", room="q:a", data="and back")
        assert bob.messages() == ["and back"]
        assert house.plugin("q").log == [], "plugins have seen neither leave nor join"
        assert again.session.address == "198.51.100.7"
        end(again)


async def test_what_was_written_to_a_dead_socket_comes_again_from_where_the_client_is(
    autojump_clock: MockClock,
) -> None:
    async with open_house(PLUGINS) as house:
        bob, ann, word, epoch = two_in(house, "q:a")
        for number in range(1, 6):
            bob.ask(t="publish", room="q:a", data=number)
        ann.heard()  # written, and the client has seen two of them
        ann.abort()
        again, rooms, said = resumed(house, word, q_a={"epoch": epoch, "offset": 2})
        assert (rooms["q:a"]["recovered"], data(said)) == (True, [3, 4, 5])
        end(again)


@pytest.mark.parametrize("form", [JSON, MSGPACK])
@pytest.mark.parametrize("packed", [False, True])
async def test_what_waited_unsent_comes_once_in_every_format(
    form: Any, packed: bool, autojump_clock: MockClock
) -> None:
    async with open_house(PLUGINS) as house:
        protocol = Deflated(form.protocol, Compressor(12, 1, house.counters), 16) if packed else form.protocol
        bob = house.client("bob")
        bob.join("q:a")
        ann = arrive(house, protocol=protocol)
        session = ann.session
        house.hub.join(session, house.hub.open("q:a"), may_publish=True)
        ann.outbox.clear()
        for text in ("x" * 200, "y" * 200, "z" * 100_000):
            bob.ask(t="publish", room="q:a", data=text)
        ann.abort()
        parked = session.parked
        assert parked is not None
        assert (parked.shelf.size, parked.unsent) == (0, {"q:a": {1, 2, 3}}), "history has it"
        again = come_back(house, house.services.resumption.offer(session)["ticket"])  # type: ignore[index]
        assert again is not None
        sent: list[int] = []
        deliver = house.hub.deliver_to
        house.hub.deliver_to = lambda peer, index, message: (sent.append(message.offset), deliver(peer, index, message))  # type: ignore[method-assign, func-returns-value, assignment]
        await trio.sleep(PATIENCE + 0.1)
        assert sent == [1, 2, 3], "who does not say what it has gets what was not sent"
        end(again)


async def test_a_room_without_history_is_kept_and_tells_whether_something_is_missing(
    autojump_clock: MockClock,
) -> None:
    async with open_house(PLUGINS) as house:
        bob, ann, word, epoch = two_in(house, "none:a")
        bob.ask(t="publish", room="none:a", data="read")
        ann.heard()
        bob.ask(t="publish", room="none:a", data="not sent")
        ann.abort()
        bob.ask(t="publish", room="none:a", data="while away")
        again, rooms, said = resumed(house, word, none_a={"epoch": epoch, "offset": 1})
        assert (rooms["none:a"]["recovered"], data(said)) == (True, ["not sent", "while away"])
        word = ticket_of(house, again)
        bob.ask(t="publish", room="none:a", data="written, never read")
        again.heard()
        again.abort()
        again, rooms, said = resumed(house, word, none_a={"epoch": epoch, "offset": 3})
        assert (rooms["none:a"]["recovered"], said) == (False, [])
        end(again)


async def test_where_history_does_not_reach_loss_is_told(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        bob, ann, word, epoch = two_in(house, "few:a")
        ann.abort()
        for number in range(1, 6):
            bob.ask(t="publish", room="few:a", data=number)
        again, rooms, said = resumed(house, word, few_a={"epoch": epoch, "offset": 0})
        assert rooms["few:a"] == {"epoch": epoch, "offset": 5, "recovered": False, "from": 4}
        assert data(said) == [4, 5]
        word = ticket_of(house, again)
        again.abort()
        for number in range(6, 10):
            bob.ask(t="publish", room="few:a", data=number)
        silent = come_back(house, word)
        assert silent is not None
        await trio.sleep(PATIENCE + 0.1)
        _, *said = silent.heard()
        assert said[0] == {"t": "gap", "room": "few:a", "from": 6, "to": 7, "reason": "plugins.few.history"}
        assert data(said[1:]) == [8, 9]
        end(silent)


@pytest.mark.parametrize("position", [{"epoch": "another", "offset": 1}, {"epoch": "epoch-1", "offset": 99}])
async def test_a_position_of_another_life_recovers_nothing_and_loses_nothing(
    position: Any, autojump_clock: MockClock
) -> None:
    async with open_house(PLUGINS) as house:
        bob, ann, word, _ = two_in(house, "q:a")
        ann.abort()
        bob.ask(t="publish", room="q:a", data="while away")
        again, rooms, said = resumed(house, word, q_a=position, q_b={"epoch": "e", "offset": 1})
        assert rooms["q:a"]["recovered"] is False
        assert rooms["q:b"] == {"joined": False}
        assert data(said) == ["while away"]
        end(again)


async def test_a_socket_lost_again_before_it_said_anything_changes_nothing(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        bob = house.client("bob")
        bob.join("q:a")
        ann = arrive(house)
        epoch = ann.join("q:a")["epoch"]
        ann.abort()
        bob.ask(t="publish", room="q:a", data="one")
        second = come_back(house, ticket_of(house, ann))
        assert second is not None
        bob.ask(t="publish", room="q:a", data="two")
        second.abort()
        bob.ask(t="publish", room="q:a", data="three")
        third, rooms, said = resumed(house, ticket_of(house, second), q_a={"epoch": epoch, "offset": 0})
        assert (rooms["q:a"]["recovered"], data(said)) == (True, ["one", "two", "three"])
        end(third)


async def test_another_first_word_is_heard_and_the_rest_comes_before_its_answer(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        bob, ann, word, _ = two_in(house, "q:a")
        ann.abort()
        bob.ask(t="publish", room="q:a", data="while away")
        again = come_back(house, word)
        assert again is not None
        again.say(t="ping", id=3)
        assert [said["t"] for said in again.heard()] == ["hello", "pong", "message"]
        assert again.ask(t="resume", rooms={})["code"] == "bad_request", "it is too late for that"
        for nonsense in (b"{", b'{"t":"what"}'):
            again.abort()
            again = come_back(house, ticket_of(house, again))
            assert again is not None
            again.tell(1, nonsense)
            assert [said["t"] for said in again.heard()] == ["hello", "error"]
        end(again)


async def test_answers_that_were_not_sent_come_and_those_of_slow_plugins_too(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann = arrive(house)
        word = ticket(ann)
        ann.join("q:a")
        gate = house.plugin("s").gates["on_join"] = trio.Event()
        ann.say(t="join", room="s:a", id=5)
        await trio.testing.wait_all_tasks_blocked()
        ann.say(t="ping", id=6)
        ann.abort()
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        again, rooms, said = resumed(house, word)
        assert {one.get("id") for one in said} == {5, 6}
        assert set(rooms) == {"q:a", "s:a"}
        end(again)
        await trio.testing.wait_all_tasks_blocked()


async def test_rooms_heard_by_a_pattern_are_heard_meanwhile_with_and_without_history(autojump_clock: MockClock) -> None:
    plugins: dict[str, Any] = {
        "w": (Quick, {"history": 9, "wildcards": True}), "bare": (Quick, {"wildcards": True}),
    }  # fmt: skip
    async with open_house(plugins) as house:
        ann, bob = arrive(house), house.client("bob")
        word = ticket(ann)
        for pattern in ("w:*", "bare:*"):
            assert ann.ask(t="join", room=pattern)["t"] == "ok"
        for room in ("w:a", "bare:a"):
            bob.join(room)
        bob.say(t="publish", room="w:a", data="unsent")
        ann.abort()
        for room in ("w:a", "bare:a", "w:new"):
            bob.say(t="publish", room=room, data=f"to {room}")
        again, rooms, rest = resumed(house, word)
        assert rooms == {}
        assert sorted(data(rest)) == ["to bare:a", "to w:a", "to w:new", "unsent"]
        bob.say(t="publish", room="w:a", data="and on")
        assert data(again.heard()) == ["and on"]
        end(again)


@pytest.mark.parametrize("heard", [False, True])
@pytest.mark.parametrize("plugin", ["q", "none"])
async def test_a_room_renamed_meanwhile_goes_on_under_its_new_name_with_nothing_missed(
    plugin: str, heard: bool, autojump_clock: MockClock
) -> None:
    """`heard` False: `renamed` was written, and lost with the socket."""
    old, new = f"{plugin}:old", f"{plugin}:new"

    def rename() -> None:
        moved = moving.rename(house.hub, old, new)
        assert moved is not None
        moving.tell(house.hub, moved, old)

    async with open_house(PLUGINS) as house:
        ann, bob = arrive(house), house.client("bob")
        word = ticket(ann)
        joined = ann.join(old)
        bob.join(old)
        ann.heard()
        if not heard:
            rename()
            ann.heard()
        ann.abort()
        bob.say(t="publish", room=old if heard else new, data=1)
        if heard:
            rename()
        bob.say(t="publish", room=new, data=2)
        position = {"epoch": joined["epoch"], "offset": joined["offset"]}
        again, rooms, rest = resumed(house, word, **{old.replace(":", "_"): position})
        assert rooms == {
            old: {"renamed": new},
            new: {"epoch": joined["epoch"], "offset": 2, "recovered": True},
        }
        renames = [said for said in rest if said["t"] == "renamed"]
        assert renames == ([{"t": "renamed", "room": old, "to": new}] if heard else [])
        assert data([said for said in rest if said["t"] == "message"]) == [1, 2]
        end(again)
