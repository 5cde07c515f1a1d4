"""relay.v1 from the client's side: requests with answers, and events in between.

Not here: sockets (plain) and what the words look like (events). The one rule: nobody who waits is forgotten; every
request ends with its answer, a `Refused`, or a `Disconnected`.

One task reads. Answers go to who asked, events into a buffer that is bounded in number: whoever does not read them
loses the oldest, learns it by a `Gap`, and never delays an answer.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

import msgspec
import trio

from relay.client.dial import quiet_nursery
from relay.client.errors import LOST, ConnectFailed, Disconnected
from relay.client.events import (
    Bye,
    Event,
    FromRelay,
    Gap,
    Hello,
    Membership,
    Message,
    Ok,
    Pong,
    Position,
    Refusal,
)
from relay.client.plain import PlainClient, connect_plain
from relay.errors import Refused

__all__ = ["Client", "connect"]

Codec = Literal["json", "msgpack"]
RequestId = int | str

log: Final = logging.getLogger("relay.client")

_DECODERS: Final[dict[str, Any]] = {
    "json": msgspec.json.Decoder(FromRelay).decode,
    "msgpack": msgspec.msgpack.Decoder(FromRelay).decode,
}


class _Type(msgspec.Struct):
    t: str


class _Waiting:
    """A request that has no answer yet."""

    __slots__ = ("answer", "done")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Ok | Pong | Refusal | Disconnected | None = None

    def end(self, answer: Ok | Pong | Refusal | Disconnected) -> None:
        self.answer = answer
        self.done.set()


class Client:
    """A live session, made by `connect`. Any number of tasks may use it.

    `session`, `subject`, `expires` (Unix seconds, None: never), `channels`, `limits` and `version` are what the relay
    said first. Every request raises Refused when the relay says no, and Disconnected when it is gone.
    """

    def __init__(self, socket: PlainClient, codec: Codec, hello: Hello, buffer: int) -> None:
        self.session: Final = hello.session
        self.subject = hello.subject
        self.expires = hello.expires
        self.channels: Final[Sequence[str]] = hello.channels
        self.limits: Final = hello.limits
        self.heartbeat: Final = hello.heartbeat
        self.version: Final = hello.version
        self._socket = socket
        self._encode = _encoder(codec)
        self._codec = codec
        self._events: deque[Event] = deque()
        self._buffer = buffer
        self._lost: dict[str, Gap] = {}  # by room: messages dropped here, told before the next event
        self._readers = trio.lowlevel.ParkingLot()
        self._ids = itertools.count(1)
        self._waiting: dict[RequestId, _Waiting] = {}
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
        return Membership(room, ok.epoch, ok.offset or 0, ok.recovered, ok.messages, ok.members)

    async def leave(self, room: str) -> None:
        await self._ask("leave", room=room)

    async def publish(
        self,
        room: str,
        data: Any,
        *,
        channel: str | None = None,
        key: str | None = None,
        to: str | None = None,
        echo: bool = False,
        confirm: bool = True,
    ) -> int | None:
        """Says `data`, anything the codec can express (bytes become base64 text in JSON). Returns the offset, if told.

        `key`: a newer message of the same key may replace this one for slow receivers; `to`: a subject who alone shall
        hear it; `echo`: hear it oneself. Without `confirm` nothing is waited for, and a refusal comes as an event.
        """
        say = {"room": room, "channel": channel, "key": key, "to": to, "echo": echo or None}
        if confirm:
            return (await self._ask("publish", always={"data": data}, **say)).offset
        await self._send({"t": "publish", "data": data, **_given(say)})
        return None

    async def call(self, room: str, method: str, data: Any = None, *, timeout: float | None = None) -> Any:
        """Asks the plugin of a room; its answer. `timeout` in seconds, at most the relay's own."""
        return (await self._ask("call", room=room, method=method, data=data, timeout=timeout)).data

    async def presence(self, room: str) -> list[str]:
        """The subjects in a room; of a crowd, as many as the relay lists."""
        return (await self._ask("presence", room=room)).members or []

    async def history(self, room: str, *, last: int = 0, since: Position | None = None) -> Membership:
        """The messages a room remembers: the `last` few, or all `since` a position (then `recovered` tells if all)."""
        ok = await self._ask("history", room=room, last=last or None, since=since)
        return Membership(room, ok.epoch, ok.offset or 0, ok.recovered, ok.messages)

    async def auth(self, token: str) -> float | None:
        """Renews the token on the live session. Returns when it ends, Unix seconds."""
        self.expires = (await self._ask("auth", token=token)).expires
        return self.expires

    async def ping(self) -> float:
        """Seconds to the relay and back."""
        asked = trio.current_time()
        await self._ask("ping")
        return trio.current_time() - asked

    async def _ask(self, kind: str, *, always: dict[str, Any] | None = None, **fields: Any) -> Ok:
        request = next(self._ids)
        waiting = self._waiting[request] = _Waiting()
        try:
            await self._send({"t": kind, "id": request, **(always or {}), **_given(fields)})
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

    async def _send(self, words: dict[str, Any]) -> None:
        if self._why is not None:
            await trio.lowlevel.checkpoint()
            raise self._why.again()
        try:
            await self._socket.send(self._encode(words))
        except Disconnected:
            await self._ended.wait()  # the reading side knows why: `bye` may still stand in its queue
            assert self._why is not None
            raise self._why.again() from None

    # Events.

    async def receive(self) -> Event:
        """The next event. Raises Disconnected once all that came is received."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._lost:
                return self._lost.pop(next(iter(self._lost)))
            if self._events:
                return self._events.popleft()
            if self._why is not None:
                raise self._why.again()
            await self._readers.park()

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

    async def _read(self) -> None:
        try:
            while True:
                self._take(await self._socket.receive())
        except Disconnected as why:
            self._end(self._explained(why))
            if self._socket.closed is None:  # what came was not relay.v1
                await self._socket.close(why.code, why.reason)

    def _take(self, raw: str | bytes) -> None:
        match _understood(self._codec, raw):
            case None | Hello():
                pass
            case Ok(id=request) | Pong(id=request) as answer if request in self._waiting:
                self._waiting.pop(request).end(answer)
            case Refusal(id=request) as answer if request in self._waiting:
                self._waiting.pop(request).end(answer)
            case Ok() | Pong() | Refusal(id=int() | str()):
                pass  # whoever asked was cancelled
            case event:
                if isinstance(event, Bye):
                    self._bye = event
                self._events.append(event)
                if len(self._events) > self._buffer:
                    self._drop(self._events.popleft())
                self._readers.unpark()

    def _drop(self, event: Event) -> None:
        if isinstance(event, Message | Gap):
            first, last = (event.offset, event.offset) if isinstance(event, Message) else (event.first, event.last)
            before = self._lost.get(event.room)
            if before is not None:
                first, last = min(first, before.first), max(last, before.last)
            self._lost[event.room] = Gap(event.room, first, last, "client_buffer")

    def _explained(self, why: Disconnected) -> Disconnected:
        """With what `bye` said: it knows more than a close frame can hold, and comes even where that is lost."""
        bye = self._bye
        if bye is None or why.code not in (bye.code, LOST):
            return why
        reason = f"{bye.reason} [{bye.setting}]" if bye.setting else bye.reason
        again = bye.reconnect
        return Disconnected(
            bye.code,
            reason,
            reconnect_after=None if again is None else again.after,
            reconnect_jitter=0.0 if again is None else again.jitter,
        )

    def _end(self, why: Disconnected) -> None:
        if self._why is None:
            self._why = why
            for waiting in self._waiting.values():
                waiting.end(why)
            self._ended.set()
            self._readers.unpark_all()

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
                        await self._socket.send(self._encode({"t": "ping"}))
                    except Disconnected:
                        return
                    await trio.sleep_forever()
            else:
                self._end(Disconnected(LOST, f"nothing was heard for {2 * self.heartbeat:g} s"))
                await self._socket.abandon()
                return


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _encoder(codec: Codec) -> Any:
    if codec == "msgpack":
        return msgspec.msgpack.Encoder().encode
    encode = msgspec.json.Encoder().encode
    return lambda words: encode(words).decode()


def _understood(codec: Codec, raw: str | bytes) -> FromRelay | None:
    """One message of the relay; None for a type this client does not know. Raises Disconnected: not relay.v1."""
    try:
        said: FromRelay = _DECODERS[codec](raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        try:
            known = (msgspec.json if codec == "json" else msgspec.msgpack).decode(raw, type=_Type).t
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            known = ""
        if not known or known in _KNOWN:
            raise Disconnected(1002, f"the server does not speak relay.v1: {error}") from None
        log.debug("a message of unknown type came", extra={"fields": {"type": known}})
        return None
    return said


_KNOWN: Final = frozenset(kind.__struct_config__.tag for kind in FromRelay.__args__)


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: str | None = None,
    codec: Codec = "json",
    ca_file: str | os.PathLike[str] | None = None,
    headers: Iterable[tuple[str, str]] = (),
    max_message_bytes: int = 1 << 20,
    connect_timeout: float = 10,
    buffer: int = 1000,
) -> AsyncIterator[Client]:
    """Opens a relay.v1 session for the time of the `async with`. `url` is the relay's /ws.

    `codec` "msgpack" carries bytes as they are; `buffer` is how many events may wait unread. `connect_timeout` covers
    all up to the relay's `hello`. Raises ConnectFailed, ConnectionRefused, Disconnected (refused with a close code
    instead of an HTTP status), ValueError.
    """
    if codec not in _DECODERS:
        raise ValueError(f"codec is 'json' or 'msgpack', not {codec!r}")
    started = trio.current_time()
    async with (
        connect_plain(
            url,
            token=token,
            ca_file=ca_file,
            subprotocols=[f"relay.v1.{codec}"],
            headers=headers,
            max_message_bytes=max_message_bytes,
            connect_timeout=connect_timeout,
        ) as socket,
        quiet_nursery() as nursery,
    ):
        hello = None
        with trio.move_on_at(started + connect_timeout):
            hello = _understood(codec, await socket.receive())
        if not isinstance(hello, Hello):
            raise ConnectFailed(f"no `hello` from {url}", "is that the relay's /ws?")
        client = Client(socket, codec, hello, buffer)
        nursery.start_soon(client._read)
        nursery.start_soon(client._watch)
        try:
            yield client
        finally:
            await client.close()
            nursery.cancel_scope.cancel()
