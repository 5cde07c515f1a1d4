"""Channels: the lanes that every connection has, as the config declares them.

Not here: what waits in a lane (outbox). The one rule: the order of this table is the order of sending - strict before
urgent before fair - so a lane's index alone tells its rank.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from relay.config.schema import Channel
from relay.errors import Refused

ENVELOPE: Final = 512  # bytes kept free for what surrounds a message's data


class Priority(enum.IntEnum):
    STRICT = 0
    URGENT = 1
    FAIR = 2


class Overflow(enum.Enum):
    """What happens to a message that finds its channel full."""

    CLOSE = "close"
    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"
    LATEST = "latest"
    PAUSE = "pause"


@dataclass(slots=True, frozen=True)
class Lane:
    """One channel's rule. `capacity` is in bytes waiting for one client; `index` its place in every outbox."""

    name: str
    index: int
    priority: Priority
    weight: int
    capacity: int
    overflow: Overflow
    direct: int
    """Largest frame, in bytes, that need not enter the lane while nothing else waits; -1: none. A lane that keeps notes
    or tells of urgency must see each.
    """

    @property
    def largest(self) -> int:
        """Bytes of the largest message that fits an empty lane, with room for its envelope."""
        return (2 if self.overflow is Overflow.PAUSE else 1) * self.capacity - ENVELOPE

    @property
    def too_large(self) -> str:
        return f"a message in channel {self.name} has at most {self.largest} bytes"

    @property
    def setting(self) -> str:
        return f"channels.{self.name}.capacity"


class Channels:
    """All channels of the process, in order of sending."""

    CONTROL: Final = "control"

    def __init__(self, table: Mapping[str, Channel]) -> None:
        ranked = sorted(table.items(), key=lambda item: Priority[item[1].priority.upper()])
        self.lanes: Final = tuple(_lane(name, index, rule) for index, (name, rule) in enumerate(ranked))
        self._by_name: Final = {lane.name: lane for lane in self.lanes}
        self.control: Final = self._by_name[self.CONTROL].index
        self.default: Final = self._by_name["default"].index
        self.urgent_mask: Final = sum(1 << lane.index for lane in self.lanes if lane.priority is not Priority.FAIR)
        self.replacing_mask: Final = sum(1 << lane.index for lane in self.lanes if lane.overflow is Overflow.LATEST)
        self.urgent: Final = tuple(lane for lane in self.lanes if lane.priority is Priority.URGENT)
        self.names: Final = tuple(lane.name for lane in self.lanes)

    def index(self, name: str) -> int:
        """The lane of a channel's name. Raises Refused("no_such_channel")."""
        try:
            return self._by_name[name].index
        except KeyError:
            raise Refused("no_such_channel", f"channels are: {', '.join(self.names)}", setting="channels") from None

    def __iter__(self) -> Iterator[Lane]:
        return iter(self.lanes)

    def __len__(self) -> int:
        return len(self.lanes)


def _lane(name: str, index: int, rule: Channel) -> Lane:
    priority, overflow = Priority[rule.priority.upper()], Overflow(rule.overflow)
    keeps_notes = overflow in (Overflow.DROP_OLDEST, Overflow.LATEST)
    direct = -1 if keeps_notes or priority is Priority.URGENT else rule.capacity
    return Lane(name, index, priority, rule.weight, rule.capacity, overflow, direct)
