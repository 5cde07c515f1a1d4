"""Signalling: members of a room find each other for WebRTC, and exchange offers, answers and candidates.

    [plugins.signalling]
    rooms = "call:*"
    ice_servers = [{ urls = ["stun:stun.example.org:3478"] }, { urls = ["turn:turn.example.org:3478"] }]
    turn_secret_file = "turn.secret"   # coturn's static-auth-secret: whoever joins gets credentials of its own

    one publishes                                         the one in `to` hears, with `from` (session) and `subject`
    {"to": SESSION, "type": "offer", "sdp": SDP}          {"type": "offer", "sdp": SDP}
    {"to": SESSION, "type": "answer", "sdp": SDP}         {"type": "answer", "sdp": SDP}
    {"to": SESSION, "type": "candidate", "candidate": …}  {"type": "candidate", "candidate": {…} or null}
    {"to": SESSION, "type": "bye"}                        {"type": "bye"}

A peer is a connection, named by its session: two tabs of one subject are two. `to` may name a subject too: all its
connections hear it, as phones that ring together. Who joins gets {"type": "welcome", "session", "peers", "ice_servers",
"expires"}, the others {"type": "joined", …}; later {"type": "left", "session"}. `polite` says who gives way when both
offer at once (the newcomer), as "perfect negotiation" wants it. Media never pass the relay.
"""

from __future__ import annotations

import base64
import hmac
import re
import time
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import trio
from msgspec import Meta, field

from relay.plugin import api
from relay.plugin.api import Message, Peer, Plugin, Refused, Relay, Room, call

_ICE_URL: Final = re.compile(r"(stuns?|turns?):[^\s?]+(\?transport=(udp|tcp))?")  # RFC 7064 and 7065
BURST: Final = 5.0  # seconds of its rate that a peer may use up at once: candidates come in handfuls


class IceServer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """As a browser's RTCIceServer."""

    urls: list[str]
    username: str = ""
    credential: str = ""

    def __post_init__(self) -> None:
        for url in self.urls:
            if not _ICE_URL.fullmatch(url):
                raise ValueError(f"{url!r} is no address of a STUN or TURN server, as in stun:stun.example.org:3478")

    @property
    def relays(self) -> bool:
        return any(url.startswith("turn") for url in self.urls)


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """As a browser's RTCIceCandidate.toJSON() gives it (W3C WebRTC section 4.8.1)."""

    candidate: Annotated[str, Meta(max_length=2048, pattern=r"^(candidate:[^\r\n\x00]*)?$")]
    sdp_mid: Annotated[str, Meta(max_length=64)] | None = None
    sdp_m_line_index: Annotated[int, Meta(ge=0, le=1023)] | None = field(name="sdpMLineIndex", default=None)
    username_fragment: Annotated[str, Meta(max_length=256)] | None = None


class Signal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be published."""

    to: Annotated[str, Meta(min_length=1)]
    type: Literal["offer", "answer", "candidate", "bye"]
    sdp: Annotated[str, Meta(pattern=r"^v=0\r?\n[^\x00]*$")] | None = None
    candidate: Candidate | None = None

    def __post_init__(self) -> None:
        if (self.type in ("offer", "answer")) != (self.sdp is not None):
            raise ValueError("an offer and an answer have `sdp`, and nothing else has")
        if self.candidate is not None and self.type != "candidate":
            raise ValueError("`candidate` goes with the type candidate")


class Signalling(Plugin):
    """A room of peers that connect to each other."""

    class Settings(api.Settings, frozen=True):
        ice_servers: Annotated[list[IceServer], Meta(description="What peers are told of STUN and TURN.")] = field(
            default_factory=list
        )
        turn_secret: Annotated[str, Meta(description="Makes time-limited credentials for turn: servers.")] = ""
        turn_secret_file: Annotated[str, Meta(description="The same from a file.")] = ""
        turn_seconds: Annotated[int, Meta(ge=60, description="How long such credentials are good.")] = 86400
        max_peers: Annotated[int, Meta(ge=2, description="Most connections in a room.")] = 16
        max_sdp_bytes: Annotated[int, Meta(ge=1024, description="Largest offer or answer, bytes.")] = 65536
        rate: Annotated[
            float, Meta(gt=0, description="Messages a second of one peer, after a burst of five times.")
        ] = 20.0

        def __post_init__(self) -> None:
            if self.turn_secret and self.turn_secret_file:
                raise ValueError("turn_secret and turn_secret_file are two ways to say one thing")

    settings: Settings

    def __init__(self, name: str, settings: Settings, relay: Relay) -> None:
        super().__init__(name, settings, relay)
        secret = settings.turn_secret
        if settings.turn_secret_file:
            secret = Path(settings.turn_secret_file).read_text().strip()
            if not secret:
                raise ValueError(f"{settings.turn_secret_file} is empty")
        self._secret = secret.encode()

    def on_open(self, room: Room) -> None:
        room.state["peers"] = {}  # by session, the first to come first
        room.state["spent"] = {}  # by session: when what it has said will have been paid for

    def on_join(self, room: Room, peer: Peer) -> None:
        if len(room) >= self.settings.max_peers:
            raise Refused("room_full", "the room has all its peers", setting=f"plugins.{self.name}.max_peers")

    def on_joined(self, room: Room, peer: Peer) -> None:
        peers: dict[str, Peer] = room.state["peers"]
        others = [{"session": one.session, "subject": one.subject, "polite": True} for one in peers.values()]
        peer.send(room, {"type": "welcome", "session": peer.session, "peers": others, **self._ice(peer.subject)})
        joined = {"type": "joined", "session": peer.session, "subject": peer.subject, "polite": False}
        for one in peers.values():
            one.send(room, joined)
        peers[peer.session] = peer

    def on_leave(self, room: Room, peer: Peer) -> None:
        room.state["spent"].pop(peer.session, None)
        if room.state["peers"].pop(peer.session, None) is not None:
            for one in room.state["peers"].values():
                one.send(room, {"type": "left", "session": peer.session})

    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        if sender.session not in room.state["peers"]:  # a token may let one publish without joining
            raise Refused("not_joined")
        self._pace(room, sender)
        if len(message.data) > self.settings.max_sdp_bytes:
            setting = f"plugins.{self.name}.max_sdp_bytes"
            raise Refused("too_large", "the description is too large", setting=setting)
        try:
            signal = msgspec.convert(message.data.value(), Signal)
        except (ValueError, RecursionError) as problem:
            raise Refused("bad_request", str(problem)) from None
        said: dict[str, Any] = {"type": signal.type, "from": sender.session, "subject": sender.subject}
        if signal.sdp is not None:
            said["sdp"] = signal.sdp
        elif signal.type == "candidate":
            said["candidate"] = signal.candidate
        for one in self._called(room, sender, signal.to):
            one.send(room, said)

    @call
    def ice(self, room: Room, caller: Peer) -> dict[str, Any]:
        """Fresh credentials, for a call that lasts longer than they do."""
        return self._ice(caller.subject)

    @call
    def peers(self, room: Room, caller: Peer) -> list[dict[str, str]]:
        return [{"session": one.session, "subject": one.subject} for one in room.state["peers"].values()]

    @staticmethod
    def _called(room: Room, sender: Peer, to: str) -> list[Peer]:
        """Whom `to` means: a session, else the connections of a subject. Raises Refused."""
        peers: dict[str, Peer] = room.state["peers"]
        found = [peers[to]] if to in peers else [one for one in peers.values() if one.subject == to]
        found = [one for one in found if one is not sender]
        if not found:
            raise Refused("no_such_subject", "no other peer of that session or subject is in the room")
        return found

    def _pace(self, room: Room, sender: Peer) -> None:
        """A leaky bucket for each peer. Raises Refused."""
        now = trio.current_time()
        spent = max(room.state["spent"].get(sender.session, 0.0), now)
        if spent - now >= BURST:
            setting = f"plugins.{self.name}.rate"
            raise Refused("rate_limited", retry_after=spent - now - BURST + 1 / self.settings.rate, setting=setting)
        room.state["spent"][sender.session] = spent + 1 / self.settings.rate

    def _ice(self, subject: str) -> dict[str, Any]:
        """The servers, and when their credentials end (Unix time, null: never)."""
        servers = self.settings.ice_servers
        if not self._secret:
            return {"ice_servers": servers, "expires": None}
        expires = int(time.time()) + self.settings.turn_seconds
        username, credential = turn_credentials(self._secret, subject, expires)
        given = [IceServer(one.urls, username, credential) if one.relays else one for one in servers]
        return {"ice_servers": given, "expires": expires}


def turn_credentials(secret: bytes, subject: str, expires: int) -> tuple[str, str]:
    """For a TURN server with the same secret: name and password (coturn's `use-auth-secret`; SHA-1 is its choice)."""
    username = f"{expires}:{subject}"
    return username, base64.b64encode(hmac.digest(secret, username.encode(), "sha1")).decode()
