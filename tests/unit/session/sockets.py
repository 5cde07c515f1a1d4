"""Sockets that are lost, and clients that come back by another one."""

from __future__ import annotations

from typing import Any

import msgspec

from relay.delivery.outbox import Outbox
from relay.errors import CloseReason
from relay.protocols.base import WireProtocol
from relay.session.connection import Connection
from relay.session.metered import Metered
from relay.session.resume import Resuming
from relay.session.wire import Hold
from tests.unit.delivery.kit import AtEase
from tests.unit.protocols.table import JSON
from tests.unit.session.kit import Client, House, heard, identity
from tests.unit.session.plugins import Quick, Slow

PLUGINS: dict[str, Any] = {
    "q": (Quick, {"history": 50, "presence": True}),
    "none": (Quick, {}),
    "few": (Quick, {"history": 2}),
    "s": (Slow, {"history": 5}),
}

WINDOW = 30.0


class Socket(AtEase):
    """What stands for a link: as much as was read of its outbox has been written, the rest is lost with it."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.outbox = Outbox(house.channels, self, house.tick)
        self.closed: CloseReason | None = None
        self.cut = False
        self.held: set[Hold] = set()
        self.session: Any = None
        self.tell: Any = None

    # The wire.

    def close(self, reason: CloseReason, farewell: bytes | None) -> None:
        self.closed = reason

    def hold(self, reason: Hold, held: bool) -> None:
        (self.held.add if held else self.held.discard)(reason)

    def adopt(self, connection: Any, message: Any, luggage: Any) -> None:
        self.session, self.tell = connection, message

    def abort(self) -> None:
        """The network cuts it. As a link does."""
        if not self.cut:
            self.cut = True
            if self.closed is not None or not self.session.park(None):
                self.session.lost()
            self.outbox.clear()

    # The client.

    def say(self, **request: Any) -> None:
        self.tell(1, msgspec.json.encode(request))

    def heard(self) -> list[Any]:
        return heard(self.outbox, self.session.protocol)

    def ask(self, **request: Any) -> Any:
        self.heard()
        self.say(**request, id=7)
        return next(said for said in self.heard() if said.get("id") == 7)

    def join(self, room: str) -> Any:
        answer = self.ask(t="join", room=room)
        assert answer["t"] == "ok", answer
        return answer


def arrive(
    house: House, subject: str = "ann", *, protocol: WireProtocol = JSON.protocol, ask: bool = True,
    metered: bool = False,
) -> Socket:  # fmt: skip
    socket = Socket(house)
    name = f"session{len(house.services.sessions)}of{subject}"
    kind = Metered if metered else Connection
    connection = kind(house.services, socket, identity(subject), protocol, name)
    connection.resumes = 0 if ask else -1
    socket.adopt(connection, connection.message, None)
    connection.start()
    return socket


def ticket(socket: Socket) -> str:
    (hello,) = [said for said in socket.heard() if said["t"] == "hello"]
    assert hello["resume"]["window"] == WINDOW
    return str(hello["resume"]["ticket"])


def two_in(house: House, room: str) -> tuple[Client, Socket, str, str]:
    """In one room: bob, who stays, and ann, who will lose her socket; with her ticket, and the room's epoch."""
    bob = house.client("bob")
    bob.join(room)
    ann = arrive(house)
    word = ticket(ann)
    return bob, ann, word, ann.join(room)["epoch"]


def come_back(house: House, word: str) -> Socket | None:
    """None: there is no such session any more."""
    session = house.services.resumption.find(word, house.services.sessions)
    if session is None:
        return None
    socket = Socket(house)
    Resuming(session, socket, "198.51.100.7").start()
    return socket


def resumed(house: House, word: str, **rooms: Any) -> tuple[Socket, dict[str, Any], list[Any]]:
    """The new socket, what was told of each room, and all that came behind it."""
    socket = come_back(house, word)
    assert socket is not None
    socket.say(t="resume", id=1, rooms={name.replace("_", ":"): at for name, at in rooms.items()})
    hello, *rest = socket.heard()
    assert (hello["t"], hello["resumed"]) == ("hello", True)
    (answer,) = [said for said in rest if said.get("id") == 1]
    assert answer["t"] == "ok", answer
    return socket, answer["rooms"], [said for said in rest if said is not answer]


def data(said: list[Any]) -> list[Any]:
    assert all(one["t"] == "message" for one in said), said
    return [one["data"] for one in said]


def end(*sockets: Socket) -> None:
    for socket in sockets:
        socket.closed = CloseReason(1000, "")  # type: ignore[arg-type]
        socket.session.closing = socket.closed
        socket.session.lost()


def ticket_of(house: House, socket: Socket) -> str:
    offer = house.services.resumption.offer(socket.session)
    assert offer is not None
    return str(offer["ticket"])
