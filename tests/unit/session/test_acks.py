"""A publish to one subject that is answered once it has arrived."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from relay.model import Message
from relay.plugin.api import Peer, Plugin, Room
from relay.rooms import moving
from tests.unit.protocols.table import MSGPACK
from tests.unit.session.kit import House, open_house, settings
from tests.unit.session.plugins import Quick, Slow
from tests.unit.session.sockets import arrive, end, resumed, ticket

PLUGINS: dict[str, Any] = {
    "q": (Quick, {"history": 9}),
    "s": (Slow, {}),
    "disk": (Quick, {"history": 9, "durable": True}),
}
TAXI = {"t": "publish", "to": "bob", "data": "taxi"}


def house_is_quiet(house: House) -> bool:
    return len(house.services.acks) == 0


@pytest.mark.parametrize("room", ["q:a", "s:a"])
async def test_it_is_answered_when_all_connections_of_the_subject_have_confirmed(
    room: str, autojump_clock: MockClock
) -> None:
    async with open_house(PLUGINS) as house:
        ann, phone, laptop, cid = (house.client(who) for who in ("ann", "bob", "bob", "cid"))
        for client in (ann, phone, laptop, cid):
            client.say(t="join", room=room)
            await trio.testing.wait_all_tasks_blocked()
            client.heard()
        ann.say(**TAXI, room=room, id=1, confirm=5.0)
        await trio.testing.wait_all_tasks_blocked()
        assert ann.heard() == []
        for client in (phone, laptop):
            message, confirm = client.heard()
            assert (message["t"], message["data"], confirm["t"]) == ("message", "taxi", "confirm")
            assert confirm["offset"] == message["offset"]
            assert ann.heard() == []
            client.say(t="ack", room=room, offset=confirm["offset"])
        assert ann.heard() == [{"t": "ok", "id": 1, "offset": 1, "delivered": 2}]
        assert cid.heard() == []
        assert house_is_quiet(house)


async def test_in_time_some_are_enough_and_none_is_a_timeout(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(timeouts={"ack": 7.0})) as house:
        ann, phone, laptop = (house.client(who) for who in ("ann", "bob", "bob"))
        for client in (ann, phone, laptop):
            client.join("q:a")
        ann.say(**TAXI, room="q:a", id=1, confirm=5.0)
        ann.say(**TAXI, room="q:a", id=2, confirm=1000.0)
        phone.say(t="ack", room="q:a", offset=1)
        phone.say(t="ack", room="q:a", offset=1)  # once is enough, and twice is not two
        await trio.sleep(4.9)
        assert ann.heard() == []
        await trio.sleep(0.2)
        assert ann.heard() == [{"t": "ok", "id": 1, "offset": 1, "delivered": 1}]
        await trio.sleep(2)
        (answer,) = ann.heard()
        assert (answer["id"], answer["code"], answer["limit"]) == (2, "timeout", "timeouts.ack")
        assert laptop.ask(t="ack", room="q:a", offset=2)["t"] == "ok", "nobody waits for it any more"
        assert ann.heard() == []
        assert house_is_quiet(house)


async def test_only_who_was_asked_can_answer(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann, bob, eve = (house.client(who) for who in ("ann", "bob", "eve"))
        for client in (ann, bob, eve):
            client.join("q:a")
        ann.say(**TAXI, room="q:a", id=1, confirm=5.0)
        eve.say(t="ack", room="q:a", offset=1)
        ann.say(t="ack", room="q:a", offset=1)
        assert ann.heard() == []
        bob.say(t="ack", room="q:a", offset=1)
        assert ann.heard()[0]["delivered"] == 1


async def test_what_cannot_be_confirmed_is_refused_and_not_published(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(limits={"requests_waiting": 1})) as house:
        ann, bob = house.client("ann"), house.client("bob")
        ann.join("q:a")
        assert ann.refused(**TAXI, room="q:a", confirm=5.0)[0] == "no_such_subject"
        plain = house.client("pat", protocol=_plain(), home="q:a")
        assert ann.refused(t="publish", to="pat", data=1, room="q:a", confirm=5.0)[0] == "no_such_subject"
        assert plain.heard() == []
        bob.join("q:a")
        assert ann.refused(t="publish", data=1, room="q:a", confirm=5.0)[0] == "bad_request"
        assert ann.refused(**TAXI, room="q:a", confirm=0)[0] == "bad_request"
        assert house.hub.rooms["q:a"].offset == 0
        ann.say(**TAXI, room="q:a", id=1, confirm=5.0)
        assert ann.refused(**TAXI, room="q:a", confirm=5.0) == ("too_many_requests", "limits.requests_waiting")


def _plain() -> Any:
    from relay.protocols.plain import Plain

    return Plain()


async def test_in_a_durable_room_they_are_asked_once_it_is_on_disk(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(history={"file": "x"})) as house:
        ann, bob = house.client("ann"), house.client("bob")
        ann.join("disk:a")
        bob.join("disk:a")
        ann.say(**TAXI, room="disk:a", id=1, confirm=5.0)
        assert bob.heard() == []
        house.write()
        assert [said["t"] for said in bob.heard()] == ["message", "confirm"]
        bob.say(t="ack", room="disk:a", offset=1)
        assert ann.heard()[0]["delivered"] == 1


async def test_a_publisher_that_has_gone_is_not_answered(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = house.client("ann"), house.client("bob", protocol=MSGPACK.protocol)
        ann.join("q:a")
        house.hub.join(bob.connection, house.hub.rooms["q:a"], may_publish=True)
        ann.say(**TAXI, room="q:a", id=1, confirm=5.0)
        ann.connection.lost()
        ann.connection.closing = ann.connection.closing or _gone()
        await trio.sleep(6)
        assert house_is_quiet(house)


def _gone() -> Any:
    from relay.errors import CloseReason

    return CloseReason(1001, "gone")  # type: ignore[arg-type]


async def test_what_is_published_again_while_it_is_waited_for_is_answered_once_and_heard_once(
    autojump_clock: MockClock,
) -> None:
    async with open_house(PLUGINS) as house:
        ann, bob, eve = (house.client(who) for who in ("ann", "bob", "eve"))
        for client in (ann, bob, eve):
            client.join("q:a")
        ann.say(**TAXI, room="q:a", id=1, confirm=5.0, once="k")
        ann.say(**TAXI, room="q:a", id=2, confirm=5.0, once="k")
        assert [said["t"] for said in bob.heard()] == ["message", "confirm"]
        assert ann.heard() == []
        bob.say(t="ack", room="q:a", offset=1)
        assert ann.heard() == [{"t": "ok", "id": 2, "offset": 1, "delivered": 1}]
        assert ann.ask(**TAXI, room="q:a", confirm=5.0, once="k") == {"t": "ok", "offset": 1, "duplicate": True}
        assert ann.refused(**{**TAXI, "to": "nobody"}, room="q:a", confirm=5.0, once="n")[0] == "no_such_subject"
        nobody = house.client("nobody")
        nobody.join("q:a")
        ann.say(**{**TAXI, "to": "nobody"}, room="q:a", id=3, confirm=5.0, once="n")
        assert [said["t"] for said in nobody.heard()] == ["message", "confirm"], "refused, it was not said"
        nobody.say(t="ack", room="q:a", offset=2)
        assert ann.heard()[0]["delivered"] == 1
        assert house_is_quiet(house)


async def test_a_receiver_that_comes_back_in_time_confirms(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann")
        ann.join("q:a")
        bob = arrive(house, "bob")
        word = ticket(bob)
        bob.join("q:a")
        bob.abort()
        ann.say(**TAXI, room="q:a", id=1, confirm=20.0)
        await trio.sleep(10)
        again, _, said = resumed(house, word)
        assert [one["t"] for one in said] == ["message", "confirm"]
        again.say(t="ack", room="q:a", offset=1)
        assert ann.heard() == [{"t": "ok", "id": 1, "offset": 1, "delivered": 1}]
        end(again)


async def test_a_room_that_begins_anew_has_messages_of_its_own_to_confirm(autojump_clock: MockClock) -> None:
    async with open_house({"none": (Quick, {})}) as house:
        ann, bob = house.client("ann"), house.client("bob")
        for round_ in (1, 2):
            for client in (ann, bob):
                client.join("none:a")
            ann.say(**TAXI, room="none:a", id=round_, confirm=5.0)
            if round_ == 2:
                break
            await trio.sleep(2)
            for client in (ann, bob):
                client.ask(t="leave", room="none:a")
        await trio.sleep(3.5)
        (answer,) = (said for said in ann.heard() if said.get("id") == 1)
        assert answer["code"] == "timeout"
        bob.say(t="ack", room="none:a", offset=1)
        assert ann.heard() == [{"t": "ok", "id": 2, "offset": 1, "delivered": 1}]
        assert house_is_quiet(house)


async def test_a_room_that_is_renamed_takes_what_is_to_be_confirmed_along(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = house.client("ann"), house.client("bob")
        ann.join("q:a")
        bob.join("q:a")
        ann.say(**TAXI, room="q:a", id=1, confirm=5.0)
        room = moving.rename(house.hub, "q:a", "q:b")
        assert room is not None
        moving.tell(house.hub, room, "q:a")
        bob.say(t="ack", room="q:b", offset=1)
        assert ann.heard()[-1] == {"t": "ok", "id": 1, "offset": 1, "delivered": 1}


async def test_what_the_plugin_keeps_to_itself_is_delivered_to_nobody(autojump_clock: MockClock) -> None:
    class Silent(Plugin):
        def on_message(self, room: Room, sender: Peer, message: Message) -> None:
            if message.data.value() != "taxi":
                room.broadcast(message, sender=sender)

    async with open_house({"mute": (Silent, {})}) as house:
        ann, bob = house.client("ann"), house.client("bob")
        ann.join("mute:a")
        bob.join("mute:a")
        ann.say(t="publish", room="mute:a", data="aloud")
        bob.heard()
        assert ann.ask(**TAXI, room="mute:a", confirm=5.0) == {"t": "ok", "offset": 1, "delivered": 0}
        assert bob.heard() == []


async def test_nothing_is_kept_for_a_publisher_that_has_gone(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(timeouts={"ack": 0.0})) as house:
        ann, bob = house.client("ann"), house.client("bob")
        ann.join("q:a")
        bob.join("q:a")
        ann.say(**TAXI, room="q:a", id=1, confirm=1e9)
        assert not house_is_quiet(house)
        ann.connection.close(_gone())
        ann.connection.lost()
        assert house_is_quiet(house)
