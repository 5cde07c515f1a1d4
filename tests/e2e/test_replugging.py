"""Plugin tables that a reload brings, changes and takes out: other rooms go on, and a fault changes nothing."""

from __future__ import annotations

import re
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from relay.client import Client, Disconnected, Left, Message, Refused, connect, connect_plain
from tests.e2e.harness import RelayProcess, bearer, request, running_relay

pytestmark = pytest.mark.e2e

PATIENCE = 40.0
KEY = "a-key-of-the-operator-s"

COUNTER = """
import msgspec, trio
from relay.plugin.api import Plugin, call

class Settings(msgspec.Struct, forbid_unknown_fields=True):
    step: int = 1

class Counter(Plugin):
    Settings = Settings

    def on_reload(self, before):
        if before.settings.step == 13:
            raise RuntimeError("unlucky")

    @call
    def add(self, room, caller) -> int:
        room.state["n"] = room.state.get("n", 0) + self.settings.step
        return room.state["n"]

    async def run(self):
        await trio.sleep_forever()
"""


def tables(*, step: int = 1, **plugins: Any) -> dict[str, Any]:
    usual = {"counter": {"rooms": "counter:*", "step": step}, "chat": {"rooms": "chat:*", "history": 5}}
    wanted = {name: table for name, table in {**usual, **plugins}.items() if table is not None}
    return {"plugins": wanted, "internal": {"listen": ["127.0.0.1:0"], "api_keys": [KEY]}, "tenants": {"acme": {}}}


async def reloaded(relay: RelayProcess, wanted: dict[str, Any], said: str = "reloaded") -> dict[str, Any]:
    relay.configure(wanted)
    relay.process.send_signal(signal.SIGHUP)
    return await relay.until_log(said)


def refused_for(relay: RelayProcess, told: str) -> None:
    place = re.compile(rf"config\.toml:\d+: {re.escape(told)}")
    what = "reload refused, everything stays as it was"
    relay.wait_for_log(what, 5.0, matching=lambda line: bool(place.search(line["problems"])))


def session(relay: RelayProcess, subject: str = "ann") -> Any:
    return connect(relay.wss("/ws"), token=relay.token(subject), ca_file=relay.certificates.authority)


async def heard(client: Client, kind: type[Any]) -> Any:
    while True:
        event = await client.receive()
        if isinstance(event, kind):
            return event


async def plugins(relay: RelayProcess) -> set[str]:
    answer = await request(relay, "/api/v1/plugins", bearer(KEY), internal=True)
    return {f"{one['tenant']}/{one['name']}" for one in answer.json()["plugins"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "counter.py").write_text(COUNTER)
    return tmp_path


async def test_settings_change_while_rooms_are_open_and_a_plugin_comes_and_goes(folder: Path) -> None:
    with trio.fail_after(PATIENCE):
        async with running_relay(folder, tables()) as relay, session(relay) as ann, session(relay, "bob") as bob:
            for one in (ann, bob):
                await one.join("counter:a")
                await one.join("chat:a")
            assert await ann.call("counter:a", "add") == 1
            said = await reloaded(relay, tables(step=10, echo={"rooms": "echo:*"}))
            assert said["needs_restart"] == ""
            assert await ann.call("counter:a", "add") == 11, "the room's state is there still"
            await ann.join("echo:a")
            assert await plugins(relay) == {f"{tenant}/{name}" for tenant in ("", "acme")
                                            for name in ("counter", "chat", "echo")}  # fmt: skip
            await reloaded(relay, tables(step=10, counter=None, echo={"rooms": "echo:*"}))
            assert await heard(bob, Left) == Left("counter:a", "bob", "the room's plugin has changed: join again")
            await relay.until_log("plugin is gone", plugin="acme/counter")
            with pytest.raises(Refused) as refused:
                await ann.join("counter:a")
            assert refused.value.code == "no_such_room"
            await ann.publish("chat:a", "still here")
            assert (await heard(bob, Message)).data == "still here"
            assert "acme/counter" not in await plugins(relay)


async def test_rooms_that_get_other_rules_filters_or_owners_are_closed_and_may_be_joined_again(folder: Path) -> None:
    async def change(relay: RelayProcess, client: Client, **more: Any) -> None:
        assert (await reloaded(relay, tables(**more)))["needs_restart"] == ""
        assert (await heard(client, Left)).room == "chat:a"

    with trio.fail_after(PATIENCE):
        async with running_relay(folder, tables()) as relay, session(relay) as ann:
            url, token = relay.wss("/rooms/chat:a"), relay.token("plain")
            async with connect_plain(url, token=token, ca_file=relay.certificates.authority) as plain:
                await ann.join("counter:a")
                await ann.join("chat:a")
                await ann.publish("chat:a", "hello")
                assert await plain.receive() == "hello"
                await change(relay, ann, chat={"rooms": "chat:*", "history": 9})
                with pytest.raises(Disconnected) as ended:
                    await plain.receive()
                assert (ended.value.code, "[plugins.chat]" in ended.value.reason) == (1001, True)
            room = await ann.join("chat:a", last=5)
            assert [message.data for message in room.messages] == ["hello"], "what is remembered stays"
            mute = {"filters": "chat:*", "words": ["secret"]}
            await change(relay, ann, chat={"rooms": "chat:*", "history": 9}, moderation=mute)
            await ann.join("chat:a")
            with pytest.raises(Refused):
                await ann.publish("chat:a", "a secret")
            await change(relay, ann, chat={"rooms": "chat:*", "history": 9}, moderation=mute, echo={"rooms": "chat:a"})
            await ann.join("chat:a")
            assert await ann.call("counter:a", "add") == 1, "nobody has left that room"


async def test_a_fault_in_one_table_changes_none_and_is_told_with_its_line(folder: Path) -> None:
    with trio.fail_after(PATIENCE):
        async with running_relay(folder, tables(step=13)) as relay, session(relay) as ann:
            await ann.join("counter:a")
            for faulty, told in (
                (tables(step=13, chat={"rooms": "talk:*"}, nope={"rooms": "x:*"}), "plugins.nope: no plugin named"),
                (tables(step=13, chat={"rooms": "talk:*"}, echo={"rooms": "counter:*"}), "plugins.echo.rooms: "),
                (tables(step=2, chat={"rooms": "talk:*"}), "plugins.counter: Counter could not take over"),
            ):
                relay.configure(faulty)
                relay.process.send_signal(signal.SIGHUP)
                await trio.to_thread.run_sync(partial(refused_for, relay, told))
            assert await ann.call("counter:a", "add") == 13
            await ann.join("chat:a")
            with pytest.raises(Refused):
                await ann.join("talk:a")


async def test_tables_of_durable_rooms_wait_for_the_next_start(folder: Path) -> None:
    history = {"file": str(folder / "rooms.sqlite")}
    with trio.fail_after(PATIENCE):
        async with running_relay(folder, {**tables(), "history": history}) as relay, session(relay) as ann:
            changed = tables(step=5, chat={"rooms": "chat:*", "history": 5, "durable": True})
            assert (await reloaded(relay, {**changed, "history": history}))["needs_restart"] == "plugins, tenants"
            await ann.join("counter:a")
            assert await ann.call("counter:a", "add") == 1, "all tables of a tenant go together"
