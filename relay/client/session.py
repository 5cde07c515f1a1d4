"""relay.v1 from the client's side: requests with answers, and events in between.

Not here: sockets (plain), what the words look like (events, codec), parts (incoming, upload). The one rule: nobody who
waits is forgotten; every request ends with its answer, a `Refused`, or a `Disconnected`.

One task reads. Answers go to who asked, events into a buffer that is bounded in number (inbox) and never delays an
answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import trio

from relay.client.address import Address
from relay.client.again import Waiting, give_up_unanswered, say_again, told_where
from relay.client.codec import Codec, document, encoder, given, publish_words, superseding, understood
from relay.client.errors import LOST, Disconnected
from relay.client.events import (
    Bye,
    Event,
    Expiring,
    Hello,
    Members,
    Membership,
    Message,
    Ok,
    Pong,
    Position,
    Refusal,
)
from relay.client.inbox import Inbox
from relay.client.incoming import Incoming
from relay.client.lasting import Lasting, Whereabouts
from relay.client.plain import PlainClient
from relay.client.renewal import Renewal, TokenSource
from relay.client.second import SecondSocket
from relay.client.upload import Upload, Uploads
from relay.errors import Refused
from relay.protocols.parts import is_part

PART_BYTES: Final = 16384  # of one part with its header, where the relay does not say

LISTENS_ONLY: Final = "auth.on_expiry"  # the setting behind a session that may only listen, its token being over

RequestId = int | str


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
        self._encode = encoder(address.codec)
        self._progress = progress
        self._sockets = itertools.count(1)
        self._seconds: list[SecondSocket] = []
        self._inbox = Inbox(buffer)
        self._ids = itertools.count(1)
        self._waiting: dict[RequestId, Waiting | Upload] = {}
        most = hello.limits.get("message_bytes", PART_BYTES)
        self._part_bytes: Final = int(min(hello.limits.get("part_bytes", PART_BYTES), most))
        self._parts: Final = address.parts and hello.limits.get("parted_message_bytes", 1) > 0
        self._uploads = Uploads(nursery, self._send, self._part_bytes)
        self._renewal = None if source is None else Renewal(source, self.auth)
        self._lasting = socket if isinstance(socket, Lasting) else None
        self._where = Whereabouts()
        if self._lasting is not None:
            self._lasting.resumed = partial(say_again, self)
        self._bye: Bye | None = None
        self._why: Disconnected | None = None
        self._ended = trio.Event()

    @property
    def closed(self) -> Disconnected | None:
        """Why the session ended; None while it lives."""
        return self._why

    # Requests.

    async def join(
        self, room: str, *, last: int = 0, since: Position | None = None, members: bool = False
    ) -> Membership:
        """Joins a room. Asks for its `last` messages, or for all `since` a position; and who is there, if `members`."""
        ok = await self._ask("join", room=room, last=last or None, since=since, members=members or None)
        self._where.joined(room, ok.epoch, ok.offset or 0)
        return Membership(room, ok.epoch, ok.offset or 0, ok.recovered, ok.messages, ok.members)

    async def leave(self, room: str) -> None:
        await self._ask("leave", room=room)
        self._where.left(room)

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
        request = next(self._ids) if confirm else None
        if once is None and confirm and self._lasting is not None:
            once = f"{self.session}-{request}"
        say = publish_words(room, channel, key, to, echo, ttl, request, once)
        parts = parts and self._parts
        whole = None if parts and self._is_large(data) else self._encode({**say, "data": data})
        if whole is None or (parts and len(whole) > self._part_bytes):
            upload = self._begin(say, data)
            try:
                return await upload.wait()
            finally:
                upload.cancel()
        self._uploads.supersede(superseding(say))
        if confirm:
            offset = (await self._answer(say["id"], whole, again=True)).offset
            if not echo and self._lasting is not None:
                self._where.published(room, offset)
            return offset
        await self._say(whole)
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
        return self._begin(publish_words(room, channel, key, to, echo, ttl, next(self._ids)), data)

    async def call(self, room: str, method: str, data: Any = None, *, timeout: float | None = None) -> Any:
        """Asks the plugin of a room; its answer. `timeout` in seconds, at most the relay's own."""
        return (await self._ask("call", room=room, method=method, data=data, timeout=timeout)).data

    async def presence(self, room: str) -> list[str]:
        """The subjects in a room; of a crowd, as many as the relay lists."""
        return (await self._ask("presence", room=room)).members or []

    async def members(self, room: str) -> Members:
        """Who is in a room, with what may be seen of them."""
        ok = await self._ask("presence", room=room)
        return Members(ok.members or [], ok.count, ok.claims, ok.connections, ok.events)

    async def history(
        self, room: str, *, last: int = 0, since: Position | None = None, before: int | None = None
    ) -> Membership:
        """The messages a room remembers: the `last` few, those below the offset `before` if that is given; or all
        `since` a position (then `recovered` tells if all).
        """
        ok = await self._ask("history", room=room, last=last or None, since=since, before=before)
        return Membership(room, ok.epoch, ok.offset or 0, ok.recovered, ok.messages)

    async def auth(self, token: str) -> float | None:
        """Renews the token on the live session. Returns when it ends, Unix seconds."""
        self.expires = (await self._ask("auth", token=token)).expires
        self._address.token = token  # of sockets that are opened from now on
        return self.expires

    async def ping(self) -> float:
        """Seconds to the relay and back."""
        asked = trio.current_time()
        await self._ask("ping")
        return trio.current_time() - asked

    async def open_socket(self, *channels: str) -> SecondSocket:
        """Opens one more socket of this session, by which these channels come from now on: what is lost or late on the
        first one holds them up no more. Events of both come out of this client.

        When it is lost, its channels come by the first socket again, and it is opened anew in the background, for as
        long as the session lives. Raises ConnectFailed and ConnectionRefused if it cannot be had now.
        """
        if self._why is not None:
            await trio.lowlevel.checkpoint()
            raise self._why.again()
        incoming = self._make_incoming(next(self._sockets))
        second = SecondSocket(self._address, self.session, channels, incoming, self._take, self.heartbeat)
        self._seconds.append(second)
        self._nursery.start_soon(second.run)
        await second.opened_or_failed()
        return second

    async def _ask(self, kind: str, **fields: Any) -> Ok:
        request = next(self._ids)
        return await self._answer(request, self._encode({"t": kind, "id": request, **given(fields)}))

    async def _answer(self, request: int, message: bytes, *, again: bool = False) -> Ok:
        """Says something that has an answer, and waits for it. `again`: it does no harm if it is said twice."""
        times = 0 if self._lasting is None else self._lasting.times
        waiting = self._waiting[request] = Waiting(times, message if again else None)
        try:
            await self._say(message)
            await waiting.done.wait()
        finally:
            self._waiting.pop(request, None)
        match waiting.answer:
            case Ok() as ok:
                return ok
            case Refusal() as no:
                raise Refused(no.code, no.message, retry_after=no.retry_after, setting=no.setting)
            case Disconnected() as why:
                raise why.again()
        return Ok()  # a pong says nothing more

    async def _say(self, message: bytes) -> None:
        await self._send(message.decode() if self._codec == "json" else message)

    async def _send(self, message: str | bytes) -> None:
        if self._why is not None:
            await trio.lowlevel.checkpoint()
            raise self._why.again()
        try:
            await self._socket.send(message)
        except Disconnected:
            await self._ended.wait()  # the reading side knows why: `bye` may still stand in its queue
            assert self._why is not None
            raise self._why.again() from None

    # Messages in parts.

    def _is_large(self, data: Any) -> bool:
        """Whether it goes in parts, as far as can be told without encoding it."""
        if isinstance(data, bytes | bytearray | memoryview):
            return self._codec == "json" or len(data) > self._part_bytes
        return isinstance(data, str) and len(data) > self._part_bytes

    def _begin(self, say: dict[str, Any], data: Any) -> Upload:
        kind, payload = document(self._codec, data)
        envelope = self._encode({**say, "kind": kind})
        request = say.get("id")
        upload = self._uploads.begin(envelope, payload, confirm=request is not None, key=superseding(say))
        if self._why is not None:
            upload.end(self._why)
        elif request is not None:
            self._waiting[request] = upload
            upload.on_over = lambda: self._waiting.pop(request, None)  # nobody answers what was withdrawn
        return upload

    # Events.

    async def receive(self) -> Event:
        """The next event. Raises Disconnected once all that came is received."""
        event = await self._inbox.get()
        if event is None:
            assert self._why is not None
            raise self._why.again()
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

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Ends the session; done by the `async with` in any case."""
        await self._socket.close(code, reason)

    # The reading side; one task.

    def _make_incoming(self, socket: int) -> Incoming:
        """For the parts that come by one socket."""
        return Incoming(self._codec, self._address.max_message_bytes, progress=self._progress, socket=socket)

    async def _read(self) -> None:
        incoming = self._incoming = self._make_incoming(0)
        try:
            while True:
                self._take(await self._socket.receive(), incoming)
        except Disconnected as why:
            self._end(why if self._bye is None else self._bye.explain(why))
            if self._socket.closed is None:  # what came was not relay.v1
                await self._socket.close(why.code, why.reason)

    def _take(self, raw: str | bytes | None, incoming: Incoming) -> None:
        """What came by one socket, whose parts are `incoming`; None: nothing more will."""
        if raw is None or (isinstance(raw, bytes) and is_part(raw)):
            for told in incoming.abandon() if raw is None else incoming.add(raw):
                self._inbox.put(told)
            return
        match understood(self._codec, raw):
            case None | Hello():
                pass
            case Ok(id="resume") as answer:
                told_where(self, answer.rooms)
            case Pong(id="resume"):
                give_up_unanswered(self)
            case Ok(id=request) | Pong(id=request) as answer if request in self._waiting:
                self._waiting.pop(request).end(answer)
            case Refusal(id=request) as answer if request in self._waiting:
                self._waiting.pop(request).end(answer)
            case Ok() | Pong() | Refusal(id=int() | str()):
                pass  # whoever asked was cancelled
            case Expiring() if self._renewal is not None:
                self._renewal.want()
            case Message() as message if self._lasting is not None and not self._where.is_new(message):
                pass  # a session that goes on may hear it again
            case event:
                if isinstance(event, Refusal) and event.setting == LISTENS_ONLY and self._renewal is not None:
                    self._renewal.want()
                if isinstance(event, Bye):
                    self._bye = event
                self._inbox.put(event)

    def _end(self, why: Disconnected) -> None:
        if self._why is None:
            self._why = why
            for waiting in list(self._waiting.values()):
                waiting.end(why)
            self._uploads.end(why)
            for second in self._seconds:
                second.stop()
            self._ended.set()
            self._inbox.end()

    async def _watch(self) -> None:
        """Asks when nothing was heard for a heartbeat, and ends the session when for one more nothing came."""
        while self.heartbeat > 0:
            heard = self._socket.heard_at
            silent, dead = heard + self.heartbeat, heard + 2 * self.heartbeat
            now = trio.current_time()
            if now < silent:
                await trio.sleep_until(silent)
            elif now < dead:
                with trio.move_on_at(dead):
                    try:
                        await self._say(self._encode({"t": "ping"}))
                    except Disconnected:
                        return
                    await trio.sleep_forever()
            else:
                if self._lasting is None:
                    self._end(Disconnected(LOST, f"nothing was heard for {2 * self.heartbeat:g} s"))
                await self._socket.abandon()
                if self._lasting is None:
                    return
                await trio.sleep(self.heartbeat)
