"""How many rooms of one plugin may be open, and in how many of them one subject may be: `max_rooms` and
`max_rooms_per_subject` of a plugin's table.

Not here: how many members one room may have (hub), how many rooms a connection may be in (session/requests). The one
rule: rooms whose plugin bounds nothing are not counted.
"""

from __future__ import annotations

from typing import Final

from relay.errors import Refused
from relay.rooms.room import RoomRule


class Bounds:
    """Of one hub. Whoever was let in must be let out again."""

    def __init__(self) -> None:
        self.open_of: Final[dict[str, int]] = {}  # open rooms by plugin
        self.entered_by: Final[dict[tuple[str, str], int]] = {}  # rooms by (plugin, subject)

    def check_open(self, rule: RoomRule) -> None:
        """Raises Refused("too_many_open_rooms")."""
        if rule.max_rooms and self.open_of.get(rule.plugin, 0) >= rule.max_rooms:
            raise Refused("too_many_open_rooms", retry_after=5.0, setting=f"plugins.{rule.plugin}.max_rooms")

    def opened(self, rule: RoomRule) -> None:
        if rule.max_rooms:
            self.open_of[rule.plugin] = self.open_of.get(rule.plugin, 0) + 1

    def freed(self, rule: RoomRule) -> None:
        if rule.max_rooms:
            self.open_of[rule.plugin] -= 1

    def enter(self, rule: RoomRule, subject: str) -> None:
        """A subject's first connection comes into a room. Raises Refused("too_many_rooms")."""
        if rule.max_rooms_per_subject:
            whose = rule.plugin, subject
            count = self.entered_by.get(whose, 0)
            if count >= rule.max_rooms_per_subject:
                setting = f"plugins.{rule.plugin}.max_rooms_per_subject"
                raise Refused(
                    "too_many_rooms", "you are in as many rooms of this kind as a subject may be", setting=setting
                )
            self.entered_by[whose] = count + 1

    def exit(self, rule: RoomRule, subject: str) -> None:
        """Its last one leaves."""
        if rule.max_rooms_per_subject:
            whose = rule.plugin, subject
            left = self.entered_by[whose] - 1
            if left:
                self.entered_by[whose] = left
            else:
                del self.entered_by[whose]
