"""Where a WebSocket handshake wants to go: which wire format, which room or session. What its address says, checked.

Not here: who the client is (admission). The one rule: what can be refused without looking at the token is refused
before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from relay.auth.tokens import Identity
from relay.errors import Refused, Rejected
from relay.front.state import PLAIN, PROTOCOLS, State, relay_v1
from relay.net.handshake import Upgrade, choose_subprotocol
from relay.net.head import Request
from relay.protocols.base import WireProtocol
from relay.protocols.deflated import Deflated
from relay.protocols.names import check_room_name
from relay.protocols.relay_v1 import OPTIONAL
from relay.session.connection import Connection
from relay.session.services import Services

ROOMS: Final = "/rooms/"
MANY_ROOMS: Final = "/ws"


@dataclass(slots=True, frozen=True)
class Place:
    """`home` is the room in the address, or ""; `last` how many of its messages a client wants to begin with.

    `session` and `channels` (lanes' indexes) are given where this is one more socket of a session. `resume` is the
    ticket of a session to go on with; "" asks for one.
    """

    protocol: WireProtocol
    home: str = ""
    last: int = 0
    session: str = ""
    channels: tuple[int, ...] = ()
    resume: str | None = None

    def at(self, home: str) -> Place:
        """The same, in that room: the address may have had an alias of it."""
        return self if home == self.home else replace(self, home=home)


def check_open(state: State, services: Services) -> None:
    """Whether anybody is let in just now. Raises Rejected 503."""
    config = services.config
    if state.draining:
        raise Rejected(503, "draining", "this server is going away", retry_after=1.0)
    if state.short_of_memory:
        why, setting = "this server is short of memory", state.short_of_memory
        raise Rejected(503, "short_of_memory", why, retry_after=10.0, setting=setting)
    most = config.limits.max_connections
    if most and len(state.links) >= most:
        raise Rejected(503, "full", "this server is full", retry_after=5.0, setting="limits.max_connections")
    if len(state.links) >= state.descriptors:
        why = "this server may not open more files"
        raise Rejected(503, "full", why, retry_after=5.0, setting="limits.max_connections")


def find_place(request: Request, upgrade: Upgrade, state: State, services: Services, owner: str | None = None) -> Place:
    """`owner`: the tenant whose host it is. Raises Rejected: 400, 403 (origin), 404, 503."""
    config = services.config
    check_open(state, services)
    if not state.rules.allows_origin(upgrade.origin, request.host, state.certificates is not None, owner):
        raise Rejected(403, "origin", "pages of this origin may not connect", setting="auth.allowed_origins")
    subprotocol = choose_subprotocol(upgrade.subprotocols, list(PROTOCOLS))
    protocol = PLAIN
    if subprotocol is not None:
        protocol = relay_v1(subprotocol, parts=request.parameter("parts") != "0", fields=_fields(request))
    if request.path == MANY_ROOMS:
        if subprotocol is None:
            known = ", ".join(PROTOCOLS)
            why = f"this address needs a subprotocol: {known}; plain mode is at /rooms/NAME"
            raise Rejected(400, "unknown_subprotocol", why)
        session = request.parameter("session") or ""
        if session:
            return Place(protocol, session=session, channels=_moved(request, services))
        return Place(protocol, resume=request.parameter("resume"))
    if request.path.startswith(ROOMS):
        home = request.path.removeprefix(ROOMS)
        if problem := check_room_name(home, config.limits.room_name_bytes):
            raise Rejected(400, "bad_room", f"not a valid room name: {problem}", setting="limits.room_name_bytes")
        return Place(protocol, home, _last(request))
    raise Rejected(404, "not_found", "WebSockets are served at /ws and /rooms/NAME")


def room_in(request: Request) -> str:
    """The room that a request's path names, "" where it names none; it may be no room's name."""
    return request.path.removeprefix(ROOMS) if request.path.startswith(ROOMS) else ""


def check_home(identity: Identity, place: Place, services: Services) -> None:
    """Grants first: who may not join a room does not learn whether it exists. Raises Rejected: 403, 404."""
    if not place.home:
        return
    if not identity.grants.may_join(place.home):
        raise Rejected(403, "forbidden", "your token does not let you join this room")
    if place.home not in services.hub.rooms and services.hub.router(place.home) is None:
        raise Rejected(404, "no_such_room", "no plugin serves a room of that name", setting="plugins")


def find_session(identity: Identity, place: Place, services: Services) -> Connection:
    """The session one more socket is for. Raises Rejected: 404 for one that is not there or another subject's, 429."""
    connection = services.sessions.get(place.session)
    if connection is None or connection.subject != identity.subject or connection.closing is not None:
        raise Rejected(404, "no_such_session", "you have no session of that name here")
    if connection.parked is not None:
        raise Rejected(404, "no_such_session", "the session's first socket is lost: resume it first")
    check_protocol(connection, place)
    if len(connection.legs) + 1 >= services.config.limits.sockets_per_session:
        raise Rejected(
            429, "too_many_sockets", "this session has as many sockets as it may have",
            retry_after=5.0, setting=services.named("limits.sockets_per_session"),
        )  # fmt: skip
    return connection


def check_protocol(connection: Connection, place: Place) -> None:
    """All sockets of a session speak the same. Raises Rejected 400."""
    spoken = connection.protocol
    if (spoken.inner if isinstance(spoken, Deflated) else spoken) is not place.protocol:
        raise Rejected(400, "other_protocol", f"this session speaks {connection.protocol.name}")


def _fields(request: Request) -> frozenset[str] | None:
    """`?fields=offset,key`: what a client wants to have with a message, beside its data; None: all there is."""
    wanted = request.parameter("fields")
    if wanted is None:
        return None
    fields = frozenset(name for name in wanted.split(",") if name)
    if not fields <= OPTIONAL.keys():
        raise Rejected(400, "no_such_field", f"the fields of a message to choose from are: {', '.join(OPTIONAL)}")
    return fields


def _moved(request: Request, services: Services) -> tuple[int, ...]:
    """`?channels=urgent,state`: the channels that leave by this socket."""
    names = [name for name in (request.parameter("channels") or "").split(",") if name]
    try:
        indexes = tuple(services.channels.index(name) for name in dict.fromkeys(names))
    except Refused as refused:
        raise Rejected(400, refused.code, refused.message, setting=refused.setting) from None
    if not indexes or services.channels.control in indexes:
        why = "name the channels that leave by this socket, as in ?session=…&channels=urgent; control cannot be moved"
        raise Rejected(400, "no_such_channel", why, setting="channels")
    return indexes


def _last(request: Request) -> int:
    """`?last=N`: how many of the room's remembered messages a client wants to begin with."""
    wanted = request.parameter("last") or ""
    return int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 6 else 0
