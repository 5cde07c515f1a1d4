"""The read side of a connection: how much is read at a time, when it is not read, and what was read counts against.

Not here: what the bytes say (websocket), how the connection ends and what it writes (link, which is built on this). The
one rule: whoever is not read is told nothing and loses nothing: what it sends waits in its own send buffer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

from relay.delivery.outbox import Outbox, put_all
from relay.errors import CloseCode, CloseReason
from relay.limits.pace import BYTES_STEP, Pace
from relay.net.poller import Poller
from relay.net.transport import READ_SIZE, Lost, Transport
from relay.net.websocket import Engine
from relay.net.writer import write_all
from relay.session.connection import Connection
from relay.session.leg import Leg
from relay.session.resume import Resuming
from relay.session.services import Services
from relay.session.timers import Timer
from relay.session.wire import Hold, Producer

_TURNS: Final = range(16)  # reads one connection may do before the next has its turn
BUSY: Final = 0.002  # seconds: who was read so short a time ago probably has more than one record waiting


class Reader(ABC):
    """It is one object with the link, because a read touches both. `engine`, `outbox` and `connection` are the link's
    to set, before the first byte is fed.
    """

    __slots__ = (
        "_counted_bytes", "_held", "_pace", "_poller", "_producer", "_read", "_resume", "_slowed", "_step",
        "_uncounted", "_waits_writable", "_watch", "bytes_in", "connection", "engine", "finished", "heard", "outbox",
        "services", "transport",
    )  # fmt: skip

    connection: Connection | Leg | Resuming
    engine: Engine
    outbox: Outbox

    def __init__(self, services: Services, transport: Transport, poller: Poller) -> None:
        self.services = services
        self.transport = transport
        self._poller = poller
        self._read = transport.read
        self.bytes_in = 0
        self.heard = services.monotonic()
        self.finished = self._waits_writable = False
        self._held = Hold(0)  # not reading: for these reasons
        self._slowed = False  # not reading: ahead of its rate
        self._watch = (True, False, False)
        self._resume: Timer | None = None
        self._pace = Pace(services.message_rate, services.byte_rate)
        self._step = self._pace.messages_step
        self._uncounted = self._counted_bytes = 0
        self._producer: Producer | None = None

    def readable(self, now: float) -> None:
        """One read, because finding out that there is no more costs as much; more where more is likely.

        Reading on matters under load: all that one turn brings goes out in one write per receiver.
        """
        busy = now - self.heard < BUSY
        engine = self.engine
        services = self.services
        alone = not busy and self.outbox.tick.alone
        try:
            for _ in _TURNS:
                try:
                    data = self._read(READ_SIZE)
                except OSError as error:
                    if self.transport.read_failed(error) is None:
                        return
                    data = b""
                if not data:
                    self._finish()
                    return
                self.heard = now
                size = len(data)
                self.bytes_in += size
                if not engine.stopped:  # else it broke a rule, or it has closed: what comes now is not for us
                    services.producer = self._producer
                    if alone and size < READ_SIZE:
                        # Nothing else is there that could share a write: what this says is written as it is put.
                        services.hub.put_all = write_all
                        try:
                            self._uncounted += engine.feed(data, now)
                        finally:
                            services.hub.put_all = put_all
                    else:
                        self._uncounted += engine.feed(data, now)
                    services.producer = None
                    if self._uncounted >= self._step or size >= BYTES_STEP:
                        self._count(now)
                if not busy and size < READ_SIZE:
                    return
                if self.finished or self._held or self._slowed:
                    return
        except Lost as reason:
            self._lost(reason)
        except Exception:
            self.bug()

    def _count(self, now: float) -> None:
        """Counts what was read since the last time against the rates; they are far above the steps between."""
        pace = self._pace
        self._step = pace.messages_step
        pace.messages, self._uncounted = self._uncounted, 0
        pace.bytes, self._counted_bytes = self.bytes_in - self._counted_bytes, self.bytes_in
        ahead, setting = pace.ahead(now)
        if ahead:
            self._slow_down(ahead, setting, now)

    def _slow_down(self, ahead: float, setting: str, now: float) -> None:
        """The client is `ahead` seconds ahead of its rate: it is read no further until it is not."""
        services = self.services
        shared = self._pace.shared
        if shared is not None:
            services.counters.quotas[shared.rule.name, "slowed"] += 1
        if ahead > services.config.limits.slow_down and (shared is None or shared.rule.per == "connection"):
            self.connection.close(
                CloseReason(CloseCode.TOO_MANY, "far more messages or bytes than allowed", setting, ahead)
            )
            return
        services.counters.slowed += 1
        self.connection.main.note("throttled", "rate_limited", setting, "not read for a while: ahead of its rate")
        self._slowed = True
        if self._resume is not None:
            self._resume.cancel()
        self._resume = services.timers.at(now + ahead, self._go_on)
        self._rewatch()

    def _go_on(self) -> None:
        self._resume = None
        self._slowed = False
        self.heard = self.services.monotonic()  # its silence was our doing
        self._rewatch()

    def hold(self, reason: Hold, held: bool) -> None:
        self._held = self._held | reason if held else self._held & ~reason
        self.engine.hold(bool(self._held))
        if not self._held:
            self.heard = self.services.monotonic()
            self._read_on()
        self._rewatch()

    def _read_on(self) -> None:
        """What came and was kept is handled now; from a timer, because who lets go may be in the middle of a flush."""
        if self.engine.waits:
            self.services.timers.at(self.services.monotonic(), self._feed_kept)

    def _feed_kept(self) -> None:
        if self.finished:
            return
        self.services.producer = self._producer
        try:
            self._uncounted += self.engine.feed(b"", self.services.monotonic())
        except Exception:
            self.bug()
        finally:
            self.services.producer = None

    def not_read_because(self) -> list[str]:
        """Why nothing is read from this client just now: "rate", "work", "readers", "quota"; empty: it is read."""
        waits_for = [reason.name.lower() for reason in Hold if reason in self._held and reason.name]
        return ["rate"] * self._slowed + waits_for

    def _rewatch(self) -> None:
        """Tells the poller what is waited for, when that has changed."""
        watch = (not (self._held or self._slowed), self._waits_writable, Hold.WORK in self._held)
        if watch != self._watch and not self.finished:
            self._watch = watch
            self._poller.watch(self.transport.fd, read=watch[0], write=watch[1], end=watch[2])

    # What the link does about its end.

    @abstractmethod
    def bug(self) -> None:
        """Something went wrong with this connection alone: it ends."""

    @abstractmethod
    def _lost(self, reason: Lost) -> None:
        """The socket is gone, and why."""

    @abstractmethod
    def _finish(self, *, aborted: bool = False) -> None:
        """The one way out of every connection."""
