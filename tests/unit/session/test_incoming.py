"""What comes from a client in parts: published once it is whole, and answered exactly once, whatever comes of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from relay.protocols.parts import CANCEL, FIRST, LAST, Part, encode_part
from tests.unit.session.kit import Client, open_house, settings
from tests.unit.session.plugins import Quick, Slow

PLUGINS: dict[str, Any] = {"q": (Quick, {})}


def send(client: Client, *parts: Part) -> None:
    for part in parts:
        client.connection.message(2, encode_part(part))


def cut(stream: int, payload: bytes, size: int = 10, **words: Any) -> list[Part]:
    envelope = msgspec.json.encode({"t": "publish", "room": "q:a", "kind": "text", **words})
    found = []
    for place in range(0, len(payload), size):
        flags = (0 if place else FIRST) | (LAST if place + size >= len(payload) else 0)
        head = b"" if place else envelope
        found.append(Part(flags, stream, place, len(payload), head, payload[place : place + size]))
    return found


async def test_what_came_in_parts_is_published_and_answered_once() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = house.client("ann", {"join": ["*"], "publish": ["*"], "channels": ["*"]}), house.client("bob")
        ann.join("q:a")
        bob.join("q:a")
        send(ann, *cut(0, b"a message in three parts", id=7, channel="bulk", key="k"))
        assert ann.heard() == [{"t": "ok", "id": 7, "offset": 1}]
        (message,) = bob.heard()
        assert (message["data"], message["channel"], message["key"]) == ("a message in three parts", "bulk", "k")


@pytest.mark.parametrize(
    ("limits", "code", "setting"),
    [
        ({"parted_message_bytes": 20}, "too_large", "limits.parted_message_bytes"),
        ({"parted_bytes": 15}, "too_large", "limits.parted_bytes"),
        ({"parted_streams": 0}, "too_many_requests", "limits.parted_streams"),
    ],
)
async def test_a_message_in_parts_beyond_a_limit_is_refused_once_with_its_id(
    limits: dict[str, int], code: str, setting: str
) -> None:
    async with open_house(PLUGINS, settings(limits=limits)) as house:
        ann = house.client("ann")
        ann.join("q:a")
        send(ann, *cut(0, b"a message in three parts", id=7))
        (error,) = ann.heard()
        assert (error["t"], error["id"], error["code"], error["limit"]) == ("error", 7, code, setting)


@pytest.mark.parametrize(
    ("words", "payload", "code"),
    [
        ({"kind": "json"}, b"{broken document", "bad_request"),
        ({"kind": "json"}, b"[" * 100_000, "bad_request"),
        ({"kind": "text"}, b"not \xff UTF-8", "bad_request"),
        ({"kind": "json"}, b'{"not": "\xff UTF-8"}', "bad_request"),
        ({"kind": "smoke"}, b"of an unknown kind", "bad_request"),
    ],
    ids=["broken", "too deep", "text not UTF-8", "JSON not UTF-8", "unknown kind"],
)
async def test_what_is_refused_when_it_is_whole_is_refused_with_its_id(
    words: dict[str, str], payload: bytes, code: str
) -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann", {"join": ["*"], "publish": ["*"]})
        ann.join("q:a")
        send(ann, *cut(0, payload, 10_000, id=7, **words))
        (error,) = ann.heard()
        assert (error["t"], error["id"], error["code"]) == ("error", 7, code)


async def test_a_message_whose_parts_stop_coming_is_refused_with_its_id(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(timeouts={"part": 3.0})) as house:
        ann = house.client("ann")
        ann.join("q:a")
        first, second, third = cut(0, b"a message in three parts", id=7)
        send(ann, first)
        await trio.sleep(2)
        send(ann, second)
        await trio.sleep(2)
        assert ann.heard() == []
        await trio.sleep(3)
        (error,) = ann.heard()
        assert (error["id"], error["code"], error["limit"]) == (7, "timeout", "timeouts.part")
        send(ann, third)
        assert ann.heard() == []


async def test_a_cancelled_message_is_never_published_nor_answered() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = house.client("ann"), house.client("bob")
        ann.join("q:a")
        bob.join("q:a")
        first, *_ = cut(0, b"a message in three parts", id=7)
        send(ann, first, Part(CANCEL, 0, 10, 24, b"", b""))
        assert (ann.heard(), bob.heard()) == ([], [])


async def test_parts_are_refused_where_the_config_allows_none() -> None:
    async with open_house(PLUGINS, settings(limits={"parted_message_bytes": 0})) as house:
        ann = house.client("ann")
        ann.join("q:a")
        send(ann, *cut(0, b"whole", id=7))
        (error,) = ann.heard()
        assert (error["code"], error["limit"]) == ("bad_part", "limits.parted_message_bytes")


@pytest.mark.parametrize(
    ("words", "code", "setting"),
    [
        ({"room": "q:a"}, "forbidden", None),
        ({"room": "q:b"}, "forbidden", None),
        ({"room": "q::"}, "bad_room", "limits.room_name_bytes"),
        ({"channel": "urgent"}, "forbidden", None),
        ({"channel": "smoke"}, "no_such_channel", "channels"),
        ({"kind": "smoke"}, "bad_request", None),
    ],
)
async def test_who_may_not_publish_hears_it_at_the_first_part_and_once(
    words: dict[str, str], code: str, setting: str | None
) -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann", {"join": ["*"]})
        ann.join("q:a")
        first, *others = cut(0, b"a message in three parts", id=7, **words)
        send(ann, first)
        (error,) = ann.heard()
        assert (error["t"], error["id"], error["code"], error.get("limit")) == ("error", 7, code, setting)
        send(ann, *others)
        assert ann.heard() == []


async def test_what_is_too_large_for_its_channel_is_refused_when_it_begins() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann")
        ann.join("q:a")
        size = 2 << 20
        send(ann, Part(FIRST, 0, 0, size, b'{"t":"publish","room":"q:a","kind":"text","id":7}', b"x"))
        (error,) = ann.heard()
        assert (error["id"], error["code"], error["limit"]) == (7, "too_large", "channels.default.capacity")


async def test_a_message_for_a_room_that_is_still_being_joined_may_begin() -> None:
    async with open_house({"s": (Slow, {})}) as house:
        gate = house.plugin("s").gates["join"] = trio.Event()
        ann = house.client("ann")
        ann.say(t="join", room="s:a", id=1)
        ann.heard()
        first, *others = cut(0, b"a message in three parts", room="s:a", id=7)
        send(ann, first)
        assert ann.heard() == []
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        send(ann, *others)
        await trio.testing.wait_all_tasks_blocked()
        assert [said["id"] for said in ann.heard()] == [1, 7]
