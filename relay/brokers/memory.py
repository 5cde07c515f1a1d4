"""The broker of a single node: there is nobody else to tell.

The interface other brokers share: `publish` is called for every message of this node and never waits; `run` is the
task that brings what other nodes publish to `deliver`. Not here: local delivery, which the hub does before the broker
hears of a message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from relay.model import Message


class Broker(Protocol):
    """How messages reach other nodes, and theirs reach us."""

    def publish(self, message: Message) -> None:
        """Never waits; what cannot be sent is counted and, for rooms with history, said as a gap."""

    async def run(self, deliver: Callable[[Message], None]) -> None:
        """Until cancelled."""


class MemoryBroker:
    """One node alone."""

    def publish(self, message: Message) -> None:
        """Nobody else is there."""

    async def run(self, deliver: Callable[[Message], None]) -> None:
        await trio.sleep_forever()
