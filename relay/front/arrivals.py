"""Plugins that want to know of every connection: asked before the 101, told when it has gone.

Not here: what they decide. The one rule: who was asked is told, whatever happened in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from relay.errors import Refused, Rejected
from relay.plugin.arrival import Arrival
from relay.plugin.supervisor import Supervised

STATUS: Final = {"internal": 500, "plugin_off": 503, "timeout": 503}


class Arrivals:
    """Of the plugins of one hub, which may become others. Costs nothing where no plugin has such a hook."""

    def __init__(self, plugins: Sequence[Supervised]) -> None:
        self._plugins = plugins

    @property
    def wanted(self) -> bool:
        """Whether any of them wants to know."""
        return any(plugin.has_connect or plugin.has_disconnect for plugin in self._plugins)

    @property
    def asks(self) -> bool:
        """Whether any of them wants to be asked."""
        return any(plugin.has_connect for plugin in self._plugins)

    async def arrive(self, arrival: Arrival) -> None:
        """Raises Rejected: 403 with the plugin's own code, 503 or 500 where it could not decide."""
        asked: list[Supervised] = []
        try:
            for plugin in self._plugins:
                if plugin.has_connect:
                    asked.append(plugin)
                    await plugin.connect(arrival)
        except BaseException as problem:
            self._tell(asked[:-1], arrival, 1006)
            if not isinstance(problem, Refused):
                raise
            status = STATUS.get(problem.code, 403)
            raise Rejected(
                status,
                problem.code,
                problem.message,
                retry_after=problem.retry_after,
                setting=problem.setting or f"plugins.{problem.plugin}",
            ) from None
        if not asked:
            await trio.lowlevel.checkpoint_if_cancelled()

    def left(self, arrival: Arrival, code: int) -> None:
        """It has gone. Raises nothing."""
        self._tell(self._plugins, arrival, code)

    def _tell(self, plugins: Sequence[Supervised], arrival: Arrival, code: int) -> None:
        for plugin in plugins:
            if plugin.has_disconnect:
                plugin.disconnect(arrival, code)
