"""The API's routes for plugins: what they are at, and exchanging one for a newer version.

Not here: how that is done (process/reload_plugin).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from relay.errors import ConfigError, Rejected
from relay.front.api import Api, Asked
from relay.plugin.supervisor import Supervised

Reload: TypeAlias = Callable[[str, str | None], None]


class PluginRoutes:
    """`plugins` gives those of all tenants. `reload` exchanges the plugin of that name, in one tenant or in all that
    have it; it raises ConfigError with all that is wrong with the new version.
    """

    def __init__(self, plugins: Callable[[], Sequence[Supervised]], reload: Reload) -> None:
        self._plugins = plugins
        self._reload = reload

    def add_to(self, api: Api) -> None:
        api.add("GET", "/plugins", self.plugins, query=("tenant",))
        api.add("POST", "/plugins/{name}/reload", self.reload, query=("tenant",))

    def plugins(self, asked: Asked) -> Any:
        return {"plugins": [_view(plugin) for plugin in self._of(asked)]}

    def reload(self, asked: Asked) -> Any:
        name = asked.path["name"]
        found = [plugin for plugin in self._of(asked) if plugin.name == name]
        if not found:
            raise Rejected(404, "no_such_plugin", "no plugin of that name runs here", setting="plugins")
        try:
            self._reload(name, asked.query.get("tenant"))
        except ConfigError as error:
            raise Rejected(409, "plugin_refused", "; ".join(map(str, error.problems))) from None
        return {"plugins": [_view(plugin) for plugin in found]}

    def _of(self, asked: Asked) -> list[Supervised]:
        tenant = asked.query.get("tenant")
        return [plugin for plugin in self._plugins() if tenant in (None, plugin.tenant)]


def _view(plugin: Supervised) -> dict[str, Any]:
    kind = type(plugin.plugin)
    return {
        "name": plugin.name,
        "tenant": plugin.tenant,
        "class": f"{kind.__module__}:{kind.__qualname__}",
        "about": (kind.__doc__ or "").strip().partition("\n")[0],
        "rooms": len(plugin.rooms),
        "off": plugin.off,
        "tasks": plugin.background.tasks,
        "timers": len(plugin.handle.timers),
        "pages": sorted(f"{method} {path}" for method, path in plugin.pages),
    }
