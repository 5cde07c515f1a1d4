"""Says that a message has arrived, to the publishers who want to know.

A `confirm` stands behind its message, and when the program comes for it, it is done with the message: that is when it
is answered. Not here: asking for it (session). The one rule: what the program was not given is never confirmed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from relay.client.errors import Disconnected
from relay.client.events import Confirm, Message
from relay.errors import Refused

REMEMBERED: Final = 1000  # messages to this subject alone that were handed over last


class Acks:
    """Of one session. `ack` says it to the relay, given a room and an offset; it raises Refused, Disconnected."""

    def __init__(self, nursery: trio.Nursery, ack: Callable[[str, int], Awaitable[None]]) -> None:
        self._nursery = nursery
        self._ack = ack
        self._given: OrderedDict[tuple[str, int], None] = OrderedDict()

    def given(self, message: Message) -> None:
        """The program has it now."""
        self._given[message.room, message.offset] = None
        if len(self._given) > REMEMBERED:
            self._given.popitem(last=False)

    def done(self, confirm: Confirm, room: str) -> None:
        """The program is done with it. `room` is what its room is called now."""
        if (room, confirm.offset) in self._given or (confirm.room, confirm.offset) in self._given:
            self._given.pop((room, confirm.offset), None)
            self._given.pop((confirm.room, confirm.offset), None)
            self._nursery.start_soon(self._say, confirm)

    async def _say(self, confirm: Confirm) -> None:
        try:
            await self._ack(confirm.room, confirm.offset)
        except (Refused, Disconnected):
            pass  # the publisher learns that nobody has confirmed
