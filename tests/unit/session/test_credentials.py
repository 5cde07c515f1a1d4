"""The life of a session's token: the notice, the grace, and what comes after it."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from relay.errors import CloseCode
from relay.protocols.plain import Plain
from tests.unit.session.kit import identity, open_house, settings
from tests.unit.session.tokens import PLUGINS, renew

READ_ONLY: dict[str, Any] = {"leeway": 0.0, "expiring_notice": 0.0, "on_expiry": "read_only", "read_only_for": 100.0}


# The end.


async def test_a_connection_ends_when_its_token_does(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(auth={"leeway": 5.0})) as house:
        ann = house.client(expires_in=60)
        await trio.sleep(64.9)
        assert ann.closed is None
        await trio.sleep(0.2)
        assert ann.closed is not None
        assert ann.closed.code == CloseCode.UNAUTHORIZED


async def test_a_token_that_has_expired_already_ends_at_once() -> None:
    async with open_house(PLUGINS, settings(auth={"leeway": 0.0})) as house:
        ann = house.client(expires_in=-1)
        await trio.testing.wait_all_tasks_blocked()
        assert ann.closed is not None


async def test_a_wall_clock_that_was_set_back_gives_more_time(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(auth={"leeway": 0.0})) as house:
        ann = house.client(expires_in=60)
        wall = house.services.wall
        house.services.wall = lambda: wall() - 30
        await trio.sleep(61)
        assert ann.closed is None
        await trio.sleep(30)
        assert ann.closed is not None


async def test_a_connection_that_is_gone_leaves_no_deadline_behind() -> None:
    async with open_house(PLUGINS) as house:
        before = house.services.timers.next()
        ann = house.client(expires_in=60)
        ann.connection.lost()
        assert house.services.timers.next() == before


# The notice.


async def test_a_client_is_told_before_its_token_ends(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(auth={"expiring_notice": 20.0})) as house:
        ann = house.client(expires_in=100)
        ann.heard()
        await trio.sleep(79)
        assert ann.heard() == []
        await trio.sleep(2)
        assert ann.heard() == [{"t": "expiring", "in": 20.0}]
        await trio.sleep(15)
        assert ann.heard() == []


@pytest.mark.parametrize(("left", "told_at", "seconds"), [(40, 30, 10.0), (2, 1.5, 0.5)])
async def test_a_short_token_is_told_of_when_a_quarter_of_its_time_is_left(
    autojump_clock: MockClock, left: float, told_at: float, seconds: float
) -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client(expires_in=left)
        ann.heard()
        await trio.sleep(told_at - 0.1)
        assert ann.heard() == []
        await trio.sleep(0.2)
        assert ann.heard() == [{"t": "expiring", "in": seconds}]


async def test_without_a_notice_nothing_is_told(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(auth={"expiring_notice": 0.0, "leeway": 0.0})) as house:
        ann = house.client(expires_in=100)
        ann.heard()
        await trio.sleep(99.9)
        assert ann.heard() == []
        await trio.sleep(0.2)
        assert ann.closed is not None


async def test_a_plain_client_gets_nothing_but_the_close(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(auth={"leeway": 0.0})) as house:
        ann = house.client(protocol=Plain(), home="q:a", expires_in=100)
        await trio.sleep(99.9)
        assert (ann.heard(), ann.closed) == ([], None)
        await trio.sleep(0.2)
        assert ann.closed is not None
        assert ann.closed.code == CloseCode.UNAUTHORIZED


async def test_each_token_is_told_of_once(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client(expires_in=100)
        house.tokens["new"] = identity("ann", None, 1000)
        await trio.sleep(45)
        assert renew(ann)["t"] == "ok"
        await trio.sleep(890)
        assert ann.heard() == []
        await trio.sleep(6)
        assert ann.heard() == [{"t": "expiring", "in": 60.0}]


# Grace, and listening only.


async def test_in_its_grace_a_session_goes_on_as_before(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(auth={"leeway": 5.0, "grace": 30.0})) as house:
        ann = house.client(expires_in=60)
        ann.join("q:a")
        await trio.sleep(94.9)
        assert ann.ask(t="publish", room="q:a", data=1)["t"] == "ok"
        house.tokens["new"] = identity("ann", None, 3600)
        assert renew(ann)["t"] == "ok"
        await trio.sleep(3000)
        assert ann.closed is None


async def test_after_its_grace_a_session_ends(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(auth={"leeway": 5.0, "grace": 30.0})) as house:
        ann = house.client(expires_in=60)
        await trio.sleep(95.1)
        assert ann.closed is not None
        assert (ann.closed.code, ann.closed.setting) == (CloseCode.UNAUTHORIZED, None)
        assert house.counters.tokens == {"expired": 1}


async def test_where_the_policy_is_to_listen_a_session_hears_and_does_nothing_else(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(auth=READ_ONLY)) as house:
        ann, bob = house.client("ann", expires_in=60), house.client("bob")
        for room in ("q:a", "s:a"):
            ann.say(t="join", room=room)
            await trio.testing.wait_all_tasks_blocked()
        bob.join("q:a")
        ann.heard(), bob.heard()
        await trio.sleep(61)
        (told,) = ann.heard()
        assert (told["t"], told["id"], told["code"], told["limit"]) == ("error", None, "unauthorized", "auth.on_expiry")
        bob.say(t="publish", room="q:a", data="hi")
        assert ann.messages() == ["hi"]
        for request in (
            {"t": "publish", "room": "q:a", "data": 1},
            {"t": "publish", "room": "s:a", "data": 1},
            {"t": "publish", "room": "q:other", "data": 1},
            {"t": "call", "room": "q:a", "method": "double", "data": 1},
            {"t": "join", "room": "q:b"},
        ):
            assert ann.refused(**request) == ("unauthorized", "auth.on_expiry"), request
        assert bob.heard() == []
        assert ann.ask(t="presence", room="q:a")["count"] == 2
        assert ann.ask(t="history", room="q:a")["t"] == "ok"
        assert ann.ask(t="leave", room="q:a")["t"] == "ok"
        assert ann.closed is None
        assert house.counters.tokens == {"read_only": 1}


async def test_a_renewal_ends_the_listening_only(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(auth=READ_ONLY)) as house:
        ann = house.client(expires_in=60)
        ann.join("q:a")
        ann.join("q:b")
        await trio.sleep(100)
        house.tokens["new"] = identity("ann", {"join": ["*"], "publish": ["q:a", "q:c"]}, 300)
        assert renew(ann)["t"] == "ok"
        assert ann.ask(t="publish", room="q:a", data=1)["t"] == "ok"
        assert ann.refused(t="publish", room="q:b", data=1) == ("forbidden", None)
        ann.join("q:c")
        assert ann.ask(t="publish", room="q:c", data=1)["t"] == "ok"
        await trio.sleep(299)
        assert ann.closed is None


async def test_listening_only_has_an_end(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(auth=READ_ONLY)) as house:
        ann = house.client(expires_in=60)
        await trio.sleep(159.9)
        assert ann.closed is None
        await trio.sleep(0.2)
        assert ann.closed is not None
        assert (ann.closed.code, ann.closed.setting) == (CloseCode.UNAUTHORIZED, "auth.read_only_for")


async def test_listening_only_may_be_without_end(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(auth={**READ_ONLY, "read_only_for": 0.0})) as house:
        ann = house.client(expires_in=60)
        await trio.sleep(80_000)
        assert ann.closed is None
        assert ann.refused(t="join", room="q:a") == ("unauthorized", "auth.on_expiry")


async def test_a_plain_client_hears_on_and_is_closed_when_it_speaks(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(auth=READ_ONLY)) as house:
        ann = house.client("ann", protocol=Plain(), home="q:a", expires_in=60)
        bob = house.client("bob", protocol=Plain(), home="q:a")
        await trio.sleep(61)
        bob.say_plainly("hi")
        assert ann.heard() == ["hi"]
        ann.say_plainly("me too")
        assert bob.heard() == []
        assert ann.closed is not None
        assert (ann.closed.code, ann.closed.setting) == (CloseCode.UNAUTHORIZED, "auth.on_expiry")


async def test_who_may_only_listen_is_let_into_no_room_by_a_plugin_that_took_its_time(
    autojump_clock: MockClock,
) -> None:
    async with open_house(PLUGINS, settings(auth=READ_ONLY)) as house:
        gate = house.plugin("s").gates["join"] = trio.Event()
        ann = house.client(expires_in=5)
        ann.say(t="join", room="s:a", id=1)
        await trio.sleep(6)
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert ann.refused(t="publish", room="s:a", data=1) == ("unauthorized", "auth.on_expiry")


async def test_a_clock_that_is_set_forward_ends_a_token_at_the_next_look(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(auth={**READ_ONLY, "on_expiry": "close"})) as house:
        ann, bob = house.client("ann", expires_in=1800), house.client("bob", expires_in=7200)
        wall = house.services.wall
        house.services.wall = lambda: wall() + 3600
        for client in (ann, bob):
            client.connection.credentials.look()
        assert ann.closed is not None
        assert ann.closed.code == CloseCode.UNAUTHORIZED
        await trio.sleep(3599)
        assert bob.closed is None
        await trio.sleep(2)
        assert bob.closed is not None


async def test_a_clock_that_is_set_back_gives_a_session_back_what_it_may_do(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(auth={**READ_ONLY, "read_only_for": 0.0})) as house:
        ann = house.client(expires_in=60)
        ann.join("q:a")
        await trio.sleep(61)
        assert ann.refused(t="publish", room="q:a", data=1) == ("unauthorized", "auth.on_expiry")
        wall = house.services.wall
        house.services.wall = lambda: wall() - 3600
        ann.connection.credentials.look()
        assert ann.ask(t="publish", room="q:a", data=1)["t"] == "ok"
        await trio.sleep(3601)
        assert ann.refused(t="publish", room="q:a", data=1) == ("unauthorized", "auth.on_expiry")


async def test_a_connection_that_closes_is_not_looked_after_any_more(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(auth={"leeway": 0.0})) as house:
        ann = house.client(protocol=Plain(), home="q:a", expires_in=60, grants={"join": ["*"]})
        ann.say_plainly("not granted")
        reason = ann.closed
        assert reason is not None
        await trio.sleep(100)
        assert ann.closed is reason
