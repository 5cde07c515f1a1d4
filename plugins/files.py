"""Files: what one publishes, all in the room get, in parts that let everything else pass. The newest are kept.

    [plugins.files]
    rooms = "files:*"
    max_bytes = 4194304
    keep = 10

A file is a binary message; its `key` is the file's name. The others hear of it before it comes: {"file": NAME, "size":
BYTES, "from": SUBJECT} in `default`. The file itself follows in `bulk`, with its name as key; relay.v1 clients see how
far it has come. With `to`, one subject alone gets it, and it is not kept.

A client may `call` two methods: `list` gives the files that are kept, oldest first, as they were announced; `get` with
a name has it sent to the caller, in `bulk`. Fetch one after another: what does not fit into the channel any more is
dropped. `max_bytes` is of use up to `limits.parted_message_bytes` and `channels.bulk.capacity`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from relay.plugin import api
from relay.plugin.api import Kind, Message, Payload, Peer, Plugin, Refused, Relay, Room

_NAME: Final = re.compile(
    r"(?!\.{1,2}$)[^/\\\x00-\x1f\x7f]{1,200}"
)  # of a file, not of a path: it may end up on a disk


class File(msgspec.Struct, frozen=True, eq=False):
    """`shelf` is where its room keeps it, by name."""

    name: str
    data: Payload
    sender: str
    shelf: dict[str, File]

    def about(self) -> dict[str, Any]:
        return {"file": self.name, "size": len(self.data), "from": self.sender}


class Files(Plugin):
    """A room to hand files around in, and to fetch the newest ones from."""

    class Settings(api.Settings, frozen=True):
        max_bytes: Annotated[int, Meta(ge=1, description="Largest file, bytes.")] = 4194304
        keep: Annotated[int, Meta(ge=0, description="Files kept in each room for those who come later.")] = 10
        keep_bytes: Annotated[int, Meta(ge=0, description="Bytes kept in all rooms together.")] = 67108864

    settings: Settings

    def __init__(self, name: str, settings: Settings, relay: Relay) -> None:
        super().__init__(name, settings, relay)
        self._kept: dict[File, None] = {}  # of all rooms, oldest first
        self._bytes = 0

    def on_reload(self, before: Any) -> None:
        self._kept, self._bytes = before._kept, before._bytes

    def on_open(self, room: Room) -> None:
        room.state["shelf"] = {}

    def on_empty(self, room: Room) -> None:
        for file in list(room.state["shelf"].values()):
            self._drop(file)

    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        if sender.subject not in room:  # a token may let one publish without joining
            raise Refused("not_joined")
        kind, data = message.data.plain()
        if kind is not Kind.BINARY:
            raise Refused("bad_request", "a file is a binary message")
        if message.key is None or not _NAME.fullmatch(message.key):
            raise Refused("bad_request", "the key is the file's name: up to 200 characters without slashes")
        if len(data) > self.settings.max_bytes:
            raise Refused("too_large", "the file is too large", setting=f"plugins.{self.name}.max_bytes")
        file = File(message.key, Payload(Kind.BINARY, data), sender.subject, room.state["shelf"])
        for said, channel, key in ((Payload.of(file.about()), "default", None), (file.data, "bulk", file.name)):
            told = Message(room.name, said, sender.subject, channel, key, message.to, message.echo)
            room.broadcast(told, sender=sender)
        if message.to is None:
            self._keep(file)

    def on_call(self, room: Room, caller: Peer, method: str, data: Payload | None) -> Any:
        shelf: dict[str, File] = room.state["shelf"]
        if method == "list":
            return [file.about() for file in shelf.values()]
        if method != "get":
            raise Refused("no_such_method", "methods are `list` and `get`")
        name = None if data is None else data.value()
        file = shelf.get(name) if isinstance(name, str) else None
        if file is None:
            raise Refused("no_such_file", "no file of that name is kept")
        caller.send(room, file.data, channel="bulk", key=file.name)
        return file.about()

    def _keep(self, file: File) -> None:
        if file.name in file.shelf:
            self._drop(file.shelf[file.name])
        file.shelf[file.name] = file
        self._kept[file] = None
        self._bytes += len(file.data)
        if len(file.shelf) > self.settings.keep:
            self._drop(next(iter(file.shelf.values())))
        while self._bytes > self.settings.keep_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, file: File) -> None:
        del self._kept[file]
        del file.shelf[file.name]
        self._bytes -= len(file.data)
