"""What each other request does, and every way it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from relay.errors import CloseCode
from tests.unit.protocols.table import MSGPACK
from tests.unit.session.asking import PLUGINS, together
from tests.unit.session.kit import open_house, settings

# Hello.


async def test_hello_is_the_first_word_and_says_who_and_what() -> None:
    async with open_house(PLUGINS, settings(limits={"message_bytes": 1234})) as house:
        ann = house.client("ann", {"join": ["*"], "channels": ["default"]}, expires_in=60)
        (hello,) = ann.heard()
        assert (hello["t"], hello["subject"], hello["session"]) == ("hello", "ann", "session of ann")
        assert hello["channels"] == ["default"]
        assert hello["expires"] == ann.connection.identity.expires
        assert hello["limits"]["message_bytes"] == 1234
        assert (hello["heartbeat"], hello["version"]) == (25.0, "test")


# Publish.


async def test_what_is_published_the_others_hear_and_the_sender_is_told_the_offset() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = await together(house)
        assert ann.ask(t="publish", room="q:a", data={"x": [1]}) == {"t": "ok", "offset": 1}
        (said,) = bob.heard()
        assert said.pop("at") > 0
        assert said == {"t": "message", "room": "q:a", "data": {"x": [1]}, "from": "ann", "offset": 1}


async def test_without_an_id_nothing_is_answered() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = await together(house)
        ann.say(t="publish", room="q:a", data=1)
        assert (ann.heard(), bob.messages()) == ([], [1])


async def test_a_refusal_without_an_id_is_told_all_the_same() -> None:
    async with open_house(PLUGINS) as house:
        ann, _ = await together(house)
        ann.say(t="publish", room="q:a", data="no")
        (error,) = ann.heard()
        assert (error["id"], error["code"], error["retry_after"]) == (None, "not_your_turn", 1.5)


async def test_channel_key_and_receiver_travel_along() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = await together(house)
        cid = house.client("cid")
        cid.join("q:a")
        ann.heard(), bob.heard()
        ann.say(t="publish", room="q:a", data=1, channel="urgent", key="k", to="bob")
        (said,) = bob.heard()
        assert (said["channel"], said["key"], said["to"]) == ("urgent", "k", "bob")
        assert cid.heard() == []


async def test_echo_is_heard_by_the_sender() -> None:
    async with open_house(PLUGINS) as house:
        ann, _ = await together(house)
        ann.say(t="publish", room="q:a", data=1, echo=True)
        assert ann.messages() == [1]


@pytest.mark.parametrize(
    ("grants", "request_", "code", "setting"),
    [
        (None, {"room": "q:a", "channel": "nope"}, "no_such_channel", "channels"),
        (None, {"room": "q:a", "channel": "control"}, "forbidden", None),
        ({"join": ["*"], "publish": ["*"], "channels": []}, {"room": "q:a", "channel": "urgent"}, "forbidden", None),
        ({"join": ["*"]}, {"room": "q:a"}, "forbidden", None),
        ({"join": ["*"], "publish": ["q:b"]}, {"room": "q:c"}, "forbidden", None),
        (None, {"room": "nobodys:x"}, "no_such_room", "plugins"),
        (None, {"room": "q:a b"}, "bad_room", "limits.room_name_bytes"),
        (None, {"room": "q:closed"}, "shut", None),
        (None, {"room": "q:a", "data": "bug"}, "internal", None),
        (None, {"room": "q:a", "data": "no"}, "not_your_turn", None),
    ],
)
async def test_a_publish_is_refused_with_its_reason(
    grants: Any, request_: dict[str, Any], code: str, setting: str | None
) -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann", grants)
        ann.join("q:a")
        assert ann.refused(t="publish", **{"data": 1, **request_}) == (code, setting)
        assert ann.closed is None
        assert set(house.hub.rooms) == {"q:a"}


async def test_one_may_publish_where_one_is_not_if_the_token_says_so() -> None:
    async with open_house(PLUGINS) as house:
        bob = house.client("bob")
        bob.join("q:a")
        ann = house.client("ann", {"publish": ["q:*"]})
        assert ann.ask(t="publish", room="q:a", data="hi") == {"t": "ok", "offset": 1}
        assert bob.messages() == ["hi"]
        assert ann.ask(t="publish", room="q:empty", data="hi") == {"t": "ok", "offset": 1}
        assert house.plugin("q").log[-2:] == [("open", "q:empty"), ("empty", "q:empty")]
        assert set(house.hub.rooms) == {"q:a"}


async def test_a_plugin_may_answer_the_sender_alone() -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = await together(house)
        ann.say(t="publish", room="q:a", data="only me")
        (said,) = ann.heard()
        assert (said["t"], said["room"], said["data"]) == ("message", "q:a", {"psst": True})
        assert bob.heard() == []


# Call.


async def test_a_call_is_answered_by_the_plugin() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client()
        ann.join("q:a")
        assert ann.ask(t="call", room="q:a", method="double", data=[1]) == {"t": "ok", "data": [1, 1]}
        assert ann.ask(t="call", room="q:a", method="nothing") == {"t": "ok", "data": None}


@pytest.mark.parametrize(
    ("grants", "request_", "code"),
    [
        (None, {"room": "q:a", "method": "nope"}, "no_such_method"),
        (None, {"room": "q:a", "method": "odd"}, "internal"),
        (None, {"room": "q:b", "method": "double"}, "not_joined"),
        ({"join": ["*"]}, {"room": "q:a", "method": "double"}, "forbidden"),
        ({"join": ["*"], "publish": ["*"], "call": ["q:b"]}, {"room": "q:a", "method": "double"}, "forbidden"),
    ],
)
async def test_a_call_is_refused_with_its_reason(grants: Any, request_: dict[str, Any], code: str) -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann", grants)
        ann.join("q:a")
        assert ann.refused(t="call", **request_)[0] == code


# Ping, and what is no request.


async def test_a_ping_is_answered_with_and_without_an_id() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client()
        assert ann.ask(t="ping") == {"t": "pong"}
        ann.say(t="ping")
        assert ann.heard() == [{"t": "pong"}]


async def test_what_is_not_understood_is_refused_and_the_connection_lives() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client()
        ann.heard()
        ann.connection.message(1, b'{"t":"shout","id":5}')
        ann.connection.message(1, b"}{")
        first, second = ann.heard()
        assert (first["code"], first["id"]) == ("unknown_type", 5)
        assert (second["code"], second["id"]) == ("bad_request", None)
        assert ann.closed is None
        assert (house.counters.refused["unknown_type"], house.counters.refused["bad_request"]) == (1, 1)


async def test_the_wrong_kind_of_message_ends_the_connection() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client()
        ann.connection.message(2, b"\x80")
        assert ann.closed is not None
        assert ann.closed.code == CloseCode.UNSUPPORTED_DATA


async def test_two_formats_in_one_room_understand_each_other() -> None:
    async with open_house(PLUGINS) as house:
        ann = house.client("ann")
        bob = house.client("bob", protocol=MSGPACK.protocol)
        ann.join("q:a")
        bob.connection.message(2, MSGPACK.encode({"t": "join", "room": "q:a"}))
        bob.outbox.clear()
        ann.heard()
        ann.say(t="publish", room="q:a", data={"a": "ü"})
        assert MSGPACK.said(bob.outbox.take(1 << 20))["data"] == {"a": "ü"}
        bob.connection.message(2, MSGPACK.encode({"t": "publish", "room": "q:a", "data": b"\xff"}))
        assert ann.messages() == ["/w=="]
