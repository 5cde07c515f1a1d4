"""What is done to a plugin in a test and what everybody then hears, as a text that one can read, record and replay.

    ann joins chat:a
    bob joins chat:a
    ann says "hi"
      bob hears "hi" from ann
    bob says {"x": 1} in urgent
      ann hears {"x": 1} from bob in urgent
    mallory joins chat:a
      refused banned: not in here

Lines that begin at the margin are done, one after the other; indented ones say what comes of it. Not here: how it is
done (member). The one rule: what was recorded is exactly what replaying it gives, so a transcript is a test.
"""

from __future__ import annotations

import difflib
import json
import re
from typing import TYPE_CHECKING, Any, Final

from relay.errors import Refused
from relay.model import Message
from relay.plugin.testing.member import Member

if TYPE_CHECKING:
    from relay.plugin.testing.tester import PluginTester

_LINE: Final = re.compile(r"(?P<who>\S+) (?P<what>joins|leaves|says|calls|disconnects|waits)(?: (?P<rest>.*))?")
_SAID: Final = re.compile(r"(?P<data>.*?)(?: in (?P<channel>[a-z]\w*))?(?: key (?P<key>\S+))?(?: to (?P<to>\S+))?")


class Transcript:
    """Members by name; the room of each is the one it joined last."""

    def __init__(self, tester: PluginTester) -> None:
        self._tester = tester
        self._members: dict[str, Member] = {}
        self._rooms: dict[str, str] = {}
        self._heard: dict[str, int] = {}
        self._seen: dict[str, int] = {}

    async def play(self, text: str) -> str:
        """Does the lines at the margin and returns the transcript. Raises ValueError for a line that is none."""
        written: list[str] = []
        for line in text.strip("\n").splitlines():
            plain = line.strip()
            if not plain or line.startswith(" ") or plain.startswith("#"):
                continue
            written.append(plain)
            written += [f"  {one}" for one in await self._do(plain)]
        return "\n".join(written)

    async def _do(self, line: str) -> list[str]:
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"not a line of a transcript: {line!r}")
        who, what, rest = found["who"], found["what"], found["rest"] or ""
        told: list[str] = []
        try:
            answer = await self._act(who, what, rest)
            if what == "calls":
                told.append(f"answer {_shown(answer)}")
        except Refused as refused:
            told.append(f"refused {refused.code}" + (f": {refused.message}" if refused.message else ""))
        await self._tester.settle()
        return told + self._hearings()

    async def _act(self, who: str, what: str, rest: str) -> Any:
        if what == "waits":
            await self._tester.advance(float(rest))
            return None
        if what == "joins":
            joining = self._members.get(who) or self._tester.connect(who)
            await joining.join(rest)
            self._members[who], self._rooms[who] = joining, rest
            return None
        if who not in self._members:
            raise ValueError(f"{who} has joined nothing")
        member, room = self._members[who], self._rooms[who]
        if what == "leaves":
            await member.leave(rest or room)
        elif what == "disconnects":
            await member.disconnect()
        elif what == "calls":
            method, _, data = rest.partition(" ")
            return await member.call(method, json.loads(data) if data else None, room=room)
        else:
            said = _SAID.fullmatch(rest)
            assert said is not None
            await member.publish(
                json.loads(said["data"]), room=room, channel=said["channel"], key=said["key"], to=said["to"]
            )
        return None

    def _hearings(self) -> list[str]:
        """What everybody has heard since the last time, member by member."""
        lines: list[str] = []
        for who, member in self._members.items():
            messages, presence = member.messages, member.presence
            lines += [f"{who} hears {_heard(message)}" for message in messages[self._heard.get(who, 0) :]]
            lines += [f"{who} sees that {subject} {what}" for what, _, subject in presence[self._seen.get(who, 0) :]]
            self._heard[who], self._seen[who] = len(messages), len(presence)
            while member.removed:
                room, why = member.removed.pop(0)
                lines.append(f"{who} is put out of {room}" + (f": {why}" if why else ""))
            if member.closed is not None and who in self._rooms:
                lines.append(f"{who} is closed: {int(member.closed.code)} {member.closed.reason}")
                del self._rooms[who]
        return lines


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return f"bytes {value.hex()}"
    return json.dumps(value, ensure_ascii=False)


def _heard(message: Message) -> str:
    text = _shown(message.data.value())
    if message.sender is not None:
        text += f" from {message.sender}"
    if message.channel is not None:
        text += f" in {message.channel}"
    if message.key is not None:
        text += f" key {message.key}"
    return text


def difference(expected: str, played: str) -> str:
    """What is not as it was recorded, line by line; "": nothing."""
    wanted = [line.rstrip() for line in expected.strip("\n").splitlines() if line.strip()]
    lines = played.splitlines()
    return "\n".join(difflib.unified_diff(wanted, lines, "recorded", "played", lineterm=""))
