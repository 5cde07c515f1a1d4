"""A connection's two ends put together: the socket, the engine that reads it, the writer.

Not here: what messages mean (session), how it is read (reading), how bytes leave (writer). The one rule: whatever ends
a connection comes through `_finish`, once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from relay.config.schema import WebSocket
from relay.delivery.channels import Lane
from relay.delivery.outbox import put_all
from relay.delivery.tick import Tick
from relay.errors import CloseCode, CloseReason
from relay.limits.pace import Pace
from relay.net.deflate import Agreement
from relay.net.deflating import make_writer
from relay.net.poller import Poller
from relay.net.reading import Reader
from relay.net.slow_path import EngineLimits
from relay.net.transport import Lost, Transport
from relay.net.websocket import Engine
from relay.plugin.arrival import Arrival
from relay.protocols.frames import PING, PONG, close_frame, frame
from relay.session.connection import Connection
from relay.session.services import Services
from relay.session.timers import Timer
from relay.session.wire import Hold, Producer

log = logging.getLogger("relay.net")

_PING_FRAME: Final = frame(PING, b"")
NO_CODE: Final = 1005
LOST: Final = 1006  # RFC 6455 section 7.4.1: never on the wire, only in logs and metrics


def given_up_after(settings: WebSocket) -> float:
    """Seconds after which a ping that not even the client's kernel acknowledges ends the connection; 0: never.

    A client that is not read cannot be heard to answer, so what finds it gone is TCP.
    """
    return settings.heartbeat + settings.heartbeat_timeout if settings.heartbeat else 0.0


def _nobody(link: Link) -> None:
    """Nobody wants to know."""


class Link(Reader):
    """One client. `connection` is set before the first byte is fed."""

    __slots__ = (
        "_awaits", "_deadline", "_full", "_patience", "_producers", "_started", "agreement", "arrival", "close_code",
        "close_reason", "gone", "opened_at", "parked", "pinged", "slot", "writer",
    )  # fmt: skip

    def __init__(
        self, services: Services, transport: Transport, poller: Poller, tick: Tick, limits: EngineLimits,
        agreement: Agreement | None = None,
    ) -> None:  # fmt: skip
        """`agreement`: how messages are compressed, if they are. `gone` is called when all is over, once."""
        super().__init__(services, transport, poller)
        self.engine = Engine(self, limits, agreement)
        self.agreement = agreement
        self.writer = make_writer(services, transport, self, tick, agreement)
        self.outbox = self.writer
        self.gone: Callable[[Link], None] = _nobody
        self.arrival: Arrival | None = None  # what plugins were told of it
        self._started = False
        self.parked = False  # it was lost, and its session waits for another one
        self.close_code = LOST
        self.close_reason: CloseReason | None = None
        self.slot = 0
        self.opened_at = services.wall()
        self.pinged = self.heard
        self._full: Lane | None = None  # it overflowed: the end, as soon as nobody is in the middle of something
        self._producers: set[Producer] | None = None  # who waits for this client to read
        self._patience: Timer | None = None
        self._awaits = True  # the client's close frame may still come
        self._deadline: Timer | None = None

    def start(self, early: bytes, last: int = 0) -> None:
        """From now on the poller drives this connection. `early` came behind the request head."""
        self._started = True
        self.engine.message = self.connection.message
        self._producer = self.connection
        if self.connection.main.spending is not None:
            self.pace_anew()
        self._poller.add(self.transport.fd, self)
        self.services.wheel.add(self)
        self.connection.start(last)
        if early:
            self.take(early)

    def pace_anew(self) -> None:
        """Reads and writes by the rates and quotas that are in force now."""
        services, spending = self.services, self.connection.main.spending
        if spending is None:
            self._pace = Pace(services.message_rate, services.byte_rate)
        else:
            self._pace = spending.pace()
            self.writer.shape = spending.shape()
        self._step = self._pace.messages_step

    def take(self, early: bytes) -> None:
        """What was read before the session began."""
        self.bytes_in += len(early)
        self._uncounted += self.engine.feed(early, self.services.monotonic())

    def adopt(self, connection: Connection, message: Callable[[int, bytes], None], luggage: Any) -> None:
        """See session.wire.Wire: a session that had lost its socket goes on by this one."""
        self.connection = self._producer = connection
        self.engine.message = message
        if luggage is not None:
            self.arrival = luggage

    def hung_up(self) -> None:
        """The client has gone while plugins were at work for it: nobody waits for that work any more."""
        broken = self.transport.broken()
        if broken is None:
            self._finish()
        else:
            self._lost(broken)

    # What the engine tells (net/slow_path.Sink); messages go to the connection directly.

    def several(self) -> None:
        self.services.hub.put_all = put_all

    def ping(self, payload: bytes) -> None:
        self.services.counters.control_in += 1
        if self.connection.closing is None:
            self.outbox.put(self.services.channels.control, frame(PONG, payload))

    def pong(self, payload: bytes) -> None:
        self.services.counters.control_in += 1

    def closed(self, code: int, reason: str) -> None:
        """The client closes: answer with its code (RFC 6455 section 5.5.1), unless we were first."""
        self._awaits = False
        if self.connection.closing is None:
            self.close_code = code
            self.connection.closing = CloseReason(CloseCode.NORMAL, reason)
            self.connection.depart()
            self.outbox.clear()
            self._end_with(close_frame(CloseCode.NORMAL if code == NO_CODE else code))
        elif self.writer.last_sent and self.writer.idle:
            self._finish()

    def failed(self, reason: CloseReason) -> None:
        self._awaits = False
        self.connection.close(reason)

    def inflated(self, more: int) -> None:
        """What was compressed counts against the rate of bytes as what it stands for."""
        self._counted_bytes -= more
        self._step = 0  # so that it is counted at the end of this read

    # Writing: what the writer asks and tells (net/writer.Keeper).

    def writable(self, now: float) -> None:
        self.writer.writable()

    def flush(self) -> None:
        self.writer.flush()

    def watch_writable(self, wanted: bool) -> None:
        self._waits_writable = wanted
        self._rewatch()

    def settle(self) -> bool:
        if self._full is not None:
            self._close_for(self._full)
        if self.outbox.drops:
            self.connection.tell_drops()
        return not self.finished

    def said_all(self) -> None:
        """Our close frame is out. The server closes TCP first (RFC 6455 section 7.1.1), unless the client's is to come.

        If the client has broken a rule, more of what it sent may be on its way, and closing now would reset the
        connection and take our close frame with it: so only our half is closed, until the client's end or the deadline.
        """
        if self._awaits:
            return
        if self.close_reason is None:
            self._finish()
        elif not self.transport.half_closed:
            self.transport.half_close()
            self._read = self.transport.read

    def overflowed(self, lane: Lane, room: str) -> None:
        """The client does not read, and its connection will end; but not now: who puts may be walking through the
        members of a room, which closing changes.
        """
        self.connection.main.count_drops(room, lane.name, "closed", 1)
        if self._full is None and self.connection.closing is None:
            self._full = lane
            self.writer.ask()

    def _close_for(self, lane: Lane, setting: str | None = None) -> None:
        """What waits is dropped, because it would not get through before the deadline either."""
        self._full = None
        if self.connection.closing is None:
            self.outbox.clear()
            self.connection.close(
                CloseReason(CloseCode.TOO_SLOW, f"channel {lane.name} is full", setting or lane.setting, 1.0, 1.0)
            )

    def congested(self, lane: Lane) -> None:
        """More waits for this client than its channel holds: who sends it waits too, for a while."""
        producer = self.services.producer
        if producer is None or producer.main is self.connection.main or self.connection.closing is not None:
            return
        if self._producers is None:
            self._producers = set()
            services = self.services
            self._patience = services.timers.at(
                services.monotonic() + services.config.outbox.pause_timeout,
                lambda: self._close_for(lane, "outbox.pause_timeout"),
            )
        if producer not in self._producers:
            self._producers.add(producer)
            self.services.counters.paused += 1
            why = f"not read until a slow reader of channel {lane.name} has caught up"
            producer.main.note("throttled", "slow_reader", lane.setting, why)
            producer.wait_for(self)

    def relieved(self, lane: Lane) -> None:
        self._let_producers_go()

    def _let_producers_go(self) -> None:
        if self._producers is not None:
            producers, self._producers = self._producers, None
            for producer in producers:
                producer.waited_for(self)
            if self._patience is not None:
                self._patience.cancel()

    # The end.

    def close(self, reason: CloseReason, farewell: bytes | None) -> None:
        """See session.connection.Wire: called once, by `Connection.close`."""
        self.close_reason = reason
        self.close_code = int(reason.code)
        if farewell is not None:
            self.outbox.put(self.services.channels.control, farewell)
        self._end_with(close_frame(reason.code, reason.text()))

    def _end_with(self, last: bytes) -> None:
        services = self.services
        if self._resume is not None:
            self._resume.cancel()
        self._held = Hold(0)
        self.engine.hold(False)
        self._read_on()
        self._slowed = False
        self._let_producers_go()
        self._rewatch()
        self._deadline = services.timers.at(services.monotonic() + services.config.timeouts.close, self.abort)
        self.writer.end_with(last)

    def beat(self, now: float) -> None:
        """A ping, if nothing has come for a whole period."""
        if self.connection.closing is None and now - self.heard >= self.services.wheel.period * 0.9:
            self.pinged = now
            self.outbox.put(self.services.channels.control, _PING_FRAME)

    def check(self, now: float) -> None:
        """Dead is who was asked and has said nothing since."""
        if (
            self.pinged > self.heard
            and not (self._held or self._slowed)
            and now - self.pinged < self.services.wheel.period
        ):
            self.services.counters.dead += 1
            self.close_reason = CloseReason(
                CloseCode.TOO_SLOW, "no sign of life after a ping", "websocket.heartbeat_timeout"
            )
            self.abort()

    def abort(self) -> None:
        """Ends at once."""
        if not self.finished:
            self._finish(aborted=True)

    def write_failed(self, reason: Lost) -> None:
        self._lost(reason)

    def bug(self) -> None:
        """Guards the poller: whatever goes wrong with one connection ends that one."""
        log.exception("bug in connection %s of %s", self.connection.session, self.connection.subject)
        self.close_reason = CloseReason(CloseCode.INTERNAL, "a bug on our side; it was logged")
        self.close_code = CloseCode.INTERNAL
        self._finish(aborted=True)

    def _lost(self, reason: Lost) -> None:
        if self.close_reason is None and self.connection.closing is None:
            self.close_reason = CloseReason(CloseCode.GOING_AWAY, f"connection lost: {reason}")
        self._finish(aborted=True)

    def _finish(self, *, aborted: bool = False) -> None:
        if self.finished:
            return
        self.finished = True
        self.engine.stop()
        if self._started and self.close_code == LOST:
            self.parked = self.connection.park(self.arrival)
        self.writer.stop()
        self._let_producers_go()
        counters = self.services.counters
        counters.bytes_in += self.bytes_in
        counters.bytes_out += self.writer.bytes_out
        counters.messages_in += self.connection.messages
        self.services.wheel.remove(self)
        for timer in (self._deadline, self._resume):
            if timer is not None:
                timer.cancel()
        if self._started:
            self._poller.remove(self.transport.fd)
        if aborted:
            self.transport.abort()
        else:
            self.transport.close()
        if not self.parked:
            if self.connection.closing is None:
                self.close_reason = self.connection.closing = self.close_reason or CloseReason(
                    CloseCode.GOING_AWAY, "the client went away without a close"
                )
            self.connection.lost()
        self.gone(self)
