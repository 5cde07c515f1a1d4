"""A session whose socket is lost waits for its client: nothing is lost or doubled, and nobody else notices."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from relay.delivery.channels import Lane
from relay.delivery.outbox import Outbox
from relay.errors import CloseReason
from relay.protocols.base import WireProtocol
from relay.protocols.deflated import Compressor, Deflated
from relay.session.leg import Leg
from relay.session.parked import PATIENCE
from relay.session.resume import Resuming
from relay.session.wire import Hold
from tests.unit.protocols.table import JSON, MSGPACK
from tests.unit.session.kit import House, channels, heard, identity, open_house, settings
from tests.unit.session.plugins import Quick, Slow

PLUGINS: dict[str, Any] = {
    "q": (Quick, {"history": 50, "presence": True}),
    "none": (Quick, {}),
    "few": (Quick, {"history": 2}),
    "s": (Slow, {"history": 5}),
}
WINDOW = 30.0


class Socket:
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

    def flush(self) -> None:
        self.outbox.touched = False

    def overflowed(self, lane: Lane, room: str) -> None:
        raise AssertionError(f"{lane.name} is full")

    def congested(self, lane: Lane) -> None: ...
    def relieved(self, lane: Lane) -> None: ...

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


def arrive(house: House, subject: str = "ann", *, protocol: WireProtocol = JSON.protocol, ask: bool = True) -> Socket:
    from relay.session.connection import Connection

    socket = Socket(house)
    name = f"session{len(house.services.sessions)}of{subject}"
    connection = Connection(house.services, socket, identity(subject), protocol, name)
    connection.resumes = 0 if ask else -1
    socket.adopt(connection, connection.message, None)
    connection.start()
    return socket


def ticket(socket: Socket) -> str:
    (hello,) = [said for said in socket.heard() if said["t"] == "hello"]
    assert hello["resume"]["window"] == WINDOW
    return str(hello["resume"]["ticket"])


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


async def test_a_hello_has_a_ticket_for_who_asks_and_none_for_who_does_not(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = arrive(house), arrive(house, "bob", ask=False)
        assert ticket(ann)
        (hello,) = bob.heard()
        assert "resume" not in hello
        assert "resumed" not in hello
        bob.abort()
        assert house.gone == ["bob"], "its session ends with its socket"
        end(ann)
    async with open_house(PLUGINS, settings(websocket={"resume_window": 0.0})) as house:
        ann = arrive(house)
        assert "resume" not in ann.heard()[0]
        ann.abort()
        assert house.gone == ["ann"]


async def test_nobody_notices_and_nothing_is_missed(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        bob = house.client("bob")
        bob.join("q:a")
        ann = arrive(house)
        word = ticket(ann)
        epoch = ann.join("q:a")["epoch"]
        bob.heard()
        house.plugin("q").log.clear()
        bob.ask(t="publish", room="q:a", data="read")
        assert data(ann.heard()) == ["read"]
        bob.ask(t="publish", room="q:a", data="not sent")
        ann.abort()
        bob.ask(t="publish", room="q:a", data="while away")
        await trio.sleep(WINDOW - 1)
        again, rooms, said = resumed(house, word, q_a={"epoch": epoch, "offset": 1})
        assert rooms == {"q:a": {"epoch": epoch, "offset": 3, "recovered": True}}
        assert data(said) == ["not sent", "while away"]
        bob.ask(t="publish", room="q:a", data="live")
        assert data(again.heard()) == ["live"]
        again.say(t="publish", room="q:a", data="and back")
        assert bob.messages() == ["and back"]
        assert house.plugin("q").log == [], "plugins have seen neither leave nor join"
        assert again.session.address == "198.51.100.7"
        end(again)


async def test_what_was_written_to_a_dead_socket_comes_again_from_where_the_client_is(
    autojump_clock: MockClock,
) -> None:
    async with open_house(PLUGINS) as house:
        bob = house.client("bob")
        bob.join("q:a")
        ann = arrive(house)
        word = ticket(ann)
        epoch = ann.join("q:a")["epoch"]
        for number in range(1, 6):
            bob.ask(t="publish", room="q:a", data=number)
        ann.heard()  # written, and the client has seen two of them
        ann.abort()
        again, rooms, said = resumed(house, word, q_a={"epoch": epoch, "offset": 2})
        assert (rooms["q:a"]["recovered"], data(said)) == (True, [3, 4, 5])
        end(again)


@pytest.mark.parametrize("form", [JSON, MSGPACK])
@pytest.mark.parametrize("packed", [False, True])
async def test_what_waited_unsent_comes_once_in_every_format(
    form: Any, packed: bool, autojump_clock: MockClock
) -> None:
    async with open_house(PLUGINS) as house:
        protocol = Deflated(form.protocol, Compressor(12, 1, house.counters), 16) if packed else form.protocol
        bob = house.client("bob")
        bob.join("q:a")
        ann = arrive(house, protocol=protocol)
        session = ann.session
        house.hub.join(session, house.hub.open("q:a"), may_publish=True)
        ann.outbox.clear()
        for text in ("x" * 200, "y" * 200, "z" * 100_000):
            bob.ask(t="publish", room="q:a", data=text)
        ann.abort()
        parked = session.parked
        assert parked is not None
        assert (parked.shelf.size, parked.unsent) == (0, {"q:a": {1, 2, 3}}), "history has it"
        again = come_back(house, house.services.resumption.offer(session)["ticket"])  # type: ignore[index]
        assert again is not None
        sent: list[int] = []
        deliver = house.hub.deliver_to
        house.hub.deliver_to = lambda peer, index, message: (sent.append(message.offset), deliver(peer, index, message))  # type: ignore[method-assign, func-returns-value, assignment]
        await trio.sleep(PATIENCE + 0.1)
        assert sent == [1, 2, 3], "who does not say what it has gets what was not sent"
        end(again)


async def test_a_room_without_history_is_kept_and_tells_whether_something_is_missing(
    autojump_clock: MockClock,
) -> None:
    async with open_house(PLUGINS) as house:
        bob = house.client("bob")
        bob.join("none:a")
        ann = arrive(house)
        word = ticket(ann)
        epoch = ann.join("none:a")["epoch"]
        bob.ask(t="publish", room="none:a", data="read")
        ann.heard()
        bob.ask(t="publish", room="none:a", data="not sent")
        ann.abort()
        bob.ask(t="publish", room="none:a", data="while away")
        again, rooms, said = resumed(house, word, none_a={"epoch": epoch, "offset": 1})
        assert (rooms["none:a"]["recovered"], data(said)) == (True, ["not sent", "while away"])
        word = ticket_of(house, again)
        bob.ask(t="publish", room="none:a", data="written, never read")
        again.heard()
        again.abort()
        again, rooms, said = resumed(house, word, none_a={"epoch": epoch, "offset": 3})
        assert (rooms["none:a"]["recovered"], said) == (False, [])
        end(again)


def ticket_of(house: House, socket: Socket) -> str:
    offer = house.services.resumption.offer(socket.session)
    assert offer is not None
    return str(offer["ticket"])


async def test_where_history_does_not_reach_loss_is_told(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        bob = house.client("bob")
        bob.join("few:a")
        ann = arrive(house)
        word = ticket(ann)
        epoch = ann.join("few:a")["epoch"]
        ann.abort()
        for number in range(1, 6):
            bob.ask(t="publish", room="few:a", data=number)
        again, rooms, said = resumed(house, word, few_a={"epoch": epoch, "offset": 0})
        assert rooms["few:a"] == {"epoch": epoch, "offset": 5, "recovered": False, "from": 4}
        assert data(said) == [4, 5]
        word = ticket_of(house, again)
        again.abort()
        for number in range(6, 10):
            bob.ask(t="publish", room="few:a", data=number)
        silent = come_back(house, word)
        assert silent is not None
        await trio.sleep(PATIENCE + 0.1)
        _, *said = silent.heard()
        assert said[0] == {"t": "gap", "room": "few:a", "from": 6, "to": 7, "reason": "plugins.few.history"}
        assert data(said[1:]) == [8, 9]
        end(silent)


@pytest.mark.parametrize("position", [{"epoch": "another", "offset": 1}, {"epoch": "epoch-1", "offset": 99}])
async def test_a_position_of_another_life_recovers_nothing_and_loses_nothing(
    position: Any, autojump_clock: MockClock
) -> None:
    async with open_house(PLUGINS) as house:
        bob = house.client("bob")
        bob.join("q:a")
        ann = arrive(house)
        word = ticket(ann)
        ann.join("q:a")
        ann.abort()
        bob.ask(t="publish", room="q:a", data="while away")
        again, rooms, said = resumed(house, word, q_a=position, q_b={"epoch": "e", "offset": 1})
        assert rooms["q:a"]["recovered"] is False
        assert rooms["q:b"] == {"joined": False}
        assert data(said) == ["while away"]
        end(again)


async def test_who_does_not_come_back_in_time_leaves_like_any_other(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        bob = house.client("bob")
        bob.join("q:a")
        ended: list[Any] = []
        house.services.resumption.ended = lambda connection, code, luggage: ended.append((connection.subject, code))
        ann = arrive(house)
        word = ticket(ann)
        ann.join("q:a")
        bob.heard()
        ann.abort()
        await trio.sleep(WINDOW - 0.1)
        assert bob.heard() == []
        await trio.sleep(0.2)
        assert bob.heard() == [{"t": "left", "room": "q:a", "subject": "ann"}]
        assert (house.gone, ended) == (["ann"], [("ann", 1006)])
        assert come_back(house, word) is None
        assert house.services.resumption.parked == {}
        assert ann.session.closing.setting == "websocket.resume_window"


async def test_a_ticket_is_good_once_and_until_its_follower_was_used_for_its_session_alone(
    autojump_clock: MockClock,
) -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = arrive(house), arrive(house, "bob")
        word, other = ticket(ann), ticket(bob)
        find = house.services.resumption.find
        sessions = house.services.sessions
        forged = word.partition(".")[0] + "." + other.partition(".")[2]
        for wrong in (forged, word[:-1], word + "x", word.partition(".")[0], "", ".", "ü", word.upper()):
            assert find(wrong, sessions) is None, wrong
        ann.abort()
        again, _, _ = resumed(house, word)
        assert find(word, sessions) is None
        again.abort()
        assert find(ticket_of(house, again), sessions) is again.session
        assert find(word, sessions) is again.session, "the hello with the newer one may have been lost with its socket"
        third, _, _ = resumed(house, ticket_of(house, again))
        third.abort()
        assert find(word, sessions) is None
        end(bob)


async def test_a_client_that_comes_back_before_its_old_socket_is_missed_takes_over(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        bob = house.client("bob")
        bob.join("q:a")
        ann = arrive(house)
        word = ticket(ann)
        ann.join("q:a")
        bob.heard()
        bob.ask(t="publish", room="q:a", data="into the void")
        again, _, said = resumed(house, word)
        assert ann.cut
        assert data(said) == ["into the void"]
        assert bob.heard() == [], "presence has not flapped"
        end(again)


async def test_of_two_who_come_with_one_ticket_the_first_has_the_session(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann = arrive(house)
        word = ticket(ann)
        ann.abort()
        session = house.services.resumption.find(word, house.services.sessions)
        assert session is not None
        one, two = Socket(house), Socket(house)
        first, second = Resuming(session, one, ""), Resuming(session, two, "")
        second.start()
        first.start()
        assert two.session is session
        assert one.closed is not None
        assert one.closed.setting == "websocket.resume_window"
        end(two)


async def test_a_socket_lost_again_before_it_said_anything_changes_nothing(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        bob = house.client("bob")
        bob.join("q:a")
        ann = arrive(house)
        epoch = ann.join("q:a")["epoch"]
        ann.abort()
        bob.ask(t="publish", room="q:a", data="one")
        second = come_back(house, ticket_of(house, ann))
        assert second is not None
        bob.ask(t="publish", room="q:a", data="two")
        second.abort()
        bob.ask(t="publish", room="q:a", data="three")
        third, rooms, said = resumed(house, ticket_of(house, second), q_a={"epoch": epoch, "offset": 0})
        assert (rooms["q:a"]["recovered"], data(said)) == (True, ["one", "two", "three"])
        end(third)


async def test_another_first_word_is_heard_and_the_rest_comes_before_its_answer(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        bob = house.client("bob")
        bob.join("q:a")
        ann = arrive(house)
        word = ticket(ann)
        ann.join("q:a")
        ann.abort()
        bob.ask(t="publish", room="q:a", data="while away")
        again = come_back(house, word)
        assert again is not None
        again.say(t="ping", id=3)
        assert [said["t"] for said in again.heard()] == ["hello", "pong", "message"]
        assert again.ask(t="resume", rooms={})["code"] == "bad_request", "it is too late for that"
        for nonsense in (b"{", b'{"t":"what"}'):
            again.abort()
            again = come_back(house, ticket_of(house, again))
            assert again is not None
            again.tell(1, nonsense)
            assert [said["t"] for said in again.heard()] == ["hello", "error"]
        end(again)


async def test_answers_that_were_not_sent_come_and_those_of_slow_plugins_too(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann = arrive(house)
        word = ticket(ann)
        ann.join("q:a")
        gate = house.plugin("s").gates["on_join"] = trio.Event()
        ann.say(t="join", room="s:a", id=5)
        await trio.testing.wait_all_tasks_blocked()
        ann.say(t="ping", id=6)
        ann.abort()
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        again, rooms, said = resumed(house, word)
        assert {one.get("id") for one in said} == {5, 6}
        assert set(rooms) == {"q:a", "s:a"}
        end(again)
        await trio.testing.wait_all_tasks_blocked()


async def test_an_expired_or_revoked_token_ends_a_waiting_session(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ended: list[int] = []
        house.services.resumption.ended = lambda connection, code, luggage: ended.append(code)
        ann = arrive(house)
        word = ticket(ann)
        ann.session.identity = identity("ann", expires_in=5.0)
        ann.session.credentials.start()
        ann.abort()
        await trio.sleep(20)
        assert (ended, come_back(house, word), house.gone) == ([4401], None, ["ann"])


async def test_a_relay_that_goes_away_keeps_nobody(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann, bob = arrive(house), arrive(house, "bob")
        ann.abort()
        house.services.resumption.end_all(CloseReason(1001, "going away"))  # type: ignore[arg-type]
        bob.abort()
        await trio.sleep(0.1)
        assert sorted(house.gone) == ["ann", "bob"]


async def test_what_waits_is_bounded_and_so_is_their_number(autojump_clock: MockClock) -> None:
    config = settings(
        channels=channels(default={"capacity": 4096}), websocket={"resume_sessions": 1}, limits={"message_bytes": 1024}
    )
    async with open_house(PLUGINS, config) as house:
        bob = house.client("bob")
        bob.join("none:a")
        ended: list[int] = []
        house.services.resumption.ended = lambda connection, code, luggage: ended.append(code)
        ann, cid = arrive(house), arrive(house, "cid")
        ann.join("none:a")
        ann.abort()
        cid.abort()
        assert house.gone == ["cid"], "one may wait"
        for _ in range(10):
            bob.ask(t="publish", room="none:a", data="x" * 1000)
        await trio.sleep(0.1)
        assert (ended, house.gone) == ([4208], ["cid", "ann"])


async def test_other_sockets_end_and_cannot_be_opened_for_a_session_without_its_first(
    autojump_clock: MockClock,
) -> None:
    async with open_house(PLUGINS) as house:
        ann = arrive(house)
        word = ticket(ann)
        ann.join("q:a")
        other = Socket(house)
        leg = Leg(ann.session, other, ann.session.identity, [house.channels.index("urgent")])
        leg.start()
        room = house.hub.rooms["q:a"]
        room.broadcast("by the other", channel="urgent")
        ann.abort()
        assert other.closed is not None
        late = Socket(house)
        Leg(ann.session, late, ann.session.identity, [house.channels.index("urgent")]).start()
        assert late.closed is not None
        again, _, said = resumed(house, word)
        assert data(said) == ["by the other"]
        end(again)


async def test_what_it_was_held_for_holds_the_next_socket(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS) as house:
        ann = arrive(house)
        word = ticket(ann)
        ann.session.wait_for(reader := object())
        ann.abort()
        again, _, _ = resumed(house, word)
        assert again.held == {Hold.READERS}
        ann.session.waited_for(reader)
        assert again.held == set()
        end(again)
