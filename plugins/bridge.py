"""Bridge: joins another WebSocket service as a client, and relays it into a room.

    [plugins.bridge]
    rooms = "prices"
    room = "prices"
    url = "wss://feed.example/rooms/prices"
    token_file = "certs/feed-token"
    direction = "in"                  # "in": we hear them; "out": they hear us; "both"

One message there is one message here: text stays text, binary stays binary, and nothing else is carried over. What
comes from there is never sent back there. A member with the subject of the bridge's own token is refused, because that
is the bridge itself: it would hear what it says. For the same reason two relays need one bridge with direction "both",
not one in each of them. Delivery is at most once. While the other side is away or slow, what is said here waits, up to
`queue_bytes`; then it is dropped and counted. A client may `call` the method `status`.
"""

from __future__ import annotations

import logging
import math
import random
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import jwt
import trio
from msgspec import Meta, field

from relay.client import ClientError, Disconnected, PlainClient, connect_plain
from relay.plugin import api
from relay.plugin.api import Kind, Message, Payload, Peer, Plugin, Refused, Relay, Room

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Bridge(Plugin):
    """Members hear one another, as in a chat, and the other side with its own members too."""

    class Settings(api.Settings, frozen=True):
        url: Annotated[str, Meta(description="The other service: wss://… (ws:// for tests on the same machine).")]
        room: Annotated[str, Meta(description="The room here; one of `rooms`.")]
        direction: Annotated[Literal["in", "out", "both"], Meta(description="Who hears whom.")] = "both"
        token: Annotated[str, Meta(description="Sent as Authorization: Bearer; better in token_file.")] = ""
        token_file: Annotated[str, Meta(description="File with the token; read again for every connection.")] = ""
        ca_file: Annotated[str, Meta(description="PEM file of the authorities trusted; empty: the system's.")] = ""
        subprotocols: Annotated[list[str], Meta(description="Subprotocols to offer.")] = field(default_factory=list)
        max_message_bytes: Annotated[int, Meta(ge=1, description="Largest message taken from there.")] = 65536
        queue_bytes: Annotated[int, Meta(ge=1024, description="Bytes that may wait to be sent there.")] = 1048576
        reconnect_min: Annotated[float, Meta(gt=0, description="Seconds until the first new attempt.")] = 1.0
        reconnect_max: Annotated[float, Meta(gt=0, description="Most seconds between two attempts.")] = 60.0

        def __post_init__(self) -> None:
            parts = urlsplit(self.url)
            if parts.scheme not in ("ws", "wss") or not parts.hostname:
                raise ValueError("url must be wss://HOST/…, or ws://")
            if self.token and self.token_file:
                raise ValueError("set token or token_file, not both")
            if parts.scheme == "ws" and (self.token or self.token_file) and parts.hostname not in LOOPBACK:
                raise ValueError("a token must not travel unencrypted: use wss://")

        def __repr__(self) -> str:  # its url and token may be secrets
            return f"<settings of a bridge into {self.room}>"

    settings: Settings

    def __init__(self, name: str, settings: Settings, relay: Relay) -> None:
        super().__init__(name, settings, relay)
        self._log = logging.getLogger(f"relay.plugin.{name}")
        self._put, self._take = trio.open_memory_channel[str | bytes](math.inf)  # bounded in bytes, by `_send_later`
        self._waiting = 0
        self._subject: str | None = None
        self._status = {"connected": False, "sent": 0, "received": 0, "dropped": 0}

    def on_open(self, room: Room) -> None:
        if room.name != self.settings.room:
            raise Refused("no_such_room", "the bridge leads into another room", setting=f"plugins.{self.name}.room")

    def on_join(self, room: Room, peer: Peer) -> None:
        if peer.subject == self._subject:
            raise Refused("loop", "this is the bridge itself, or a client with its token")

    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        if self.settings.direction == "in":
            raise Refused("forbidden", "here one only listens", setting=f"plugins.{self.name}.direction")
        self.on_join(room, sender)  # a token may let one publish without joining
        room.broadcast(message, sender=sender)
        if message.to is None:
            kind, data = message.data.plain()
            self._send_later(data.decode() if kind is Kind.TEXT else data, len(data))

    def on_call(self, room: Room, caller: Peer, method: str, data: Payload | None) -> dict[str, Any]:
        """`status`: whether the other side is there, and messages sent, received and dropped."""
        if method != "status":
            raise Refused("no_such_method", "a bridge knows the method `status`")
        return self._status

    async def run(self) -> None:
        settings, pause = self.settings, self.settings.reconnect_min
        while True:
            began, asked = trio.current_time(), 0.0
            try:
                why = await self._connected()
                asked = (why.reconnect_after or 0.0) + why.reconnect_jitter * _chance()
                self._log.warning("the other side is gone: %s", why)
            except (ClientError, OSError) as problem:
                self._log.warning("no connection to the other side: %s", problem)
            if trio.current_time() - began > settings.reconnect_max:
                pause = settings.reconnect_min
            await trio.sleep(max(asked, pause * (1 - _chance() / 2)))
            pause = min(pause * 2, settings.reconnect_max)

    async def _connected(self) -> Disconnected:
        """One connection, from handshake to why it ended. Raises ClientError if there was none, OSError for files."""
        settings = self.settings
        token = settings.token
        if settings.token_file:
            token = (await self.relay.to_thread(Path(settings.token_file).read_text)).strip()
        self._subject = _subject(token)
        async with (
            connect_plain(
                settings.url,
                token=token or None,
                ca_file=settings.ca_file or None,
                subprotocols=settings.subprotocols,
                max_message_bytes=settings.max_message_bytes,
            ) as remote,
            trio.open_nursery() as nursery,
        ):
            self._log.info("connected with the other side")
            self._status["connected"] = True
            try:
                nursery.start_soon(self._send, remote)
                return await self._receive(remote)
            finally:
                self._status["connected"] = False
                nursery.cancel_scope.cancel()

    async def _receive(self, remote: PlainClient) -> Disconnected:
        while True:
            try:
                data = await remote.receive()
            except Disconnected as why:
                return why
            if self.settings.direction != "out":
                self._status["received"] += 1
                self.relay.publish(self.settings.room, data)

    async def _send(self, remote: PlainClient) -> None:
        async for data in self._take:
            self._waiting -= _size(data)
            try:
                await remote.send(data)
            except Disconnected:
                self._status["dropped"] += 1
                return
            except trio.Cancelled:
                self._status["dropped"] += 1
                raise
            self._status["sent"] += 1

    def _send_later(self, data: str | bytes, size: int) -> None:
        if self._waiting + size > self.settings.queue_bytes:
            if not self._status["dropped"]:
                self._log.warning("plugins.%s.queue_bytes is used up: messages are dropped", self.name)
            self._status["dropped"] += 1
            return
        self._waiting += size
        self._put.send_nowait(data)


def _size(data: str | bytes) -> int:
    return len(data.encode() if isinstance(data, str) else data)


def _chance() -> float:
    return random.random()  # noqa: S311 - spreads reconnects, no secret


def _subject(token: str) -> str | None:
    """Whose token it is, if it is a JWT; nothing is decided by it but whether the bridge met itself."""
    try:
        subject = jwt.decode(token, options={"verify_signature": False}).get("sub")
    except jwt.InvalidTokenError:
        return None
    return subject if isinstance(subject, str) else None
