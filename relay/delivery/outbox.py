"""The outbox of one connection: what waits to be sent, in which order it goes, and what happens when it is full.

Anybody may put, nobody waits. What goes next is decided in `take`, by priority, in bytes. Not here: sockets, TLS, time.
The one rule: a frame leaves whole and in the order it came within its channel; a frame that does not leave is counted.

Scheduling: strict lanes first. Then urgent lanes, which may take at most `urgent_share` of the bytes while fair lanes
wait: they begin with that share of a round, and what fair lanes send meanwhile earns them more. Fair lanes share the
rest by deficit round robin in bytes (Shreedhar and Varghese, 1995): a lane may send while its deficit is positive, and
earns its weight when it has its turn. A frame larger than what was left is a debt, forgiven when nothing waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from relay.delivery.channels import Channels, Lane, Priority
from relay.delivery.parts import Sending
from relay.delivery.tick import Tick
from relay.delivery.waiting import Frame, Waiting
from relay.model import Message
from relay.protocols.parts import Parts

ROUND: Final = 65536  # bytes of which urgent lanes may take their share at once
PART_BYTES: Final = 16384  # of one part with its header, unless the owner says less
QUANTUM: Final = 2048  # bytes a fair lane of weight 1 earns each turn


class Owner(Protocol):
    """Who the outbox belongs to."""

    def flush(self) -> None:
        """Called once at the end of a tick in which something was put."""

    def overflowed(self, lane: Lane, room: str) -> None:
        """A lane whose policy is `close` was full: the connection must end. The frame, a message of `room` or (where
        that is "") something of the relay's own, was not queued.
        """

    def congested(self, lane: Lane) -> None:
        """A lane whose policy is `pause` is over its capacity: whoever put this into it should be slowed."""

    def relieved(self, lane: Lane) -> None:
        """It is down to half its capacity."""


class Drop:
    """Messages of one room that one client will not get, for one reason; told to it as `gap`."""

    __slots__ = ("count", "first", "last")

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.count = first, last, 1


class Outbox:
    """Bounded in bytes, per channel."""

    __slots__ = (
        "_scheduled", "_streams", "_turn", "_urgent_left", "channels", "drops", "has_urgent", "lanes", "only", "owner",
        "part_bytes", "queue", "tick", "touched", "urgent_quota", "versions", "waiting",
    )  # fmt: skip
    tracks = True  # what is put here is what the other end gets, in this order within a lane

    def __init__(self, channels: Channels, owner: Owner, tick: Tick, urgent_share: float = 0.8) -> None:
        self.channels = channels
        self.owner = owner
        self.tick = tick
        self.queue = tick.touched
        # Made when first used: most connections need one or two.
        self.lanes: list[Waiting | None] = [None] * len(channels)
        self.waiting = 0  # bit set of the lanes that hold something
        self.only: bytes | None = None  # all that waits, if that is one plain frame: most of the time it is
        self.touched = False
        self.drops: dict[tuple[str, str, str], Drop] | None = None  # by (room, channel, reason)
        # By room and key: the newest version in the stream, the one before it, and their lane (rooms/delta).
        self.versions: dict[str, dict[str, tuple[int, int | None, int]]] | None = None
        self.urgent_quota = int(ROUND * urgent_share)
        self._urgent_left = self.urgent_quota
        self._turn = 0
        self._streams = 0
        self.part_bytes = PART_BYTES
        self.has_urgent = False  # something urgent was sent to this client before, so more may come at any time
        self._scheduled = False  # lanes compete, or did: some may owe something

    def put(self, index: int, frame: bytes, message: Message | None = None) -> None:
        """Queues a whole frame in a lane. Never waits; what does not fit is treated as the lane's policy says."""
        if (
            not self.waiting
            and len(frame) <= self.channels.lanes[index].direct
            and (message is None or not message.expires)
        ):
            self.only = frame
            self.waiting = 1 << index
            if not self.touched:
                self.touch()
            return
        if self.only is not None:
            self.spill()
        lane = self.lanes[index] or self._open(index)
        size = lane.bytes + len(frame)
        if size > lane.capacity or not lane.plain or (message is not None and message.expires):
            if not lane.put(frame, message):
                return
        else:
            lane.frames.append(frame)
            lane.bytes = size
        self.waiting |= lane.bit
        if not self.touched:
            self.touch()

    def put_parts(self, index: int, parts: Parts, message: Message | None) -> None:
        """Queues a message that leaves in parts."""
        if self.only is not None:
            self.spill()
        lane = self.lanes[index] or self._open(index)
        if lane.put(Sending(parts, self._streams), message):
            self._streams = (self._streams + 1) & 0xFFFFFFFF
            self.waiting |= lane.bit
            if not self.touched:
                self.touch()

    def spill(self) -> None:
        """Something joins the only frame: it goes where it belongs."""
        index = self.waiting.bit_length() - 1
        lane = self.lanes[index] or self._open(index)
        frame, self.only = self.only, None
        assert frame is not None
        lane.frames.append(frame)
        if not lane.plain:  # something here had a time to live once
            lane.notes.append(None)
        lane.bytes = len(frame)

    def flush(self) -> None:
        """At the end of a tick in which something was put. Whoever writes by itself overrides it."""
        self.owner.flush()

    def touch(self) -> None:
        """Asks for a flush at the end of this tick."""
        self.touched = True
        self.queue.append(self)
        if not self.tick.running:
            self.tick.wake()

    @property
    def size(self) -> int:
        """Bytes waiting, all lanes."""
        if self.only is not None:
            return len(self.only)
        return sum(lane.bytes for lane in self.lanes if lane is not None)

    def add_sizes(self, sums: list[int]) -> None:
        """Adds the bytes waiting in each lane to its place in `sums`."""
        if self.only is not None:
            sums[self.waiting.bit_length() - 1] += len(self.only)
        elif self.waiting:
            for index, lane in enumerate(self.lanes):
                if lane is not None:
                    sums[index] += lane.bytes

    def _open(self, index: int) -> Waiting:
        rule = self.channels.lanes[index]
        lane = self.lanes[index] = Waiting(rule, self)
        if rule.priority is Priority.URGENT:
            self.has_urgent = True
            lane.plain = False  # so that each frame is seen to arrive
        return lane

    # What the lanes tell.

    def dropped(self, lane: Lane, message: Message | None, reason: str) -> None:
        if self.versions is not None and message is not None and message.key is not None:
            self.versions.get(message.room, {}).pop(message.key, None)
        room, offset = (message.room, message.offset) if message is not None else ("", 0)
        if self.drops is None:
            self.drops = {}
        drop = self.drops.get((room, lane.name, reason))
        if drop is None:
            self.drops[room, lane.name, reason] = Drop(offset, offset)
        else:
            drop.count += 1
            drop.first, drop.last = min(drop.first, offset), max(drop.last, offset)
        if not self.touched:
            self.touch()

    def overflowed(self, lane: Lane, message: Message | None) -> None:
        self.owner.overflowed(lane, "" if message is None else message.room)

    def congested(self, lane: Lane) -> None:
        self.owner.congested(lane)

    def relieved(self, lane: Lane) -> None:
        self.owner.relieved(lane)

    def take(self, limit: int) -> bytes:
        """What goes next, joined: whole frames up to `limit` bytes, or one frame that is larger. b"" when nothing
        waits.
        """
        waiting = self.waiting
        if not waiting:
            return b""
        only = self.only
        if only is not None:
            self.only = None
            self.waiting = 0
            return only
        taken: list[bytes] = []
        if waiting & (waiting - 1) == 0:  # one lane: nothing to schedule
            lane: Waiting = self.lanes[waiting.bit_length() - 1]  # type: ignore[assignment]
            frames = lane.frames
            if lane.timed:
                self._expire()
                if not frames:
                    return b""
            if (
                lane.bytes <= limit and not lane.streams and not lane.congested
            ):  # `pop` written out: this is what nearly every flush finds
                joined: bytes = frames[0] if len(frames) == 1 else b"".join(frames)  # type: ignore[assignment,arg-type]
                frames.clear()
                lane.bytes = self.waiting = 0
                if not lane.plain:
                    lane.notes.clear()
                    if lane.places:
                        lane.places.clear()
                    lane.timed = 0
                if self._scheduled:
                    self._forgive()
                return joined
            lane.pop(limit, limit, taken, self.part_bytes)
            if not frames:
                self.waiting = 0
            return taken[0] if len(taken) == 1 else b"".join(taken)
        self._scheduled = True
        self._expire()
        while self.waiting and (moved := self._next(limit, taken)):
            limit -= moved
        if not self.waiting:
            self._forgive()
        return b"".join(taken)

    def take_urgent(self, limit: int) -> bytes:
        """As `take`, but of strict and urgent lanes alone; urgent ones within their share."""
        if self.only is not None:
            self.spill()
        taken: list[bytes] = []
        self._scheduled = True
        self._expire()
        while self.waiting and (moved := self._next(limit, taken, only_urgent=True)):
            limit -= moved
        if not self.waiting:
            self._forgive()
        return b"".join(taken)

    def _expire(self) -> None:
        """Lets go of what is too old, before anything is sent in vain."""
        for lane in self.lanes:
            if lane is not None and lane.timed:
                lane.expire(self.tick.clock())
                if not lane.frames:
                    self.waiting &= ~lane.bit

    def _next(self, limit: int, taken: list[bytes], *, only_urgent: bool = False) -> int:
        """Serves one lane. Returns the bytes moved; 0: what goes next does not fit any more, or may not go now."""
        fair = urgent = None
        for lane in self.lanes:
            if lane is None or not lane.frames:
                continue
            rank = lane.lane.priority
            if rank is Priority.STRICT:
                return self._served(lane, lane.pop(limit, limit, taken, self.part_bytes))
            if rank is Priority.URGENT:
                urgent = urgent or lane
            else:
                fair = lane
        if urgent is not None and fair is None:
            self._urgent_left = self.urgent_quota
            return self._served(urgent, urgent.pop(limit, limit, taken, self.part_bytes))
        if urgent is not None and self._urgent_left > 0:
            moved = urgent.pop(limit, self._urgent_left, taken, self.part_bytes)
            self._urgent_left -= moved
            return self._served(urgent, moved)
        if only_urgent:
            return 0
        moved = self._next_fair(limit, taken)
        if urgent is not None:
            self._urgent_left += moved * self.urgent_quota // (ROUND - self.urgent_quota)
        return moved

    def _next_fair(self, limit: int, taken: list[bytes]) -> int:
        lanes = self.lanes
        while True:
            lane = lanes[self._turn]
            if lane is None or not lane.frames or lane.lane.priority is not Priority.FAIR:
                self._turn = (self._turn + 1) % len(lanes)
                continue
            if lane.deficit <= 0:
                lane.deficit += lane.lane.weight * QUANTUM
                if lane.deficit <= 0:  # it still owes for a frame larger than its share
                    self._turn = (self._turn + 1) % len(lanes)
                    continue
            moved = lane.pop(limit, lane.deficit, taken, self.part_bytes)
            lane.deficit -= moved
            if lane.deficit <= 0 or not lane.frames:
                self._turn = (self._turn + 1) % len(lanes)
            return self._served(lane, moved)

    def _served(self, lane: Waiting, moved: int) -> int:
        if not lane.frames:
            self.waiting &= ~lane.bit
            lane.deficit = min(lane.deficit, 0)  # what it did not use is gone, what it owes is not
        return moved

    def _forgive(self) -> None:
        """Nothing waits: all begin anew."""
        self._scheduled = False
        self._urgent_left = self.urgent_quota
        for lane in self.lanes:
            if lane is not None:
                lane.deficit = 0

    def take_out(self, index: int) -> list[tuple[Frame, Message | None]]:
        """All that waits in one lane, with its messages where the lane keeps them. What was begun here in parts is
        given up: the other end is told.
        """
        if self.only is not None:
            self.spill()
        lane = self.lanes[index]
        if lane is None:
            return []
        taken = lane.contents()
        if not lane.frames:
            self.waiting &= ~lane.bit
        elif not self.touched:
            self.touch()
        return taken

    def clear(self) -> int:
        """Forgets all that waits; returns its bytes."""
        lost = self.size
        self.lanes = [None] * len(self.channels)
        self.waiting = 0
        self.only = None
        return lost


def put_all(outboxes: Iterable[Outbox], lane_rule: Lane, frame: bytes, message: Message, skip: Outbox | None) -> None:
    """Puts one frame into many outboxes: `Outbox.put`, written out, because a call per receiver is a third of its
    cost.
    """
    size = len(frame)
    timed = message.expires > 0
    index = lane_rule.index
    bit = 1 << index
    direct = not timed and size <= lane_rule.direct
    box = None
    for box in outboxes:
        if box is skip:
            continue
        if direct and not box.waiting:
            box.only = frame
            box.waiting = bit
            if not box.touched:
                box.touched = True
                box.queue.append(box)
            continue
        if box.only is not None:
            box.spill()
        lane = box.lanes[index]
        if lane is None or not lane.plain or timed or lane.bytes + size > lane.capacity:
            box.put(index, frame, message)
            continue
        lane.frames.append(frame)
        lane.bytes += size
        box.waiting |= lane.bit
        if not box.touched:
            box.touched = True
            box.queue.append(box)
    if box is not None and box.queue and not box.tick.running:
        box.tick.wake()
