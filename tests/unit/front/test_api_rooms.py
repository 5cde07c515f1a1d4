"""Rooms by the API: closed, frozen, renamed, made to forget; and what those inside are told."""

from __future__ import annotations

from typing import Any

import msgspec

from plugins.chat import Chat
from relay.counters import Counters
from relay.front.api import Api, ApiKeys
from relay.front.api_publish import Publisher
from relay.front.api_rooms import RoomOperations
from tests.unit.front.test_api import KEY, ask
from tests.unit.session.kit import House, open_house

CHAT = {"chat": (Chat, {"rooms": "chat:*", "history": 9}), "feed": (Chat, {"rooms": "feed:*"})}


class Operator:
    def __init__(self, house: House) -> None:
        self.api = Api(Counters(), lambda: ApiKeys((KEY,)))
        RoomOperations(lambda tenant: house.services).add_to(self.api)
        publisher = Publisher(lambda tenant: house.services)
        self.api.add("POST", "/publish", publisher.publish, body=publisher.Body)

    async def __call__(self, method: str, path: str, **body: Any) -> tuple[int, Any]:
        sent = msgspec.json.encode(body) if body or path.endswith(("/close", "/freeze", "/kick")) else b""
        return await ask(self.api, method, f"/api/v1{path}", sent)


async def test_a_closed_room_is_left_and_stays_closed_for_as_long_as_was_said() -> None:
    async with open_house(CHAT) as house:
        operator = Operator(house)
        ann, bob = house.client("ann"), house.client("bob", home="chat:a")
        ann.join("chat:a")
        ann.heard()
        status, answer = await operator("POST", "/rooms/chat:a/close", reason="too loud", ban=60)
        assert (status, answer) == (200, {"room": "chat:a", "left": 2, "ban": 60.0})
        assert [(said["t"], said.get("reason") or said["code"]) for said in ann.heard()] == [
            ("left", "too loud"), ("error", "room_closed"),
        ]  # fmt: skip
        assert bob.closed is not None
        assert not house.hub.rooms
        refusal = ann.ask(t="join", room="chat:a")
        assert (refusal["code"], refusal["message"]) == ("room_closed", "too loud")
        assert 59 < refusal["retry_after"] <= 60
        house.hub.standing.reopen("chat:a")
        ann.join("chat:a")


async def test_in_a_frozen_room_nobody_publishes_but_a_server_that_insists() -> None:
    async with open_house(CHAT) as house:
        operator = Operator(house)
        ann, bob = house.client("ann"), house.client("bob")
        ann.join("chat:a")
        bob.join("chat:a")
        assert (await operator("POST", "/rooms/chat:a/freeze", reason="later"))[0] == 200
        assert ann.ask(t="publish", room="chat:a", data="x")["message"] == "later"
        assert (await operator("POST", "/publish", room="chat:a", data=1))[1]["error"] == "frozen"
        assert (await operator("POST", "/publish", room="chat:a", data=2, force=True))[0] == 200
        assert bob.messages() == [2]
        for one in (ann, bob):
            one.ask(t="leave", room="chat:a")
        ann.join("chat:a")  # it was freed, and is frozen all the same
        assert ann.refused(t="publish", room="chat:a", data="x") == ("frozen", None)
        assert (await operator("POST", "/rooms/chat:a/unfreeze"))[0] == 200
        assert ann.ask(t="publish", room="chat:a", data="x")["t"] == "ok"


async def test_a_renamed_room_takes_its_members_and_its_memory_along() -> None:
    async with open_house(CHAT) as house:
        operator = Operator(house)
        ann = house.client("ann")
        bob = house.client("bob", {"join": ["chat:a"], "publish": ["chat:a"]})
        before = ann.join("chat:a")
        bob.join("chat:a")
        ann.say(t="publish", room="chat:a", data="one")
        ann.heard(), bob.heard()
        status, answer = await operator("POST", "/rooms/chat:a/rename", to="chat:b")
        assert (status, answer) == (200, {"room": "chat:b", "was": "chat:a", "members": 1, "alias": True})
        assert ann.heard() == [{"t": "renamed", "room": "chat:a", "to": "chat:b"}]
        assert [said["t"] for said in bob.heard()] == ["renamed", "left", "error"]  # no grant for that name
        assert list(house.hub.rooms) == ["chat:b"]
        assert ann.ask(t="publish", room="chat:a", data="two")["offset"] == 2  # the old name leads there
        remembered = ann.ask(t="history", room="chat:b", last=5)
        assert (remembered["epoch"], remembered["offset"]) == (before["epoch"], 2)
        assert [(said["room"], said["data"]) for said in remembered["messages"]] == [
            ("chat:b", "one"),
            ("chat:b", "two"),
        ]


async def test_a_room_is_not_renamed_to_what_is_there_or_to_another_plugins_name() -> None:
    async with open_house(CHAT) as house:
        operator = Operator(house)
        ann = house.client("ann")
        ann.join("chat:a")
        ann.join("chat:b")
        for to, code in (
            ("chat:b", "room_exists"),
            ("feed:a", "other_rules"),
            ("no:a", "no_such_room"),
            ("a b", "bad_room"),
        ):
            assert (await operator("POST", "/rooms/chat:a/rename", to=to))[1]["error"] == code
        assert (await operator("POST", "/rooms/chat:z/rename", to="chat:y"))[0] == 404
        assert sorted(house.hub.rooms) == ["chat:a", "chat:b"]


async def test_a_room_that_forgets_goes_on_with_its_offsets() -> None:
    async with open_house(CHAT) as house:
        operator = Operator(house)
        ann = house.client("ann")
        before = ann.join("chat:a")
        ann.say(t="publish", room="chat:a", data="one")
        assert (await operator("DELETE", "/rooms/chat:a/history"))[1] == {"room": "chat:a", "forgotten": 1}
        assert ann.ask(t="history", room="chat:a", last=5)["messages"] == []
        ann.say(t="publish", room="chat:a", data="two")
        missed = ann.ask(t="history", room="chat:a", since={"epoch": before["epoch"], "offset": 0})
        assert (missed["recovered"], missed["from"]) == (False, 2)


async def test_aliases_are_set_and_taken_back_while_it_runs() -> None:
    async with open_house(CHAT) as house:
        operator = Operator(house)
        assert (await operator("PUT", "/aliases/general", room="chat:main"))[0] == 200
        assert house.client("ann").join("general")["room"] == "chat:main"
        assert (await operator("PUT", "/aliases/chat:main", room="general"))[0] == 400  # a circle
        assert (await operator("GET", "/aliases"))[1]["aliases"] == [{"alias": "general", "room": "chat:main"}]
        assert (await operator("DELETE", "/aliases/general"))[0] == 200
        assert (await operator("DELETE", "/aliases/general"))[0] == 404


async def test_a_member_is_put_out_by_name_or_by_session_and_told_why() -> None:
    async with open_house(CHAT) as house:
        operator = Operator(house)
        clients = [house.client("mallory"), house.client("mallory"), house.client("ann")]
        for one in clients:
            one.join("chat:a")
            one.heard()
        status, answer = await operator("POST", "/rooms/chat:a/kick", subject="mallory", reason="enough")
        assert (status, answer) == (200, {"room": "chat:a", "left": 2})
        for one in clients[:2]:
            assert [(said["t"], said.get("reason") or said["code"]) for said in one.heard()] == [
                ("left", "enough"), ("error", "forbidden"),
            ]  # fmt: skip
        assert [peer.subject for peer in house.hub.rooms["chat:a"].peers()] == ["ann"]
        clients[0].join("chat:a")  # nothing keeps them from coming back
        session = clients[0].connection.session
        assert (await operator("POST", "/rooms/chat:a/kick", session=session))[1]["left"] == 1
        for body in ({}, {"subject": "ann", "session": session}):
            assert (await operator("POST", "/rooms/chat:a/kick", **body))[1]["error"] == "bad_request"
        assert (await operator("POST", "/rooms/chat:a/kick", subject="eve"))[1]["error"] == "no_such_subject"
        assert (await operator("POST", "/rooms/chat:z/kick", subject="ann"))[1]["error"] == "no_such_room"


async def test_what_is_frozen_and_closed_is_told_and_a_ban_is_taken_back() -> None:
    async with open_house(CHAT) as house:
        operator = Operator(house)
        await operator("POST", "/rooms/chat:a/freeze", reason="later")
        await operator("POST", "/rooms/chat:b/close", reason="loud", ban=60)
        status, told = await operator("GET", "/standing")
        assert (status, told["frozen"]) == (200, [{"room": "chat:a", "reason": "later"}])
        [closed] = told["closed"]
        assert (closed["room"], closed["reason"]) == ("chat:b", "loud")
        assert 59 < closed["seconds"] <= 60
        ann = house.client("ann")
        assert ann.refused(t="join", room="chat:b") == ("room_closed", None)
        assert (await operator("POST", "/rooms/chat:b/reopen"))[1] == {"room": "chat:b", "was_closed": True}
        assert (await operator("POST", "/rooms/chat:b/reopen"))[1] == {"room": "chat:b", "was_closed": False}
        ann.join("chat:b")
        assert (await operator("GET", "/standing"))[1]["closed"] == []
