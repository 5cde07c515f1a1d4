"""A session gets a new token: what it changes, and what cannot be one."""

from __future__ import annotations

import dataclasses

import pytest
import trio
from trio.testing import MockClock

from relay.auth.refusals import UnknownKey
from relay.auth.tokens import Identity
from relay.errors import CloseCode
from tests.unit.session.kit import identity, open_house, settings
from tests.unit.session.tokens import PLUGINS, renew


def others_issuer(who: Identity, issuer: str | None) -> Identity:
    return dataclasses.replace(who, issuer=issuer)


async def test_a_new_token_gives_more_time_and_other_grants(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(auth={"leeway": 0.0})) as house:
        ann = house.client("ann", expires_in=60)
        for room in ("q:a", "q:b"):
            ann.join(room)
        grants = {"join": ["q:a", "q:c"], "publish": []}
        house.tokens["new"] = identity("ann", grants, 3600)
        await trio.sleep(50)
        ann.heard()
        ann.say(t="auth", token="new", id=1)
        left, removed, ok = ann.heard()
        assert left == {
            "t": "left",
            "room": "q:b",
            "subject": "ann",
            "reason": "your new token does not grant this room",
        }
        assert (removed["code"], removed["id"]) == ("forbidden", None)
        assert ok == {"t": "ok", "id": 1, "expires": house.tokens["new"].expires}
        assert house.plugin("q").log[-2:] == [("leave", "ann"), ("empty", "q:b")]
        assert ann.refused(t="publish", room="q:a", data=1)[0] == "forbidden"
        ann.join("q:c")
        await trio.sleep(1000)
        assert ann.closed is None
        await trio.sleep(3000)
        assert ann.closed is not None


async def test_a_new_token_that_no_longer_grants_the_home_ends_the_connection() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann", home="q:a")
        house.tokens["new"] = identity("ann", {"join": ["q:b"]})
        ann.say(t="auth", token="new", id=1)
        assert ann.closed is not None
        assert ann.closed.code == CloseCode.FORBIDDEN


async def test_who_loses_its_home_by_a_new_token_leaves_its_other_rooms_too() -> None:
    async with open_house(PLUGINS) as house:
        grants = {"join": ["*"], "join_at_start": ["q:b"]}
        ann = house.client("ann", grants, home="q:a")
        assert set(ann.connection.rooms) == {"q:a", "q:b"}
        house.tokens["new"] = identity("ann", {"join": ["q:b"], "join_at_start": ["q:b"]})
        ann.say(t="auth", token="new", id=1)
        assert ann.closed is not None
        assert ann.closed.code == CloseCode.FORBIDDEN
        assert ann.connection.rooms == {}


@pytest.mark.parametrize(("token", "code"), [("bad", "unauthorized"), ("bobs", "forbidden")])
async def test_a_new_token_that_is_no_good_changes_nothing(token: str, code: str) -> None:
    async with open_house(PLUGINS) as house:
        house.tokens["bobs"] = identity("bob")
        ann = house.client("ann")
        ann.join("q:a")
        before = ann.connection.identity
        assert ann.refused(t="auth", token=token)[0] == code
        assert ann.connection.identity is before
        assert set(ann.connection.rooms) == {"q:a"}


async def test_a_new_token_of_another_issuer_is_refused() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client()
        ann.connection.identity = others_issuer(ann.connection.identity, "https://one.example")
        house.tokens["other"] = others_issuer(identity("ann"), "https://two.example")
        house.tokens["none"] = identity("ann")
        house.tokens["same"] = others_issuer(identity("ann"), "https://one.example")
        assert ann.refused(t="auth", token="other")[0] == "forbidden"
        assert ann.refused(t="auth", token="none")[0] == "forbidden"
        assert renew(ann, "same")["t"] == "ok"
        assert house.counters.tokens == {"refused": 2, "renewed": 1}


async def test_grants_that_shrink_are_gone_at_once() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client()
        ann.join("q:a")
        assert ann.ask(t="publish", room="q:a", data=1, channel="urgent")["t"] == "ok"
        grants = {"join": ["q:a"], "publish": ["q:a"], "history": [], "presence": [], "call": [], "channels": []}
        house.tokens["new"] = identity("ann", grants)
        assert renew(ann)["t"] == "ok"
        for request in (
            {"t": "history", "room": "q:a"},
            {"t": "presence", "room": "q:a"},
            {"t": "call", "room": "q:a", "method": "double", "data": 1},
            {"t": "publish", "room": "q:a", "data": 1, "channel": "urgent"},
        ):
            assert ann.refused(**request)[0] == "forbidden", request
        assert ann.ask(t="publish", room="q:a", data=1)["t"] == "ok"


async def test_rooms_that_only_the_new_token_joins_at_start_are_joined_and_told() -> None:
    async with open_house(PLUGINS) as house:
        grants = {"join": ["q:*"], "publish": ["q:*"], "join_at_start": ["q:a", "q:left"]}
        ann = house.client(grants=grants)
        ann.say(t="leave", room="q:left")
        ann.join("q:c")
        house.tokens["new"] = identity("ann", {**grants, "join_at_start": ["q:a", "q:left", "q:b", "q:c", "q:closed"]})
        ann.heard()
        ann.say(t="auth", token="new", id=1)
        joined, refused, ok = ann.heard()
        assert joined == {"t": "joined", "room": "q:b", "subject": "ann"}
        assert (refused["t"], refused["id"], refused["code"]) == ("error", None, "shut")
        assert ok["t"] == "ok"
        assert set(ann.connection.rooms) == {"q:a", "q:b", "q:c"}, "nor q:left, which it left itself"


async def test_a_room_that_a_plugin_lets_one_into_too_late_is_left_again() -> None:
    async with open_house(PLUGINS) as house:
        gate = house.plugin("s").gates["join"] = trio.Event()
        ann = house.client()
        ann.say(t="join", room="s:a", id=1)
        await trio.testing.wait_all_tasks_blocked()
        house.tokens["new"] = identity("ann", {"join": ["q:*"]})
        assert renew(ann)["t"] == "ok"
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert [said["t"] for said in ann.heard()] == ["ok", "left", "error"]
        assert ann.connection.rooms == {}
        assert house.plugin("s").log == [("join", "ann"), ("leave", "ann"), ("empty", "s:a")]


async def test_a_token_whose_key_is_new_waits_until_the_key_is_there() -> None:
    async with open_house(PLUGINS) as house:
        fetched = trio.Event()
        good = identity("ann", None, 7200)

        def verify(token: str) -> Identity:
            if not fetched.is_set():
                raise UnknownKey("2027-1", "auth.jwks")
            return good

        async def fetch(kid: str | None) -> bool:
            assert kid == "2027-1"
            await fetched.wait()
            return True

        house.services.verify, house.services.key_fetch = verify, lambda issuer: fetch
        ann = house.client()
        ann.heard()
        ann.say(t="auth", token="new", id=1)
        ann.say(t="ping", id=2)
        await trio.testing.wait_all_tasks_blocked()
        assert [said["t"] for said in ann.heard()] == ["pong"], "nothing else waits for it"
        fetched.set()
        await trio.testing.wait_all_tasks_blocked()
        assert ann.heard() == [{"t": "ok", "id": 1, "expires": good.expires}]
        assert ann.connection.identity is good


async def test_a_token_whose_key_does_not_come_is_refused(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:

        def verify(token: str) -> Identity:
            raise UnknownKey("2027-1", "auth.jwks")

        async def in_vain(kid: str | None) -> bool:
            await trio.lowlevel.checkpoint()
            return False

        async def never(kid: str | None) -> bool:
            await trio.sleep_forever()
            raise AssertionError

        house.services.verify = verify
        ann = house.client()
        for fetch in (in_vain, never):
            house.services.key_fetch = lambda issuer, fetch=fetch: fetch  # type: ignore[misc]
            ann.heard()
            ann.say(t="auth", token="new", id=1)
            await trio.sleep(house.config.timeouts.auth + 1)
            (answer,) = ann.heard()
            assert (answer["id"], answer["code"], answer["limit"]) == (1, "unauthorized", "auth.jwks")
        house.services.key_fetch = lambda issuer: None
        assert ann.refused(t="auth", token="new") == ("unauthorized", "auth.jwks")


async def test_a_session_that_has_ended_takes_no_token_when_the_key_has_come() -> None:
    async with open_house(PLUGINS) as house:
        gate = trio.Event()

        def verify(token: str) -> Identity:
            raise UnknownKey("2027-1", "auth.jwks")

        async def fetch(kid: str | None) -> bool:
            await gate.wait()
            return True

        house.services.verify, house.services.key_fetch = verify, lambda issuer: fetch
        ann = house.client()
        ann.say(t="auth", token="new", id=1)
        await trio.testing.wait_all_tasks_blocked()
        ann.connection.lost()
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert house.counters.tokens == {}


async def test_who_tries_one_bad_token_after_another_must_wait(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        told: list[tuple[str, str]] = []
        house.services.bad_token = lambda address, code: told.append((address, code))
        ann = house.client()
        codes = [ann.refused(t="auth", token="bad")[0] for _ in range(40)]
        assert codes == ["unauthorized"] * 33 + ["rate_limited"] * 7
        assert len(told) == 33, "each counts against the address too"
        house.tokens["new"] = identity("ann")
        answer = ann.ask(t="auth", token="new")
        assert answer["code"] == "rate_limited"
        await trio.sleep(answer["retry_after"] + 0.001)
        assert renew(ann)["t"] == "ok"
        assert ann.refused(t="auth", token="bad")[0] == "unauthorized"


# Who sees who comes and goes.


async def test_members_without_the_presence_grant_are_not_told_who_comes_and_goes() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann")
        blind = house.client("blind", {"join": ["*"], "presence": ["q:other"]})
        for client in (ann, blind):
            client.join("q:a")
        ann.heard(), blind.heard()
        bob = house.client("bob")
        bob.join("q:a")
        bob.say(t="leave", room="q:a")
        assert [said["t"] for said in ann.heard()] == ["joined", "left"]
        assert blind.heard() == []


async def test_a_renewal_decides_anew_who_is_told() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann")
        ann.join("q:a")
        house.tokens["blind"] = identity("ann", {"join": ["*"], "presence": []})
        house.tokens["seeing"] = identity("ann")
        bob = house.client("bob")
        renew(ann, "blind")
        bob.join("q:a")
        assert ann.heard() == []
        renew(ann, "seeing")
        bob.say(t="leave", room="q:a")
        assert ann.heard() == [{"t": "left", "room": "q:a", "subject": "bob"}]
