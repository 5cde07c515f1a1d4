"""Clients that ask for things, and the plugins that answer them."""

from __future__ import annotations

from typing import Any

from tests.unit.session.kit import Client, House
from tests.unit.session.plugins import Quick, Slow

PLUGINS: dict[str, Any] = {
    "q": (Quick, {"history": 5, "presence": True}),
    "full": (Quick, {"max_members": 1}),
    "s": (Slow, {}),
    "bulky": (Quick, {"history": 5, "channel": "bulk"}),
}


async def together(house: House, room: str = "q:a") -> tuple[Client, Client]:
    ann, bob = house.client("ann"), house.client("bob")
    ann.join(room)
    bob.join(room)
    ann.heard()
    return ann, bob
