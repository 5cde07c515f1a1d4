"""A large message on its way out, in parts.

Not here: what a part looks like (relay.protocols.parts), and which messages travel so (session). The one rule: between
two parts the socket is free, so whatever else is said waits for one part at most, however many uploads there are.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable

import trio

from relay.client.errors import Disconnected, Withdrawn, refused
from relay.client.events import Ok, Pong, Refusal
from relay.errors import Refused
from relay.protocols.parts import CANCEL, FIRST, HEADER, LAST, Part, encode_part

Send = Callable[[bytes], Awaitable[None]]


class Upload:
    """Made by `Client.upload`. `size` is in bytes, `sent` how many of them the network has taken."""

    def __init__(
        self, envelope: bytes, payload: bytes, stream: int, part_bytes: int, *, confirm: bool, key: object
    ) -> None:
        """`part_bytes` bounds a part with its header; `key`: an upload of the same one is superseded by this."""
        if len(envelope) > 0xFFFF:
            raise ValueError("room, key and the like are too long for a message in parts")
        self.size = len(payload)
        self.sent = 0
        self.key = key
        self.on_over: Callable[[], object] = int
        self.again: bytes | None = None  # it is not said again by another socket
        self.times = 0
        self._envelope = envelope
        self._payload = payload
        self._stream = stream
        self._part_bytes = part_bytes
        self._confirm = confirm
        self._cut = 0  # bytes taken for parts, the one on its way among them
        self._begun = self._whole = False
        self._told = 0
        self._moved = trio.lowlevel.ParkingLot()
        self._over = trio.Event()
        self._why: Refused | Disconnected | Withdrawn | None = None
        self._answer = Ok()

    @property
    def over(self) -> bool:
        """Answered, refused, withdrawn or cut off."""
        return self._over.is_set()

    async def wait(self) -> int | None:
        """Waits for the relay's answer; the message's offset. Raises Refused, Disconnected, Withdrawn."""
        return (await self.answered()).offset

    async def answered(self) -> Ok:
        """The same, with all that the relay's answer says."""
        await self._over.wait()
        match self._why:
            case None:
                return self._answer
            case Disconnected() as why:
                raise why.again()
            case Refused() as no:
                raise type(no)(no.code, no.message, retry_after=no.retry_after, setting=no.setting)
            case Withdrawn() as why:
                raise Withdrawn(*why.args)

    def cancel(self, why: str = "cancelled") -> bool:
        """Gives it up. False: too late, the last part is on its way, or it is over. Never waits."""
        if self._whole or self.over:
            return False
        self._end(Withdrawn(why))
        return True

    def __aiter__(self) -> Upload:
        return self

    async def __anext__(self) -> int:
        """`sent`, whenever it has changed; ends with the upload, however that ends: ask `wait`. For one task."""
        await trio.lowlevel.checkpoint()
        while self.sent == self._told and not self.over:
            await self._moved.park()
        if self.sent == self._told:
            raise StopAsyncIteration
        self._told = self.sent
        return self.sent

    # What the client does.

    def end(self, answer: Ok | Pong | Refusal | Disconnected) -> None:
        """The relay has answered, or is gone; what is not sent yet is not sent any more."""
        match answer:
            case Ok() as ok:
                self._answer = ok
                self._end(None)
            case Refusal() as no:
                self._end(refused(no))
            case Disconnected() as why:
                self._end(why)

    def _end(self, why: Refused | Disconnected | Withdrawn | None) -> None:
        if not self.over:
            self._why = why
            self._over.set()
            self._moved.unpark_all()
            self.on_over()

    async def run(self, send: Send, turn: trio.StrictFIFOLock) -> None:
        """Sends the parts, each of them in its `turn`."""
        try:
            while not self._whole and not self.over:
                async with turn:
                    if not self.over:
                        await send(self._next())
                        self.sent = self._cut
                        self._moved.unpark_all()
            if self._begun and not self._whole:
                await send(encode_part(Part(CANCEL, self._stream, self._cut, self.size, b"", b"")))
            elif not self._confirm:
                self._end(None)
        except Disconnected as why:
            self._end(why)

    def _next(self) -> bytes:
        envelope = b"" if self._begun else self._envelope
        start = self._cut
        room = self._part_bytes - HEADER.size - len(envelope)
        data = self._payload[start : start + max(room, 0 if envelope else 1)]
        self._cut = start + len(data)
        self._whole = self._cut == self.size
        flags = (0 if self._begun else FIRST) | (LAST if self._whole else 0)
        self._begun = True
        return encode_part(Part(flags, self._stream, start, self.size, envelope, data))


class Uploads:
    """Those of one client that are being sent. One part of all of them stands in line for the socket at a time."""

    def __init__(self, nursery: trio.Nursery, send: Send, part_bytes: int) -> None:
        self._nursery = nursery
        self._send = send
        self._part_bytes = part_bytes
        self._streams = itertools.count()
        self._turn = trio.StrictFIFOLock()
        self._sending: dict[Upload, None] = {}
        self._ended = False

    def begin(self, envelope: bytes, payload: bytes, *, confirm: bool, key: object) -> Upload:
        """Sends it in the background. Raises ValueError for an envelope that is too long."""
        stream = next(self._streams) & 0xFFFFFFFF
        upload = Upload(envelope, payload, stream, self._part_bytes, confirm=confirm, key=key)
        if not self._ended:
            self.supersede(key)
            self._sending[upload] = None
            self._nursery.start_soon(self._run, upload)
        return upload

    def supersede(self, key: object) -> None:
        """A message of that key is about to be said: what it replaces must not come after it."""
        for upload in self._sending:
            if key is not None and upload.key == key:
                upload.cancel("superseded by a newer message of the same key")

    def end(self, why: Disconnected) -> None:
        self._ended = True
        self.cut(why)

    def cut(self, why: Disconnected) -> None:
        """The socket is lost: what was not whole is over."""
        for upload in list(self._sending):
            upload.end(why)

    async def _run(self, upload: Upload) -> None:
        try:
            await upload.run(self._send, self._turn)
        finally:
            del self._sending[upload]
