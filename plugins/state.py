"""State: values under keys that all in a room share. Each change is told, the newest of each key survives.

    [plugins.state]
    rooms = "state:*"
    max_keys = 1000
    max_bytes = 1048576   # of one room, keys and values
    own_keys = false      # true: a subject writes its own key NAME and keys NAME/… only
    keep_seconds = 60.0   # an empty room is remembered for so long

    one publishes, with a key                 all in the room hear, in `state` with that key
    {"set": VALUE}                            {"value": VALUE, "version": N}
    {"patch": CHANGES}  a merge patch         the whole value, patched (RFC 7396)
    {"delete": true}                          {"deleted": true, "version": N}

Each may have `if_version`: the version that the key must have, 0 if it must not be there; else `version_conflict`. The
methods `set`, `patch` and `delete` do the same and answer with the version; `get` gives one value, `all` sends the
snapshot again. Versions only grow, so that none comes twice, not even in a later life of the room.

Who joins gets {"state": {KEY: {"value", "version"}, …}, "version": N} in `bulk`. It may be overtaken: of each key the
higher version is the newer.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Final, Literal

import msgspec
import trio
from msgspec import UNSET, Meta, Raw, UnsetType

from relay.plugin import api
from relay.plugin.api import Kind, Message, Payload, Peer, Plugin, Refused, Relay, Room, call

DEPTH: Final = 64  # of a merge patch
KEY_BYTES: Final = 256
Version = Annotated[int, Meta(ge=0)]


class Change(msgspec.Struct, forbid_unknown_fields=True):
    """What may be published: one of the three."""

    set: Any = UNSET
    patch: Any = UNSET
    delete: Literal[True] | UnsetType = UNSET
    if_version: Version | None = None

    def __post_init__(self) -> None:
        if sum(one is not UNSET for one in (self.set, self.patch, self.delete)) != 1:
            raise ValueError('say {"set": …}, {"patch": …} or {"delete": true}')


class Entry(msgspec.Struct, frozen=True):
    value: Raw
    version: int


class Shelf:
    """The values of one room, and what they take. `version` is that of the latest change."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.bytes = 0
        self.version = time.time_ns() // 1000  # above all that an earlier life of the room can have reached
        self.until = 0.0  # when it is forgotten, once nobody is in the room


class State(Plugin):
    """Shared values with versions, for documents, settings, cursors, lists of what is."""

    class Settings(api.Settings, frozen=True):
        max_keys: Annotated[int, Meta(ge=1, description="Keys in one room.")] = 1000
        max_bytes: Annotated[int, Meta(ge=1, description="Bytes of all keys and values of one room.")] = 1048576
        own_keys: Annotated[bool, Meta(description="A subject writes its own key NAME and keys NAME/… only.")] = False
        forget_owner: Annotated[bool, Meta(description="With own_keys: they go when their owner has left.")] = False
        keep_seconds: Annotated[float, Meta(ge=0, description="How long an empty room is remembered.")] = 0.0
        keep_bytes: Annotated[int, Meta(ge=0, description="Bytes of all empty rooms together.")] = 16777216

        def __post_init__(self) -> None:
            if self.forget_owner and not self.own_keys:
                raise ValueError("forget_owner needs own_keys")

    settings: Settings

    def __init__(self, name: str, settings: Settings, relay: Relay) -> None:
        super().__init__(name, settings, relay)
        self._kept: dict[str, Shelf] = {}  # of empty rooms, the first to be forgotten first
        self._kept_bytes = 0

    def on_reload(self, before: Any) -> None:
        self._kept, self._kept_bytes = before._kept, before._kept_bytes

    def on_open(self, room: Room) -> None:
        self._forget(trio.current_time())
        shelf = self._kept.pop(room.name, None)
        if shelf is None:
            shelf = Shelf()
        else:
            self._kept_bytes -= shelf.bytes
        room.state["shelf"] = shelf

    def on_empty(self, room: Room) -> None:
        shelf: Shelf = room.state["shelf"]
        if shelf.entries and self.settings.keep_seconds:
            now = trio.current_time()
            shelf.until = now + self.settings.keep_seconds
            self._kept[room.name] = shelf
            self._kept_bytes += shelf.bytes
            self._forget(now)

    def on_renamed(self, was: str, name: str) -> None:
        if was in self._kept:  # those that begin to be forgotten at the same time keep their order
            self._kept = {name if one == was else one: shelf for one, shelf in self._kept.items()}

    async def run(self) -> None:
        while self.settings.keep_seconds:
            await trio.sleep(self.settings.keep_seconds)
            self._forget(trio.current_time())

    def _forget(self, now: float) -> None:
        while self._kept:
            name, oldest = next(iter(self._kept.items()))
            if oldest.until > now and self._kept_bytes <= self.settings.keep_bytes:
                break
            del self._kept[name]
            self._kept_bytes -= oldest.bytes

    def on_joined(self, room: Room, peer: Peer) -> None:
        self._snapshot(room, peer)

    def on_leave(self, room: Room, peer: Peer) -> None:
        if self.settings.forget_owner and peer.subject not in room:
            shelf: Shelf = room.state["shelf"]
            for key in [key for key in shelf.entries if _owns(peer.subject, key)]:
                self._write(room, None, key, None)

    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        try:
            change = msgspec.convert(message.data.value(), Change)
        except (ValueError, RecursionError) as problem:
            raise Refused("bad_request", str(problem)) from None
        if message.key is None:
            raise Refused("bad_request", "say which value: publish with a key")
        self._change(room, sender, message.key, change)

    @call
    def set(self, room: Room, caller: Peer, key: str, value: Any, if_version: Version | None = None) -> dict[str, int]:
        return self._called(room, caller, key, Change(set=value, if_version=if_version))

    @call
    def patch(
        self, room: Room, caller: Peer, key: str, patch: Any, if_version: Version | None = None
    ) -> dict[str, int]:
        return self._called(room, caller, key, Change(patch=patch, if_version=if_version))

    @call
    def delete(self, room: Room, caller: Peer, key: str, if_version: Version | None = None) -> dict[str, int]:
        return self._called(room, caller, key, Change(delete=True, if_version=if_version))

    @call
    def get(self, room: Room, caller: Peer, key: str) -> Entry:
        """Version 0: there is none."""
        entry: Entry | None = room.state["shelf"].entries.get(key)
        return Entry(Raw(b"null"), 0) if entry is None else entry

    @call
    def all(self, room: Room, caller: Peer) -> dict[str, int]:
        """Sends the snapshot to the caller, in `bulk`."""
        self._snapshot(room, caller)
        shelf: Shelf = room.state["shelf"]
        return {"keys": len(shelf.entries), "version": shelf.version}

    def _snapshot(self, room: Room, peer: Peer) -> None:
        shelf: Shelf = room.state["shelf"]
        peer.send(room, {"state": shelf.entries, "version": shelf.version}, channel="bulk")

    def _called(self, room: Room, caller: Peer, key: str, change: Change) -> dict[str, int]:
        if not room.may_publish(caller):
            raise Refused("forbidden", "your token does not let you publish in this room")
        return {"version": self._change(room, caller, key, change)}

    def _change(self, room: Room, sender: Peer, key: str, change: Change) -> int:
        """Returns the key's new version. Raises Refused; then nothing has changed."""
        if not key or len(key.encode(errors="replace")) > KEY_BYTES:
            raise Refused("bad_request", f"a key has 1 to {KEY_BYTES} bytes")
        if self.settings.own_keys and not _owns(sender.subject, key):
            mine = _prefix(sender.subject)
            why = f"your keys are {mine!r} and those that begin with {mine + '/'!r}"
            raise Refused("forbidden", why, setting=f"plugins.{self.name}.own_keys")
        entry: Entry | None = room.state["shelf"].entries.get(key)
        there = 0 if entry is None else entry.version
        if change.if_version is not None and change.if_version != there:
            raise Refused("version_conflict", f"the version of {key!r} is {there}")
        if change.delete is not UNSET:
            return there if entry is None else self._write(room, sender, key, None)
        try:
            if change.patch is UNSET:
                value = change.set
            else:
                value = merged(None if entry is None else msgspec.json.decode(entry.value), change.patch)
            return self._write(room, sender, key, msgspec.json.encode(value))
        except (TypeError, ValueError, RecursionError, OverflowError):
            raise Refused("bad_request", "JSON cannot express the value, or it is nested too deep") from None

    def _write(self, room: Room, sender: Peer | None, key: str, value: bytes | None) -> int:
        """A value, or None to delete it."""
        shelf: Shelf = room.state["shelf"]
        before = shelf.entries.get(key)
        size = shelf.bytes - (0 if before is None else _size(key, before.value))
        if value is None:
            said = b'{"deleted":true,"version":%d}' % (shelf.version + 1)
        else:
            size += _size(key, value)
            if before is None and len(shelf.entries) >= self.settings.max_keys:
                raise Refused("too_large", "the room has all its keys", setting=f"plugins.{self.name}.max_keys")
            if size > self.settings.max_bytes:
                raise Refused("too_large", "the room's values are too large", setting=f"plugins.{self.name}.max_bytes")
            said = b'{"value":%b,"version":%d}' % (value, shelf.version + 1)
        # Whoever said it hears it too: of two who write at once, both must know who was the later.
        room.broadcast(Payload(Kind.JSON, said), sender=sender, channel="state", key=key, echo=True)
        shelf.version += 1
        shelf.bytes = size
        if value is None:
            del shelf.entries[key]
        else:
            shelf.entries[key] = Entry(Raw(value), shelf.version)
        return shelf.version


def merged(value: Any, patch: Any, depth: int = DEPTH) -> Any:
    """A value with a merge patch applied (RFC 7396 section 2). Raises ValueError beyond that depth."""
    if not isinstance(patch, dict):
        return patch
    if not depth:
        raise ValueError("nested too deep")
    result = dict(value) if isinstance(value, dict) else {}
    for name, change in patch.items():
        if change is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), change, depth - 1)
    return result


def _size(key: str, value: bytes | Raw) -> int:
    return len(key.encode(errors="replace")) + memoryview(value).nbytes


def _prefix(subject: str) -> str:
    """`/` in a subject is percent-encoded: ann's keys are never those of `ann/b`."""
    return subject.replace("%", "%25").replace("/", "%2F")


def _owns(subject: str, key: str) -> bool:
    mine = _prefix(subject)
    return key == mine or key.startswith(mine + "/")
