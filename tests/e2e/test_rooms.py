"""`relay rooms`: the real command line, asking a real relay, while clients are in its rooms."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from relay.client import Client, Left, Message, Refused, connect
from tests.e2e.harness import RelayProcess

pytestmark = pytest.mark.e2e

KEY = "a-key-that-opens-the-api"


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """One for all tests here; each has rooms of its own."""
    overrides = {
        "internal": {"api_keys": [KEY]},
        "aliases": {"general": "chat:main"},
        "plugins": {"chat": {"rooms": ["chat:*"], "history": 10}, "feed": {"rooms": "feed:*"}},
    }
    relay = RelayProcess(tmp_path_factory.mktemp("rooms"), overrides)
    relay.start()
    yield relay
    relay.stop()


async def rooms(relay: RelayProcess, *arguments: str, status: int = 0) -> str:
    """What `relay rooms …` prints."""
    where = ["-c", str(relay.config_path), "--url", relay.internal_url]
    command = [sys.executable, "-m", "relay", "rooms", *arguments, *where]
    with trio.fail_after(30):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert done.returncode == status, (done.stdout, done.stderr)
    return (done.stdout if status == 0 else done.stderr).decode()


@asynccontextmanager
async def clients(relay: RelayProcess, *subjects: str) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                connect(relay.wss("/ws"), token=relay.token(subject), ca_file=relay.certificates.authority)
            )
            for subject in subjects
        ]


async def refused(client: Client, room: str, data: object = None) -> tuple[str, str]:
    """How joining, or publishing, is refused: code and reason."""
    with pytest.raises(Refused) as caught:
        await (client.join(room) if data is None else client.publish(room, data))
    return caught.value.code, caught.value.message


async def left(client: Client) -> tuple[str, str]:
    """Out of which room it was put, and why."""
    with trio.fail_after(20):
        async for event in client:
            if isinstance(event, Left):
                return event.room, event.reason
    raise AssertionError


async def test_rooms_are_listed_with_their_members_and_one_is_shown(relay: RelayProcess) -> None:
    async with clients(relay, "ann", "bob") as (ann, bob):
        await ann.join("chat:list:a")
        await bob.join("chat:list:a")
        await bob.join("chat:list:b")
        await bob.publish("chat:list:a", "hello")
        lines = (await rooms(relay, "list", "--prefix", "chat:list:")).splitlines()
        assert [line.split() for line in lines] == [
            ["2", "members", "offset", "1", "chat:list:a", "[chat]"],
            ["1", "members", "offset", "0", "chat:list:b", "[chat]"],
            ["2", "of", "2", "rooms"],
        ]
        assert (await rooms(relay, "list", "--prefix", "chat:list:", "--limit", "1")).endswith("1 of 2 rooms\n")
        listed = json.loads(await rooms(relay, "list", "--json", "--prefix", "chat:list:"))
        assert (listed["count"], listed["rooms"][0]["subjects"]) == (2, 2)
        shown = json.loads(await rooms(relay, "show", "chat:list:a"))
        assert {one["subject"] for one in shown["sessions"]} == {"ann", "bob"}
        assert (shown["history"], shown["drops"]) == (1, [])
    assert "no_such_room" in await rooms(relay, "show", "chat:list:nowhere", status=1)


async def test_a_room_is_closed_stays_closed_and_is_opened_again(relay: RelayProcess) -> None:
    async with clients(relay, "ann", "bob") as (ann, bob):
        await ann.join("chat:close")
        await bob.join("chat:close")
        said = await rooms(relay, "close", "chat:close", "--reason", "maintenance", "--ban", "15m")
        assert said == "closed: 2 connections have left, for 15m\n"
        assert [await left(one) for one in (ann, bob)] == [("chat:close", "maintenance")] * 2
        assert await refused(ann, "chat:close") == ("room_closed", "maintenance")
        lines = (await rooms(relay, "list", "--closed", "--prefix", "chat:close")).splitlines()
        assert lines[0].startswith("chat:close  closed for ")
        assert lines[0].endswith(" s: maintenance")
        assert await rooms(relay, "reopen", "chat:close") == "it can be opened again\n"
        assert await rooms(relay, "reopen", "chat:close") == "it was not closed\n"
        await ann.join("chat:close")
    assert "is not a duration" in await rooms(relay, "close", "chat:close", "--ban", "soon", status=2)


async def test_a_frozen_room_is_heard_and_not_spoken_in(relay: RelayProcess) -> None:
    async with clients(relay, "ann", "bob") as (ann, bob):
        await ann.join("chat:freeze")
        await bob.join("chat:freeze")
        assert await rooms(relay, "freeze", "chat:freeze", "--reason", "calm down") == "frozen\n"
        assert await refused(ann, "chat:freeze", "loud") == ("frozen", "calm down")
        assert "chat:freeze" in await rooms(relay, "list", "--prefix", "chat:freeze")
        assert await rooms(relay, "list", "--frozen", "--prefix", "chat:freeze") == (
            "chat:freeze  frozen: calm down\n1 frozen\n"
        )
        assert await rooms(relay, "unfreeze", "chat:freeze") == "not frozen any more\n"
        await ann.publish("chat:freeze", "hello")
        with trio.fail_after(20):
            event = await bob.receive()
        assert isinstance(event, Message)
        assert event.data == "hello"


async def test_somebody_is_put_out_of_a_room_and_the_others_stay(relay: RelayProcess) -> None:
    async with clients(relay, "ann", "mallory") as (ann, mallory):
        await ann.join("chat:kick")
        await mallory.join("chat:kick")
        said = await rooms(relay, "kick", "chat:kick", "--subject", "mallory", "--reason", "enough")
        assert said == "1 connection has left\n"
        assert await left(mallory) == ("chat:kick", "enough")
        assert [one["subject"] for one in json.loads(await rooms(relay, "show", "chat:kick"))["sessions"]] == ["ann"]
        assert "no_such_subject" in await rooms(relay, "kick", "chat:kick", "--subject", "mallory", status=1)
    assert "--subject or --session" in await rooms(relay, "kick", "chat:kick", status=2)


async def test_a_renamed_room_takes_members_and_messages_along_and_its_old_name_leads_to_it(
    relay: RelayProcess,
) -> None:
    async with clients(relay, "ann", "bob") as (ann, bob):
        await ann.join("chat:old")
        await ann.publish("chat:old", "hello")
        assert await rooms(relay, "rename", "chat:old", "chat:new") == "renamed: 1 connection is in chat:new\n"
        membership = await bob.join("chat:old", last=5)
        assert [message.data for message in membership.messages] == ["hello"]
        assert json.loads(await rooms(relay, "show", "chat:new"))["aliases"] == ["chat:old"]
        assert await rooms(relay, "forget", "chat:new") == "forgotten: 1 message\n"
        assert (await bob.history("chat:new", last=5)).messages == []
        assert "other_rules" in await rooms(relay, "rename", "chat:new", "feed:new", status=1)
        assert "bad_room" in await rooms(relay, "rename", "chat:new", "no name", status=1)
        await rooms(relay, "rename", "chat:new", "chat:newer", "--no-alias")
        assert json.loads(await rooms(relay, "show", "chat:newer"))["aliases"] == []


async def test_aliases_are_made_listed_and_taken_back(relay: RelayProcess) -> None:
    await rooms(relay, "alias", "tea room", "chat:tea", status=1)
    await rooms(relay, "alias", "tea", "chat:tea")
    assert "tea -> chat:tea\n" in await rooms(relay, "aliases")
    assert {"alias": "general", "room": "chat:main"} in json.loads(await rooms(relay, "aliases", "--json"))["aliases"]
    async with clients(relay, "ann") as (ann,):
        await ann.join("tea")
        assert len(json.loads(await rooms(relay, "show", "chat:tea"))["sessions"]) == 1
        assert await rooms(relay, "close", "tea", "--reason", "by its other name") == "closed: 1 connection has left\n"
        assert await left(ann) == ("chat:tea", "by its other name")
    assert await rooms(relay, "unalias", "tea") == "it leads nowhere any more\n"
    assert "tea ->" not in await rooms(relay, "aliases")
    assert "no_such_room" in await rooms(relay, "unalias", "tea", status=1)
    await rooms(relay, "unalias", "general")
    assert "general" not in await rooms(relay, "aliases")


async def test_without_its_key_and_without_a_relay_it_says_so(relay: RelayProcess) -> None:
    wrong = relay.folder / "wrong-key"
    wrong.write_text("x" * 24)
    assert "api_key_wrong" in await rooms(relay, "list", "--key-file", str(wrong), status=1)
    assert "no_such_tenant" in await rooms(relay, "list", "--tenant", "acme", status=1)
