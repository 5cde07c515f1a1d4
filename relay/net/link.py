"""A connection's two ends put together: the socket, the engine that reads it, the writer.

Not here: what messages mean (session), how bytes leave (writer). The one rule: whatever ends a connection comes
through `_finish`, once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import trio

from relay.config.schema import WebSocket
from relay.delivery.channels import Lane
from relay.delivery.outbox import Outbox, Tick, put_all
from relay.errors import CloseCode, CloseReason
from relay.limits.pace import BYTES_STEP, Pace
from relay.net.deflate import Agreement
from relay.net.deflating import make_writer
from relay.net.poller import Poller
from relay.net.transport import READ_SIZE, Lost, Transport
from relay.net.websocket import Engine, EngineLimits
from relay.net.writer import write_all
from relay.plugin.arrival import Arrival
from relay.protocols.frames import PING, PONG, close_frame, frame
from relay.session.connection import Connection
from relay.session.leg import Leg
from relay.session.resume import Resuming
from relay.session.services import Services
from relay.session.timers import Timer
from relay.session.wire import Hold

log = logging.getLogger("relay.net")

_TURNS: Final = range(16)  # reads one connection may do before the next has its turn
BUSY: Final = 0.002  # seconds: who was read so short a time ago probably has more than one record waiting
_PING_FRAME: Final = frame(PING, b"")
NO_CODE: Final = 1005
LOST: Final = 1006  # RFC 6455 section 7.4.1: never on the wire, only in logs and metrics


def given_up_after(settings: WebSocket) -> float:
    """Seconds after which a ping that not even the client's kernel acknowledges ends the connection; 0: never.

    A client that is not read cannot be heard to answer, so what finds it gone is TCP.
    """
    return settings.heartbeat + settings.heartbeat_timeout if settings.heartbeat else 0.0


class Link:
    """One client. `connection` is set before the first byte is fed."""

    __slots__ = (
        "_awaits", "_counted_bytes", "_deadline", "_full", "_held", "_pace", "_patience", "_poller", "_producer",
        "_producers", "_read", "_resume", "_slowed", "_started", "_step", "_uncounted", "_waits_writable", "_watch",
        "agreement", "arrival", "bytes_in", "close_code", "close_reason", "connection", "ended", "engine", "finished",
        "heard", "opened_at", "outbox", "parked", "pinged", "services", "slot", "transport", "writer",
    )  # fmt: skip

    connection: Connection | Leg | Resuming

    def __init__(
        self, services: Services, transport: Transport, poller: Poller, tick: Tick, limits: EngineLimits,
        agreement: Agreement | None = None,
    ) -> None:  # fmt: skip
        """`agreement`: how messages are compressed, if they are."""
        self.services = services
        self.transport = transport
        self._poller = poller
        self.engine = Engine(self, limits, agreement)
        self.agreement = agreement
        self.writer = make_writer(services, transport, self, tick, agreement)
        self.outbox: Outbox = self.writer
        self.ended = trio.Event()
        self.arrival: Arrival | None = None  # what plugins were told of it
        self.finished = self._started = self._waits_writable = False
        self.parked = False  # it was lost, and its session waits for another one
        self.close_code = LOST
        self.close_reason: CloseReason | None = None
        self.slot = self.bytes_in = 0
        self.opened_at = services.wall()
        self.heard = self.pinged = services.monotonic()
        self._held = Hold(0)  # not reading: for these reasons
        self._slowed = False  # not reading: ahead of its rate
        self._watch = (True, False, False)
        self._resume: Timer | None = None
        self._full: Lane | None = None  # it overflowed: the end, as soon as nobody is in the middle of something
        self._producers: set[Connection] | None = None  # who waits for this client to read
        self._patience: Timer | None = None
        self._awaits = True  # the client's close frame may still come
        self._pace = Pace(services.message_rate, services.byte_rate)
        self._step = self._pace.messages_step
        self._uncounted = self._counted_bytes = 0
        self._producer: Connection | None = None
        self._read = transport.read
        self._deadline: Timer | None = None

    def start(self, early: bytes, last: int = 0) -> None:
        """From now on the poller drives this connection. `early` came behind the request head."""
        self._started = True
        self.engine.message = self.connection.message
        self._producer = self.connection.main
        spending = self.connection.main.spending
        if spending is not None:
            self._pace = spending.pace()
            self._step = self._pace.messages_step
            self.writer.shape = spending.shape()
        self._poller.add(self.transport.fd, self)
        self.services.wheel.add(self)
        self.connection.start(last)
        if early:
            self.bytes_in += len(early)
            self._uncounted += self.engine.feed(early, self.services.monotonic())

    # Reading.

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

    def adopt(self, connection: Connection, message: Callable[[int, bytes], None], luggage: Any) -> None:
        """See session.wire.Wire: a session that had lost its socket goes on by this one."""
        self.connection = self._producer = connection
        self.engine.message = message
        if luggage is not None:
            self.arrival = luggage

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
        """Why nothing is read from this client just now: "rate", "work", "readers"; empty: it is read."""
        waits_for = [reason.name.lower() for reason in Hold if reason in self._held and reason.name]
        return ["rate"] * self._slowed + waits_for

    def _rewatch(self) -> None:
        """Tells the poller what is waited for, when that has changed."""
        watch = (not (self._held or self._slowed), self._waits_writable, Hold.WORK in self._held)
        if watch != self._watch and not self.finished:
            self._watch = watch
            self._poller.watch(self.transport.fd, read=watch[0], write=watch[1], end=watch[2])

    def hung_up(self) -> None:
        """The client has gone while plugins were at work for it: nobody waits for that work any more."""
        broken = self.transport.broken()
        if broken is None:
            self._finish()
        else:
            self._lost(broken)

    # What the engine tells (net/websocket.Sink); messages go to the connection directly.

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
        if producer is None or producer is self.connection.main or self.connection.closing is not None:
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
            producer.note("throttled", "slow_reader", lane.setting, why)
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
        self.ended.set()
