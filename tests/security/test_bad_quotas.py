"""Quotas over real sockets and TLS: who exceeds one is slowed down, refused or closed, and everybody else goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.security.attack import TEXT, V1_JSON, Socket, frame, socket_to
from tests.security.siege import besieged, under_attack

pytestmark = pytest.mark.e2e

ROOM = "/rooms/chat:siege"


def quota(**table: Any) -> dict[str, Any]:
    return {"quotas": {"siege": {"rooms": ["chat:siege"], **table}}}


def publish(number: int) -> bytes:
    message = {"t": "publish", "room": "chat:siege", "data": number, "id": number}
    return frame(TEXT, json.dumps(message).encode())


async def answers(client: Socket, count: int) -> list[Any]:
    """The next so many answers to requests; what else is heard is passed over."""
    found: list[Any] = []
    while len(found) < count:
        said = json.loads(await client.hear())
        if said["t"] in ("ok", "error"):
            found.append(said)
    return found


async def test_refuse_tells_each_request_when_to_come_back_and_which_quota_it_was(folder: Path) -> None:
    settings = quota(counts="messages_in", per="room", rate=1.0, burst=20.0, at_limit="refuse")
    with besieged(folder, settings) as relay:
        counts = {"requests_refused:rate_limited": 20, "quota_limits:refused,siege": 20}
        async with (
            under_attack(relay, counts),
            socket_to(relay, ROOM, relay.token("one"), subprotocol=V1_JSON) as one,
            socket_to(relay, ROOM, relay.token("two"), subprotocol=V1_JSON) as two,
        ):
            for client in (one, two):
                await client.send(b"".join(map(publish, range(20))))
            found = [answer for client in (one, two) for answer in await answers(client, 20)]
            refused = [answer for answer in found if answer["t"] == "error"]
            assert len(refused) == 20
            assert {answer["code"] for answer in refused} == {"rate_limited"}
            assert {answer["limit"] for answer in refused} == {"quotas.siege"}
            assert all(0.0 < answer["retry_after"] <= 1.0 for answer in refused)


async def test_close_ends_who_exceeds_it_and_nobody_else(folder: Path) -> None:
    settings = quota(counts="messages_in", per="subject", rate=1.0, burst=10.0, at_limit="close")
    with besieged(folder, settings) as relay:
        counts = {
            "connections_closed:4229": 1, "quota_limits:closed,siege": 1, "requests_refused:rate_limited": 1,
        }  # fmt: skip
        async with (
            under_attack(relay, counts),
            socket_to(relay, ROOM, relay.token("good")) as good,
            socket_to(relay, ROOM, relay.token("bad")) as bad,
        ):
            await bad.send(b"".join(frame(TEXT, str(number).encode()) for number in range(200)))
            code, reason = await bad.closed()
            assert (code, reason) == (4229, "too many messages of yours [quotas.siege]")
            assert [await good.hear() for _ in range(10)] == [str(number) for number in range(10)]
            await good.say("still here")


async def test_slow_reads_those_who_share_a_bucket_at_its_rate_and_loses_nothing(folder: Path) -> None:
    settings = quota(counts="messages_in", per="room", rate=200.0, burst=20.0, at_limit="slow")
    with besieged(folder, settings) as relay:
        counts = {"quota_limits:slowed,siege": range(1, 200)}
        async with (
            under_attack(relay, counts),
            socket_to(relay, ROOM, relay.token("ear")) as ear,
            socket_to(relay, ROOM, relay.token("one")) as one,
            socket_to(relay, ROOM, relay.token("two")) as two,
        ):
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for client in (one, two):
                    nursery.start_soon(speak, client, 60)
                heard = [await ear.hear() for _ in range(120)]
            assert sorted(heard) == sorted([str(number) for number in range(60)] * 2)
            # 120 messages, of which 20 come at once and a message each is on its way when a socket is put off.
            assert trio.current_time() - began > (120 - 20 - 2) / 200.0 * 0.9


async def speak(client: Socket, count: int) -> None:
    for number in range(count):
        await client.say(str(number))
        await client.hear()  # the other's, so that neither hurries ahead


@pytest.mark.parametrize("per", ["connection", "subject"])
async def test_what_is_written_is_held_to_a_rate_of_bytes_and_urgent_messages_still_pass(
    folder: Path, per: str
) -> None:
    settings: dict[str, Any] = {
        "quotas": {"line": {"counts": "bytes_out", "per": per, "rate": 100_000.0, "burst": 20_000.0,
                            "at_limit": "slow"}},
        "plugins": {"chat": {"rooms": ["chat:*"]}},
    }  # fmt: skip
    line = "x" * 10_000
    with besieged(folder, settings) as relay:
        async with (
            under_attack(relay, {"quota_limits:slowed,line": range(1, 100)}),
            socket_to(relay, ROOM, relay.token("ear"), subprotocol=V1_JSON) as ear,
            socket_to(relay, ROOM, relay.token("mouth"), subprotocol=V1_JSON) as mouth,
        ):
            began = trio.current_time()
            for _ in range(10):
                message = {"t": "publish", "room": "chat:siege", "data": line}
                await mouth.send(frame(TEXT, json.dumps(message).encode()))
            urgent = {"t": "publish", "room": "chat:siege", "data": "now", "channel": "urgent"}
            await mouth.send(frame(TEXT, json.dumps(urgent).encode()))
            heard: list[str] = []
            while len(heard) < 11:
                said = json.loads(await ear.hear())
                if said["t"] == "message":
                    heard.append(said["data"])
            took = trio.current_time() - began
            assert heard.index("now") < 10
            # 100 kB, of which the burst and a record that was begun go at once.
            assert took > (100_000 - 20_000 - 40_000) / 100_000.0


async def test_what_is_sent_beyond_a_quota_is_a_gap(folder: Path) -> None:
    settings = quota(counts="messages_out", per="connection", rate=1.0, burst=5.0)
    with besieged(folder, settings) as relay:
        counts = {"quota_limits:dropped,siege": 5, "messages_dropped:default,chat,quotas.siege": 5}
        async with (
            under_attack(relay, counts),
            socket_to(relay, ROOM, relay.token("ear"), subprotocol=V1_JSON) as ear,
            socket_to(relay, ROOM, relay.token("mouth"), subprotocol=V1_JSON) as mouth,
        ):
            await mouth.send(b"".join(map(publish, range(10))))
            gaps, heard = 0, 0
            while gaps < 5 or heard < 5:
                said = json.loads(await ear.hear())
                heard += said["t"] == "message"
                if said["t"] == "gap":
                    assert said["reason"] == "quotas.siege"
                    gaps += said["to"] - said["from"] + 1
            assert heard == 5
