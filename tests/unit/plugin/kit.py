"""Plugins made in one line, well behaved and not."""

from __future__ import annotations

from typing import Any

from relay.config.schema import default_channels
from relay.delivery.channels import Channels
from relay.errors import Refused
from relay.model import Message
from relay.plugin.api import Peer, Plugin, Room
from relay.rooms.hub import Hub


def made(**members: Any) -> type[Plugin]:
    return type("Made", (Plugin,), members)


def fails(*args: Any) -> None:
    raise ZeroDivisionError("oh")


def refuses(*args: Any) -> None:
    raise Refused("not_your_turn", "white moves first")


async def fails_later(*args: Any) -> None:
    raise ZeroDivisionError("oh")


def accept_any(self: Any, room: Room, sender: Peer, message: Message) -> int:
    return room.broadcast(message)


def hub() -> Hub:
    return Hub(Channels(default_channels()), lambda room: None, clock=lambda: 0.0, new_epoch=lambda: "e")
