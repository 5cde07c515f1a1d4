"""Methods that clients may call by name: their arguments are checked by their types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
import trio
from msgspec import Meta

from relay.errors import ConfigError, Refused
from relay.model import Kind, Payload
from relay.plugin.api import Peer, Plugin, Room, call
from relay.plugin.calls import typed_calls
from relay.plugin.testing import PluginTester


class Point(msgspec.Struct):
    x: float
    y: float


class Table(Plugin):
    @call
    def roll(self, room: Room, caller: Peer, sides: Annotated[int, Meta(ge=2, le=100)] = 6) -> dict[str, Any]:
        return {"sides": sides, "by": caller.subject, "in": room.name}

    @call
    async def move(self, room: Room, caller: Peer, to: Point, how: Literal["slow", "fast"]) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return [to.x, to.y, how]

    @call
    def nothing(self, room: Room, caller: Peer) -> None:
        return None

    def on_call(self, room: Room, caller: Peer, method: str, data: Payload | None) -> str:
        if method == "free":
            return "form"
        raise Refused("no_such_method")


async def test_arguments_come_by_name_and_with_their_types() -> None:
    async with PluginTester(Table) as tester:
        ann = await tester.join("t", "ann")
        assert await ann.call("roll") == {"sides": 6, "by": "ann", "in": "t"}
        assert await ann.call("roll", {"sides": 20}) == {"sides": 20, "by": "ann", "in": "t"}
        assert await ann.call("move", {"to": {"x": 1, "y": 2.5}, "how": "fast"}) == [1.0, 2.5, "fast"]
        assert await ann.call("nothing") is None
        assert await ann.call("free") == "form", "what is not marked goes to on_call as before"


@pytest.mark.parametrize(
    ("method", "data", "told"),
    [
        ("roll", {"sides": "six"}, "roll: expected an integer, got a string - at `sides`"),
        ("roll", {"sides": 1}, "roll: expected an integer >= 2 - at `sides`"),
        ("roll", {"side": 6}, "roll: object contains unknown field `side`"),
        ("roll", [6], "roll: expected an object, got a list"),
        ("roll", "six", "roll: expected an object, got a string"),
        ("move", None, "move: object missing required field `to`"),
        ("move", {"to": {"x": 1}, "how": "fast"}, "move: object missing required field `y` - at `to`"),
        ("move", {"to": {"x": 1, "y": 1}, "how": "far"}, "move: invalid enum value 'far' - at `how`"),
    ],
)
async def test_what_does_not_fit_never_reaches_the_method(method: str, data: object, told: str) -> None:
    async with PluginTester(Table) as tester:
        ann = await tester.join("t", "ann")
        with pytest.raises(Refused) as caught:
            await ann.call(method, data)
        assert (caught.value.code, caught.value.message) == ("bad_request", told)
        assert tester.failures == []


def test_msgpack_and_broken_documents_are_read_as_strictly() -> None:
    roll = typed_calls(Table("t", None, None))["roll"]  # type: ignore[arg-type]
    room: Any = type("R", (), {"name": "t"})()
    peer: Any = type("P", (), {"subject": "ann"})()
    packed = Payload(Kind.MSGPACK, msgspec.msgpack.encode({"sides": 4}))
    assert roll(room, peer, "roll", packed)["sides"] == 4
    for broken in (Payload(Kind.MSGPACK, b"\xc1"), Payload(Kind.JSON, b"{"), Payload(Kind.BINARY, b"\xff")):
        with pytest.raises(Refused, match="bad_request"):
            roll(room, peer, "roll", broken)


def wrong_first(self: Any, caller: Any, room: Any) -> None: ...


def wrong_rest(self: Any, room: Any, caller: Any, *rest: int) -> None: ...


def wrong_type(self: Any, room: Any, caller: Any, x: trio.Event) -> None: ...


def wrong_name(self: Any, room: Any, caller: Any, x: Nowhere) -> None: ...  # type: ignore[name-defined] # noqa: F821


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (wrong_first, r"does not begin with \(self, room, caller\)"),
        (wrong_rest, "has no name for a client: rest"),
        (wrong_type, "cannot be checked"),
        (wrong_name, "cannot be checked"),
    ],
)
def test_a_method_that_cannot_be_called_is_refused_at_start(method: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        PluginTester(type("Made", (Plugin,), {"ask": call(method)}))
