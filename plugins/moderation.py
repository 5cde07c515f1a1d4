"""Moderation, in front of other plugins' rooms: mute, ban, slow mode, and words that nobody shall say.

    [plugins.moderation]
    filters = ["chat:*", "lobby"]
    moderators = ["ann"]          # subjects
    words = ["darn"]              # whole words, in any case
    action = "mask"               # or "refuse"
    file = "moderation.json"      # bans, mutes and slow modes outlive a restart

A moderator calls, in a room that it stands in front of: `moderation.mute` and `moderation.ban` (`subject`, `seconds`,
0: for ever, `reason`, `everywhere`), `moderation.unmute`, `moderation.unban`, `moderation.slow` (`seconds` between two
messages of a subject), `moderation.list`. With `token_grant`, whoever's token grants calls in `moderation:ROOM`
moderates ROOM. Who is banned is put out at once. A page for those in `moderators`: GET /plugins/moderation/list.
"""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import trio
from msgspec import Meta, field

from relay.plugin import api
from relay.plugin.api import Message, Payload, Peer, Plugin, Refused, Relay, Room, WebRequest, call, route

EVERYWHERE: Final = ""
SPOKE: Final = "moderation"
"""Where a room's state has who spoke when."""
Subject = Annotated[str, Meta(min_length=1, max_length=255)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Reason = Annotated[str, Meta(max_length=200)]


class Sentence(msgspec.Struct, frozen=True):
    """`until` is Unix time, 0: for ever; `room` "": everywhere."""

    what: Literal["ban", "mute"]
    room: str
    subject: str
    until: float
    by: str
    reason: str = ""


class Record(msgspec.Struct):
    """What the file holds."""

    sentences: list[Sentence] = field(default_factory=list)
    slow: dict[str, float] = field(default_factory=dict)


class Moderation(Plugin):
    """Looks at joins and messages before the room's owner does."""

    class Settings(api.Settings, frozen=True):
        moderators: Annotated[list[str], Meta(description="Subjects that moderate all rooms.")] = field(
            default_factory=list
        )
        token_grant: Annotated[bool, Meta(description="Who may call in NAME:ROOM moderates ROOM.")] = False
        words: Annotated[list[str], Meta(description="Words that nobody shall say.")] = field(default_factory=list)
        words_file: Annotated[str, Meta(description="More of them, one a line.")] = ""
        action: Annotated[Literal["refuse", "mask"], Meta(description="What becomes of them.")] = "refuse"
        slow_seconds: Annotated[float, Meta(ge=0, description="Slow mode of all rooms; 0: none.")] = 0.0
        file: Annotated[str, Meta(description="Where bans, mutes and slow modes are kept.")] = ""
        max_entries: Annotated[int, Meta(ge=1, description="Most bans and mutes, and slow modes.")] = 10000

        def __post_init__(self) -> None:
            if any(not word.strip() for word in self.words):
                raise ValueError("a word in `words` is empty")

    settings: Settings

    def __init__(self, name: str, settings: Settings, relay: Relay) -> None:
        super().__init__(name, settings, relay)
        words = list(settings.words)
        if settings.words_file:
            words += filter(None, map(str.strip, Path(settings.words_file).read_text().splitlines()))
        self._words = word_pattern(words) if words else None
        self._sentences: dict[tuple[str, str, str], Sentence] = {}
        self._slow: dict[str, float] = {}
        self._changed = trio.Event()
        self._writing = threading.Lock()  # the last writer at the end may meet the one before it
        self._encoded_last = self._written_last = 0
        if settings.file and Path(settings.file).exists():
            record = msgspec.json.decode(Path(settings.file).read_bytes(), type=Record)
            self._sentences = {(one.what, one.room, one.subject): one for one in record.sentences}
            self._slow = record.slow
        self._refused = relay.counter("moderation_refused", "Joins and messages that were refused.", ["why"])
        self._acted = relay.counter("moderation_acts", "What moderators did.", ["what"])

    def on_reload(self, before: Any) -> None:
        self._sentences, self._slow = before._sentences, before._slow

    def on_renamed(self, was: str, name: str) -> None:
        """Whoever is banned from a room is banned from it, whatever it is called."""
        moved = [one for one in self._sentences.values() if one.room == was]
        for one in moved:
            del self._sentences[one.what, was, one.subject]
            self._sentences[one.what, name, one.subject] = msgspec.structs.replace(one, room=name)
        slow = self._slow.pop(was, None)
        if slow is not None:
            self._slow[name] = slow
        if moved or slow is not None:
            self._changed.set()

    def filter_join(self, room: Room, peer: Peer) -> None:
        self._check("ban", room, peer)

    def filter_message(self, room: Room, sender: Peer, message: Message) -> Message | None:
        self._check("ban", room, sender)  # a token may let one publish without joining
        self._check("mute", room, sender)
        said = None if self._words is None else self._cleaned(message)
        self._pace(room, sender)
        return said

    def _check(self, what: str, room: Room, peer: Peer) -> None:
        for place in (EVERYWHERE, room.name):
            sentence = self._sentences.get((what, place, peer.subject))
            if sentence is not None:
                left = sentence.until - time.time()
                if not sentence.until or left > 0:
                    self._refused.add(1, what)
                    after = round(left, 1) if sentence.until else None
                    raise Refused("banned" if what == "ban" else "muted", sentence.reason, retry_after=after)

    def _pace(self, room: Room, sender: Peer) -> None:
        seconds = self._slow.get(room.name, self.settings.slow_seconds)
        if seconds and not self._moderates(room, sender):
            now = trio.current_time()
            spoke: dict[str, float] = room.state.setdefault(SPOKE, {})
            ready = spoke.get(sender.subject, -seconds) + seconds
            if ready > now:
                self._refused.add(1, "slow_mode")
                setting = None if room.name in self._slow else f"plugins.{self.name}.slow_seconds"
                why = f"one message every {seconds:g} s in this room"
                raise Refused("slow_mode", why, retry_after=round(ready - now, 1), setting=setting)
            if len(spoke) >= 1000:
                for subject in [subject for subject, at in spoke.items() if at + seconds <= now]:
                    del spoke[subject]
            spoke[sender.subject] = now

    def _cleaned(self, message: Message) -> Message | None:
        """The message without the words; None: there are none. Raises Refused."""
        try:
            value = message.data.value()
            clean = self._clean(value)
        except (ValueError, RecursionError):
            raise Refused("bad_request", "the message cannot be read, or is nested too deep") from None
        if clean == value:
            return None
        if self.settings.action == "refuse":
            self._refused.add(1, "language")
            raise Refused("language", "mind your words", setting=f"plugins.{self.name}.words")
        return msgspec.structs.replace(message, data=Payload.of(clean))

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            assert self._words is not None
            return self._words.sub(lambda found: "*" * len(found[0]), value)
        if isinstance(value, list):
            return [self._clean(one) for one in value]
        if isinstance(value, dict):
            return {self._clean(key): self._clean(one) for key, one in value.items()}
        return value

    # What moderators do.

    @call
    def mute(
        self, room: Room, caller: Peer, subject: Subject, seconds: Seconds = 600.0, reason: Reason = "",
        everywhere: bool = False,
    ) -> None:  # fmt: skip
        self._may(room, caller, everywhere)
        self._sentence("mute", EVERYWHERE if everywhere else room.name, subject, seconds, caller.subject, reason)

    @call
    def ban(
        self, room: Room, caller: Peer, subject: Subject, seconds: Seconds = 0.0, reason: Reason = "",
        everywhere: bool = False,
    ) -> None:  # fmt: skip
        self._may(room, caller, everywhere)
        self._sentence("ban", EVERYWHERE if everywhere else room.name, subject, seconds, caller.subject, reason)

    @call
    def unmute(self, room: Room, caller: Peer, subject: Subject, everywhere: bool = False) -> bool:
        self._may(room, caller, everywhere)
        return self._pardon("mute", EVERYWHERE if everywhere else room.name, subject, caller.subject)

    @call
    def unban(self, room: Room, caller: Peer, subject: Subject, everywhere: bool = False) -> bool:
        self._may(room, caller, everywhere)
        return self._pardon("ban", EVERYWHERE if everywhere else room.name, subject, caller.subject)

    @call
    def slow(self, room: Room, caller: Peer, seconds: Annotated[float, Meta(ge=0, le=86400)]) -> None:
        """0: no slow mode here, whatever the settings say."""
        self._may(room, caller, False)
        if room.name not in self._slow and len(self._slow) >= self.settings.max_entries:
            raise Refused("too_large", "too many slow modes", setting=f"plugins.{self.name}.max_entries")
        self._slow[room.name] = seconds
        self._note("slow", room.name, f"{seconds:g} s", caller.subject)

    @call
    def list(self, room: Room, caller: Peer) -> dict[str, Any]:
        self._may(room, caller, False)
        found = [one for one in self._in_force() if one.room in (EVERYWHERE, room.name)]
        return {"sentences": found, "slow": self._slow.get(room.name, self.settings.slow_seconds)}

    @route("GET", "/list")
    def listed(self, request: WebRequest) -> Record:
        """All that is in force; `?room=` and `?subject=` narrow it."""
        if request.subject not in self.settings.moderators:
            raise Refused("forbidden", "for moderators", setting=f"plugins.{self.name}.moderators")
        wanted = {key: request.query[key] for key in ("room", "subject") if key in request.query}
        found = [one for one in self._in_force() if all(getattr(one, key) == value for key, value in wanted.items())]
        return Record(found, self._slow)

    def _moderates(self, room: Room, peer: Peer) -> bool:
        if peer.subject in self.settings.moderators:
            return True
        return self.settings.token_grant and peer.may_call(f"{self.name}:{room.name}")

    def _may(self, room: Room, caller: Peer, everywhere: bool) -> None:
        if everywhere and caller.subject not in self.settings.moderators:
            raise Refused("forbidden", "you moderate this room alone", setting=f"plugins.{self.name}.moderators")
        if not self._moderates(room, caller):
            raise Refused("forbidden", "for moderators", setting=f"plugins.{self.name}.moderators")

    def _sentence(
        self, what: Literal["ban", "mute"], place: str, subject: str, seconds: float, by: str, reason: str
    ) -> None:
        if subject in self.settings.moderators:
            raise Refused("forbidden", "moderators are left alone", setting=f"plugins.{self.name}.moderators")
        if (what, place, subject) not in self._sentences and len(self._sentences) >= self.settings.max_entries:
            self._sentences = {(one.what, one.room, one.subject): one for one in self._in_force()}
            if len(self._sentences) >= self.settings.max_entries:
                raise Refused("too_large", "too many bans and mutes", setting=f"plugins.{self.name}.max_entries")
        until = time.time() + seconds if seconds else 0.0
        self._sentences[what, place, subject] = Sentence(what, place, subject, until, by, reason)
        self._note(what, place, subject, by)
        if what == "ban":
            for room in self.relay.rooms():
                if place in (EVERYWHERE, room.name):
                    for peer in room.peers(subject):
                        room.kick(peer, reason or "you are banned")

    def _pardon(self, what: str, place: str, subject: str, by: str) -> bool:
        """False: there was no such sentence."""
        found = self._sentences.pop((what, place, subject), None) is not None
        if found:
            self._note(f"un{what}", place, subject, by)
        return found

    def _note(self, what: str, place: str, whom: str, by: str) -> None:
        self.log.info("%s of %s in %s, by %s", what, whom, place or "all rooms", by)
        self._acted.add(1, what)
        self._changed.set()

    def _in_force(self) -> list_of[Sentence]:
        now = time.time()
        return [one for one in self._sentences.values() if not one.until or one.until > now]

    # What outlives a restart.

    async def run(self) -> None:
        """Writes the file after each change, one at a time; a last time at the end."""
        if not self.settings.file:
            return
        try:
            while True:
                await self._changed.wait()
                self._changed = trio.Event()
                try:
                    await self.relay.to_thread(self._write, *self._encoded())
                except OSError:
                    self._changed.set()  # it is tried again when this is
                    raise
        finally:
            self._write(*self._encoded())

    def _encoded(self) -> tuple[int, bytes]:
        self._encoded_last += 1
        return self._encoded_last, msgspec.json.encode(Record(self._in_force(), self._slow))

    def _write(self, number: int, data: bytes) -> None:
        """The whole file or nothing: a crash leaves the old one. What is older than what is there is not written."""
        path = Path(self.settings.file)
        fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
        with self._writing:
            if number < self._written_last:
                return
            self._written_last = number
            with fresh.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)


list_of = list  # a method is called `list`


def word_pattern(words: list_of[str]) -> re.Pattern[str]:
    """Whole words, in any case. Literal text alone: no word can make the search slow."""
    found = sorted({word.strip() for word in words}, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, found))})(?!\w)", re.IGNORECASE)
