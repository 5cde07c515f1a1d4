"""The examples of docs/client-python.md, run as they stand there against a real relay."""

from __future__ import annotations

import ast
import random
import re
import textwrap
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import trio

from relay import client as library
from relay.client import Client, Message, connect
from tests.components import ROOT
from tests.e2e.harness import RelayProcess

pytestmark = pytest.mark.e2e

TEXT = (ROOT / "docs" / "client-python.md").read_text()
BLOCKS = [textwrap.dedent(block) for block in re.findall(r"(?<=\n\n)((?:    [^\n]*\n|\n(?=    ))+)", TEXT)]
PATIENCE = 30.0
PLUGIN = """
from relay.plugin.api import Plugin, call

class Calc(Plugin):
    @call
    def add(self, room, caller, one: int, other: int):
        return one + other
"""


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    folder = tmp_path_factory.mktemp("examples")
    (folder / "plugins").mkdir()
    (folder / "plugins" / "calc.py").write_text(PLUGIN)
    plugins = {
        "chat": {"rooms": ["lobby", "chat:*", "direct:*"], "history": 1000, "presence": True},
        "sensors": {"use": "chat", "rooms": "sensors:*", "wildcards": True},
        "state": {"use": "chat", "rooms": "state:*", "delta": True},
        "calc": {"rooms": "calc:*"},
    }
    relay = RelayProcess(folder, {"plugins": plugins})
    relay.start()
    yield relay
    relay.stop()


def example(name: str, **given: Any) -> Any:
    """The function of that name, as the page defines it; it sees the library, and what is given."""
    (block,) = [block for block in BLOCKS if block.startswith(f"async def {name}(")]
    names: dict[str, Any] = {**vars(library), "trio": trio, "random": random, **given}
    exec(compile(block, f"client-python.md: {name}", "exec"), names)
    return names[name]


def v1(relay: RelayProcess, subject: str, **options: Any) -> Any:
    authority = relay.certificates.authority
    return connect(relay.wss("/ws"), token=relay.token(subject), ca_file=authority, **options)


def test_every_block_is_python() -> None:
    assert len(BLOCKS) > 10
    for block in BLOCKS:
        compile(block, "client-python.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


class Enough(Exception):
    """Ends an example that would go on."""


async def runs_until_enough(example: Any, *arguments: Any) -> None:
    with pytest.raises(Enough), trio.fail_after(PATIENCE):
        await example(*arguments)


async def with_help(help_out: Any, *example: Any) -> None:
    """Runs an example, and beside it what it waits for."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(help_out)
        await runs_until_enough(*example)
        nursery.cancel_scope.cancel()


async def until_joined(client: Client, room: str, subject: str) -> None:
    while subject not in await client.presence(room):
        await trio.lowlevel.checkpoint()


async def test_state_is_drawn_whole(relay: RelayProcess) -> None:
    drawn: list[Any] = []

    def draw(*told: Any) -> None:
        drawn.append(told)
        if len(drawn) == 2:
            raise Enough

    async with v1(relay, "ann") as ann, v1(relay, "bob") as bob:

        async def play() -> None:
            await until_joined(bob, "state:game", "ann")
            await bob.publish("state:game", {"x": 1, "name": "a long name for a short change"}, key="red")
            await bob.publish("state:game", {"x": 2, "name": "a long name for a short change"}, key="red")

        await with_help(play, example("watch"), ann, draw)
    assert [(name, value["x"], patch) for name, value, patch in drawn] == [("red", 1, None), ("red", 2, {"x": 2})]


async def test_a_taxi_is_called_and_confirmed(relay: RelayProcess) -> None:
    handled: list[Any] = []

    async with v1(relay, "ann") as ann, v1(relay, "bob", auto_ack=False) as bob:
        assert await example("call_taxi")(ann) == "bob is not there"
        await bob.join("direct:bob")

        async def handle(message: Message) -> None:
            handled.append(message.data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(example("work"), bob, handle)
            with trio.fail_after(PATIENCE):
                assert await example("call_taxi")(ann) == "1 of bob's connections have it"
            nursery.cancel_scope.cancel()
    assert handled == ["your taxi is here"]


async def test_a_method_is_called(relay: RelayProcess) -> None:
    async with v1(relay, "ann") as ann:
        await ann.join("calc:1")
        assert await example("ask")(ann) == 3


async def test_temperatures_come_by_a_pattern(relay: RelayProcess, capsys: pytest.CaptureFixture[str]) -> None:
    def show(*told: Any) -> None:
        assert told == ("sensors:roof:temp", 21.5)
        raise Enough

    async with v1(relay, "ann") as ann, v1(relay, "bob") as bob:

        async def measure() -> None:
            while True:  # until the pattern is heard
                await bob.publish("sensors:roof:temp", 21.5)

        await with_help(measure, example("temperatures"), ann, show)
    assert "of them now" in capsys.readouterr().out


async def test_history_is_read_to_its_beginning(relay: RelayProcess) -> None:
    async with v1(relay, "ann") as ann:
        for number in range(120):
            await ann.publish("chat:long", number)
        assert await example("read_all")(ann, "chat:long") == list(range(120))


async def test_a_program_stays_and_hears_what_was_said_before_and_is_said_now(relay: RelayProcess) -> None:
    heard: list[Any] = []

    async def handle(message: Message) -> None:
        heard.append(message.data)
        if heard == ["before", "now"]:
            raise Enough

    trusting = partial(connect, ca_file=relay.certificates.authority)
    async with v1(relay, "bob") as bob:
        await bob.publish("lobby", "before")

        async def say() -> None:
            await until_joined(bob, "lobby", "ann")
            await bob.publish("lobby", "now")

        stay = example("stay", connect=trusting)
        await with_help(say, stay, relay.wss("/ws"), relay.token("ann"), handle)
