"""The one owner of a connection's write side: an outbox that writes what goes next.

It is one object with the outbox, and not one that has it, because a fan-out visits each receiver's memory once for
putting and once for writing, and that is what it costs.

Not here: which frame goes next (the outbox it is built on), when a connection ends (link). The one rule: bytes leave
here alone, within the credit - so much that the kernel has little unsent and the path no queue of our bulk, and no
more, because what they hold cannot be overtaken by anything urgent. What is urgent does not wait for credit.
"""

from __future__ import annotations

from typing import Final, Protocol

from relay.delivery.outbox import Outbox, Owner, Tick
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
    """`special` is set while the usual flush is not enough: something is half sent, waited for, or ending."""

    __slots__ = (
        "_blocked", "_calmed", "_credit", "_keeper", "_last", "_path", "_pause", "_repaired", "_services", "_since",
        "_unsent", "_urgent", "_write", "bytes_out", "last_sent", "special", "stopped", "transport", "writes",
    )  # fmt: skip

    def __init__(self, services: Services, transport: Transport, keeper: Keeper, tick: Tick) -> None:
        self._services = services
        self._keeper = keeper
        self.transport = transport
        super().__init__(services.channels, keeper, tick, services.config.outbox.urgent_share)
        self.part_bytes = services.config.outbox.part_bytes
        self._urgent = services.channels.urgent_mask
        self._write = transport.write
        self._credit = transport.lowat
        self._unsent: memoryview | bytes = b""
        self._blocked = False  # the socket takes nothing: nothing at all goes until it is writable
        self._pause: Timer | None = None  # bulk waits for the path to empty
        self._path: Path | None = None
        self._last: bytes | None = None
        self._calmed = ""  # the congestion control that a simpler one stands in for
        self._repaired = 0
        self._since: dict[int, float] = {}  # by lane: since when something urgent waits
        self.last_sent = False
        self.special = False
        self.stopped = False
        self.bytes_out = self.writes = 0

    @property
    def idle(self) -> bool:
        """Nothing is half sent."""
        return not self._unsent

    def end_with(self, frame: bytes) -> None:
        """The last frame; it goes when nothing else waits."""
        self._last = frame
        self.ask()

    def ask(self) -> None:
        """Asks for a flush at the end of this tick, and for a look at what is special."""
        self.special = True
        if not self.touched:
            self.touch()

    def stop(self) -> int:
        """Writes nothing more. Returns the bytes that were waiting."""
        self.stopped = self.special = True
        if self._pause is not None:
            self._pause.cancel()
        return self.clear() + len(self._unsent)

    def flush(self) -> None:
        """One write of what waits, within the credit. The usual case, written out; `_flush_rest` has all others."""
        self.touched = False
        credit = self._credit
        if self.special or credit <= 0 or self.drops:
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
                sent = self._write(data) if size else 0
            except WOULD_BLOCK:
                sent = 0
            except OSError as error:
                self._keeper.write_failed(lost(error))
                return
            if sent == size:
                self._credit = credit - size
                self.bytes_out += size
                self.writes += 1
                if self.waiting:
                    self._flush_rest()
                return
            self.bytes_out += sent
            data = data[sent:]
        self._unsent = data
        self._flush_rest()

    def writable(self) -> None:
        """The socket takes something again, or the kernel has little unsent again."""
        self._blocked = False
        self._keeper.watch_writable(False)
        if self._credit <= 0 and not self.transport.knows_path:
            self._credit = self.transport.lowat  # being writable is all this system tells
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
        self.special = self.stopped or bool(
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
            self.bytes_out += sent
            self.writes += 1
            self._unsent = b"" if sent == len(unsent) else memoryview(unsent)[sent:]

    def _refill(self) -> bool:
        """New credit, if the kernel has little unsent and the path is not full. False: it was arranged to be asked
        again.
        """
        if not (self._unsent or self.waiting):
            return False  # nothing to spend it on: what comes next asks again
        info = self.transport.path_info()
        if info is None or 2 * info.unsent > self.transport.lowat:
            self._keeper.watch_writable(True)
            return False
        settings = self._services.config.outbox
        step = SMALL if self.has_urgent else WRITE_SIZE
        if settings.urgent_p99_ms and self._path is not None and self._path.rate:
            # Of the time there is, a quarter for the record under way; the rest is the kernel's and the network's.
            step = min(step, max(LEAST, int(self._path.rate * settings.urgent_p99_ms / 4000)))
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
        self._credit = step
        return True
