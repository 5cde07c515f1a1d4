"""Which hooks there are, and what can be seen of a plugin's without calling them.

Not here: calling (supervisor). The one rule: nothing here runs a plugin's code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import CoroutineType
from typing import Any, Final, NoReturn, TypeAlias

from relay.plugin.api import Plugin

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
