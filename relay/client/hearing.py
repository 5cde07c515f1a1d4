"""What the relay says, and whom it is for: answers go to who asked, events into the inbox.

One task reads the first socket, and each further socket has one; all of it comes through here. Not here: what can be
asked (session), parts (incoming), unread events (inbox). The one rule: nothing here waits, so an event that nobody
reads delays no answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from msgspec import structs

from relay.client.codec import Codec, understood
from relay.client.errors import Disconnected
from relay.client.events import (
    Bye,
    Count,
    Event,
    Expiring,
    Gap,
    Hello,
    Joined,
    Left,
    Message,
    Ok,
    Pong,
    Progress,
    Refusal,
    Renamed,
)
from relay.client.exchange import UNANSWERED, Exchange
from relay.client.inbox import Inbox
from relay.client.incoming import Incoming
from relay.client.lasting import Lasting
from relay.client.plain import PlainClient
from relay.client.renewal import Renewal
from relay.client.resync import Resync
from relay.client.second import SecondSocket
from relay.client.upload import Uploads
from relay.client.values import Values
from relay.client.whereabouts import Whereabouts
from relay.protocols.parts import is_part

LISTENS_ONLY: Final = "auth.on_expiry"  # the setting behind a session that may only listen, its token being over
NOT_RECOVERED: Final = "not_recovered"


class Hearing:
    """Of one session. `renewal` None: the program renews its token itself."""

    def __init__(
        self,
        subject: str,
        exchange: Exchange,
        inbox: Inbox,
        where: Whereabouts,
        values: Values,
        resync: Resync,
        uploads: Uploads,
        renewal: Renewal | None,
        make_incoming: Callable[[int], Incoming],
    ) -> None:
        self.seconds: list[SecondSocket] = []
        self._subject = subject
        self._codec: Codec = exchange.codec
        self._exchange = exchange
        self._lasts = exchange.lasting is not None
        self._inbox = inbox
        self._where = where
        self._values = values
        self._resync = resync
        self._uploads = uploads
        self._renewal = renewal
        self._incoming = make_incoming(0)
        self._bye: Bye | None = None

    async def run(self, socket: PlainClient | Lasting) -> None:
        """Reads the session's first socket; ends with the session."""
        try:
            while True:
                self.take(await socket.receive(), self._incoming)
        except Disconnected as why:
            self.end(why if self._bye is None else self._bye.explain(why))
            if socket.closed is None:  # what came was not relay.v1
                await socket.close(why.code, why.reason)

    def end(self, why: Disconnected) -> None:
        """The session is over; the first reason counts."""
        if self._exchange.why is None:
            self._exchange.end(why)
            self._uploads.end(why)
            for second in self.seconds:
                second.stop()
            self._inbox.end()

    def take(self, raw: str | bytes | None, incoming: Incoming) -> None:
        """What came by one socket, whose parts are `incoming`; None: nothing more will. Raises Disconnected: it is not
        relay.v1.
        """
        if raw is None or (isinstance(raw, bytes) and is_part(raw)):
            for told in incoming.abandon() if raw is None else incoming.add(raw):
                self._tell(told)
            return
        match understood(self._codec, raw):
            case Message() as message:
                self._tell(message)
            case None | Hello():
                pass
            case Ok(id="resume") as answer:
                if isinstance(answer.rooms, dict):
                    self._told_where(answer.rooms)
            case Pong(id="resume"):
                self._exchange.give_up_unanswered()
            case Ok() as answer:
                if answer.delta:  # here, and not where it was asked: the next message may be a patch
                    self._values.joined(answer.room)
                self._exchange.settle(answer)
                for gap in answer.unreadable:
                    self._tell(gap)
            case Pong() as answer:
                self._exchange.settle(answer)
            case Refusal() as refusal:
                if not self._exchange.settle(refusal) and refusal.id is None:
                    if refusal.setting == LISTENS_ONLY and self._renewal is not None:
                        self._renewal.want()
                    self._inbox.put(refusal)
            case Expiring() if self._renewal is not None:
                self._renewal.want()
            case event:
                self._tell(event)

    def _tell(self, event: Event) -> None:
        """One event for the program, under the name its room has now."""
        if self._where.has_former:
            event = self._renamed(event)
        match event:
            case Message():
                if self._lasts or event.room in self._values:
                    for told in self._of_state(event):
                        self._inbox.put(told)
                    return
            case Gap():
                if event.reason not in _OWN_REASONS:
                    self._lost(event.room)
            case Renamed(room=room, to=to):
                if room not in self._where and to in self._where:
                    return  # it is known already
                self._where.renamed(room, to)
                self._values.renamed(room, to)
            case Left(room=room, subject=self._subject):
                self._where.left(room)
                self._values.left(room)
            case Bye():
                self._bye = event
        self._inbox.put(event)

    def _of_state(self, message: Message) -> tuple[Message | Gap, ...]:
        """What is new in a message: a session that goes on may hear it again, and of a state it may be a part only."""
        new = not self._lasts or self._where.is_new(message)
        if message.room not in self._values:
            return (message,) if new else ()
        told = self._values.take(message, trio.current_time(), new=new)
        if not told:
            self._resync.look()
        return told

    def _lost(self, room: str) -> None:
        if room in self._values:
            self._values.lost(room, trio.current_time())
            self._resync.look()

    def _renamed(self, event: Event) -> Event:
        match event:
            case Message(room=room, offset=offset, channel=channel):
                name = self._where.name(room, offset, channel)
            case Gap(room=room) | Progress(room=room) | Joined(room=room) | Left(room=room) | Count(room=room):
                name = self._where.name(room)
            case _:
                return event
        return event if name == room else structs.replace(event, room=name)

    # The session goes on by another socket.

    async def say_again(self, send: Callable[[str | bytes], Awaitable[None]]) -> None:
        """By the new one: where one is, and what had no answer and may be said twice. Raises Disconnected."""
        self._uploads.cut(UNANSWERED)
        self.take(None, self._incoming)
        await self._exchange.say_again(self._where.positions(), send)

    def _told_where(self, rooms: dict[str, dict[str, Any]]) -> None:
        """The relay's answer: what is lost is told to the program."""
        for room, told in rooms.items():
            if isinstance(new := told.get("renamed"), str):
                self._tell(Renamed(room, new))
        for room, told in rooms.items():
            if told.get("joined") is False:
                self._where.left(room)
                self._values.left(room)
                self._inbox.put(Left(room, self._subject, "it was left while the connection was lost"))
            elif told.get("recovered") is False:
                last = told.get("from", told["offset"] + 1) - 1
                self._inbox.put(Gap(room, min(self._where.offset(room) + 1, last), last, NOT_RECOVERED))
                self._lost(room)


_OWN_REASONS: Final = ("client_limit", "unreadable")
