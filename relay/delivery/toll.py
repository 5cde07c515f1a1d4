"""In front of an outbox: what is put is counted first, and what exceeds a quota is dropped, and told as a gap.

Not here: counting (handed in). The one rule: only messages of rooms are counted; answers, and what keeps the connection
alive, always pass.
"""

from __future__ import annotations

from collections.abc import Callable

from relay.delivery.detour import StandIn
from relay.delivery.outbox import Outbox
from relay.model import Message
from relay.protocols.parts import Parts


class Toll(StandIn):
    """`target` is where what passes goes. `ask` names what forbids a message, "": nothing does."""

    __slots__ = ("_ask", "first", "target")

    def __init__(self, target: Outbox, ask: Callable[[Message], str]) -> None:
        super().__init__(target)
        self.first = target  # which tells the client what it will not get
        self._ask = ask
        self.target = target

    def put(self, index: int, frame: bytes, message: Message | None = None) -> None:
        if message is None or self._passes(index, message):
            self.target.put(index, frame, message)

    def put_parts(self, index: int, parts: Parts, message: Message | None) -> None:
        if message is None or self._passes(index, message):
            self.target.put_parts(index, parts, message)

    def _passes(self, index: int, message: Message) -> bool:
        reason = self._ask(message)
        if reason:
            self.first.dropped(self.channels.lanes[index], message, reason)
        return not reason
