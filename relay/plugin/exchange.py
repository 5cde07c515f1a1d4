"""Another version of a plugin takes the place of one that runs: rooms, members and `room.state` stay.

Not here: finding and checking it (loader). The one rule: until `commit` the old one runs, and whatever goes wrong
before leaves it as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.plugin.loader import LoadedPlugin
    from relay.plugin.supervisor import Supervised


class Exchange:
    """The new version is made, and has taken over what it wants of the old one."""

    def __init__(self, owner: Supervised, loaded: LoadedPlugin) -> None:
        """Raises whatever the new one raises; then it is cancelled."""
        self._owner = owner
        self._loaded = loaded
        self._timers = set(owner.handle.timers)
        try:
            self._after = owner.make(loaded)
            self._after.on_reload(owner.plugin)
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """The old one stays."""
        for timer in self._owner.handle.timers - self._timers:
            timer.cancel()

    def commit(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._owner.become(self._after, self._loaded)
