"""Echo: what one says comes back, to its sender alone. For measuring, and for conformance tests.

[plugins.echo]
rooms = "echo:*"
"""

from __future__ import annotations

from relay.plugin.api import Message, Peer, Plugin, Room


class Echo(Plugin):
    """A message goes back as it came: same payload, same channel, same key."""

    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        sender.send(room, message.data, channel=message.channel, key=message.key)
