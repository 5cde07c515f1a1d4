"""Quotas on live connections: each way of counting, each way of saying no, and nothing where there is none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from relay.errors import CloseCode
from relay.front.state import PLAIN
from relay.protocols.parts import FIRST, LAST, Part, encode_part
from relay.session.connection import Connection
from relay.session.metered import Metered, renew_quotas
from relay.session.spending import ROOMS_KNOWN, compile_quotas
from tests.unit.session.kit import Client, House, open_house, settings
from tests.unit.session.plugins import Quick, Slow
from tests.unit.session.test_legs import Second

PLUGINS: dict[str, Any] = {"q": (Quick, {}), "other": (Quick, {}), "slow": (Slow, {})}


def quotas(limits: dict[str, Any] | None = None, **tables: Any) -> Any:
    """Settings with quotas; each is one a second, three at once, of messages, unless it says otherwise."""
    usual = {"counts": "messages_in", "per": "connection", "rate": 1.0, "burst": 3.0}
    return settings(quotas={name: {**usual, **table} for name, table in tables.items()}, limits=limits or {})


def counted(house: House) -> dict[tuple[str, str], int]:
    return dict(house.services.counters.quotas)


def publish(client: Client, room: str = "q:a", times: int = 1, data: Any = "x") -> list[str]:
    """What each of so many messages was answered: "ok" or the code of the refusal."""
    found = []
    for _ in range(times):
        answer = client.ask(t="publish", room=room, data=data)
        found.append("ok" if answer["t"] == "ok" else answer["code"])
    return found


async def test_without_quotas_of_messages_a_connection_is_a_plain_one_and_keeps_no_accounts(
    autojump_clock: MockClock,
) -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client(grants={"join": ["*"], "publish": ["*"], "join_at_start": ["q:a"]})
        assert type(ann.connection) is Connection
        assert ann.connection.spending is None
        ann.join("q:b")
        assert ann.connection.spending is not None, "joins are counted by default"


async def test_too_many_joins_are_refused_with_the_time_to_wait_and_the_setting(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, quotas(joins={"counts": "joins"})) as house:
        ann = house.client()
        for room in "abc":
            ann.join(f"q:{room}")
        answer = ann.ask(t="join", room="q:d")
        assert (answer["code"], answer["limit"], answer["retry_after"]) == ("rate_limited", "quotas.joins", 1.0)
        assert answer["message"] == "too many joins of this connection"
        await trio.sleep(1)
        ann.join("q:d")
        assert house.client("bob").join("q:d")
        assert counted(house) == {("joins", "refused"): 1}


async def test_a_join_that_was_forbidden_anyway_costs_nothing(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, quotas(joins={"counts": "joins"})) as house:
        ann = house.client(grants={"join": ["q:*"]})
        for _ in range(10):
            assert ann.refused(t="join", room="other:a")[0] == "forbidden"
        ann.join("q:a")


async def test_rooms_joined_at_the_start_count_for_all_but_the_connection_itself(autojump_clock: MockClock) -> None:
    config = quotas(joins={"counts": "joins"}, reconnects={"counts": "joins", "per": "subject"})
    async with open_house(PLUGINS, config) as house:
        for _ in range(3):
            house.client("ann", home="q:a", protocol=PLAIN)
        fourth = house.client("ann", home="q:a", protocol=PLAIN)
        assert fourth.closed is not None
        assert (fourth.closed.code, fourth.closed.setting) == (CloseCode.TOO_MANY, "quotas.reconnects")
        assert house.client("bob", home="q:a", protocol=PLAIN).closed is None


async def test_calls_are_counted_and_one_plugins_are_not_anothers(autojump_clock: MockClock) -> None:
    config = quotas(some={"counts": "calls", "per": "subject", "plugins": ["q"]})
    async with open_house(PLUGINS, config) as house:
        ann = house.client(grants={"join": ["*"], "call": ["*"]})
        for room in ("q:a", "other:a"):
            ann.join(room)
        for _ in range(3):
            assert ann.ask(t="call", room="q:a", method="double", data=2)["data"] == 4
        assert ann.refused(t="call", room="q:a", method="double", data=2) == ("rate_limited", "quotas.some")
        assert ann.ask(t="call", room="other:a", method="double", data=2)["data"] == 4


async def test_a_room_has_one_bucket_for_all_who_publish_in_it(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, quotas(crowd={"per": "room", "rooms": ["q:*"]})) as house:
        ann, bob = house.client("ann"), house.client("bob")
        for client in (ann, bob):
            client.join("q:a")
            client.join("q:b")
            client.join("other:a")
        assert type(ann.connection) is Metered
        assert publish(ann, times=2) + publish(bob, times=2) == ["ok", "ok", "ok", "rate_limited"]
        assert publish(ann, "q:b") == publish(ann, "other:a") == ["ok"]
        assert publish(ann, "other:a", times=20) == ["ok"] * 20
        await trio.sleep(1)
        assert publish(bob, times=2) == ["ok", "rate_limited"]
        assert bob.messages() == []
        assert counted(house) == {("crowd", "refused"): 2}


async def test_leaving_the_room_empty_gives_no_new_burst(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, quotas(crowd={"per": "room"})) as house:
        ann = house.client()
        assert publish(ann, times=4) == ["ok"] * 3 + ["rate_limited"]
        for _ in range(3):
            ann.join("q:a")
            assert publish(ann) == ["rate_limited"]
            ann.say(t="leave", room="q:a")
            assert "q:a" not in house.hub.rooms


@pytest.mark.parametrize("per", ["subject", "address"])
async def test_who_comes_back_finds_its_bucket_as_it_was(autojump_clock: MockClock, per: str) -> None:
    async with open_house(PLUGINS, quotas(each={"per": per})) as house:
        ann = house.client("ann")
        assert publish(ann, times=4) == ["ok"] * 3 + ["rate_limited"]
        ann.connection.lost()
        again = house.client("ann")
        assert publish(again) == ["rate_limited"]
        house.address = "192.0.2.2"
        other = house.client("bob")
        assert publish(other) == ["ok"]


async def test_an_ipv6_network_is_one_address(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, quotas(each={"per": "address"})) as house:
        for number in (1, 2):
            house.address = f"2001:db8::{number}"
            assert publish(house.client(f"s{number}"), times=4).count("ok") == (3 if number == 1 else 0)


async def test_the_tenant_is_everybody_together(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, quotas(all={"per": "tenant"})) as house:
        assert publish(house.client("ann"), times=2) + publish(house.client("bob"), times=2) == [
            "ok", "ok", "ok", "rate_limited",
        ]  # fmt: skip


async def test_every_message_counts_where_no_room_is_named_and_a_refusal_has_its_id(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, quotas(each={})) as house:
        ann = house.client()
        for _ in range(3):
            assert ann.ask(t="ping")["t"] == "pong"
        assert ann.refused(t="join", room="q:a") == ("rate_limited", "quotas.each")
        assert ann.connection.messages == 4


async def test_bytes_count_whole_messages_as_they_came(autojump_clock: MockClock) -> None:
    config = quotas({"message_bytes": 1000}, each={"counts": "bytes_in", "burst": 1000.0, "rate": 100.0})
    async with open_house(PLUGINS, config) as house:
        ann = house.client()
        assert publish(ann, data="x" * 900) == ["ok"]
        answer = ann.ask(t="publish", room="q:a", data="x" * 100)
        assert answer["code"] == "rate_limited"
        assert 0.3 < answer["retry_after"] < 1.0
        await trio.sleep(answer["retry_after"])
        assert publish(ann, data="x" * 100) == ["ok"]


async def test_close_ends_the_connection_with_4229_and_the_setting(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, quotas(each={"at_limit": "close"})) as house:
        ann, bob = house.client("ann"), house.client("bob")
        publish(ann, times=3)
        ann.say(t="publish", room="q:a", data="x")
        assert ann.closed is not None
        assert (ann.closed.code, ann.closed.setting) == (CloseCode.TOO_MANY, "quotas.each")
        assert ann.closed.text() == "too many messages of this connection [quotas.each]"
        assert bob.closed is None
        assert counted(house) == {("each", "closed"): 1}


async def test_slow_reads_no_further_until_what_was_taken_is_paid_for(autojump_clock: MockClock) -> None:
    config = quotas(crowd={"per": "room", "at_limit": "slow"})
    async with open_house(PLUGINS, config) as house:
        ann, bob = house.client("ann"), house.client("bob")
        ann.join("q:a")
        assert publish(ann, times=3) == ["ok"] * 3
        assert ann.held == []
        assert publish(bob) == ["ok"], "it is taken all the same"
        assert (ann.held, bob.held) == ([], [True])
        assert publish(ann) == ["ok"]
        await trio.sleep(1.5)
        assert (ann.held, bob.held) == ([True], [True, False])
        await trio.sleep(1)
        assert ann.held == [True, False]
        assert (ann.closed, bob.closed) == (None, None)
        assert counted(house) == {("crowd", "slowed"): 2}


async def test_who_alone_owes_more_than_may_be_put_off_is_closed_and_who_shares_waits(
    autojump_clock: MockClock,
) -> None:
    for per, closes in (("connection", True), ("room", False)):
        config = quotas({"slow_down": 5.0}, one={"per": per, "rooms": ["q:*"], "at_limit": "slow"})
        async with open_house(PLUGINS, config) as house:
            ann = house.client()
            for _ in range(9):
                ann.say(t="publish", room="q:a", data="x")
            assert (ann.closed is not None) == closes
            assert not closes or ann.closed.setting == "quotas.one"  # type: ignore[union-attr]


async def test_all_sockets_of_a_session_are_slowed_down_together(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, quotas(crowd={"per": "room", "at_limit": "slow"})) as house:
        ann = house.client()
        ann.join("q:a")
        second = Second(house, ann, "urgent")
        for _ in range(4):
            second.leg.message(1, msgspec.json.encode({"t": "publish", "room": "q:a", "data": "x"}))
        assert (ann.held, second.holds) == ([True], [True])
        await trio.sleep(1.1)
        assert (ann.held, second.holds) == ([True, False], [True, False])


async def test_a_message_that_waits_for_a_join_is_counted_once(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, quotas(crowd={"per": "room"})) as house:
        ann = house.client()
        ann.say(t="join", room="slow:a", id=1)
        for number in range(4):
            ann.say(t="publish", room="slow:a", data="x", id=10 + number)
        await trio.sleep(100)
        answers = {said["id"]: said["t"] for said in ann.heard() if "id" in said}
        assert answers == {1: "ok", 10: "ok", 11: "ok", 12: "ok", 13: "error"}


async def test_plain_mode_is_counted_too_and_what_is_refused_is_not_heard(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, quotas(crowd={"per": "room"})) as house:
        ann = house.client("ann", home="q:a", protocol=PLAIN)
        bob = house.client("bob", home="q:a", protocol=PLAIN)
        for number in range(5):
            ann.say_plainly(str(number))
        assert bob.heard() == ["0", "1", "2"]
        assert ann.closed is None


async def test_a_message_in_parts_is_counted_as_a_whole_and_refused_as_a_whole(autojump_clock: MockClock) -> None:
    config = quotas({"message_bytes": 64}, each={"counts": "bytes_in", "rate": 100.0, "burst": 120.0})
    envelope = msgspec.json.encode({"t": "publish", "room": "q:a", "id": 5, "kind": "text"})

    def send(client: Client, stream: int) -> None:
        client.connection.message(2, encode_part(Part(FIRST, stream, 0, 60, envelope, b"x" * 30)))
        client.connection.message(2, encode_part(Part(LAST, stream, 30, 60, b"", b"x" * 30)))

    async with open_house(PLUGINS, config) as house:
        ann = house.client()
        ann.heard()
        send(ann, 1)
        assert [said["t"] for said in ann.heard()] == ["ok"]
        send(ann, 2)
        assert [(said["t"], said["id"], said["code"]) for said in ann.heard()] == [("error", 5, "rate_limited")]
        await trio.sleep(5)
        send(ann, 2)
        assert [said["t"] for said in ann.heard()] == ["ok"]


async def test_what_is_sent_beyond_a_quota_is_dropped_and_told_as_a_gap(autojump_clock: MockClock) -> None:
    config = quotas(out={"counts": "messages_out", "per": "subject", "rooms": ["q:*"]})
    async with open_house(PLUGINS, config) as house:
        ann, bob = house.client("ann"), house.client("bob")
        for client in (ann, bob):
            client.join("q:a")
            client.join("other:a")
        bob.heard()
        for number in range(5):
            ann.say(t="publish", room="q:a", data=number)
            ann.say(t="publish", room="other:a", data=number)
        bob.connection.tell_drops()
        heard = bob.heard()
        assert [said["data"] for said in heard if said["t"] == "message" and said["room"] == "q:a"] == [0, 1, 2]
        assert len([said for said in heard if said["t"] == "message" and said["room"] == "other:a"]) == 5
        [gap] = [said for said in heard if said["t"] == "gap"]
        assert (gap["room"], gap["from"], gap["to"], gap["reason"]) == ("q:a", 4, 5, "quotas.out")
        assert counted(house) == {("out", "dropped"): 2}
        assert house.services.counters.dropped == {("q", "default", "quotas.out"): 2}
        await trio.sleep(1)
        ann.say(t="publish", room="q:a", data="again")
        assert bob.messages() == ["again"]


async def test_answers_are_never_dropped(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, quotas(out={"counts": "messages_out"})) as house:
        ann = house.client()
        ann.join("q:a")
        assert publish(ann, times=20) == ["ok"] * 20


async def test_bytes_sent_beyond_a_quota_close_after_the_room_was_served(autojump_clock: MockClock) -> None:
    config = quotas({"message_bytes": 50}, out={"counts": "bytes_out", "burst": 100.0, "at_limit": "close"})
    async with open_house(PLUGINS, config) as house:
        ann, bob, eve = house.client("ann"), house.client("bob"), house.client("eve")
        for client in (ann, bob, eve):
            client.join("q:a")
        for _ in range(3):
            ann.say(t="publish", room="q:a", data="x" * 40)
        assert (bob.closed, eve.closed) == (None, None), "not while the room is being served"
        await trio.sleep(0.1)
        assert bob.closed is not None
        assert eve.closed is not None
        assert ann.closed is None
        assert (bob.closed.code, bob.closed.setting) == (CloseCode.TOO_MANY, "quotas.out")


async def test_what_is_sent_by_a_second_socket_is_counted_with_the_rest(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, quotas(out={"counts": "messages_out"})) as house:
        ann, bob = house.client("ann"), house.client("bob")
        for client in (ann, bob):
            client.join("q:a")
        second = Second(house, bob, "urgent")
        bob.heard()
        for number in range(2):
            ann.say(t="publish", room="q:a", data=number)
            ann.say(t="publish", room="q:a", data=number, channel="urgent")
        assert (bob.messages(), second.messages()) == ([0, 1], [0])
        second.leg.lost()
        await trio.sleep(10)
        ann.say(t="publish", room="q:a", data="by the first", channel="urgent")
        assert bob.messages() == ["by the first"]


async def test_ever_new_rooms_do_not_fill_the_memory(autojump_clock: MockClock) -> None:
    config = quotas(crowd={"per": "room"}, mine={"per": "subject", "burst": 1e6, "rooms": ["*"]})
    async with open_house(PLUGINS, config) as house:
        ann = house.client()
        for number in range(5 * ROOMS_KNOWN):
            ann.say(t="publish", room=f"q:{number}", data="x")
            ann.say(t="publish", room="x" * 300 + str(number), data="x")
        spending = ann.connection.spending
        assert spending is not None
        assert len(spending._held) <= 2 * ROOMS_KNOWN
        crowd, mine = (rule for rule in house.services.quotas.rules if rule.name in ("crowd", "mine"))
        assert len(crowd.buckets) <= 5 * ROOMS_KNOWN
        assert not any(len(key) > 255 for key in crowd.buckets._kept)
        assert mine.buckets.get(ann.connection.subject, 0.0).wait(trio.current_time(), 1e6) > 0.0


async def test_a_renewed_quota_holds_for_who_comes_next(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, quotas(crowd={"per": "room"})) as house:
        ann = house.client("ann")
        house.services.quotas = compile_quotas({})
        bob = house.client("bob")
        assert publish(ann, times=4).count("rate_limited") == 1
        assert publish(bob, times=9) == ["ok"] * 9


def renewed(house: House, *clients: Client, **tables: Any) -> None:
    """As a reload does."""
    new = compile_quotas(quotas(**tables).quotas)
    new.inherit(house.services.quotas)
    house.services.quotas = new
    for client in clients:
        renew_quotas(client.connection)


async def test_a_renewed_quota_holds_for_who_is_inside_and_one_that_has_not_changed_gives_no_new_burst(
    autojump_clock: MockClock,
) -> None:
    own = {"counts": "messages_in", "per": "connection", "burst": 5.0}
    async with open_house(PLUGINS, quotas(crowd={"per": "room"}, own=own)) as house:
        ann, bob = house.client("ann"), house.client("bob")
        assert publish(ann, times=4) == ["ok"] * 3 + ["rate_limited"], "the crowd's"
        renewed(house, ann, bob, crowd={"per": "room", "burst": 100.0}, own=own)
        assert publish(ann, times=2) == ["ok", "rate_limited"], "its own was spent but for one"
        assert ann.connection.spending.quotas is house.services.quotas
        assert publish(bob, times=6) == ["ok"] * 5 + ["rate_limited"]
        renewed(house, ann, bob, crowd={"per": "room", "burst": 100.0}, own={**own, "rate": 0.0})
        assert publish(ann, times=20) == ["ok"] * 20, "it is switched off"
        renewed(house, ann, bob, crowd={"per": "room", "burst": 100.0}, own={**own, "burst": 2.0})
        assert publish(ann, times=3) == ["ok", "ok", "rate_limited"], "and on again"


async def test_shared_buckets_are_the_same_for_who_is_inside_and_who_comes(autojump_clock: MockClock) -> None:
    crowd = {"per": "tenant", "burst": 4.0}
    async with open_house(PLUGINS, quotas(crowd=crowd, other={"per": "subject"})) as house:
        ann = house.client("ann")
        assert publish(ann, times=2) == ["ok", "ok"]
        renewed(house, ann, crowd=crowd)
        bob = house.client("bob")
        assert publish(bob, times=3) == ["ok", "ok", "rate_limited"]
        assert publish(ann) == ["rate_limited"]


async def test_joins_are_counted_on_by_a_quota_that_stays_and_anew_by_another(autojump_clock: MockClock) -> None:
    few = {"counts": "joins"}
    async with open_house(PLUGINS, quotas(few=few)) as house:
        ann = house.client("ann")
        codes = [ann.ask(t="join", room=f"q:{name}").get("code") for name in "abcd"]
        assert codes == [None, None, None, "rate_limited"]
        renewed(house, ann, few=few)
        assert ann.ask(t="join", room="q:d")["code"] == "rate_limited"
        renewed(house, ann, few={**few, "burst": 1.0})
        assert [ann.ask(t="join", room=f"q:{name}").get("code") for name in "de"] == [None, "rate_limited"]


async def test_joins_of_a_plain_connection_are_counted_by_new_quotas_its_messages_are_not(
    autojump_clock: MockClock,
) -> None:
    async with open_house(PLUGINS, quotas()) as house:
        ann = house.client("ann")
        assert type(ann.connection) is Connection
        renewed(house, ann, few={"counts": "joins"}, silence={"counts": "messages_in"})
        codes = [ann.ask(t="join", room=f"q:{name}").get("code") for name in "abcd"]
        assert codes == [None, None, None, "rate_limited"]
        assert publish(ann, times=9) == ["ok"] * 9
        assert publish(house.client("bob"), times=4) == ["ok"] * 3 + ["rate_limited"]
