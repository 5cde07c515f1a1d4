"""A chat in which an HTTP service looks at every message before anybody hears it.

    [plugins.moderated]
    rooms = "kids:*"
    history = 50
    hook_timeout = 3
    url = "https://moderation.example/check"

The service gets {"from": subject, "text": message} and answers {"ok": true}, or {"ok": false, "why": "..."}. While it
cannot be reached nothing is said: the hook is async, so only the sender waits.
"""

from __future__ import annotations

from typing import Annotated

import httpx2
import msgspec
import trio
from msgspec import Meta

from relay.plugin import api
from relay.plugin.api import Message, Peer, Plugin, Refused, Relay, Room


class Verdict(msgspec.Struct):
    ok: bool
    why: str = "that is not said here"


class Moderated(Plugin):
    class Settings(api.Settings, frozen=True):
        url: Annotated[str, Meta(pattern="^https?://", description="The service that is asked.")]

    settings: Settings

    def __init__(self, name: str, settings: Settings, relay: Relay) -> None:
        super().__init__(name, settings, relay)
        self.client = httpx2.AsyncClient()

    async def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        try:
            question = {"from": sender.subject, "text": message.data.text()}
        except UnicodeDecodeError:
            raise Refused("bad_request", "text only") from None
        try:
            answer = await self.client.post(self.settings.url, json=question)
            verdict = msgspec.json.decode(answer.raise_for_status().content, type=Verdict)
        except (httpx2.HTTPError, msgspec.DecodeError):
            raise Refused("unchecked", "messages cannot be checked just now", retry_after=5) from None
        if not verdict.ok:
            raise Refused("moderated", verdict.why)
        room.broadcast(message, sender=sender)

    async def run(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(1, shield=True):
                await self.client.aclose()
