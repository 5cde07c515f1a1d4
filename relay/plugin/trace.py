"""Tells every call of a plugin's hooks: which, for whom, how long it took and how it ended.

Not here: calling them (supervisor). The one rule: who does not ask for it pays nothing: the hooks of one plugin object
are replaced, once, when it is made.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from relay.errors import Refused
from relay.plugin.api import Plugin
from relay.plugin.calls import is_call
from relay.plugin.checks import HOOKS
from relay.rooms.room import Room

log = logging.getLogger("relay.plugin.trace")


def trace(plugin: Plugin) -> None:
    """From now on each call of its hooks is a line of the log, of level debug."""
    for name in dir(type(plugin)):
        hook = getattr(type(plugin), name)
        own = name in HOOKS and name != "run" and hook is not getattr(Plugin, name)
        if own or is_call(hook):
            setattr(plugin, name, _traced(plugin.name, name, getattr(plugin, name)))


def _traced(plugin: str, name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(hook):

        @wraps(hook)
        async def waits(*args: Any, **kwargs: Any) -> Any:
            began, end = time.perf_counter(), "ok"
            try:
                return await hook(*args, **kwargs)
            except BaseException as problem:
                end = _word(problem)
                raise
            finally:
                _tell(plugin, name, args, time.perf_counter() - began, end)

        return waits

    @wraps(hook)
    def at_once(*args: Any, **kwargs: Any) -> Any:
        began, end = time.perf_counter(), "ok"
        try:
            return hook(*args, **kwargs)
        except BaseException as problem:
            end = _word(problem)
            raise
        finally:
            _tell(plugin, name, args, time.perf_counter() - began, end)

    return at_once


def _word(problem: BaseException) -> str:
    return f"refused {problem.code}" if isinstance(problem, Refused) else type(problem).__name__


def _tell(plugin: str, hook: str, args: tuple[Any, ...], seconds: float, end: str) -> None:
    room = next((one.name for one in args[:1] if isinstance(one, Room)), "")
    subject = next((found for one in args[:2] if isinstance(found := getattr(one, "subject", None), str)), "")
    fields = {"plugin": plugin, "hook": hook, "room": room, "subject": subject, "microseconds": round(seconds * 1e6)}
    log.debug("%s.%s: %s", plugin, hook, end, extra={"fields": fields})
