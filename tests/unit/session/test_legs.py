"""Several sockets, one session: which channel leaves by which, and what the end of each means."""

from __future__ import annotations

from typing import Any

import pytest

from relay.delivery.outbox import Outbox
from relay.errors import CloseCode, CloseReason
from relay.session.leg import Leg
from relay.session.spending import Spending
from relay.session.wire import Hold
from tests.unit.delivery.kit import AtEase
from tests.unit.session.kit import Client, House, channels, heard, open_house, settings
from tests.unit.session.plugins import Quick

PLUGINS: dict[str, Any] = {"q": (Quick, {})}


class Second(AtEase):
    """One more socket of a client's session, and what is heard by it."""

    def __init__(self, house: House, main: Client, *names: str) -> None:
        self.house = house
        self.outbox = Outbox(house.channels, self, house.tick)
        self.closed: CloseReason | None = None
        self.farewell: bytes | None = None
        self.holds: list[bool] = []
        self.connection = self.leg = Leg(
            main.connection, self, main.connection.identity, [house.channels.index(name) for name in names]
        )
        self.protocol = main.connection.protocol
        self.leg.start()

    def heard(self) -> list[Any]:
        return heard(self.outbox, self.protocol)

    def messages(self) -> list[Any]:
        return [said["data"] for said in self.heard()]

    def close(self, reason: CloseReason, farewell: bytes | None) -> None:
        self.closed, self.farewell = reason, farewell

    def hold(self, reason: Hold, held: bool) -> None:
        self.holds.append(held)


def joined(house: House) -> tuple[Client, Client]:
    ann, bob = house.client("ann"), house.client("bob")
    for client in (ann, bob):
        client.join("q:a")
        client.heard()
    return ann, bob


def publish(client: Client, *what: tuple[str, str]) -> None:
    for channel, data in what:
        client.say(t="publish", room="q:a", data=data, channel=channel)


async def test_the_channels_of_a_second_socket_leave_by_it_and_the_others_do_not() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = joined(house)
        second = Second(house, ann, "urgent")
        publish(bob, ("default", "d1"), ("urgent", "u1"), ("default", "d2"), ("urgent", "u2"))
        assert (ann.messages(), second.messages()) == (["d1", "d2"], ["u1", "u2"])


async def test_answers_stay_on_the_first_socket() -> None:
    async with open_house(PLUGINS) as house:
        ann, _ = joined(house)
        second = Second(house, ann, "urgent", "default")
        second.leg.message(1, b'{"t":"ping","id":5}')
        assert ann.heard() == [{"t": "pong", "id": 5}]
        assert second.heard() == []


async def test_what_is_said_on_any_socket_is_said_by_the_session_and_counted_once() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = joined(house)
        before = ann.connection.messages
        second = Second(house, ann, "urgent")
        second.leg.message(1, b'{"t":"publish","room":"q:a","data":"hi"}')
        (said,) = bob.heard()
        assert (said["data"], said["from"]) == ("hi", "ann")
        assert ann.connection.messages + second.leg.messages == before + 1


async def test_what_waits_already_moves_along_in_order() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = joined(house)
        publish(bob, ("urgent", "u1"), ("urgent", "u2"))
        second = Second(house, ann, "urgent")
        publish(bob, ("urgent", "u3"))
        assert second.messages() == ["u1", "u2", "u3"]
        assert ann.heard() == []


async def test_when_a_second_socket_ends_its_channels_are_back_on_the_first() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = joined(house)
        second = Second(house, ann, "urgent")
        publish(bob, ("urgent", "u1"))
        second.leg.lost()
        publish(bob, ("urgent", "u2"))
        assert ann.messages() == ["u1", "u2"]
        assert type(ann.connection.outbox) is Outbox, "and nothing is left of the detour"


async def test_a_later_socket_takes_channels_over() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = joined(house)
        first = Second(house, ann, "urgent", "bulk")
        second = Second(house, ann, "urgent")
        publish(bob, ("urgent", "u1"), ("bulk", "b1"))
        assert (first.messages(), second.messages()) == (["b1"], ["u1"])
        first.leg.lost()
        publish(bob, ("urgent", "u2"), ("bulk", "b2"))
        assert (ann.messages(), second.messages()) == (["b2"], ["u2"])


async def test_rooms_joined_and_left_with_a_second_socket_are_the_sessions() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = joined(house)
        second = Second(house, ann, "urgent")
        second.leg.message(1, b'{"t":"join","room":"q:b"}')
        bob.join("q:b")
        bob.say(t="publish", room="q:b", data="u", channel="urgent")
        assert second.messages() == ["u"]
        second.leg.lost()
        assert set(ann.connection.rooms) == {"q:a", "q:b"}


async def test_when_the_first_socket_ends_the_others_do() -> None:
    async with open_house(PLUGINS) as house:
        ann, _ = joined(house)
        second = Second(house, ann, "urgent")
        ann.connection.close(CloseReason(CloseCode.REPLACED, "somebody else"))
        assert second.closed is not None
        assert second.closed.code == CloseCode.REPLACED


async def test_when_the_first_socket_is_lost_the_others_end() -> None:
    async with open_house(PLUGINS) as house:
        ann, _ = joined(house)
        second = Second(house, ann, "urgent")
        ann.connection.lost()
        assert second.closed is not None


async def test_a_second_socket_for_a_session_that_is_closing_is_closed() -> None:
    async with open_house(PLUGINS) as house:
        ann, _ = joined(house)
        ann.connection.close(CloseReason(CloseCode.NORMAL, "bye"))
        second = Second(house, ann, "urgent")
        assert second.closed is not None


async def test_what_comes_by_a_socket_that_is_closing_is_ignored() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = joined(house)
        second = Second(house, ann, "urgent")
        second.leg.close(CloseReason(CloseCode.TOO_MANY, "too fast"))
        second.leg.message(1, b'{"t":"publish","room":"q:a","data":"late"}')
        assert bob.heard() == []
        assert ann.closed is None


@pytest.mark.parametrize("by_second", [True, False])
async def test_the_socket_that_a_reader_cannot_keep_up_with_is_the_one_that_waits(by_second: bool) -> None:
    config = settings(channels=channels(bulk={"overflow": "pause"}))
    async with open_house(PLUGINS, config) as house:
        ann, _ = joined(house)
        second = Second(house, ann, "urgent")
        producer = second.leg if by_second else ann.connection
        one, other = object(), object()
        producer.wait_for(one)
        producer.wait_for(other)
        producer.waited_for(one)
        held = second.holds if by_second else ann.held
        assert held[-1] is True
        producer.waited_for(other)
        assert held[-1] is False
        assert not (ann.held if by_second else second.holds)


async def test_a_new_socket_waits_for_what_the_session_owes_a_quota() -> None:
    async with open_house(PLUGINS) as house:
        ann, _ = joined(house)
        spending = ann.connection.spending = Spending(ann.connection)
        spending._timer = house.services.timers.at(1e9, lambda: None)
        second = Second(house, ann, "urgent")
        assert second.holds == [True]
