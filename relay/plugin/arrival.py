"""A client that connects, as plugins see it before it is in any room.

Not here: connections (session). The one rule: what identifies a client is there, what could be misused (its token) is
not.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class Arrival:
    """`home` is the room in its address, or ""; `address` the client's own, behind proxies too; `protocol` as in the
    log.
    """

    session: str
    subject: str
    address: str
    protocol: str
    home: str
