"""Subscriptions by pattern, and aliases, as clients see them."""

from __future__ import annotations

from plugins.chat import Chat
from tests.unit.session.kit import identity, open_house, settings

SENSORS = {"sensors": (Chat, {"rooms": "sensors:*", "wildcards": True, "presence": True})}


async def test_a_subscriber_hears_rooms_that_are_open_and_rooms_that_are_opened_later() -> None:
    async with open_house(SENSORS) as house:
        ann, bob = house.client("ann"), house.client("bob")
        ann.join("sensors:1:temp")
        assert bob.ask(t="join", room="sensors:*:temp") == {"t": "ok", "room": "sensors:*:temp", "rooms": 1}
        ann.join("sensors:2:temp")
        ann.join("sensors:2:hum")
        bob.heard()
        for room in ("sensors:1:temp", "sensors:2:temp", "sensors:2:hum"):
            ann.say(t="publish", room=room, data=room)
        heard = [(said["room"], said["data"], said["offset"]) for said in bob.heard()]
        assert heard == [("sensors:1:temp", "sensors:1:temp", 1), ("sensors:2:temp", "sensors:2:temp", 1)]


async def test_a_room_that_is_opened_by_a_publisher_who_is_not_in_it_is_heard() -> None:
    async with open_house(SENSORS) as house:
        ann, bob = house.client("ann"), house.client("bob")
        bob.join("sensors:**")
        ann.say(t="publish", room="sensors:9", data="9")
        assert [said["data"] for said in bob.heard()] == ["9"]
        assert not house.hub.rooms  # a subscriber keeps no room open


async def test_subscribers_are_no_members_and_nobody_is_told_of_them() -> None:
    async with open_house(SENSORS) as house:
        ann, bob = house.client("ann"), house.client("bob")
        ann.join("sensors:1")
        ann.heard()
        bob.join("sensors:*")
        assert ann.heard() == []
        assert ann.ask(t="presence", room="sensors:1")["members"] == ["ann"]
        house.client("cid").join("sensors:1")
        assert [said["t"] for said in ann.heard()] == ["joined"]
        assert bob.heard() == []


async def test_who_is_a_member_and_a_subscriber_hears_once_and_stays_the_other_when_it_leaves_one() -> None:
    async with open_house(SENSORS) as house:
        ann, bob = house.client("ann"), house.client("bob")
        ann.join("sensors:1")
        bob.join("sensors:*")
        bob.join("sensors:**")
        bob.join("sensors:1")
        ann.heard()

        def heard() -> int:
            ann.say(t="publish", room="sensors:1", data="x")
            return len([said for said in bob.heard() if said["t"] == "message"])

        assert heard() == 1
        bob.ask(t="leave", room="sensors:1")
        assert heard() == 1
        bob.ask(t="leave", room="sensors:*")
        assert heard() == 1
        bob.ask(t="leave", room="sensors:**")
        assert heard() == 0
        assert bob.refused(t="leave", room="sensors:**") == ("not_joined", None)


async def test_a_subscription_needs_a_grant_for_all_of_the_pattern() -> None:
    async with open_house(SENSORS) as house:
        bob = house.client("bob", {"join": ["sensors:a:*"]})
        bob.join("sensors:a:*")
        bob.join("sensors:a:**")
        assert bob.refused(t="join", room="sensors:*") == ("forbidden", None)
        assert bob.refused(t="join", room="sensors:**") == ("forbidden", None)


async def test_a_renewed_token_ends_what_it_does_not_cover() -> None:
    async with open_house(SENSORS) as house:
        ann, bob = house.client("ann"), house.client("bob")
        ann.join("sensors:1")
        bob.join("sensors:*")
        house.tokens["less"] = identity("bob", {"join": ["sensors:2"]})
        bob.say(t="auth", token="less", id=1)
        left = [said for said in bob.heard() if said["t"] == "left"]
        assert [(said["room"], said["subject"]) for said in left] == [("sensors:*", "bob")]
        ann.say(t="publish", room="sensors:1", data="x")
        assert bob.heard() == []


async def test_patterns_and_the_rooms_they_reach_are_bounded() -> None:
    config = settings(limits={"patterns_per_connection": 2, "pattern_rooms": 2})
    async with open_house(SENSORS, config) as house:
        ann, bob = house.client("ann"), house.client("bob")
        bob.join("sensors:a:*")
        bob.join("sensors:b:*")
        assert bob.refused(t="join", room="sensors:c:*") == ("too_many_rooms", "limits.patterns_per_connection")
        for room in ("sensors:a:1", "sensors:a:2"):
            ann.join(room)
        assert bob.heard() == []
        ann.join("sensors:b:1")  # one more than may be: that pattern is over, and it is said
        (left,) = bob.heard()
        assert (left["t"], left["room"]) == ("left", "sensors:b:*")
        assert bob.refused(t="join", room="sensors:**") == ("too_many_rooms", "limits.pattern_rooms")
        ann.say(t="publish", room="sensors:a:1", data="still")
        assert bob.messages() == ["still"]


async def test_what_is_no_pattern_or_asks_for_a_rooms_memory_is_refused() -> None:
    async with open_house(SENSORS) as house:
        bob = house.client("bob")
        assert bob.refused(t="join", room="sensors:a*") == ("bad_room", "limits.room_name_bytes")
        assert bob.refused(t="join", room="sensors:*", last=3) == ("bad_request", None)
        bob.join("sensors:*")
        assert bob.refused(t="join", room="sensors:*") == ("already_joined", None)


async def test_rooms_of_other_plugins_are_not_heard_by_patterns() -> None:
    async with open_house({**SENSORS, "chat": (Chat, {"rooms": "chat:*"})}) as house:
        ann, bob = house.client("ann"), house.client("bob")
        ann.join("chat:1")
        assert bob.ask(t="join", room="**")["rooms"] == 0
        ann.say(t="publish", room="chat:1", data="x")
        assert bob.heard() == []


async def test_an_alias_is_the_room_it_leads_to() -> None:
    config = settings(aliases={"general": "chat:main", "all": "general"})
    async with open_house({"chat": (Chat, {"rooms": "chat:*", "history": 5})}, config) as house:
        ann, bob = house.client("ann"), house.client("bob", {"join": ["general"], "publish": ["general"]})
        assert ann.join("all")["room"] == "chat:main"
        assert bob.refused(t="join", room="general") == ("forbidden", None)  # the room's own name is not granted
        ann.say(t="publish", room="general", data="hello", id=3, echo=True)
        assert [(said["t"], said.get("room")) for said in ann.heard()] == [("ok", None), ("message", "chat:main")]
        assert ann.ask(t="history", room="general")["room"] == "chat:main"
        assert ann.ask(t="presence", room="general")["members"] == ["ann"]
        house.hub.aliases.set("general", "chat:other")
        assert ann.refused(t="leave", room="general") == ("not_joined", None)
        assert ann.ask(t="leave", room="chat:main")["room"] == "chat:main"


async def test_rooms_of_a_plugin_and_rooms_of_a_subject_are_bounded() -> None:
    table = {"rooms": "chat:*", "max_rooms": 3, "max_rooms_per_subject": 2}
    async with open_house({"chat": (Chat, table)}) as house:
        ann, bob = house.client("ann"), house.client("bob")
        ann.join("chat:1")
        ann.join("chat:2")
        assert ann.refused(t="join", room="chat:3") == ("too_many_rooms", "plugins.chat.max_rooms_per_subject")
        bob.join("chat:3")
        assert bob.refused(t="join", room="chat:4") == ("too_many_open_rooms", "plugins.chat.max_rooms")
        ann.ask(t="leave", room="chat:2")
        bob.join("chat:4")
