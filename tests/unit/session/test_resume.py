"""Who may come back to a session, for how long, and what ends it meanwhile."""

from __future__ import annotations

from typing import Any

import trio
from trio.testing import MockClock

from relay.errors import CloseReason
from relay.session.leg import Leg
from relay.session.parked import PATIENCE
from relay.session.resume import Resuming
from relay.session.wire import Hold
from tests.unit.session.kit import channels, identity, open_house, settings
from tests.unit.session.sockets import (
    PLUGINS,
    WINDOW,
    Socket,
    arrive,
    come_back,
    data,
    end,
    resumed,
    ticket,
    ticket_of,
    two_in,
)


async def test_a_hello_has_a_ticket_for_who_asks_and_none_for_who_does_not(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = arrive(house), arrive(house, "bob", ask=False)
        assert ticket(ann)
        (hello,) = bob.heard()
        assert "resume" not in hello
        assert "resumed" not in hello
        bob.abort()
        assert house.gone == ["bob"], "its session ends with its socket"
        end(ann)
    async with open_house(PLUGINS, settings(websocket={"resume_window": 0.0})) as house:
        ann = arrive(house)
        assert "resume" not in ann.heard()[0]
        ann.abort()
        assert house.gone == ["ann"]


async def test_who_does_not_come_back_in_time_leaves_like_any_other(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        bob = house.client("bob")
        bob.join("q:a")
        ended: list[Any] = []
        house.services.resumption.ended = lambda connection, code, luggage: ended.append((connection.subject, code))
        ann = arrive(house)
        word = ticket(ann)
        ann.join("q:a")
        bob.heard()
        ann.abort()
        await trio.sleep(WINDOW - 0.1)
        assert bob.heard() == []
        await trio.sleep(0.2)
        assert bob.heard() == [{"t": "left", "room": "q:a", "subject": "ann"}]
        assert (house.gone, ended) == (["ann"], [("ann", 1006)])
        assert come_back(house, word) is None
        assert house.services.resumption.parked == {}
        assert ann.session.closing.setting == "websocket.resume_window"


async def test_a_ticket_is_good_once_and_until_its_follower_was_used_for_its_session_alone(
    autojump_clock: MockClock,
) -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = arrive(house), arrive(house, "bob")
        word, other = ticket(ann), ticket(bob)
        find = house.services.resumption.find
        sessions = house.services.sessions
        forged = word.partition(".")[0] + "." + other.partition(".")[2]
        for wrong in (forged, word[:-1], word + "x", word.partition(".")[0], "", ".", "ü", word.upper()):
            assert find(wrong, sessions) is None, wrong
        ann.abort()
        again, _, _ = resumed(house, word)
        assert find(word, sessions) is None
        again.abort()
        assert find(ticket_of(house, again), sessions) is again.session
        assert find(word, sessions) is again.session, "the hello with the newer one may have been lost with its socket"
        third, _, _ = resumed(house, ticket_of(house, again))
        third.abort()
        assert find(word, sessions) is None
        end(bob)


async def test_a_client_that_comes_back_before_its_old_socket_is_missed_takes_over(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        bob, ann, word, _ = two_in(house, "q:a")
        bob.heard()
        bob.ask(t="publish", room="q:a", data="into the void")
        again, _, said = resumed(house, word)
        assert ann.cut
        assert data(said) == ["into the void"]
        assert bob.heard() == [], "presence has not flapped"
        end(again)


async def test_of_two_who_come_with_one_ticket_the_first_has_the_session(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann = arrive(house)
        word = ticket(ann)
        ann.abort()
        session = house.services.resumption.find(word, house.services.sessions)
        assert session is not None
        one, two = Socket(house), Socket(house)
        first, second = Resuming(session, one, ""), Resuming(session, two, "")
        second.start()
        first.start()
        assert two.session is session
        assert one.closed is not None
        assert one.closed.setting == "websocket.resume_window"
        end(two)


async def test_an_expired_or_revoked_token_ends_a_waiting_session(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ended: list[int] = []
        house.services.resumption.ended = lambda connection, code, luggage: ended.append(code)
        ann = arrive(house)
        word = ticket(ann)
        ann.session.identity = identity("ann", expires_in=5.0)
        ann.session.credentials.start()
        ann.abort()
        await trio.sleep(20)
        assert (ended, come_back(house, word), house.gone) == ([4401], None, ["ann"])


async def test_a_relay_that_goes_away_keeps_nobody(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = arrive(house), arrive(house, "bob")
        ann.abort()
        house.services.resumption.end_all(CloseReason(1001, "going away"))  # type: ignore[arg-type]
        bob.abort()
        await trio.sleep(0.1)
        assert sorted(house.gone) == ["ann", "bob"]


async def test_what_waits_is_bounded_and_so_is_their_number(autojump_clock: MockClock) -> None:
    config = settings(
        channels=channels(default={"capacity": 4096}), websocket={"resume_sessions": 1}, limits={"message_bytes": 1024}
    )
    async with open_house(PLUGINS, config) as house:
        bob = house.client("bob")
        bob.join("none:a")
        ended: list[int] = []
        house.services.resumption.ended = lambda connection, code, luggage: ended.append(code)
        ann, cid = arrive(house), arrive(house, "cid")
        ann.join("none:a")
        ann.abort()
        cid.abort()
        assert house.gone == ["cid"], "one may wait"
        for _ in range(10):
            bob.ask(t="publish", room="none:a", data="x" * 1000)
        await trio.sleep(0.1)
        assert (ended, house.gone) == ([4208], ["cid", "ann"])


async def test_other_sockets_end_and_cannot_be_opened_for_a_session_without_its_first(
    autojump_clock: MockClock,
) -> None:
    async with open_house(PLUGINS) as house:
        ann = arrive(house)
        word = ticket(ann)
        ann.join("q:a")
        other = Socket(house)
        leg = Leg(ann.session, other, ann.session.identity, [house.channels.index("urgent")])
        leg.start()
        room = house.hub.rooms["q:a"]
        room.broadcast("by the other", channel="urgent")
        ann.abort()
        assert other.closed is not None
        late = Socket(house)
        Leg(ann.session, late, ann.session.identity, [house.channels.index("urgent")]).start()
        assert late.closed is not None
        again, _, said = resumed(house, word)
        assert data(said) == ["by the other"]
        end(again)


async def test_what_it_was_held_for_holds_the_next_socket(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann = arrive(house)
        word = ticket(ann)
        ann.session.wait_for(reader := object())
        ann.abort()
        again, _, _ = resumed(house, word)
        assert again.held == {Hold.READERS}
        ann.session.waited_for(reader)
        assert again.held == set()
        end(again)


async def test_what_it_owes_a_quota_the_next_socket_waits_for_too(autojump_clock: MockClock) -> None:
    quotas = {"chat": {"counts": "messages_in", "per": "room", "rate": 1.0, "burst": 1.0, "at_limit": "slow"}}
    async with open_house(PLUGINS, settings(quotas=quotas)) as house:
        ann = arrive(house, metered=True)
        word = ticket(ann)
        ann.join("q:a")
        for number in range(3):
            ann.say(t="publish", room="q:a", data=number)
        assert ann.held == {Hold.QUOTA}
        ann.abort()
        again, _, _ = resumed(house, word)
        assert again.held == {Hold.QUOTA}
        await trio.sleep(3)
        assert again.held == set()
        end(again)


async def test_a_session_that_is_closed_before_its_client_has_said_what_it_has_is_closed(
    autojump_clock: MockClock,
) -> None:
    async with open_house(PLUGINS) as house:
        ann = arrive(house)
        word = ticket(ann)
        ann.join("q:a")
        ann.abort()
        again = come_back(house, word)
        assert again is not None
        ann.session.close(CloseReason(1008, "enough"))  # type: ignore[arg-type]
        assert again.closed is not None
        before = len(again.heard())
        again.say(t="resume", rooms={})
        ann.session.lost()
        await trio.sleep(PATIENCE + 1)
        assert (before, again.heard()) == (1, []), "nothing comes behind the end"
        assert house.services.resumption.parked == {}
        assert dict(house.counters.resumes) == {"waiting": 1, "closed": 1}


async def test_what_did_not_fit_ends_the_session_though_its_client_comes_back_at_that_moment(
    autojump_clock: MockClock,
) -> None:
    config = settings(channels=channels(default={"capacity": 4096}), limits={"message_bytes": 1024})
    async with open_house(PLUGINS, config) as house:
        bob, ann, word, _ = two_in(house, "none:a")
        ann.abort()
        for _ in range(10):
            bob.ask(t="publish", room="none:a", data="x" * 1000)
        again = come_back(house, word)
        assert again is not None
        again.say(t="resume", id=1, rooms={})
        assert again.closed is not None
        assert (again.closed.code, again.closed.setting) == (4208, "channels.default.capacity")
        ann.session.lost()
