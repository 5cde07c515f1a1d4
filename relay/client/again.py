"""A session that goes on by another socket: what is said first, and what becomes of requests without an answer.

Not here: opening the socket (lasting). The one rule: said again is only what does no harm when it is done twice; of all
else the program learns that nobody knows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from relay.client.errors import LOST, Disconnected
from relay.client.events import Gap, Left, Ok, Pong, Refusal

if TYPE_CHECKING:
    from relay.client.session import Client

UNANSWERED: Final = Disconnected(LOST, "the connection was lost before the answer came")


class Waiting:
    """A request that has no answer yet."""

    __slots__ = ("again", "answer", "done", "times")

    def __init__(self, times: int = 0, again: bytes | None = None) -> None:
        """`times` the session was resumed before it was said; `again`: what may be said again after that."""
        self.times = times
        self.again = again
        self.done = trio.Event()
        self.answer: Ok | Pong | Refusal | Disconnected | None = None

    def end(self, answer: Ok | Pong | Refusal | Disconnected) -> None:
        self.answer = answer
        self.done.set()


async def say_again(client: Client, send: Callable[[str | bytes], Awaitable[None]]) -> None:
    """By the new socket: where one is, and what had no answer and may be said twice. Raises Disconnected."""
    client._uploads.cut(UNANSWERED)
    client._take(None, client._incoming)

    async def say(message: bytes) -> None:
        await send(message.decode() if client._codec == "json" else message)

    await say(client._encode({"t": "resume", "id": "resume", "rooms": client._where.positions()}))
    for waiting in list(client._waiting.values()):
        if isinstance(waiting, Waiting) and waiting.again is not None:
            await say(waiting.again)
    await say(client._encode({"t": "ping", "id": "resume"}))


def told_where(client: Client, rooms: dict[str, dict[str, Any]]) -> None:
    """The relay's answer: what is lost is told to the program."""
    for room, told in rooms.items():
        if told.get("joined") is False:
            client._where.left(room)
            client._inbox.put(Left(room, client.subject, "it was left while the connection was lost"))
        elif told.get("recovered") is False:
            last = told.get("from", told["offset"] + 1) - 1
            client._inbox.put(Gap(room, min(client._where.offset(room) + 1, last), last, "not_recovered"))


def give_up_unanswered(client: Client) -> None:
    """All answers that had been kept have come. What else was asked before may or may not have been done."""
    assert client._lasting is not None
    for request, waiting in list(client._waiting.items()):
        if isinstance(waiting, Waiting) and waiting.times < client._lasting.times and waiting.again is None:
            client._waiting.pop(request).end(UNANSWERED)
