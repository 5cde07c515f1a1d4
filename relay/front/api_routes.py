"""What the API tells and does: connections, rooms, recent decisions, closing, publishing.

Not here: keys and routing (api), what is told about each thing (api_views). The one rule: a list has a limit and says
when it is not the whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Any, Final

from msgspec import Meta

from relay import __version__
from relay.config.table import Table
from relay.decisions import KINDS
from relay.errors import CLOSE_CODES, CloseCode, CloseReason, Rejected
from relay.front import api_views as views
from relay.front.api import Api, Asked
from relay.front.api_publish import Publisher
from relay.front.api_rooms import RoomOperations
from relay.front.state import State
from relay.net.link import Link
from relay.rooms.room import Room
from relay.session.services import Services

MOST: Final = 1000  # entries in one answer
USUAL: Final = 100


class Close(Table, frozen=True):
    """Body of the routes that close connections: what the client is told, and whether to come back."""

    code: int = CloseCode.FORBIDDEN
    reason: Annotated[str, Meta(max_length=100)] = "closed by the operator"
    reconnect_after: Annotated[float, Meta(ge=0, le=86400)] | None = None

    def as_reason(self) -> CloseReason:
        """Raises Rejected(400) for a code the relay does not have."""
        if self.code not in CLOSE_CODES:
            known = ", ".join(str(int(code)) for code in CLOSE_CODES)
            raise Rejected(400, "bad_request", f"no such close code: {self.code}; there are {known}")
        return CloseReason(CloseCode(self.code), self.reason, None, self.reconnect_after)


class Operations:
    """The handlers of the relay's own routes."""

    def __init__(self, state: State, services: Services) -> None:
        self.state = state
        self.services = services

    def add_to(self, api: Api) -> None:
        publisher = Publisher(self.services_of)
        RoomOperations(self.services_of).add_to(api)
        api.add("GET", "/info", self.info)
        api.add("GET", "/connections", self.connections, query=("tenant", "subject", "room", "address", "limit"))
        api.add("GET", "/connections/{session}", self.connection)
        api.add("POST", "/connections/{session}/close", self.close_connection, body=Close)
        api.add("POST", "/subjects/{subject}/close", self.close_subject, body=Close, query=("tenant",))
        api.add("GET", "/rooms", self.rooms, query=("tenant", "prefix", "limit"))
        api.add("GET", "/rooms/{room}", self.room, query=("tenant", "limit"))
        api.add("POST", "/publish", publisher.publish, body=publisher.Body)
        wanted = ("tenant", "session", "subject", "room", "address", "code", "kind", "since", "limit")
        api.add("GET", "/decisions", self.decisions, query=wanted)

    def services_of(self, tenant: str) -> Services:
        """Raises Rejected(404)."""
        found = self.state.tenants.get(tenant)
        if found is None:
            known = ", ".join(name for name in self.state.tenants if name) or "none"
            raise Rejected(404, "no_such_tenant", f"no tenant of that name is served; there are: {known}")
        return found.services

    def _of(self, asked: Asked) -> Services:
        return self.services_of(asked.query.get("tenant", ""))

    def info(self, asked: Asked) -> Any:
        state, services = self.state, self.services
        every = [tenant.services for tenant in state.tenants.values()]
        return {
            "version": __version__,
            "started_at": state.started_at,
            "uptime": round(services.wall() - state.started_at, 3),
            "ready": state.ready,
            "config": str(state.rules.loaded.path or "default"),
            "connections": sum(one.counters.connections for one in every),
            "rooms": sum(len(one.hub.rooms) for one in every),
            "published": sum(one.hub.published for one in every),
            "decisions": len(services.decisions),
            "tenants": [name for name in state.tenants if name],
        }

    def connections(self, asked: Asked) -> Any:
        wanted = asked.query
        found: Iterable[Link] = self.state.links
        if "tenant" in wanted or "room" in wanted:
            services = self._of(asked)
            found = (link for link in found if link.services is services)
        if "subject" in wanted:
            found = (link for link in found if link.connection.subject == wanted["subject"])
        if "address" in wanted:
            found = (link for link in found if link.connection.main.address == wanted["address"])
        if "room" in wanted:
            room = services.hub.rooms.get(wanted["room"])
            members = set(room.peers()) if room is not None else set()
            found = (link for link in found if link.connection in members)
        chosen = sorted(found, key=lambda link: link.opened_at, reverse=True)
        limit = asked.number("limit", USUAL, most=MOST)
        now = self.services.monotonic()
        return {
            "connections": [views.connection(link, now) for link in chosen[:limit]],
            "count": len(chosen),
            "truncated": len(chosen) > limit,
        }

    def connection(self, asked: Asked) -> Any:
        link = self._link(asked.path["session"])
        return views.connection(link, self.services.monotonic())

    def _link(self, session: str) -> Link:
        """The first socket of a session. Raises Rejected(404)."""
        for link in self.state.links:
            if link.connection is link.services.sessions.get(session):
                return link
        raise Rejected(404, "no_such_session", "no connection has that session now; /decisions may tell why it ended")

    def close_connection(self, asked: Asked) -> Any:
        reason = asked.decoded(Close).as_reason()
        self._link(asked.path["session"]).connection.close(reason)
        return {"closed": 1}

    def close_subject(self, asked: Asked) -> Any:
        """Closes all connections of a subject; that there are none is no error."""
        reason = asked.decoded(Close).as_reason()
        subject = asked.path["subject"]
        mine = [one for one in self._of(asked).sessions.values() if one.subject == subject and one.closing is None]
        for connection in mine:
            connection.close(reason)
        return {"closed": len(mine)}

    def rooms(self, asked: Asked) -> Any:
        prefix = asked.query.get("prefix", "")
        chosen = [room for name, room in self._of(asked).hub.rooms.items() if name.startswith(prefix)]
        chosen.sort(key=lambda room: (-len(room), room.name))
        limit = asked.number("limit", USUAL, most=MOST)
        return {
            "rooms": [views.room(room) for room in chosen[:limit]],
            "count": len(chosen),
            "truncated": len(chosen) > limit,
        }

    def room(self, asked: Asked) -> Any:
        found: Room | None = self._of(asked).hub.find(asked.path["room"])
        if found is None:
            raise Rejected(404, "no_such_room", "nobody is in a room of that name: a room lives while it has members")
        limit = asked.number("limit", USUAL, most=MOST)
        members = [
            {"session": peer.session, "subject": peer.subject, "may_publish": found.may_publish(peer)}
            for peer in islice(found.peers(), limit)
        ]
        return {**views.room(found), **views.more_of_room(found), "sessions": members, "truncated": len(found) > limit}

    def decisions(self, asked: Asked) -> Any:
        wanted = {name: value for name, value in asked.query.items() if name not in ("limit", "since")}
        kind = wanted.get("kind")
        if kind is not None and kind not in KINDS:
            raise Rejected(400, "bad_request", f"no such kind; there are {', '.join(KINDS)}")
        try:
            since = float(asked.query.get("since", 0))
        except ValueError:
            raise Rejected(400, "bad_request", "since is not a Unix time in seconds") from None
        limit = asked.number("limit", USUAL, most=MOST)
        found = self.services.decisions.find(**wanted, since=since)
        shown = found[:limit]
        settings = sorted({decision.setting for decision in shown if decision.setting})
        loaded = self.state.rules.loaded
        return {
            "decisions": [views.decision(decision) for decision in shown],
            "settings": {key: views.setting(loaded, key) for key in settings},
            "count": len(found),
            "truncated": len(found) > limit,
            "kept": self.services.decisions.size,
        }


def make_api(state: State, services: Services) -> Api:
    """The API with the relay's own routes; others add theirs."""
    api = Api(services.counters, lambda: state.rules.api_keys, lambda: state.rules.config.internal.api_body_bytes)
    Operations(state, services).add_to(api)
    return api
