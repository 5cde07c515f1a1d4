"""Direct: one to one, by subject. The room's name says whose it is, and nobody else gets in.

    [plugins.direct]
    rooms = "direct:*"

The room of ann and bob is `direct:ann:bob`: the part that the pattern begins with, then the two subjects in order. In
order means by code points, so that two people have one room, however it is come by; the other order is refused, and
the refusal names the right room. Inside a subject, what would not do in a name is percent-encoded as UTF-8, as in a
URL: `%`, `:`, `*`, `{`, `}`, spaces and controls (`a:b` is written `a%3Ab`); all else stands as it is, so that the
grant `direct:{sub}:*` fits `ann@example.com`.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from relay.plugin.api import Message, Peer, Plugin, Refused, Room

_ENCODED: Final = re.compile(r"[%:*{}\s\x00-\x1f\x7f-\x9f]")


def room_name(prefix: str, one: str, other: str) -> str:
    """The room of two subjects. `prefix` ends before a colon: "direct"."""
    return ":".join((prefix, *sorted(map(_written, (one, other)))))


def _written(subject: str) -> str:
    return _ENCODED.sub(lambda found: quote(found[0], safe=""), subject)


class Direct(Plugin):
    """What one says, the other hears, on all connections; and so do the speaker's own other connections."""

    def on_open(self, room: Room) -> None:
        prefix, *pair = room.name.rsplit(":", 2)
        if len(pair) != 2:
            raise Refused("bad_room", f"a room of two is named {room_name(prefix.split(':')[0], 'ann', 'bob')}")
        if pair != sorted(pair):
            raise Refused("bad_room", f"the room of these two is {':'.join((prefix, *sorted(pair)))}")
        room.state["between"] = frozenset(pair)

    def on_join(self, room: Room, peer: Peer) -> None:
        if _written(peer.subject) not in room.state["between"]:
            raise Refused("forbidden", "this room belongs to two others")

    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        self.on_join(room, sender)  # a token may let one publish without joining
        room.broadcast(message, sender=sender)
