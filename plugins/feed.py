"""Feed: few publish, many read.

    [plugins.feed]
    rooms = "feed:*"
    history = 10                # what readers get who ask for it when they join
    publishers = ["newsroom"]   # subjects; leave it out, and whoever's token grants it may publish

A client may `call` the method `last` for the latest message, without any history.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from relay.plugin import api
from relay.plugin.api import Message, Payload, Peer, Plugin, Refused, Room


class Feed(Plugin):
    """Publishers are heard by all; readers are heard by nobody."""

    class Settings(api.Settings, frozen=True):
        publishers: Annotated[
            list[str], Meta(description="Subjects that may publish; []: all whose token grants it.")
        ] = field(default_factory=list)

    settings: Settings

    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        publishers = self.settings.publishers
        if publishers and sender.subject not in publishers:
            raise Refused("forbidden", "only its publishers publish here", setting=f"plugins.{self.name}.publishers")
        room.broadcast(message, sender=sender)
        if message.to is None:
            room.state["last"] = message.data

    def on_call(self, room: Room, caller: Peer, method: str, data: Payload | None) -> Payload | None:
        """`last`: the latest message, null before the first."""
        if method != "last":
            raise Refused("no_such_method", "a feed knows the method `last`")
        return room.state.get("last")
