"""One code, explained.

Not here: the codes (handshake, tokens, requests, closing) nor how they are shown (pages, and `relay explain`). The one
rule: what can be read from the code's own table (its meaning, whether to come back) is not written a second time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

WHERE: Final[dict[str, str]] = {
    "tls": "the TLS handshake failed",
    "handshake": "the WebSocket handshake was refused",
    "request": "a request on a live connection was refused",
    "throttled": "a connection was not read for a while",
    "dropped": "messages were not delivered to a client",
    "close": "the connection ended",
    "api": "a request of the API was refused",
}
"""Where a code appears, in words."""


@dataclass(slots=True, frozen=True)
class Explanation:
    """`where` are keys of WHERE, `settings` config keys; `status` the HTTP status where it is one."""

    code: str
    where: tuple[str, ...]
    meaning: str
    cause: str
    client: str
    operator: str
    settings: tuple[str, ...] = ()
    status: int | None = None

    def __post_init__(self) -> None:
        unknown = set(self.where) - WHERE.keys()
        assert not unknown, f"{self.code}: {unknown}"
