"""A session of relay.v1 as a program sees it: what it can ask, and the events that come.

Not here: how an answer finds who asked (exchange), what becomes of what the relay says (hearing), what the words look
like (events, codec), sockets (plain). The one rule: a method is one request, and raises what the relay refuses it with.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import trio

from relay.client.acks import Acks
from relay.client.address import Address
from relay.client.codec import Codec, document, publish_words, superseding
from relay.client.errors import Disconnected
from relay.client.events import Confirm, Delivery, Event, Hello, Members, Membership, Message, Ok, Position
from relay.client.events import members as members_of
from relay.client.events import membership as membership_of
from relay.client.exchange import UNANSWERED, Exchange
from relay.client.hearing import Hearing
from relay.client.heartbeat import watch
from relay.client.inbox import Inbox
from relay.client.incoming import Incoming
from relay.client.lasting import Lasting
from relay.client.pages import Pages
from relay.client.plain import PlainClient
from relay.client.renewal import Renewal, TokenSource
from relay.client.resync import Resync
from relay.client.second import SecondSocket
from relay.client.upload import Upload, Uploads
from relay.client.values import Values
from relay.client.whereabouts import Whereabouts
from relay.errors import Refused

PART_BYTES: Final = 16384  # of one part with its header, where the relay does not say


class Client:
    """A live session, made by `connect`. Any number of tasks may use it.

    `session`, `subject`, `expires` (Unix seconds, None: never), `channels`, `limits` and `version` are what the relay
    said first. Every request raises Refused when the relay says no, and Disconnected when it is gone.
    """

    def __init__(
        self,
        socket: PlainClient | Lasting,
        nursery: trio.Nursery,
        address: Address,
        hello: Hello,
        *,
        buffer: int,
        progress: bool,
        auto_ack: bool,
        delta_bytes: int,
        source: TokenSource | None = None,
    ) -> None:
        self.session: Final = hello.session
        self.subject = hello.subject
        self.expires = hello.expires
        self.channels: Final[Sequence[str]] = hello.channels
        self.limits: Final = hello.limits
        self.heartbeat: Final = hello.heartbeat
        self.version: Final = hello.version
        self._socket = socket
        self._nursery = nursery
        self._address = address
        self._codec: Final[Codec] = address.codec
        self._progress = progress
        self._sockets = itertools.count(1)
        most = hello.limits.get("message_bytes", PART_BYTES)
        self._part_bytes: Final = int(min(hello.limits.get("part_bytes", PART_BYTES), most))
        self._parts: Final = address.parts and hello.limits.get("parted_message_bytes", 1) > 0
        self._lasts: Final = isinstance(socket, Lasting)
        self._exchange = Exchange(socket, address.codec)
        self._inbox = Inbox(buffer)
        self._uploads = Uploads(nursery, self._exchange.send, self._part_bytes)
        self._where = Whereabouts()
        self._values = Values(address.codec, delta_bytes)
        self._resync = Resync(self._values, self._ask_whole)
        self._acks = Acks(nursery, self.ack) if auto_ack else None
        self._renewal = None if source is None else Renewal(source, self.auth)
        self._hearing = Hearing(
            hello.subject, self._exchange, self._inbox, self._where, self._values, self._resync, self._uploads,
            self._renewal, self._make_incoming,
        )  # fmt: skip
        if isinstance(socket, Lasting):
            socket.resumed = self._hearing.say_again

    def _start(self) -> None:
        """The tasks of the session; they end with it, or with the nursery."""
        self._nursery.start_soon(self._hearing.run, self._socket)
        self._nursery.start_soon(watch, self._socket, self.heartbeat, self._ping, self._hearing.end)
        self._nursery.start_soon(self._resync.run)
        if self._renewal is not None:
            self._nursery.start_soon(self._renewal.run)

    @property
    def closed(self) -> Disconnected | None:
        """Why the session ended; None while it lives."""
        return self._exchange.why

    # Rooms.

    async def join(
        self,
        room: str,
        *,
        last: int = 0,
        since: Position | None = None,
        members: bool = False,
        delta: bool = False,
    ) -> Membership:
        """Joins a room, an alias, or all rooms of a pattern (`chat:*`, `sensors:**`).

        Asks for its `last` messages, or for all `since` a position; and who is there, if `members`. `delta`: of values
        of a `key` only what has changed is sent, where the room has that; the program gets whole values all the same.
        """
        ok = await self._exchange.ask(
            "join", room=room, last=last or None, since=since, members=members or None, delta=delta or None
        )
        joined = membership_of(room, ok)
        if joined.epoch:  # a pattern is no room
            self._where.joined(joined.room, ok.epoch, ok.offset or 0)
        return joined

    async def leave(self, room: str) -> None:
        """Leaves a room, or unsubscribes from a pattern."""
        left = (await self._exchange.ask("leave", room=room)).room or room
        self._where.left(left)
        self._values.left(left)

    async def presence(self, room: str) -> list[str]:
        """The subjects in a room; of a crowd, as many as the relay lists."""
        return (await self._exchange.ask("presence", room=room)).members or []

    async def members(self, room: str) -> Members:
        """Who is in a room, with what may be seen of them."""
        return members_of(await self._exchange.ask("presence", room=room))

    async def history(
        self, room: str, *, last: int = 0, since: Position | None = None, before: int | None = None
    ) -> Membership:
        """The messages a room remembers: the `last` few, those below the offset `before` if that is given (`more`:
        there are older ones); or all `since` a position (then `recovered` tells if all).
        """
        ok = await self._exchange.ask("history", room=room, last=last or None, since=since, before=before)
        return membership_of(room, ok)

    def pages(self, room: str, *, size: int = 100, before: int | None = None) -> Pages:
        """All that a room remembers, read back page by page: `async for page in client.pages("chat:tea"): …`"""
        return Pages(self.history, room, size, before)

    # Messages.

    async def publish(
        self,
        room: str,
        data: Any,
        *,
        channel: str | None = None,
        key: str | None = None,
        to: str | None = None,
        echo: bool = False,
        ttl: float | None = None,
        confirm: bool = True,
        parts: bool = True,
        once: str | None = None,
    ) -> int | None:
        """Says `data`, anything the codec can express. Returns the offset, if told.

        `key`: a newer message of the same key may replace this one for slow receivers; `to`: a subject who alone shall
        hear it; `echo`: hear it oneself; `ttl`: seconds after which it is of no use and not sent on. Without `confirm`
        nothing is waited for, and a refusal comes as an event. `once`: a key of 1 to 128 characters under which it is
        heard once, however often it is published; a session that resumes makes its own and says it again by itself.

        What is larger than one part, and bytes in JSON, is sent as by `upload`: urgent messages pass between its parts.
        If this is cancelled meanwhile, the message is withdrawn, and so it is (raising Withdrawn) if another of the
        same key is published before its last part is sent. `parts` False: all in one message, bytes in JSON as base64.
        """
        request = self._exchange.number() if confirm else None
        if once is None and request is not None and self._lasts:
            once = f"{self.session}-{request}"
        say = publish_words(room, channel, key, to, echo, ttl, request, once)
        ok = await self._publish(say, data, parts=parts)
        if ok is None:
            return None
        if not echo and self._lasts:
            self._where.published(self._where.name(room), ok.offset)
        return ok.offset

    async def deliver(
        self,
        room: str,
        data: Any,
        *,
        to: str,
        timeout: float = 5.0,
        channel: str | None = None,
        key: str | None = None,
        ttl: float | None = None,
        parts: bool = True,
        once: str | None = None,
    ) -> Delivery:
        """Says `data` to one subject in a room, and waits until it has arrived there; all else as for `publish`.

        The receivers' programs have said that they are done with it, or after `timeout` seconds (at most the relay's
        own) as many of them as had. Raises NoSuchSubject (nobody there who could say so; nothing was published),
        TimedOut (nobody has said so; it may arrive yet), and as `publish`. A session that resumes makes a key `once` of
        its own here too; where the answer is lost for good, that is `Disconnected`.
        """
        request = self._exchange.number()
        if once is None and self._lasts:
            once = f"{self.session}-{request}"
        say = publish_words(room, channel, key, to, False, ttl, request, once, confirm=timeout)
        ok = await self._publish(say, data, parts=parts)
        assert ok is not None  # it has a number
        if ok.offset is not None and self._lasts:
            self._where.published(self._where.name(room), ok.offset)
        if ok.delivered is None:  # it was said before, and answered: nobody knows how
            raise UNANSWERED.again()
        return Delivery(ok.offset or 0, to, ok.delivered)

    async def ack(self, room: str, offset: int) -> None:
        """Says that the message of a `Confirm` has arrived. Only needed with `auto_ack=False`."""
        await self._exchange.ask("ack", again=True, room=room, offset=offset)

    async def _publish(self, say: dict[str, Any], data: Any, *, parts: bool) -> Ok | None:
        """Whole, or in parts. None: nobody waits for an answer."""
        parts = parts and self._parts
        whole = None if parts and self._is_large(data) else self._exchange.encode({**say, "data": data})
        if whole is None or (parts and len(whole) > self._part_bytes):
            upload = self._begin(say, data)
            try:
                answer = await upload.answered()
            finally:
                upload.cancel()
            return answer if "id" in say else None
        self._uploads.supersede(superseding(say))
        if "id" in say:
            return await self._exchange.answer(say["id"], whole, again=True)
        await self._exchange.say(whole)
        return None

    def upload(
        self,
        room: str,
        data: Any,
        *,
        channel: str | None = None,
        key: str | None = None,
        to: str | None = None,
        echo: bool = False,
        ttl: float | None = None,
    ) -> Upload:
        """Begins to say `data` in parts, whatever its size, and returns at once; arguments as for `publish`.

        The parts are sent in the background. Order is kept among what is published once the one before is over: what
        is said during an upload passes it. Raises Refused where there are no parts, and what the codec raises for data
        it cannot express.
        """
        if not self._parts:
            raise Refused("bad_part", "there are no parts in this session", setting="limits.parted_message_bytes")
        return self._begin(publish_words(room, channel, key, to, echo, ttl, self._exchange.number()), data)

    async def call(self, room: str, method: str, data: Any = None, *, timeout: float | None = None) -> Any:
        """Asks the plugin of a room; its answer. `timeout` in seconds, at most the relay's own. Raises NoSuchMethod,
        TimedOut, Unavailable, NotJoined, Forbidden, and `Refused` with what code the plugin likes.
        """
        return (await self._exchange.ask("call", room=room, method=method, data=data, timeout=timeout)).data

    # The session.

    async def auth(self, token: str) -> float | None:
        """Renews the token on the live session. Returns when it ends, Unix seconds."""
        self.expires = (await self._exchange.ask("auth", token=token)).expires
        self._address.token = token  # of sockets that are opened from now on
        return self.expires

    async def ping(self) -> float:
        """Seconds to the relay and back."""
        asked = trio.current_time()
        await self._exchange.ask("ping")
        return trio.current_time() - asked

    async def open_socket(self, *channels: str) -> SecondSocket:
        """Opens one more socket of this session, by which these channels come from now on: what is lost or late on the
        first one holds them up no more. Events of both come out of this client.

        When it is lost, its channels come by the first socket again, and it is opened anew in the background, for as
        long as the session lives. Raises ConnectFailed and ConnectionRefused if it cannot be had now.
        """
        if self.closed is not None:
            await trio.lowlevel.checkpoint()
            raise self.closed.again()
        incoming = self._make_incoming(next(self._sockets))
        second = SecondSocket(self._address, self.session, channels, incoming, self._hearing.take, self.heartbeat)
        self._hearing.seconds.append(second)
        self._nursery.start_soon(second.run)
        await second.opened_or_failed()
        return second

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Ends the session; done by the `async with` in any case."""
        await self._socket.close(code, reason)

    async def _ping(self) -> None:
        await self._exchange.say(self._exchange.encode({"t": "ping"}))

    async def _ask_whole(self, room: str, key: str | None) -> None:
        await self._exchange.ask("resync", again=True, room=room, key=key)

    # Messages in parts.

    def _is_large(self, data: Any) -> bool:
        """Whether it goes in parts, as far as can be told without encoding it."""
        if isinstance(data, bytes | bytearray | memoryview):
            return self._codec == "json" or len(data) > self._part_bytes
        return isinstance(data, str) and len(data) > self._part_bytes

    def _begin(self, say: dict[str, Any], data: Any) -> Upload:
        kind, payload = document(self._codec, data)
        envelope = self._exchange.encode({**say, "kind": kind})
        request = say.get("id")
        upload = self._uploads.begin(envelope, payload, confirm=request is not None, key=superseding(say))
        if self.closed is not None:
            upload.end(self.closed)
        elif request is not None:
            self._exchange.expect(request, upload)
            upload.on_over = lambda: self._exchange.forget(request)  # nobody answers what was withdrawn
        return upload

    def _make_incoming(self, socket: int) -> Incoming:
        """For the parts that come by one socket."""
        return Incoming(self._codec, self._address.max_message_bytes, progress=self._progress, socket=socket)

    # Events.

    async def receive(self) -> Event:
        """The next event. Raises Disconnected once all that came is received.

        Whoever comes for the next one is done with the one before: that is when a publisher who wants to know is told
        that its message has arrived, unless `connect` was given `auto_ack=False`.
        """
        while True:
            event = await self._inbox.get()
            if event is None:
                assert self.closed is not None
                raise self.closed.again()
            if self._acks is not None:
                if isinstance(event, Confirm):
                    self._acks.done(event, self._where.name(event.room))
                    continue
                if isinstance(event, Message) and event.to is not None:
                    self._acks.given(event)
            return event

    def __aiter__(self) -> Client:
        return self

    async def __anext__(self) -> Event:
        """Ends with the session if it ended in order (1000); raises Disconnected if not."""
        try:
            return await self.receive()
        except Disconnected as why:
            if why.code == 1000:
                raise StopAsyncIteration from None
            raise
