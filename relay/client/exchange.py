"""Requests and their answers: what is said gets a number, and the answer with that number finds who waits for it.

Not here: what can be asked (session), what else comes (hearing), sockets (plain). The one rule: nobody who waits is
forgotten; every request ends with its answer, a `Refused`, or a `Disconnected`. Said again by another socket is only
what does no harm when it is done twice; of all else the program learns that nobody knows.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import trio

from relay.client.codec import Codec, encoder, given
from relay.client.errors import LOST, Disconnected, refused
from relay.client.events import Ok, Pong, Refusal
from relay.client.lasting import Lasting
from relay.client.plain import PlainClient

RequestId = int | str
Answer = Ok | Pong | Refusal | Disconnected

UNANSWERED: Final = Disconnected(LOST, "the connection was lost before the answer came")


class Asked(Protocol):
    """Something that an answer ends: a request, or an upload."""

    again: bytes | None
    times: int

    def end(self, answer: Answer) -> None: ...


class Waiting:
    """A request that has no answer yet."""

    __slots__ = ("again", "answer", "done", "times")

    def __init__(self, times: int, again: bytes | None) -> None:
        """`times` the session was resumed before it was said; `again`: what may be said again after that."""
        self.times = times
        self.again = again
        self.done = trio.Event()
        self.answer: Answer | None = None

    def end(self, answer: Answer) -> None:
        self.answer = answer
        self.done.set()


class Exchange:
    """Of one session."""

    def __init__(self, socket: PlainClient | Lasting, codec: Codec) -> None:
        self.codec: Final = codec
        self.encode: Final = encoder(codec)
        self.lasting: Final = socket if isinstance(socket, Lasting) else None
        self.why: Disconnected | None = None
        self._socket = socket
        self._ids = itertools.count(1)
        self._waiting: dict[RequestId, Asked] = {}
        self._ended = trio.Event()

    def number(self) -> int:
        """For a request that is about to be said."""
        return next(self._ids)

    async def ask(self, kind: str, *, again: bool = False, **fields: Any) -> Ok:
        """Says a request and waits for its answer. Raises Refused, Disconnected."""
        request = self.number()
        return await self.answer(request, self.encode({"t": kind, "id": request, **given(fields)}), again=again)

    async def answer(self, request: int, message: bytes, *, again: bool = False) -> Ok:
        """Says something that has an answer, and waits for it. `again`: it does no harm if it is said twice."""
        waiting = self._waiting[request] = Waiting(self._times, message if again else None)
        try:
            await self.say(message)
            await waiting.done.wait()
        finally:
            self._waiting.pop(request, None)
        match waiting.answer:
            case Ok() as ok:
                return ok
            case Refusal() as no:
                raise refused(no)
            case Disconnected() as why:
                raise why.again()
        return Ok()  # a pong says nothing more

    async def say(self, message: bytes) -> None:
        """Raises Disconnected."""
        await self.send(self._framed(message))

    async def send(self, message: str | bytes) -> None:
        """A message as it is on the wire. Raises Disconnected, with the reason the session ended for."""
        if self.why is not None:
            await trio.lowlevel.checkpoint()
            raise self.why.again()
        try:
            await self._socket.send(message)
        except Disconnected:
            await self._ended.wait()  # the reading side knows why: `bye` may still stand in its queue
            assert self.why is not None
            raise self.why.again() from None

    def expect(self, request: RequestId, asked: Asked) -> None:
        """Something else than a request waits for an answer."""
        asked.times = self._times
        self._waiting[request] = asked

    def forget(self, request: RequestId) -> None:
        """Nobody waits for that answer any more."""
        self._waiting.pop(request, None)

    @property
    def _times(self) -> int:
        return 0 if self.lasting is None else self.lasting.times

    def _framed(self, message: bytes) -> str | bytes:
        return message.decode() if self.codec == "json" else message

    # What comes.

    def settle(self, answer: Ok | Pong | Refusal) -> bool:
        """An answer has come. False: nobody asked for it."""
        asked = self._waiting.pop(answer.id, None) if answer.id is not None else None
        if asked is None:
            return False
        asked.end(answer)
        return True

    def end(self, why: Disconnected) -> None:
        """There will be no more answers."""
        self.why = why
        for asked in list(self._waiting.values()):
            asked.end(why)
        self._ended.set()

    # The session goes on by another socket.

    async def say_again(self, rooms: dict[str, dict[str, Any]], send: Callable[[str | bytes], Awaitable[None]]) -> None:
        """By the new socket: where one is in each room, and what had no answer and may be said twice. Its own two
        requests have the id "resume". Raises Disconnected.
        """
        await send(self._framed(self.encode({"t": "resume", "id": "resume", "rooms": rooms})))
        for asked in list(self._waiting.values()):
            if asked.again is not None:
                await send(self._framed(asked.again))
        await send(self._framed(self.encode({"t": "ping", "id": "resume"})))

    def give_up_unanswered(self) -> None:
        """All answers that had been kept have come. What else was asked before may or may not have been done."""
        for request, asked in list(self._waiting.items()):
            if asked.times < self._times and asked.again is None:
                self._waiting.pop(request).end(UNANSWERED)
