"""Which hooks a plugin has, in which files its code is, and how one that waits is called under a deadline.

Not here: calling the others (supervisor), whether a class is a plugin at all (checks). The one rule: nothing is asked
of the plugin itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import CoroutineType
from typing import Any, Final, NoReturn, TypeAlias

import trio

from relay.errors import Refused
from relay.model import Payload
from relay.plugin.api import Plugin
from relay.plugin.faults import Faults, log
from relay.rooms.room import Room

Hook: TypeAlias = Callable[..., Any]

TOLD: Final = ("on_joined", "on_leave", "filter_joined", "filter_leave", "on_disconnect", "on_decisions")
"""Hooks that are told of what has happened, and can refuse nothing."""
FILTERS: Final = ("filter_join", "filter_joined", "filter_leave", "filter_message", "filter_call")


def overrides(plugin: type[Plugin], name: str) -> bool:
    return getattr(plugin, name) is not getattr(Plugin, name)


def files_of(plugin: type[Plugin]) -> set[str]:
    """The source files of a plugin's methods, as frames name them."""
    own = [base for base in plugin.__mro__ if base not in Plugin.__mro__]
    code = [getattr(value, "__code__", None) for base in own for value in vars(base).values()]
    return {one.co_filename for one in code if one is not None}


def not_awaited(result: Awaitable[object]) -> NoReturn:
    if isinstance(result, CoroutineType):
        result.close()  # else Python complains that it was never awaited
    raise TypeError("a hook that is not `async def` returned a coroutine; write `async def`")


async def awaited(
    faults: Faults, title: str, name: str, hook: Hook, room: Room | None, args: tuple[Any, ...],
    limit: float, setting: str,
) -> Any:  # fmt: skip
    """What an asynchronous hook returns within `limit` seconds, which `setting` asks for. Raises Refused."""
    answer: Any = None
    with trio.move_on_after(limit) as deadline:
        try:
            answer = await (hook(*args) if room is None else hook(room, *args))
        except Exception as problem:
            faults.raise_for(name, room, problem)
        except BaseExceptionGroup as group:
            faults.raise_rest(name, room, group)
    if deadline.cancelled_caught:
        if faults.may_trace(f"{name} deadline"):
            log.warning(
                "plugin %s: %s%s took longer than %g s", title, name,
                f" in room {room.name}" if room is not None else "", limit,
                extra=faults.fields(name, room),
            )  # fmt: skip
        raise too_late(faults, room, limit, setting)
    return answer


def answered(faults: Faults, room: Room, answer: object) -> Payload:
    """What a call has returned, encoded; what cannot be is the plugin's failure. Raises Refused."""
    try:
        return Payload.of(answer)
    except Exception as problem:
        faults.raise_for("on_call", room, problem)


def too_late(faults: Faults, room: Room | None, limit: float, setting: str) -> Refused:
    why = f"the plugin did not answer within {limit:g} s"
    return faults.sign(Refused("timeout", why, setting=setting or None), room)
