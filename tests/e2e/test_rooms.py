"""Rooms over real TLS, with the Python client: by patterns and other names, in patches, closed, and after a restart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio

from relay.client import (
    Client,
    Confirm,
    Delivery,
    Event,
    Left,
    Message,
    NoSuchSubject,
    Position,
    Renamed,
    RoomClosed,
    TimedOut,
    connect,
)
from tests.e2e.harness import RelayProcess, bearer, request, running_relay
from tests.e2e.test_resume import network

pytestmark = pytest.mark.e2e

PATIENCE = 30.0
KEY = "a-key-that-opens-the-api"
SETTINGS: dict[str, dict[str, Any]] = {
    "internal": {"api_keys": [KEY]},
    "aliases": {"general": "chat:main"},
    "plugins": {
        "chat": {"rooms": "chat:*", "history": 100},
        "sensors": {"use": "chat", "rooms": "sensors:*", "wildcards": True, "history": 10},
        "board": {"use": "chat", "rooms": "board:*", "delta": True, "channel": "state", "history": 100},
        "bare": {"use": "chat", "rooms": "bare:*", "delta": True, "channel": "state"},
    },
}
LONG = "a text that is long enough for a patch to be shorter " * 3


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """One for all tests here; each has rooms of its own."""
    relay = RelayProcess(tmp_path_factory.mktemp("rooms"), SETTINGS)
    relay.start()
    yield relay
    relay.stop()


def v1(relay: RelayProcess, subject: str, url: str = "", **options: Any) -> Any:
    authority = relay.certificates.authority
    return connect(url or relay.wss("/ws"), token=relay.token(subject), ca_file=authority, **options)


async def until(client: Client, wanted: Callable[[Event], bool]) -> list[Event]:
    """What comes, up to and with what is wanted."""
    found = []
    with trio.fail_after(PATIENCE):
        while True:
            found.append(await client.receive())
            if wanted(found[-1]):
                return found


def is_data(data: Any) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Message) and event.data == data


async def operator(relay: RelayProcess, room: str, what: str, **body: Any) -> None:
    path = f"/api/v1/rooms/{quote(room)}/{what}"
    sent = json.dumps(body).encode() if body else b""
    answer = await request(relay, path, bearer(KEY), method="POST", internal=True, body=sent)
    assert answer.status == 200, answer


async def test_rooms_are_heard_by_patterns_of_one_part_and_of_any_rest(relay: RelayProcess) -> None:
    async with v1(relay, "ann") as one, v1(relay, "bob", codec="msgpack") as rest, v1(relay, "cid") as cid:
        assert (await one.join("sensors:*:temp")).rooms == 0
        await cid.join("sensors:roof:temp")
        assert (await rest.join("sensors:**")).rooms == 1
        for room in ("sensors:roof:temp", "sensors:cellar:temp", "sensors:cellar:damp", "sensors:a:b:temp"):
            await cid.publish(room, room)
        await cid.publish("sensors:x:temp", "end")
        heard = [event for event in await until(one, is_data("end")) if isinstance(event, Message)]
        assert [(event.room, event.data) for event in heard][:-1] == [
            (room, room) for room in ("sensors:roof:temp", "sensors:cellar:temp")
        ]
        heard = [event for event in await until(rest, is_data("end")) if isinstance(event, Message)]
        assert len(heard) == 5
        await one.leave("sensors:*:temp")
        await one.join("chat:over")
        await cid.publish("sensors:roof:temp", "not heard")
        await cid.publish("chat:over", "heard")
        assert len(await until(one, is_data("heard"))) == 1


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_a_board_comes_as_what_has_changed_and_is_whole_whatever_is_let_go_of(
    relay: RelayProcess, codec: str
) -> None:
    room = f"board:{codec}"
    async with (
        v1(relay, "ann") as ann,
        v1(relay, "bob", codec=codec) as bob,
        v1(relay, "eve", codec=codec, delta_bytes=700) as forgetful,
    ):
        assert (await bob.join(room, delta=True)).delta
        assert (await forgetful.join(room, delta=True)).delta
        values: dict[str, Any] = {}
        for turn in range(8):
            for key in ("red", "blue", "green"):
                values[key] = {"turn": turn, "text": LONG, "at": {"x": turn, "y": 1}}
                await ann.publish(room, values[key], key=key)
        await ann.publish(room, "end")
        patched = 0
        seen: dict[str, Any] = {}
        for event in await until(bob, is_data("end")):
            if isinstance(event, Message) and event.key is not None:
                seen[event.key] = event.data
                patched += event.patch is not None
                assert event.patch is None or LONG not in event.patch.values()
        assert seen == values
        assert patched > 0
        board: dict[str, Any] = {}
        while board != values:
            with trio.fail_after(PATIENCE):
                event = await forgetful.receive()
            if isinstance(event, Message) and event.key is not None:
                board[event.key] = event.data
        assert forgetful._values.kept_bytes <= 700


async def test_who_wants_to_know_learns_that_it_has_arrived(relay: RelayProcess) -> None:
    async with v1(relay, "ann") as ann, v1(relay, "bob") as phone, v1(relay, "bob", auto_ack=False) as laptop:
        with pytest.raises(NoSuchSubject):
            await ann.deliver("chat:taxi", "taxi", to="bob")
        await phone.join("chat:taxi")
        await laptop.join("chat:taxi")
        async with trio.open_nursery() as nursery:

            async def drive() -> None:
                assert await ann.deliver("chat:taxi", "taxi", to="bob", timeout=20) == Delivery(1, "bob", 2)
                nursery.cancel_scope.cancel()

            async def look() -> None:
                async for _ in phone:
                    pass

            nursery.start_soon(drive)
            nursery.start_soon(look)
            message, confirm = await until(laptop, lambda event: isinstance(event, Confirm))
            assert isinstance(message, Message)
            assert isinstance(confirm, Confirm)
            await laptop.ack(confirm.room, message.offset)
            with trio.fail_after(PATIENCE):
                await trio.sleep_forever()
        await phone.close()
        large = LONG * 1000
        with pytest.raises(TimedOut):
            await ann.deliver("chat:taxi", large, to="bob", timeout=0.2)
        assert len(await until(laptop, is_data(large))) == 1


async def test_a_renamed_room_is_followed_and_its_old_name_leads_to_it(relay: RelayProcess) -> None:
    async with v1(relay, "ann") as ann, v1(relay, "bob") as bob:
        await ann.join("chat:old")
        await bob.join("chat:old")
        await ann.publish("chat:old", "before")
        await operator(relay, "chat:old", "rename", to="chat:new")
        assert (await until(bob, lambda event: isinstance(event, Renamed)))[-1] == Renamed("chat:old", "chat:new")
        assert (await ann.publish("chat:new", "after"), await ann.publish("chat:old", "by the old name")) == (2, 3)
        heard = await until(bob, is_data("by the old name"))
        assert {event.room for event in heard if isinstance(event, Message)} <= {"chat:new", "chat:old"}
        assert [event.room for event in heard if isinstance(event, Message)][-2:] == ["chat:new", "chat:new"]
        page = await bob.history("chat:old", last=9)
        assert (page.room, [message.data for message in page.messages]) == (
            "chat:new", ["before", "after", "by the old name"],
        )  # fmt: skip
        await bob.leave("chat:new")
        assert (await bob.join("chat:old")).room == "chat:new"


async def test_an_alias_is_the_room_it_leads_to(relay: RelayProcess) -> None:
    async with v1(relay, "ann") as ann, v1(relay, "bob") as bob:
        assert (await bob.join("general")).room == "chat:main"
        await ann.publish("general", "hi")
        (message,) = await until(bob, is_data("hi"))
        assert isinstance(message, Message)
        assert message.room == "chat:main"
        await bob.leave("general")


async def test_what_an_operator_freezes_and_closes_is_told(relay: RelayProcess) -> None:
    async with v1(relay, "ann") as ann:
        await ann.join("chat:shut")
        await operator(relay, "chat:shut", "freeze", reason="a break")
        with pytest.raises(RoomClosed, match="a break"):
            await ann.publish("chat:shut", "hi")
        await operator(relay, "chat:shut", "unfreeze")
        await ann.publish("chat:shut", "hi")
        await operator(relay, "chat:shut", "close", reason="for the night", ban=60)
        left = (await until(ann, lambda event: isinstance(event, Left)))[-1]
        assert left == Left("chat:shut", "ann", "for the night")
        with pytest.raises(RoomClosed):
            await ann.join("chat:shut")


async def test_history_is_read_back_in_pages(relay: RelayProcess) -> None:
    async with v1(relay, "ann") as ann:
        for number in range(7):
            await ann.publish("chat:pages", number)
        pages = [[message.data for message in page.messages] async for page in ann.pages("chat:pages", size=3)]
        assert pages == [[4, 5, 6], [1, 2, 3], [0]]


@pytest.mark.parametrize("plugin", ["board", "bare"])
async def test_a_session_whose_socket_is_cut_has_the_right_board_of_a_room_renamed_meanwhile(
    relay: RelayProcess, plugin: str
) -> None:
    old, new = f"{plugin}:old", f"{plugin}:new"
    async with (
        network(relay) as net,
        v1(relay, "ann", net.url, resume=True) as ann,
        v1(relay, "bob") as bob,
    ):
        await bob.join(old)
        assert (await ann.join(old, delta=True)).delta
        values: dict[str, Any] = {}

        async def put(room: str, turn: int) -> None:
            for key in ("red", "blue"):
                values[key] = {"turn": turn, "text": LONG}
                await bob.publish(room, values[key], key=key)

        await put(old, 0)
        await put(old, 1)
        net.up = trio.Event()
        net.cut()
        await put(old, 2)
        await operator(relay, old, "rename", to=new)
        await put(new, 3)
        net.up.set()
        board: dict[str, Any] = {}
        renamed = False
        while board != values:
            with trio.fail_after(PATIENCE):
                event = await ann.receive()
            if isinstance(event, Message) and event.key is not None:
                assert event.room == (new if renamed else old)
                board[event.key] = event.data
            renamed = renamed or event == Renamed(old, new)
        assert renamed
        await put(new, 4)
        while board != values:
            with trio.fail_after(PATIENCE):
                event = await ann.receive()
            if isinstance(event, Message) and event.key is not None:
                board[event.key] = event.data
        assert ann._where.positions().keys() == {new}


async def test_after_a_restart_a_durable_room_goes_on_where_one_was_and_another_begins_anew(tmp_path: Path) -> None:
    settings = {
        "history": {"file": str(tmp_path / "rooms.db")},
        "plugins": {
            "kept": {"use": "chat", "rooms": "kept:*", "history": 100, "durable": True},
            "chat": {"rooms": "chat:*", "history": 100},
        },
    }
    async with running_relay(tmp_path, settings) as relay:
        positions: dict[str, Position] = {}
        async with v1(relay, "ann") as ann:
            for room in ("kept:a", "chat:a"):
                positions[room] = (await ann.join(room)).position
                for number in range(3):
                    await ann.publish(room, number)
        await trio.to_thread.run_sync(relay.stop)
        await trio.to_thread.run_sync(relay.start)
        async with v1(relay, "ann") as ann:
            kept = await ann.join("kept:a", since=positions["kept:a"])
            assert (kept.recovered, [message.data for message in kept.messages]) == (True, [0, 1, 2])
            assert kept.epoch == positions["kept:a"].epoch
            assert await ann.publish("kept:a", 3) == 4
            anew = await ann.join("chat:a", since=positions["chat:a"])
            assert (anew.recovered, anew.messages) == (False, [])
            assert anew.epoch != positions["chat:a"].epoch
