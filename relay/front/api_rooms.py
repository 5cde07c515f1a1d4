"""What the API does with rooms: close, freeze, rename, put members out, forget what they remember; and aliases.

Not here: what that means inside (rooms/standing, rooms/moving). The one rule: a room is changed in one go or not at
all; members are told in portions, so that a large room holds nobody else up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Any, Final

import trio
from msgspec import Meta

from relay.config.table import Table
from relay.errors import Refused, Rejected
from relay.front.api import Api, Asked
from relay.protocols.names import check_room_name
from relay.rooms import moving
from relay.rooms.hub import Hub
from relay.session.services import Services

log = logging.getLogger("relay")

AT_ONCE: Final = 500  # members that are told before others get their turn
LONGEST: Final = 10 * 365 * 86400.0
Reason = Annotated[str, Meta(max_length=100)]


class CloseRoom(Table, frozen=True):
    """`ban`: seconds for which it cannot be opened again."""

    reason: Reason = "the room was closed by an operator"
    ban: Annotated[float, Meta(ge=0, le=LONGEST)] = 0.0


class Freeze(Table, frozen=True):
    reason: Reason = "the room is frozen: nobody may publish in it for now"


class Kick(Table, frozen=True):
    """One of the two says who: all connections of a subject, or one session."""

    subject: str = ""
    session: str = ""
    reason: Reason = "an operator has put you out of the room"


class Rename(Table, frozen=True):
    """`alias`: the old name leads to the new one, for those who do not know yet."""

    to: str
    alias: bool = True


class Alias(Table, frozen=True):
    room: str


class RoomOperations:
    """Handlers; `services_of` gives those of a tenant, or raises Rejected(404)."""

    def __init__(self, services_of: Callable[[str], Services]) -> None:
        self._services_of = services_of

    def add_to(self, api: Api) -> None:
        tenant = ("tenant",)
        api.add("POST", "/rooms/{room}/close", self.close, body=CloseRoom, query=tenant)
        api.add("POST", "/rooms/{room}/reopen", self.reopen, query=tenant)
        api.add("POST", "/rooms/{room}/kick", self.kick, body=Kick, query=tenant)
        api.add("GET", "/standing", self.standing, query=tenant)
        api.add("POST", "/rooms/{room}/freeze", self.freeze, body=Freeze, query=tenant)
        api.add("POST", "/rooms/{room}/unfreeze", self.unfreeze, query=tenant)
        api.add("POST", "/rooms/{room}/rename", self.rename, body=Rename, query=tenant)
        api.add("DELETE", "/rooms/{room}/history", self.forget, query=tenant)
        api.add("GET", "/aliases", self.aliases, query=tenant)
        api.add("PUT", "/aliases/{alias}", self.set_alias, body=Alias, query=tenant)
        api.add("DELETE", "/aliases/{alias}", self.remove_alias, query=tenant)

    def _services(self, asked: Asked) -> Services:
        return self._services_of(asked.query.get("tenant", ""))

    def _hub_and_room(self, asked: Asked) -> tuple[Hub, str]:
        """Raises Refused("bad_room")."""
        services = self._services(asked)
        name = services.hub.aliases.resolve(asked.path["room"])
        _check_name(services, name)
        return services.hub, name

    async def close(self, asked: Asked) -> Any:
        """Its members leave. That nobody is in it is no error: with `ban` it stays so."""
        hub, name = self._hub_and_room(asked)
        body = asked.decoded(CloseRoom)
        now = hub.clock()
        ban = max(body.ban, hub.standing.closed_for(name, now))
        hub.standing.close(name, float("inf"), body.reason, now)  # while they leave nobody comes in
        left = 0
        try:
            room = hub.rooms.get(name)
            if room is not None:
                for peer in room.peers():
                    if room.has(peer):
                        hub.remove(peer, room, body.reason, "room_closed")
                        left += 1
                        if not left % AT_ONCE:
                            await trio.lowlevel.checkpoint()
        finally:
            hub.standing.reopen(name)
            if ban:
                hub.standing.close(name, hub.clock() + ban, body.reason, now)
        await trio.lowlevel.checkpoint()
        return {"room": name, "left": left, "ban": ban}

    def reopen(self, asked: Asked) -> Any:
        """Takes a ban back; that there is none is no error."""
        hub, name = self._hub_and_room(asked)
        was = hub.standing.closed_for(name, hub.clock())
        hub.standing.reopen(name)
        return {"room": name, "was_closed": was > 0}

    def kick(self, asked: Asked) -> Any:
        """They leave, and are told; nothing keeps them from coming back. Raises Refused, Rejected(404)."""
        hub, name = self._hub_and_room(asked)
        body = asked.decoded(Kick)
        if bool(body.subject) == bool(body.session):
            raise Rejected(400, "bad_request", "`subject` or `session`: one of them says who")
        room = hub.rooms.get(name)
        if room is None:
            raise Refused("no_such_room", "nobody is in a room of that name")
        found = [peer for peer in room.peers() if body.subject == peer.subject or body.session == peer.session]
        if not found:
            raise Refused("no_such_subject", "who is meant is not in the room")
        for peer in found:
            hub.remove(peer, room, body.reason)
        return {"room": name, "left": len(found)}

    def standing(self, asked: Asked) -> Any:
        """What was decided about rooms by their names, whether somebody is in them or not."""
        hub = self._services(asked).hub
        closed = sorted(hub.standing.closed(hub.clock()))
        return {
            "frozen": [{"room": name, "reason": why} for name, why in sorted(hub.standing.frozen.items())],
            "closed": [{"room": name, "seconds": round(left, 3), "reason": why} for name, left, why in closed],
        }

    def freeze(self, asked: Asked) -> Any:
        """Also of a room that nobody is in: it is frozen when it is opened."""
        hub, name = self._hub_and_room(asked)
        hub.standing.freeze(name, asked.decoded(Freeze).reason)
        self._rehandle(hub, name)
        return {"room": name, "frozen": True}

    def unfreeze(self, asked: Asked) -> Any:
        hub, name = self._hub_and_room(asked)
        hub.standing.frozen.pop(name, None)
        self._rehandle(hub, name)
        return {"room": name, "frozen": False}

    @staticmethod
    def _rehandle(hub: Hub, name: str) -> None:
        room = hub.rooms.get(name)
        if room is not None:
            handler: Any = room.handler
            room.handler = hub.standing.handler(name, hub.standing.bare(handler))

    def rename(self, asked: Asked) -> Any:
        services = self._services(asked)
        hub, old = self._hub_and_room(asked)
        body = asked.decoded(Rename)
        _check_name(services, body.to)
        if body.to in hub.aliases:
            raise Rejected(409, "room_exists", "the new name is an alias")
        room = moving.rename(hub, old, body.to)
        if old in hub.standing.frozen:
            hub.standing.freeze(body.to, hub.standing.frozen.pop(old))
            self._rehandle(hub, body.to)
        if body.alias:
            hub.aliases.set(old, body.to)
        members = 0
        if room is not None:
            moving.tell(hub, room, old)
            members = len(room)
        return {"room": body.to, "was": old, "members": members, "alias": body.alias}

    def forget(self, asked: Asked) -> Any:
        """Messages go; epoch, offsets and members stay, so that nobody takes what comes for something else."""
        hub, name = self._hub_and_room(asked)
        room = hub.rooms.get(name)
        found = room if room is not None else hub.archive.look(name)
        if found is None:
            raise Refused("no_such_room", "nobody is in a room of that name, and nothing is remembered of one")
        history = found.history
        count = 0 if history is None else len(history)
        if history is not None:
            history.clear()
            history.floor = found.offset
            owner = hub.router(name)
            if hub.journal is not None and owner is not None and owner[0].durable:
                hub.journal.trim(name, found.epoch, found.offset, found.offset)
        return {"room": name, "forgotten": count}

    def aliases(self, asked: Asked) -> Any:
        found = self._services(asked).hub.aliases
        return {"aliases": [{"alias": alias, "room": room} for alias, room in found], "count": len(found)}

    def set_alias(self, asked: Asked) -> Any:
        """Until the next start. Raises Rejected(400)."""
        alias, room = asked.path["alias"], asked.decoded(Alias).room
        try:
            self._services(asked).hub.aliases.set(alias, room)
        except ValueError as problem:
            raise Rejected(400, "bad_room", f"not a possible alias: {problem}", setting="aliases") from None
        return {"alias": alias, "room": room}

    def remove_alias(self, asked: Asked) -> Any:
        alias = asked.path["alias"]
        if not self._services(asked).hub.aliases.remove(alias):
            raise Rejected(404, "no_such_room", "there is no alias of that name", setting="aliases")
        return {"alias": alias, "room": None}


def _check_name(services: Services, name: str) -> None:
    """Raises Refused("bad_room")."""
    if problem := check_room_name(name, services.config.limits.room_name_bytes):
        raise Refused("bad_room", f"not a valid room name: {problem}", setting="limits.room_name_bytes")
