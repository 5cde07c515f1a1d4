"""Methods that clients may call: a plugin's methods marked with `@call`, with arguments checked by their types.

    @call
    def roll(self, room: Room, caller: Peer, sides: int = 6) -> int:
        return random.randint(1, sides)

A client says {"t": "call", "room": …, "method": "roll", "data": {"sides": 20}}. Not here: who calls (supervisor). The
one rule: what does not fit the types never reaches the method; the caller is told which argument, and what was
expected.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from relay.errors import Refused
from relay.model import Kind, Payload
from relay.rooms.room import Peer, Room

MARK: Final = "__relay_call__"
Method = TypeVar("Method", bound=Callable[..., Any])


def call(method: Method) -> Method:
    """Marks a method `(self, room, caller, …)` of a plugin as one that clients may call by its name."""
    setattr(method, MARK, True)
    return method


def is_call(value: object) -> bool:
    return getattr(value, MARK, False) is True


class Typed:
    """One such method: called like `on_call`, it checks `data` and calls the method. Raises Refused("bad_request")."""

    __slots__ = ("_arguments", "_json", "_method", "_msgpack", "is_async", "name")

    def __init__(self, name: str, method: Callable[..., Any], arguments: type[msgspec.Struct]) -> None:
        self.name = name
        self.is_async = inspect.iscoroutinefunction(method)
        self._method = method
        self._arguments = arguments
        self._json = msgspec.json.Decoder(arguments)
        self._msgpack = msgspec.msgpack.Decoder(arguments)

    def __call__(self, room: Room, caller: Peer, method: str, data: Payload | None) -> Any:
        try:
            if data is None:
                arguments = msgspec.convert({}, self._arguments)
            elif data.kind == Kind.JSON:
                arguments = self._json.decode(data.raw)
            elif data.kind == Kind.MSGPACK:
                arguments = self._msgpack.decode(data.raw)
            else:
                arguments = msgspec.convert(data.value(), self._arguments)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise Refused("bad_request", f"{self.name}: {plain(problem)}") from None
        return self._method(room, caller, **{name: getattr(arguments, name) for name in arguments.__struct_fields__})


def typed_calls(plugin: object) -> dict[str, Typed]:
    """The marked methods of a plugin, by name. The class has been checked (`check_call`)."""
    found = {}
    for name in dir(type(plugin)):
        function = inspect.getattr_static(type(plugin), name)
        if is_call(function):
            found[name] = Typed(name, getattr(plugin, name), _arguments(name, function))
    return found


def check_call(name: str, function: Callable[..., Any]) -> list[tuple[str, str]]:
    """What is wrong with a marked method, as (what, hint)."""
    hint = f"def {name}(self, room: Room, caller: Peer, …)"
    if not inspect.isfunction(function):
        return [("is marked with @call, but is no plain method", "")]
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return [("must not yield", "")]
    parameters = list(inspect.signature(function).parameters.values())
    if [one.name for one in parameters[1:3]] != ["room", "caller"]:
        return [("does not begin with (self, room, caller)", hint)]
    odd = [one.name for one in parameters[3:] if one.kind in (one.POSITIONAL_ONLY, one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    if odd:
        return [(f"has an argument that has no name for a client: {', '.join(odd)}", hint)]
    try:
        arguments = _arguments(name, function)
        msgspec.json.Decoder(arguments)
        msgspec.msgpack.Decoder(arguments)
    except (TypeError, NameError, AttributeError) as problem:
        return [(f"has arguments that cannot be checked: {problem}", "give each a type that msgspec knows")]
    return []


def _arguments(name: str, function: Callable[..., Any]) -> type[msgspec.Struct]:
    hints = typing.get_type_hints(function, include_extras=True)
    fields: list[Any] = []
    for parameter in list(inspect.signature(function).parameters.values())[3:]:
        kind = hints.get(parameter.name, Any)
        empty = parameter.default is parameter.empty
        fields.append((parameter.name, kind) if empty else (parameter.name, kind, parameter.default))
    return msgspec.defstruct(name, fields, forbid_unknown_fields=True, kw_only=True, frozen=True)


def plain(problem: Exception) -> str:
    """msgspec's text, in words."""
    text = str(problem).replace("`str`", "a string").replace("`int`", "an integer").replace("`float`", "a number")
    text = text.replace("`bool`", "true or false").replace("`array`", "a list").replace("`object`", "an object")
    text = text.replace("`null`", "null").replace("at `$.", "at `")
    return text[:1].lower() + text[1:]
