"""Once a second: is memory short? Then nobody new comes in, and those for whom most waits are told to come back later.

Not here: the arithmetic (limits/pressure), the figures (ops/memory), refusing handshakes (front/place). The one rule:
while no mark is set, nothing is looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

import trio

from relay.errors import CloseCode, CloseReason
from relay.front.state import State
from relay.limits.pressure import Pressure, Reading, to_shed
from relay.ops import memory
from relay.session.services import Services

log = logging.getLogger("relay")

COME_BACK: Final = 5.0  # seconds, and as much again at random


class MemoryWatch:
    """`look` belongs into a clock."""

    def __init__(self, state: State, services: Services, cgroup: memory.Cgroup | None) -> None:
        self._state = state
        self._services = services
        self._cgroup = cgroup
        self._pressure = Pressure()
        self._shed_before = False

    async def look(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._shed_before:
            self._shed_before = False
            memory.give_back()  # what was let go of a second ago is free now
        before = self._pressure.setting
        reading = self._pressure.look(self._readings())
        self._state.short_of_memory = self._pressure.setting
        if reading is None:
            if before:
                log.info("memory is not short any more", extra={"fields": {"setting": before}})
            return
        fields = {"used": reading.used, "mark": reading.mark, "setting": reading.setting}
        if not before:
            log.warning("memory is short: nobody new comes in", extra={"fields": fields})
        self._shed(reading)

    def _readings(self) -> Iterator[Reading]:
        limits = self._services.config.limits
        if limits.memory_bytes:
            resident = memory.resident_bytes()
            if resident is not None:
                yield Reading(resident, limits.memory_bytes, "limits.memory_bytes")
        if limits.memory_share and self._cgroup is not None:
            used = self._cgroup.used()
            if used is not None:
                yield Reading(used, int(self._cgroup.limit * limits.memory_share), "limits.memory_share")

    def _shed(self, reading: Reading) -> None:
        """Ends those for whom most waits. Many may wait for the same bytes, so one look may not be enough."""
        living = [link for link in self._state.links if link.connection.closing is None]
        shed = to_shed(((link.writer.size, link) for link in living), reading.excess)
        if not shed:
            return
        freed = 0
        for link in shed:
            freed += link.writer.clear()  # it would not get through in time either
            why = "the server is short of memory, and much of it waits for you"
            link.connection.close(
                CloseReason(CloseCode.OVERLOADED, why, reading.setting, COME_BACK, reconnect_jitter=COME_BACK)
            )
        self._services.counters.shed += len(shed)
        self._shed_before = True
        log.warning(
            "connections were ended because memory is short",
            extra={
                "fields": {
                    "connections": len(shed), "bytes": freed, "used": reading.used, "mark": reading.mark,
                    "setting": reading.setting,
                }
            },
        )  # fmt: skip
