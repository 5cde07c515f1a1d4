"""Chat: what one says, all others in the room hear.

[plugins.chat]
rooms = ["lobby", "chat:*"]
history = 100     # the last hundred lines are there for whoever comes, or comes back
presence = true   # members see who joins and leaves
"""

from __future__ import annotations

from relay.plugin.api import Message, Peer, Plugin, Room


class Chat(Plugin):
    """A message goes to all in the room but its sender (unless it asks for an echo), in the channel that it names."""

    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        room.broadcast(message, sender=sender)
