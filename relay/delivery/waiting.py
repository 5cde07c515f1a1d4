"""What waits in one lane of one connection, and what the lane's overflow policy does when it is full.

Not here: which lane goes next (outbox). The one rule: `bytes` is the sum of what waits, and stays within the lane's
capacity (twice that where the policy pauses producers); whatever leaves otherwise than by `pop` is said to `drop`.
"""

from __future__ import annotations

from typing import Final, Protocol, TypeAlias

from relay.delivery.channels import Lane, Overflow
from relay.delivery.parts import LEAST, Sending
from relay.model import Message

Frame: TypeAlias = bytes | Sending
SPARE: Final = 64  # keys that have left and are still known, beyond as many as wait
HEADS: Final = 64  # bytes of frame and part header, at most


class Cancellation(bytes):
    """The frame that ends a stream of which something has been sent. No policy drops it."""


class Keeper(Protocol):
    """Who is told of what the policies do: the outbox."""

    def dropped(self, lane: Lane, message: Message | None, reason: str) -> None: ...
    def overflowed(self, lane: Lane, message: Message | None) -> None: ...
    def congested(self, lane: Lane) -> None: ...
    def relieved(self, lane: Lane) -> None: ...


class Waiting:
    """A queue of whole frames, and of messages that leave in parts.

    `plain` lanes keep frames alone. Others keep for each frame its message in `notes`, because a policy must know what
    it drops, or because a message expires. `streams` and `timed` count the frames in parts, and those that expire.

    A lane that keeps the latest of each key knows where each key waits: `places` has the numbers of frames, counted
    from `first`, the number of the one that goes next. It is None when the numbers have got out of order, and made anew
    when it is asked; what has left stays in it until it is twice as large as it need be.
    """

    __slots__ = (
        "arrived",
        "bit",
        "bytes",
        "capacity",
        "congested",
        "deficit",
        "first",
        "frames",
        "keeper",
        "lane",
        "notes",
        "places",
        "plain",
        "streams",
        "timed",
    )  # fmt: skip

    def __init__(self, lane: Lane, keeper: Keeper) -> None:
        self.lane = lane
        self.keeper = keeper
        self.bit = 1 << lane.index
        self.capacity = lane.capacity
        self.frames: list[Frame] = []
        self.notes: list[Message | None] = []
        self.plain = lane.overflow not in (Overflow.DROP_OLDEST, Overflow.LATEST)
        self.first = 0
        self.places: dict[tuple[str, str], int] | None = None
        self.bytes = 0
        self.deficit = 0
        self.streams = 0
        self.timed = 0
        self.congested = False
        self.arrived = False  # something came that nobody has timed yet

    def put(self, frame: Frame, message: Message | None) -> bool:
        """Queues a frame as the policy allows. True: it is in."""
        size = len(frame)
        overflow = self.lane.overflow
        if self.bytes + size > self.capacity and not self._may_exceed(overflow, size, message):
            return False
        if (
            overflow is Overflow.LATEST
            and message is not None
            and message.key is not None
            and self._replace(frame, message)
        ):
            return True
        if overflow in (Overflow.DROP_OLDEST, Overflow.LATEST):
            self._make_room(size)
        if message is not None and message.expires:
            if self.plain:
                self.plain = False
                self.notes = [None] * len(self.frames)
            self.timed += 1
        self.arrived = True
        self.frames.append(frame)
        if not self.plain:
            self.notes.append(message)
            if self.places is not None and message is not None and message.key is not None:
                self.places[message.room, message.key] = self.first + len(self.frames) - 1
        if type(frame) is Sending:
            self.streams += 1
        self.bytes += size
        return True

    def _make_room(self, size: int) -> None:
        place = 0
        while self.bytes + size > self.capacity and place < len(self.frames):
            if type(self.frames[place]) is Cancellation:
                place += 1
            else:
                self._drop(place, "overflow")

    def _may_exceed(self, overflow: Overflow, size: int, message: Message | None) -> bool:
        """What the policy says to a frame that does not fit. False: it is not queued, and that was said."""
        if overflow is Overflow.CLOSE:
            self.keeper.overflowed(self.lane, message)
            return False
        if overflow is Overflow.PAUSE and self.bytes + size <= 2 * self.capacity:
            self.congested = True
            self.keeper.congested(self.lane)  # each producer that adds to it is slowed, not only the first
            return True
        if overflow in (Overflow.DROP_NEWEST, Overflow.PAUSE) or size > self.capacity:
            self.keeper.dropped(self.lane, message, "overflow")
            return False
        return True

    def _replace(self, frame: Frame, message: Message) -> bool:
        """Puts a newer value in the place of the older one of its key, so that no key is starved by its changes.

        False: there is none, or the newer one has outgrown the place, and joins the end.
        """
        place = self._place_of(message)
        if place < 0:
            return False
        old = self.frames[place]
        grown = self.bytes + len(frame) - len(old)
        if grown <= self.capacity and type(old) is not Sending:
            note = self.notes[place]
            self.frames[place], self.notes[place] = frame, message
            self.bytes = grown
            self.streams += type(frame) is Sending
            self.timed += (message.expires > 0) - (note is not None and note.expires > 0)
            return True
        given_up = self._take_out(place)
        if grown <= self.capacity:
            self._insert(place, frame, message)
        if given_up is not None:
            self._insert(place, given_up, None)
        return grown <= self.capacity

    def holds(self, message: Message) -> bool:
        """Whether something of the same room and key waits. Only where the policy is to keep the latest."""
        return self._place_of(message) >= 0

    def _place_of(self, message: Message) -> int:
        """Where a message of the same room and key waits; -1: nowhere."""
        assert message.key is not None
        places = self.places
        if places is None or len(places) > 2 * len(self.notes) + SPARE:
            places = self.places = {
                (note.room, note.key): place
                for place, note in enumerate(self.notes, self.first)
                if note is not None and note.key is not None
            }
        number = places.get((message.room, message.key))
        if number is None or number < self.first:
            return -1
        note = self.notes[number - self.first]  # a cancellation may stand there by now
        same = note is not None and note.key == message.key and note.room == message.room
        return number - self.first if same else -1

    def _insert(self, place: int, frame: Frame, message: Message | None) -> None:
        if place:
            self.places = None
        else:
            self.first -= 1
        self.frames.insert(place, frame)
        self.notes.insert(place, message)
        self.bytes += len(frame)
        self.streams += type(frame) is Sending
        self.timed += message is not None and message.expires > 0

    def _take_out(self, place: int) -> Cancellation | None:
        """Removes a frame; returns the cancellation that must be sent if parts of it have left already."""
        frame = self.frames.pop(place)
        message = self.notes.pop(place)
        if place:
            self.places = None
        else:
            self.first += 1
        self.bytes -= len(frame)
        self.timed -= message is not None and message.expires > 0
        if type(frame) is not Sending:
            return None
        self.streams -= 1
        given_up = frame.give_up()
        return None if given_up is None else Cancellation(given_up)

    def _drop(self, place: int, reason: str) -> None:
        message = self.notes[place]
        given_up = self._take_out(place)
        if given_up is not None:
            self._insert(place, given_up, None)
        self.keeper.dropped(self.lane, message, reason)

    def expire(self, now: float) -> None:
        """Drops what is too old to be of use. `now` on the clock of `Message.expires`."""
        for place in reversed(range(len(self.notes))):
            message = self.notes[place]
            if message is not None and 0 < message.expires <= now:
                self._drop(place, "ttl")
        self._relieve()

    def contents(self) -> list[tuple[Frame, Message | None]]:
        """All that waits, in order; it is taken out. What ends a stream that was begun here stays, to be sent."""
        frames, notes = self.frames, self.notes if not self.plain else [None] * len(self.frames)
        self.frames, self.notes, self.places = [], [], None
        self.bytes = self.streams = self.timed = 0
        taken: list[tuple[Frame, Message | None]] = []
        for frame, note in zip(frames, notes, strict=True):
            end = frame if type(frame) is Cancellation else None
            if type(frame) is Sending and (given_up := frame.give_up()) is not None:
                end = Cancellation(given_up)
            if end is not None:
                self.frames.append(end)
                self.bytes += len(end)
            if end is not frame:
                taken.append((frame, note))
        if not self.plain:
            self.notes = [None] * len(self.frames)
        self._relieve()
        return taken

    def pop(self, limit: int, share: int, into: list[bytes], part_bytes: int) -> int:
        """Moves frames to `into`: what fits in `share` bytes, and at least one; but what does not fit in `limit` only
        as
        the first of all. Of a message in parts, one part of at most `part_bytes`. Returns the bytes moved.
        """
        if self.streams:
            moved = self._pop_one(min(limit, share), limit, into, part_bytes)
        else:
            moved = self._pop_whole(min(limit, share), limit, into)
        self._relieve()
        return moved

    def _relieve(self) -> None:
        if self.congested and self.bytes <= self.capacity // 2:
            self.congested = False
            self.keeper.relieved(self.lane)

    def _pop_whole(self, share: int, limit: int, into: list[bytes]) -> int:
        frames: list[bytes] = self.frames  # type: ignore[assignment]  # no streams: all are bytes
        size = self.bytes
        if size <= share:
            into += frames
            frames.clear()
            self.notes.clear()
            if self.places:
                self.places.clear()
            self.bytes = self.timed = 0
            return size
        if into and len(frames[0]) > limit:
            return 0
        taken = len(frames[0])
        count = 1
        while taken < size and (more := taken + len(frames[count])) <= share:
            taken = more
            count += 1
        into += frames[:count]
        self._forget(count)
        self.bytes = size - taken
        return taken

    def _pop_one(self, share: int, limit: int, into: list[bytes], part_bytes: int) -> int:
        head = self.frames[0]
        if isinstance(head, bytes):
            if into and len(head) > limit:
                return 0
            into.append(head)
            self._forget(1)
            self.bytes -= len(head)
            return len(head)
        room = min(share, part_bytes) - HEADS - head.envelope_bytes
        if into and room < LEAST and room < head.left:
            return 0
        before = head.left
        frame = head.next(room)
        into.append(frame)
        self.bytes -= before - head.left
        if not head.left:
            self._forget(1)
            self.streams -= 1
        return len(frame)

    def _forget(self, count: int) -> None:
        """The first `count` frames have been taken."""
        if not self.plain:
            if self.timed:
                self.timed -= sum(note is not None and note.expires > 0 for note in self.notes[:count])
            del self.notes[:count]
            self.first += count
        del self.frames[:count]
