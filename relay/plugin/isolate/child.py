"""The inside of a plugin's process: the plugin, and rooms, peers and a relay that are like the real ones.

    python -m relay.plugin.isolate.child FD

Not here: the relay's side (standin, process). The one rule: hooks see the API they know; what they do in a room is said
in order, before the hook's answer.

What differs from a plugin in the relay's own process: `broadcast` and `send` return 0, because the offset is given in
the relay; and a room's `state` is lost when the process has to be started again.
"""

from __future__ import annotations

import inspect
import logging
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from relay.errors import PluginError, Refused
from relay.model import Message, Payload
from relay.plugin.api import Arrival, Plugin, WebRequest
from relay.plugin.calls import typed_calls
from relay.plugin.faults import refusal
from relay.plugin.isolate.far import FarPeer, FarRelay, FarRoom, Say
from relay.plugin.isolate.pipe import Pipe
from relay.plugin.isolate.process import bound_memory
from relay.plugin.isolate.wire import (
    packed,
    packed_message,
    unpacked,
    unpacked_decision,
    unpacked_message,
)
from relay.plugin.loader import find
from relay.plugin.web import as_response, pages

LONGEST_TRACEBACK: Final = 8000  # characters


class Host:
    """The plugin, and what it is told."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self.say: Say = pipe.say
        self.rooms: dict[str, FarRoom] = {}
        self._channels: list[str] = []
        self._early: list[Callable[[], Awaitable[None]]] = []
        self._nursery: trio.Nursery | None = None
        self.plugin: Plugin

    def begin(self, task: Callable[[], Awaitable[None]]) -> None:
        if self._nursery is None:
            self._early.append(task)
        else:
            self._nursery.start_soon(task)

    async def run(self) -> None:
        """Until the relay has gone."""
        async with trio.open_nursery() as nursery, aclosing(self._pipe.batches()) as batches:
            nursery.start_soon(self._pipe.write)
            async for batch in batches:
                for words in batch:
                    if words[0] == "init":
                        if not self._make(*words[1:]):
                            await self._pipe.drain()
                            nursery.cancel_scope.cancel()
                            return
                        self._nursery = nursery
                        for task in self._early:
                            nursery.start_soon(task)
                        nursery.start_soon(self.guarded, self.plugin.run)
                    else:
                        self._take(words)
            nursery.cancel_scope.cancel()

    def _make(
        self, name: str, tenant: str, source: str, wanted: str, settings: Any, memory_bytes: int, channels: list[str]
    ) -> bool:
        """False: it cannot be made, and that was said."""
        self._channels = channels
        logging.getLogger().addHandler(_Forward(self.say))
        logging.getLogger().setLevel(logging.INFO)
        try:
            bound_memory(memory_bytes)
            use, directory = source.split("\n")
            kind = find(use, Path(directory))
            relay: Any = FarRelay(self, tenant)
            self.plugin = kind(name, msgspec.convert(settings, kind.Settings), relay)
        except PluginError as problem:
            self.say("broken", str(problem))
            return False
        except Exception as problem:
            self.say("broken", f"{wanted} could not be made: {type(problem).__name__}: {problem}")
            return False
        self._calls = typed_calls(self.plugin)
        self._pages = pages(self.plugin)
        self.say("ready")
        return True

    def _take(self, words: list[Any]) -> None:
        match words:
            case ["ping"]:
                self.say("pong")
            case ["ask", number, hook, *more]:
                self._asked(number, hook, *more)
            case ["open", name, epoch, offset]:
                self._open(name, epoch, offset)
            case ["empty", name]:
                room = self.rooms.pop(name, None)
                if room is not None:
                    self._guarded_now(self.plugin.on_empty, room)
            case ["renamed", was, name]:
                room = self.rooms.pop(was, None)
                if room is not None:
                    room.name = name
                    self.rooms[name] = room
                self._guarded_now(self.plugin.on_renamed, was, name)
            case ["member", name, session, subject]:
                if name in self.rooms:
                    self.rooms[name].members[session] = FarPeer(self.say, session, subject)
            case ["joined", name, session, subject]:
                room = self.rooms.get(name)
                if room is not None:
                    room.members[session] = FarPeer(self.say, session, subject)
                    self._guarded_now(self.plugin.on_joined, room, room.members[session])
            case ["filter_joined", where, session, subject]:
                room = self.rooms.get(where[0]) or self._open(*where)
                self._guarded_now(self.plugin.filter_joined, room, FarPeer(self.say, session, subject))
            case ["decisions", said, missed]:
                self._guarded_now(self.plugin.on_decisions, list(map(unpacked_decision, said)), missed)
            case ["gone", name, session]:
                if name in self.rooms:
                    self.rooms[name].members.pop(session, None)

    def _open(self, name: str, epoch: str, offset: int) -> FarRoom:
        room = self.rooms[name] = FarRoom(self.say, self._channels, name, epoch, offset)
        try:
            self.plugin.on_open(room)  # type: ignore[arg-type]
        except Refused as refused:
            room.refusal = refused  # told to whoever comes next
        except Exception as problem:
            self._failed("on_open", problem)
            room.refusal = Refused("internal")
        return room

    def _asked(self, number: int, hook: str, where: list[Any] | None, who: list[Any] | None, *more: Any) -> None:
        room = peer = None
        if where is not None:
            room = self.rooms.get(where[0]) or self._open(*where)
            room.offset = where[2]
            if room.refusal is not None:
                self._refused(number, room.refusal)
                return
        if who is not None:
            known = None if room is None else room.members.get(who[0])
            peer = known or FarPeer(self.say, *who)
            peer.may_publish = who[2]
        try:
            call, finish = self._target(hook, room, peer, more)
            result = call()
        except Exception as problem:
            self._answer_problem(number, hook, problem)
            return
        if inspect.isawaitable(result):
            self.begin(partial(self._later, number, hook, result, finish))
        else:
            self._finish(number, hook, result, finish)

    async def _later(self, number: int, hook: str, result: Awaitable[Any], finish: Callable[[Any], Any]) -> None:
        try:
            value = await result
        except Exception as problem:
            self._answer_problem(number, hook, problem)
        else:
            self._finish(number, hook, value, finish)

    def _finish(self, number: int, hook: str, value: Any, finish: Callable[[Any], Any]) -> None:
        try:
            self.say("answer", number, finish(value))
        except Exception as problem:
            self._answer_problem(number, hook, problem)

    def _target(
        self, hook: str, room: FarRoom | None, peer: FarPeer | None, more: tuple[Any, ...]
    ) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
        """What to call, and what its result is on the wire."""
        plugin: Any = self.plugin
        if hook in ("on_message", "filter_message"):
            message = unpacked_message(more[0])
            finish = _nothing if hook == "on_message" else _message_or_none
            return partial(getattr(plugin, hook), room, peer, message), finish
        if hook in ("on_call", "filter_call"):
            method, data = more[0], unpacked(more[1])
            typed = self._calls.get(method) if hook == "on_call" else None
            target: Callable[..., Any] = typed or getattr(plugin, hook)
            return partial(target, room, peer, method, data), _payload if hook == "on_call" else _nothing
        if hook == "page":
            method, path, asked = more
            page = self._pages[method, path]
            return partial(page.handler, WebRequest(*asked)), _response
        if hook in ("on_connect", "on_disconnect"):
            return partial(getattr(plugin, hook), Arrival(*more[0]), *more[1:]), _nothing
        return partial(getattr(plugin, hook), room, peer), _nothing

    # What becomes of exceptions.

    def _answer_problem(self, number: int, hook: str, problem: Exception) -> None:
        refused = refusal(problem)
        if refused is not None:
            self._refused(number, refused)
        else:
            self.say("failed", number, f"{type(problem).__name__}: {problem}", _traceback(problem))

    def _refused(self, number: int, refused: Refused) -> None:
        self.say("refused", number, refused.code, refused.message, refused.retry_after, refused.setting)

    async def guarded(self, task: Callable[[], Awaitable[object]]) -> None:
        try:
            await task()
        except Exception as problem:
            self._failed("a task", problem)

    def _guarded_now(self, hook: Callable[..., Any], *args: Any) -> None:
        try:
            hook(*args)
        except Exception as problem:
            self._failed(getattr(hook, "__name__", "a hook"), problem)

    def _failed(self, what: str, problem: Exception) -> None:
        self.say("log", logging.ERROR, f"{what} failed: {_traceback(problem)}")


class _Forward(logging.Handler):
    """The process's log is part of the relay's."""

    def __init__(self, say: Say) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._say("log", record.levelno, self.format(record))
        except Exception:
            self.handleError(record)


def _traceback(problem: BaseException) -> str:
    return "".join(traceback.format_exception(problem))[-LONGEST_TRACEBACK:]


def _nothing(value: Any) -> None:
    return None


def _payload(value: Any) -> list[Any] | None:
    return packed(Payload.of(value))


def _message_or_none(value: Any) -> list[Any] | None:
    if value is None:
        return None
    if not isinstance(value, Message):
        raise TypeError(f"filter_message returns a Message or None, not {type(value).__name__}")
    return packed_message(value)


def _response(value: Any) -> list[Any]:
    said = as_response(value)
    return [said.status, said.body, said.content_type, list(said.headers)]


async def main(descriptor: int) -> None:
    await Host(Pipe(socket.socket(fileno=descriptor))).run()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
