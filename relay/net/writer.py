"""The one owner of a connection's write side: an outbox that writes what goes next.

It is one object with the outbox, and not one that has it, because a fan-out visits each receiver's memory once for
putting and once for writing, and that is what it costs.

Not here: which frame goes next (the outbox it is built on), when a connection ends (link). The one rule: bytes leave
here alone, within the credit - so much that the kernel has little unsent and the path no queue of our bulk, and no
more, because what they hold cannot be overtaken by anything urgent. What is urgent does not wait for credit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Protocol

from relay.delivery.channels import Lane
from relay.delivery.outbox import Outbox, Owner, put_all
from relay.delivery.tick import Tick
from relay.limits.pace import Shape
from relay.model import Message
from relay.net.pacing import SEGMENT, Path, PathInfo
from relay.net.transport import WOULD_BLOCK, WRITE_SIZE, Lost, Transport, lost
from relay.session.services import Services
from relay.session.timers import Timer

LEAST: Final = 2 * SEGMENT  # bytes: less is not worth a packet of its own
SMALL: Final = 4096  # bytes of one record while anything urgent is alive on the connection


class Keeper(Owner, Protocol):
    """Who the write side belongs to: the link."""

    def settle(self) -> bool:
        """Called before anything is taken: drops are to be told, a full channel ends the connection. False: it is
        over.
        """

    def watch_writable(self, wanted: bool) -> None: ...
    def said_all(self) -> None:
        """The last frame is out."""

    def write_failed(self, reason: Lost) -> None: ...
    def bug(self) -> None: ...


class Writer(Outbox):
    """`_busy` is set while the usual flush is not enough: something is half sent, waited for, to be told, or ending.

    A fan-out costs what it touches, so what a write needs stands together in memory (slots are laid out by name, and
    `_bare`, `_busy` and `_credit` are behind `Outbox.waiting`), and nothing is counted that can be told otherwise.
    """

    __slots__ = (
        "_bare", "_blocked", "_busy", "_calmed", "_credit", "_granted", "_keeper", "_last", "_path", "_pause",
        "_repaired", "_services", "_since", "_unsent", "_urgent", "last_sent", "shape", "stopped", "transport",
    )  # fmt: skip

    def __init__(self, services: Services, transport: Transport, keeper: Keeper, tick: Tick) -> None:
        self._services = services
        self._keeper = keeper
        self.transport = transport
        super().__init__(services.channels, keeper, tick, services.config.outbox.urgent_share)
        self.part_bytes = services.config.outbox.part_bytes
        self._urgent = services.channels.urgent_mask
        self._bare = transport.bare
        self._credit = self._granted = transport.lowat
        self._unsent: memoryview | bytes = b""
        self._blocked = False  # the socket takes nothing: nothing at all goes until it is writable
        self._pause: Timer | None = None  # bulk waits for the path to empty
        self._path: Path | None = None
        self._last: bytes | None = None
        self._calmed = ""  # the congestion control that a simpler one stands in for
        self._repaired = 0
        self.shape: Shape | None = None  # quotas of what is written
        self._since: dict[int, float] = {}  # by lane: since when something urgent waits
        self.last_sent = False
        self._busy = False
        self.stopped = False

    @property
    def bytes_out(self) -> int:
        """Bytes written so far: all credit that was given, and is not there any more."""
        return self._granted - self._credit

    @property
    def idle(self) -> bool:
        """Nothing is half sent."""
        return not self._unsent

    def end_with(self, frame: bytes) -> None:
        """The last frame; it goes when nothing else waits."""
        self._last = frame
        self.ask()

    def ask(self) -> None:
        """Asks for a flush at the end of this tick, and for a look at more than what waits."""
        self._busy = True
        if not self.touched:
            self.touch()

    def stop(self) -> int:
        """Writes nothing more. Returns the bytes that were waiting."""
        self.stopped = self._busy = True
        if self._pause is not None:
            self._pause.cancel()
        return self.clear() + len(self._unsent)

    def dropped(self, lane: Lane, message: Message | None, reason: str) -> None:
        super().dropped(lane, message, reason)
        self._busy = True

    def flush(self) -> None:
        """One write of what waits, within the credit. The usual case, written out; `_flush_rest` has all others."""
        self.touched = False
        credit = self._credit
        if self._busy or credit <= 0:
            self._flush_rest()
            return
        data = self.only
        if data is not None:
            self.only = None
            self.waiting = 0
        else:
            if self.has_urgent:  # what it waited is told there
                self._flush_rest()
                return
            try:
                data = self.take(credit)
            except Exception:
                self._keeper.bug()
                return
        size = len(data)
        if size <= WRITE_SIZE:
            try:
                sent = self._bare.write(data) if size else 0
            except WOULD_BLOCK:
                sent = 0
            except OSError as error:
                self._keeper.write_failed(lost(error))
                return
            if sent == size:
                self._credit = credit - size
                self._services.counters.writes += 1
                if self.waiting:
                    self._flush_rest()
                return
            self._credit = credit - sent
            data = data[sent:]
        self._unsent = data
        self._flush_rest()

    def keep(self, rest: bytes) -> None:
        """The socket did not take all of a frame that was written without a flush: the rest goes before all else."""
        self._unsent = rest
        self.ask()

    def writable(self) -> None:
        """The socket takes something again, or the kernel has little unsent again."""
        self._blocked = False
        self._keeper.watch_writable(False)
        if self._credit <= 0 and not self.transport.knows_path:
            self._grant(self.transport.lowat)  # being writable is all this system tells
        self._flush_rest()

    def _after_pause(self) -> None:
        self._pause = None
        self._flush_rest()

    def _flush_rest(self) -> None:
        """As many writes as the credit allows, and what is urgent beyond it."""
        if self.stopped:
            return
        try:
            if self._keeper.settle() and not self._blocked:
                self._write_on()
            if self.has_urgent:
                self._time_urgent()
        except Lost as reason:
            self._keeper.write_failed(reason)
        except Exception:
            self._keeper.bug()
        else:
            self._look()

    def _look(self) -> None:
        """What is left to do, after as much as can be written was."""
        self.touched = False
        if self.last_sent and not self._unsent:
            self._keeper.said_all()
        self._busy = self.stopped or bool(
            self._unsent or self.waiting or self._blocked or self._last is not None or self.last_sent
        )

    def _keep_calm(self, info: PathInfo) -> None:
        """BBR stops nearly all sending for 200 ms every 10 s, to look for the smallest round trip, and what is urgent
        waits
        with the rest. Bulk that is paced here needs no such control, so the connection has a simple one until a segment
        is lost: losses BBR bears better.
        """
        control = self.transport.congestion()
        if (
            control.startswith("bbr")
            and not self._services.config.outbox.congestion
            and self.transport.set_congestion("reno")
        ):
            self._calmed = control
            self._repaired = info.repaired

    def _time_urgent(self) -> None:
        """How long what is urgent has waited: from the first flush that could not send it to the one that could."""
        now = self._services.monotonic()
        counters = self._services.counters
        late = self._services.config.outbox.urgent_p99_ms / 1000
        for rule in self.channels.urgent:
            lane = self.lanes[rule.index]
            if lane is None:
                continue
            if lane.frames:
                self._since.setdefault(rule.index, now)
            elif lane.arrived:
                lane.arrived = False
                waited = now - self._since.pop(rule.index, now)
                counters.urgent_delays[rule.name].add(waited)
                if late and waited > late:
                    counters.urgent_late[rule.name] += 1

    def _write_on(self) -> None:
        while True:
            open_ = self._credit > 0 or self._refill()
            if not self._unsent:
                taken = b""
                if open_:
                    taken = self.take(self._credit)
                elif self.waiting & self._urgent and self._credit > -self.transport.lowat:
                    taken = self.take_urgent(SMALL)
                if not taken:
                    if self.waiting or self._last is None:
                        return
                    taken, self._last = self._last, None
                    self.last_sent = True
                self._unsent = taken
            elif not open_:
                return
            unsent = self._unsent
            sent = self.transport.send(unsent if len(unsent) <= WRITE_SIZE else memoryview(unsent)[:WRITE_SIZE])
            if not sent:
                self._blocked = True
                self._keeper.watch_writable(True)
                return
            self._credit -= sent
            self._services.counters.writes += 1
            self._unsent = b"" if sent == len(unsent) else memoryview(unsent)[sent:]

    def _refill(self) -> bool:
        """New credit, if the kernel has little unsent and the path is not full. False: it was arranged to be asked
        again.
        """
        if not (self._unsent or self.waiting):
            return False  # nothing to spend it on: what comes next asks again
        if self.shape is not None and self._ahead_of(self.shape):
            return False
        info = self.transport.path_info()
        if info is None or 2 * info.unsent > self.transport.lowat:
            self._keeper.watch_writable(True)
            return False
        settings = self._services.config.outbox
        step = SMALL if self.has_urgent else WRITE_SIZE
        if settings.urgent_p99_ms and self._path is not None and self._path.rate:
            # Of the time there is, a quarter for the record under way; the rest is the kernel's and the network's.
            step = min(step, max(LEAST, int(self._path.rate * settings.urgent_p99_ms / 4000)))
        if self.shape is not None:
            step = min(step, max(LEAST, self.shape.step))
        self.part_bytes = min(step, settings.part_bytes)
        if settings.pace_bulk:
            if self._path is None:
                self._path = Path()
                self._keep_calm(info)
            elif self._calmed and info.repaired != self._repaired:
                self.transport.set_congestion(self._calmed)
                self._calmed = ""
            now = self._services.monotonic()
            # What a newer value can still replace is better kept here than in the kernel or on the way.
            fresh = bool(self.waiting & self.channels.replacing_mask)
            room = self._path.room(info, now, fresh=fresh)
            if fresh:
                step = min(step, self._path.fresh_step)
            if room < (SEGMENT if fresh else LEAST):
                if self._pause is None:
                    self._pause = self._services.timers.at(now + self._path.pause, self._after_pause)
                return False
            step = min(step, room)
        self._grant(step)
        return True

    def _grant(self, credit: int) -> None:
        self._granted += credit - self._credit
        self._credit = credit

    def _ahead_of(self, shape: Shape) -> bool:
        """Whether more was written than quotas allow: then bulk waits until they do. What is urgent still goes, within
        the credit that is left to it.
        """
        if self._pause is not None:
            return True
        services = self._services
        now = services.monotonic()
        over = shape.ahead(self.bytes_out, now)
        if over is None:
            return False
        services.counters.quotas[over.rule.name, "slowed"] += 1
        self._pause = services.timers.at(now + over.seconds, self._after_pause)
        return True


def write_all(outboxes: Iterable[Outbox], lane: Lane, frame: bytes, message: Message, skip: Outbox | None) -> None:
    """`put_all` and each `flush` in one visit: for a frame behind which nothing else can come in this tick.

    A thousand receivers do not fit the processor's cache, so the second visit would cost as much as the first. Nobody
    is ended here, because a room is being walked through: an error of the socket is met again, by the flush.
    """
    size = len(frame)
    if size > lane.direct or size > WRITE_SIZE or message.expires:
        put_all(outboxes, lane, frame, message, skip)
        return
    later: list[Outbox] = []
    writes = 0
    last: Any = None
    box: Any
    for box in outboxes:
        if box is skip:
            continue
        if box.waiting or box._busy or (credit := box._credit) <= 0:
            later.append(box)
            continue
        writes += 1
        last = box
        try:
            sent = box._bare.write(frame)
        except OSError:  # WOULD_BLOCK or the end
            sent = 0
        box._credit = credit - sent
        if sent != size:
            box.keep(frame[sent:])
    if later:
        put_all(later, lane, frame, message, None)
    if last is not None:
        last._services.counters.writes += writes
