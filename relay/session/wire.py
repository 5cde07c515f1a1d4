"""The socket's side of a connection, as the session sees it.

Not here: sockets (net/link is one). The one rule: each who stops a connection's reading has a reason of its own, and it
is read again once none is left.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from relay.delivery.outbox import Outbox
from relay.errors import CloseReason

if TYPE_CHECKING:
    from relay.session.connection import Connection


class Hold(enum.IntFlag):
    """Why a connection is not read."""

    WORK = 1
    """As many of its requests wait for plugins as may."""
    READERS = 2
    """Those who hear it cannot keep up."""
    QUOTA = 4
    """It has spent more of a quota than there was."""


class Producer(Protocol):
    """A socket's side of its session: the session itself for the first, a leg for each other one."""

    @property
    def main(self) -> Connection:
        """The session."""

    def wait_for(self, reader: object) -> None:
        """This socket is read no further until `reader` has caught up, or has gone."""

    def waited_for(self, reader: object) -> None:
        """That reader is no reason to wait any more."""


class Wire(Protocol):
    """A socket with an outbox."""

    outbox: Outbox

    def close(self, reason: CloseReason, farewell: bytes | None) -> None:
        """Sends what waits, `farewell`, and a close frame; then ends. Called once."""

    def hold(self, reason: Hold, held: bool) -> None:
        """Stops reading (True), and goes on once no reason is left."""

    def abort(self) -> None:
        """Ends at once, without a word."""

    def adopt(self, connection: Connection, message: Callable[[int, bytes], None], luggage: Any) -> None:
        """From now on it is this session's: `message` is told what comes. `luggage` was the last socket's."""
