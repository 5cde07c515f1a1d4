"""A message behind which nothing else can come is written as it is put; with any doubt it takes the usual way."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from relay.model import Payload
from relay.plugin.api import Message, Peer, Room
from relay.protocols.plain import Plain
from tests.unit.net.kit import Client, Net, masked, open_net
from tests.unit.session.kit import channels, settings
from tests.unit.session.plugins import Quick

TEXT, BINARY = 1, 2


class Watching(Quick):
    """Notes for whom something waits after it has broadcast."""

    waited: set[str] = frozenset()  # type: ignore[assignment]

    def on_message(self, room: Room, sender: Peer, message: Message) -> None:
        super().on_message(room, sender, message)
        self.waited = {peer.subject for peer in room.peers() if peer.outbox.waiting}


PLUGINS: dict[str, Any] = {"q": (Watching, {})}
ROOMY = settings(channels=channels(default={"capacity": 1 << 24}))


@pytest.fixture(params=["epoll", "portable"])
def poller(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def nobody_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next message of a quick test would make the relay look for more."""
    monkeypatch.setattr("relay.net.reading.BUSY", 0.0)


async def calm() -> None:
    """What is under way has arrived, so that the next read is alone."""
    await trio.testing.wait_all_tasks_blocked(0.005)


def crowd(net: Net, *names: str, small: tuple[str, ...] = ()) -> list[Client]:
    return [net.connect(name, protocol=Plain(), home="q:a", small=name in small) for name in names]


async def test_a_message_that_comes_alone_is_written_as_it_is_put(poller: str) -> None:
    async with open_net(PLUGINS, poller=poller) as net:
        ann, bob, cat = crowd(net, "ann", "bob", "cat")
        for number in range(3):
            await calm()
            await ann.send(masked(TEXT, str(number)))
            assert (await bob.hear(), await cat.hear()) == (str(number), str(number))
            assert net.plugin("q").waited == set()
        assert net.counters.writes == 6
        assert [one.link.writer.bytes_out for one in (ann, bob, cat)] == [0, 9, 9]


async def test_of_several_in_one_read_each_waits_for_the_others(poller: str) -> None:
    async with open_net(PLUGINS, poller=poller) as net:
        ann, bob, cat = crowd(net, "ann", "bob", "cat")
        await calm()
        await ann.send(masked(TEXT, "a"), masked(TEXT, "b"))
        assert [await bob.hear(), await bob.hear(), await cat.hear()] == ["a", "b", "a"]
        assert net.plugin("q").waited == {"bob", "cat"}
        assert net.counters.writes == 2


async def test_who_has_something_waiting_gets_it_in_order(poller: str) -> None:
    async with open_net(PLUGINS, poller=poller) as net:
        ann, bob, cat = crowd(net, "ann", "bob", "cat")
        await calm()
        bob.link.outbox.put(net.channels.default, Plain().message(Message("q:a", said("before"))))
        await ann.send(masked(TEXT, "after"))
        assert [await bob.hear(), await bob.hear(), await cat.hear()] == ["before", "after", "after"]


def said(text: str) -> Payload:

    return Payload.of(text)


async def test_who_does_not_read_loses_nothing_and_holds_up_nobody(poller: str) -> None:
    async with open_net(PLUGINS, ROOMY, poller=poller) as net:
        ann, bob, slow = crowd(net, "ann", "bob", "slow", small=("slow",))
        for number in range(100):
            await ann.send(masked(BINARY, bytes([number]) * 3000))
            assert await bob.hear() == bytes([number]) * 3000
        assert slow.link.outbox.size > 100_000
        net.hub.rooms["q:a"].broadcast("now", channel="urgent")
        heard: list[Any] = []
        while len(heard) < 101:
            heard.append(await slow.hear())
        assert heard.index("now") < 90
        heard.remove("now")
        assert heard == [bytes([number]) * 3000 for number in range(100)]
        assert slow.link.writer.bytes_out == slow.raw


async def test_who_turns_out_to_be_gone_leaves_when_nobody_walks_through_the_room(
    poller: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_net(PLUGINS, poller=poller) as net:
        ann, bob, cat = crowd(net, "ann", "bob", "cat")

        class Gone:
            def write(self, data: object) -> int:
                raise ConnectionResetError

        bob.link.writer._bare = Gone()
        monkeypatch.setattr(type(bob.link.transport), "write", Gone().write, raising=False)
        await calm()
        await ann.send(masked(TEXT, "hi"))
        assert await cat.hear() == "hi"
        await bob.ended.wait()
        assert {peer.subject for peer in net.hub.rooms["q:a"].peers()} == {"ann", "cat"}
        assert net.bugs == []
