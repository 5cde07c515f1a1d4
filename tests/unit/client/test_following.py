"""Rooms that are called otherwise than one asked, or from now on; and rooms heard by a pattern."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from wsproto.events import BytesMessage, TextMessage

from relay.client import Count, Gap, Joined, Left, Membership, Message, Refused, Renamed, connect
from tests.unit.client.server import Peer, relay_v1, wired


def said(room: str, offset: int, **more: Any) -> dict[str, Any]:
    return {"t": "message", "room": room, "data": offset, "offset": offset, **more}


def joins(*then: dict[str, Any], **answer: Any) -> Any:
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        asked = await peer.asked()
        await peer.say({"t": "ok", "id": asked["id"], "room": asked["room"], **answer})
        for words in then:
            await peer.say(words)
        await peer.close(1000)

    return script


async def test_a_pattern_is_joined_like_a_room_and_says_how_many_it_hears() -> None:
    left = {"t": "left", "room": "sensors:*", "subject": "ann", "reason": "too many"}
    async with wired(joins(said("sensors:a", 7), left, rooms=12)) as url, connect(url) as relay:
        assert await relay.join("sensors:*") == Membership("sensors:*", "", 0, rooms=12)
        events = [event async for event in relay]
    assert events == [Message("sensors:a", 7, offset=7), Left("sensors:*", "ann", "too many")]


async def test_an_alias_is_joined_under_its_real_name() -> None:
    script = joins(room="chat:main", epoch="e", offset=3)
    async with wired(script) as url, connect(url) as relay:
        room = await relay.join("general")
        assert (room.room, room.epoch) == ("chat:main", "e")
        assert relay._where.positions() == {"chat:main": {"epoch": "e", "offset": 3}}


async def test_a_room_that_is_renamed_is_followed_and_what_was_on_its_way_has_the_new_name() -> None:
    events = (
        {"t": "renamed", "room": "a", "to": "b"},
        said("a", 5),
        {"t": "gap", "room": "a", "from": 6, "to": 6, "reason": "x"},
        said("b", 7),
        said("a", 1),  # another room of the old name, heard by a pattern
        said("a", 4, channel="bulk"),
        {"t": "renamed", "room": "b", "to": "c"},
        said("a", 8),
        {"t": "joined", "room": "c", "subject": "eve"},
        {"t": "left", "room": "c", "subject": "ann", "reason": "no grant"},
        said("a", 9),
    )
    async with wired(joins(*events, epoch="e", offset=4)) as url, connect(url) as relay:
        await relay.join("a")
        heard = [event async for event in relay]
    assert heard == [
        Renamed("a", "b"),
        Message("b", 5, offset=5),
        Gap("b", 6, 6, "x"),
        Message("b", 7, offset=7),
        Message("a", 1, offset=1),
        Message("b", 4, offset=4, channel="bulk"),
        Renamed("b", "c"),
        Message("c", 8, offset=8),
        Joined("c", "eve"),
        Left("c", "ann", "no grant"),
        Message("a", 9, offset=9),
    ]


async def test_a_room_of_the_old_name_is_another_one_once_it_is_joined() -> None:
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        for epoch in ("e", "f"):
            asked = await peer.asked()
            await peer.say({"t": "ok", "id": asked["id"], "room": "a", "epoch": epoch, "offset": 3})
            if epoch == "e":
                await peer.say({"t": "renamed", "room": "a", "to": "b"})
        await peer.say({"t": "count", "room": "b", "count": 9})
        await peer.say(said("a", 4))
        await peer.close(1000)

    async with wired(script) as url, connect(url) as relay:
        await relay.join("a")
        assert await relay.receive() == Renamed("a", "b")
        await relay.join("a")
        assert [event async for event in relay] == [Count("b", 9), Message("a", 4, offset=4)]
        assert relay._where.positions().keys() == {"a", "b"}


async def test_history_is_read_back_page_by_page() -> None:
    asked: list[dict[str, Any]] = []

    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        for offsets, more in (([3, 4], True), ([1, 2], False), ([], False)):
            asked.append(await peer.asked())
            messages = [said("r", offset) for offset in offsets]
            await peer.say(
                {"t": "ok", "id": asked[-1]["id"], "epoch": "e", "offset": 4, "more": more} | {"messages": messages}
            )
        await peer.hear()

    async with wired(script) as url, connect(url) as relay:
        pages = [[message.data for message in page.messages] async for page in relay.pages("r", size=2)]
        assert pages == [[3, 4], [1, 2]]
        assert [page async for page in relay.pages("r", before=9)] == []
    assert [one.get("before") for one in asked] == [None, 3, 9]


async def test_what_is_missing_and_who_is_there_is_told_by_joining() -> None:
    answer = {"epoch": "e", "offset": 9, "recovered": False, "from": 7, "messages": [said("r", 7)], "more": True}
    who = {
        "members": ["ann"],
        "count": 3,
        "claims": {"ann": {"name": "Ann"}},
        "connections": {"ann": 2},
        "events": False,
    }
    async with wired(joins(**answer, **who)) as url, connect(url) as relay:
        room = await relay.join("r", members=True)
    assert (room.recovered, room.first, room.more, room.members) == (False, 7, True, ["ann"])
    assert room.presence is not None
    assert (room.presence.count, room.presence.claims, room.presence.connections, room.presence.events) == (
        3, {"ann": {"name": "Ann"}}, {"ann": 2}, False,
    )  # fmt: skip


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_data_that_cannot_be_read_is_a_gap_and_the_session_lives(codec: Any) -> None:

    async def script(peer: Peer) -> None:
        await relay_v1(peer, codec)

        async def say(words: dict[str, Any]) -> None:
            """What says BAD is replaced by what no client can read."""
            if codec == "json":
                await peer.send(TextMessage(data=msgspec.json.encode(words).decode().replace('"BAD"', "1e999")))
            else:
                await peer.send(
                    BytesMessage(data=msgspec.msgpack.encode(words).replace(b"\xa3BAD", b"\xa3\xff\xff\xff"))
                )

        await say(said("r", 3) | {"data": {"x": ["BAD"]}})
        await say(said("r", 4))
        asked = await peer.asked()
        await say(
            {
                "t": "ok",
                "id": asked["id"],
                "epoch": "e",
                "offset": 4,
                "messages": [said("r", 3) | {"data": "BAD"}, said("r", 4)],
            }
        )
        asked = await peer.asked()
        await say({"t": "ok", "id": asked["id"], "data": "BAD"})
        await peer.close(1000)

    async with wired(script) as url, connect(url, codec=codec) as relay:
        assert await relay.receive() == Gap("r", 3, 3, "unreadable")
        assert await relay.receive() == Message("r", 4, offset=4)
        page = await relay.history("r", last=2)
        assert [message.offset for message in page.messages] == [4]
        with pytest.raises(Refused, match="unreadable"):
            await relay.call("r", "m")
        assert [event async for event in relay] == [Gap("r", 3, 3, "unreadable")]
