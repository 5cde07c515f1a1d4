"""A mistake that would be silence at run time is an error at start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import msgspec
import pytest

from relay.plugin import api
from relay.plugin.api import Message, Payload, Peer, Plugin, Room
from relay.plugin.checks import HOOKS, check_class, read_settings


def one(plugin: type[Plugin]) -> str:
    (problem,) = check_class(plugin)
    what, hint = problem
    return f"{what} ({hint})" if hint else what


def made(**members: Any) -> type[Plugin]:
    return type("Made", (Plugin,), members)


def test_the_hooks_are_those_of_the_api() -> None:
    assert HOOKS == (
        "on_connect", "on_disconnect", "on_decisions", "on_reload", "on_open", "on_empty", "on_renamed", "on_join",
        "on_joined", "on_leave", "on_message", "on_call", "run",
        "filter_join", "filter_joined", "filter_leave", "filter_message", "filter_call",
    )  # fmt: skip


def test_a_plugin_with_every_hook_is_accepted() -> None:
    class Good(Plugin):
        def on_open(self, room: Room) -> None: ...
        def on_empty(self, room: Room) -> None: ...
        def on_renamed(self, was: str, name: str) -> None: ...
        async def on_join(self, room: Room, peer: Peer) -> None: ...
        def on_leave(self, room: Room, peer: Peer) -> None: ...
        def on_message(self, room: Room, sender: Peer, message: Message) -> None: ...
        async def on_call(self, room: Room, caller: Peer, method: str, data: Payload | None) -> Any: ...
        async def run(self) -> None: ...
        def helper(self) -> None: ...

    assert check_class(Good) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [("on_mesage", "on_message"), ("on_leaves", "on_leave"), ("onMessage", "on_message"), ("no_message", "on_message")],
)
def test_a_misspelt_hook_is_refused_and_the_nearest_named(name: str, meant: str) -> None:
    text = one(made(**{name: lambda self, room: None}))
    assert f"Made.{name} is not a hook" in text
    assert f"did you mean `{meant}`?" in text


def test_a_method_that_begins_like_a_hook_is_refused_even_if_none_is_near() -> None:
    assert "hooks are: on_connect" in one(made(on_zzzzzzzz=lambda self: None))


def test_a_misspelt_static_method_is_found_too() -> None:
    assert "did you mean `on_open`" in one(made(on_opn=staticmethod(lambda room: None)))


def test_a_misspelt_hook_of_a_mixin_is_found() -> None:
    class Mixin:
        def on_jion(self, room: Room, peer: Peer) -> None: ...

    class Mixed(Mixin, Plugin): ...

    assert "did you mean `on_join`" in one(Mixed)


@pytest.mark.parametrize("name", ["message", "rooms", "leave", "send", "once", "online", "runs", "_on_message"])
def test_other_methods_may_be_named_freely(name: str) -> None:
    assert check_class(made(**{name: lambda self: None})) == []


def test_missing_arguments_are_refused_with_the_right_list() -> None:
    def on_message(self: Any, room: Room, message: Message) -> None: ...

    text = one(made(on_message=on_message))
    assert "does not take the hook's arguments" in text
    assert "(def on_message(self, room, sender, message))" in text


def test_arguments_in_another_order_are_refused() -> None:
    def on_message(self: Any, room: Room, message: Message, sender: Peer) -> None: ...

    assert "in another order" in one(made(on_message=on_message))


def test_arguments_may_have_other_names_and_more_may_be_taken() -> None:
    def on_message(self: Any, place: Room, who: Peer, what: Message, louder: bool = False) -> None: ...

    assert check_class(made(on_message=on_message, on_join=lambda self, *args: None)) == []


@pytest.mark.parametrize("hook", ["on_open", "on_empty", "on_renamed"])
def test_the_hooks_that_the_hub_calls_cannot_be_async(hook: str) -> None:
    async def later(self: Any, room: Room) -> None: ...

    assert f"{hook} cannot be async" in one(made(**{hook: later}))


def test_run_must_be_async() -> None:
    assert "run must be async" in one(made(run=lambda self: None))


def test_a_hook_must_not_yield() -> None:
    def lazy(self: Any, room: Room, peer: Peer) -> Iterator[None]:
        yield

    async def lazier(self: Any) -> AsyncIterator[None]:
        yield

    assert "must not yield" in one(made(on_join=lazy))
    assert "must not yield" in one(made(run=lazier))


@pytest.mark.parametrize("value", [None, 3, staticmethod(lambda room: None), property(lambda self: None)])
def test_a_hook_must_be_a_plain_method(value: Any) -> None:
    assert "not a plain method" in one(made(on_open=value))


def test_another_version_of_the_api_is_refused() -> None:
    assert "is written for version 2 of the plugin API; this relay has version 1" in one(made(api=2))


def test_the_base_class_is_no_plugin() -> None:
    assert "write a subclass" in one(Plugin)


def test_settings_must_be_a_struct() -> None:
    assert "Made.Settings must be a class of settings" in one(made(Settings=dict))


def test_a_setting_that_every_table_has_cannot_be_taken() -> None:
    class Settings(api.Settings, frozen=True):
        history: int = 0

    assert "has `history`, which every plugin's table has" in one(made(Settings=Settings))


class Board(Plugin):
    class Settings(api.Settings, frozen=True):
        size: int
        seconds: float = 5.0
        style: Literal["plain", "rich"] = "plain"
        names: list[str] = msgspec.field(default_factory=list)

        def __post_init__(self) -> None:
            if self.size * self.seconds > 1000:
                raise ValueError("size times seconds is at most 1000")


def test_settings_are_read() -> None:
    settings, wrong = read_settings(Board, {"size": 3, "seconds": 2, "names": ["a"]})
    assert wrong == []
    assert settings == Board.Settings(size=3, seconds=2.0, names=["a"])


def test_every_wrong_setting_is_told_not_only_the_first() -> None:
    _, wrong = read_settings(Board, {"size": "big", "seconds": "1", "style": "odd", "names": [1], "sise": 3})
    assert wrong == [
        ("names", "expected a string, got an integer - at `$[0]`", ""),
        ("seconds", "expected a number, got a string", ""),
        ("sise", "no such setting", "did you mean `size`?"),
        ("size", "expected an integer, got a string", ""),
        ("style", "invalid enum value 'odd'", ""),
    ]


def test_a_missing_setting_is_told() -> None:
    assert read_settings(Board, {})[1] == [("", "the setting `size` is missing", "")]


def test_how_settings_fit_together_is_told() -> None:
    assert read_settings(Board, {"size": 900, "seconds": 9})[1] == [("", "size times seconds is at most 1000", "")]


def test_a_misspelt_common_key_is_told_with_the_right_one() -> None:
    assert read_settings(Board, {"size": 1, "presense": True})[1] == [
        ("presense", "no such setting", "did you mean `presence`?")
    ]


def test_a_plugin_without_settings_says_so() -> None:
    class Plain(Plugin): ...

    assert read_settings(Plain, {"colour": 1})[1] == [("colour", "no such setting", "it has no settings of its own")]
