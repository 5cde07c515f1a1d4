"""All plugins of one hub: made together, run together.

Not here: one plugin (supervisor). The one rule: if any of them cannot be made, all that cannot are told, and none runs.
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from relay.config.schema import Supervision
from relay.counters import Counters
from relay.errors import ConfigError, ConfigProblem
from relay.plugin.faults import Schedule, describe
from relay.plugin.loader import LoadedPlugin
from relay.plugin.supervisor import Supervised
from relay.plugin.watchdog import Watchdog
from relay.rooms.hub import Hub


def supervise(
    loaded: Iterable[LoadedPlugin],
    hub: Hub,
    *,
    counters: Counters,
    watchdog: Watchdog,
    supervision: Supervision,
    hook_timeout: float,
    schedule: Schedule | None = None,
    tenant: str = "",
) -> list[Supervised]:
    """Makes the plugins; `hub.router` is then `build_router` of them. Raises ConfigError if an `__init__` failed."""
    made: list[Supervised] = []
    problems: list[ConfigProblem] = []
    for one in loaded:
        try:
            plugin = Supervised(
                one,
                hub,
                counters=counters,
                watchdog=watchdog,
                supervision=supervision,
                hook_timeout=hook_timeout,
                schedule=schedule,
                tenant=tenant,
            )
            made.append(plugin)
        except Exception as problem:
            what = f"{one.plugin.__name__} could not be made: {describe(problem)}"
            problems.append(ConfigProblem(one.where, f"plugins.{one.name}", what))
    if problems:
        raise ConfigError(problems)
    return made


async def run_all(plugins: Iterable[Supervised], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """All that plugins run beside their hooks, each in a nursery of its own. Until cancelled."""
    async with trio.open_nursery() as nursery:
        for plugin in plugins:
            await nursery.start(plugin.background.serve, name=f"plugin {plugin.title}")
        task_status.started()
