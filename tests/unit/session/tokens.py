"""Sessions that are given a new token."""

from __future__ import annotations

from typing import Any

from tests.unit.session.kit import Client
from tests.unit.session.plugins import Quick, Slow

PLUGINS: dict[str, Any] = {"q": (Quick, {"history": 5, "presence": True}), "s": (Slow, {"history": 5})}


def renew(client: Client, token: str = "new") -> Any:
    """The answer to a renewal; what else came with it is not looked at."""
    client.heard()
    client.say(t="auth", token=token, id=7)
    (answer,) = (said for said in client.heard() if said.get("id") == 7)
    return answer
