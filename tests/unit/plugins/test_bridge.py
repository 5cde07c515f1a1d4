"""The bridge, against a real WebSocket server on loopback."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
import trio_websocket
import trustme
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest

from plugins.bridge import Bridge
from relay.errors import ConfigError, Refused
from relay.plugin.testing import Member, PluginTester

SECRET = "a secret that is long enough for this test"


class Remote:
    """The other service: keeps what it hears, says what the test wants, on each connection in turn."""

    def __init__(self) -> None:
        self.url = ""
        self.heard: list[str | bytes] = []
        self.requests: list[dict[str, str]] = []
        self.offered: list[list[str]] = []
        self.connections: list[WebSocketConnection] = []
        self._changed = trio.Condition()

    async def serve(self, request: WebSocketRequest) -> None:
        self.requests.append({name.decode().lower(): value.decode() for name, value in request.headers})
        self.offered.append(list(request.proposed_subprotocols))
        chosen = request.proposed_subprotocols[0] if request.proposed_subprotocols else None
        connection = await request.accept(subprotocol=chosen)
        self.connections.append(connection)
        await self._tell()
        try:
            while True:
                self.heard.append(await connection.get_message())
                await self._tell()
        except ConnectionClosed:
            pass

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, true: Callable[[], bool]) -> None:
        with trio.fail_after(5):
            async with self._changed:
                while not true():
                    await self._changed.wait()

    async def connected(self, count: int = 1) -> WebSocketConnection:
        await self.until(lambda: len(self.connections) >= count)
        return self.connections[count - 1]


@asynccontextmanager
async def remote(context: ssl.SSLContext | None = None) -> AsyncIterator[Remote]:
    service = Remote()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, service.serve, "127.0.0.1", 0, context)
        service.url = f"{'wss' if context else 'ws'}://localhost:{server.port}/rooms/there"
        yield service
        nursery.cancel_scope.cancel()


def bridge(url: str, **settings: Any) -> PluginTester:
    quick = {"reconnect_min": 0.01, "reconnect_max": 0.02}
    return PluginTester(Bridge, rooms="here", settings={"url": url, "room": "here", **quick, **settings})


async def heard(member: Member, count: int) -> list[Any]:
    with trio.fail_after(5):
        return await member.hears(count)


class Told(logging.Handler):
    """Waits for a line in the log."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.event = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self.text in record.getMessage():
            self.event.set()


@asynccontextmanager
async def told(text: str) -> AsyncIterator[None]:
    """What happens inside must lead to this line within five seconds."""
    handler, log = Told(text), logging.getLogger("relay.plugin.bridge")
    log.addHandler(handler)
    try:
        yield
        with trio.fail_after(5):
            await handler.event.wait()
    finally:
        log.removeHandler(handler)


def token(subject: str) -> str:
    return jwt.encode({"sub": subject}, SECRET, "HS256")


async def test_what_is_said_there_is_heard_here_and_the_other_way_round() -> None:
    async with remote() as there, bridge(there.url) as tester:
        ann, bob = await tester.join("here", "ann"), await tester.join("here", "bob")
        connection = await there.connected()
        for said in ("text", b"\x00binary", "zwölf"):
            await connection.send_message(said)
        assert await heard(ann, 3) == bob.received == ["text", b"\x00binary", "zwölf"]
        assert ann.messages[0].sender is None
        await ann.publish("hello")
        await ann.publish(b"\xff")
        await ann.publish({"a": 1})
        await there.until(lambda: len(there.heard) == 3)
        assert there.heard == ["hello", b"\xff", '{"a":1}']
        assert bob.received[3:] == ["hello", b"\xff", {"a": 1}]


async def test_what_came_from_there_is_not_sent_back() -> None:
    async with remote() as there, bridge(there.url) as tester:
        ann = await tester.join("here", "ann")
        connection = await there.connected()
        await connection.send_message("from there")
        await heard(ann, 1)
        await ann.publish("from here")
        await there.until(lambda: bool(there.heard))
        assert there.heard == ["from here"]


async def test_in_only_listens() -> None:
    async with remote() as there, bridge(there.url, direction="in") as tester:
        ann = await tester.join("here", "ann")
        with pytest.raises(Refused) as caught:
            await ann.publish("hello?")
        assert caught.value.setting == "plugins.bridge.direction"
        await (await there.connected()).send_message("news")
        assert await heard(ann, 1) == ["news"]


async def test_out_only_speaks() -> None:
    async with remote() as there, bridge(there.url, direction="out") as tester:
        ann, bob = await tester.join("here", "ann"), await tester.join("here", "bob")
        await (await there.connected()).send_message("not heard")
        await ann.publish("one")
        await there.until(lambda: bool(there.heard))
        assert (there.heard, bob.received) == (["one"], ["one"])


async def test_a_message_to_one_subject_stays_here() -> None:
    async with remote() as there, bridge(there.url) as tester:
        ann = await tester.join("here", "ann")
        await there.connected()
        await ann.publish("psst", to="bob")
        await ann.publish("all")
        await there.until(lambda: bool(there.heard))
        assert there.heard == ["all"]


async def test_the_bridge_does_not_talk_to_itself() -> None:
    async with remote() as there, bridge(there.url, token=token("bridge")) as tester:
        await there.connected()
        for what in (tester.join("here", "bridge"), tester.connect("bridge").publish("hi", room="here")):
            with pytest.raises(Refused, match="loop"):
                await what
        await tester.join("here", "ann")


async def test_a_bridge_that_leads_into_its_own_room_is_put_out_and_nothing_goes_round() -> None:
    tester: PluginTester

    async def own_relay(request: WebSocketRequest) -> None:
        """As the relay's own plain mode: what comes is published in the room, what is said there is sent."""
        connection = await request.accept()
        try:
            await tester.join("here", "bridge")
        except Refused as refused:
            await connection.aclose(4403, f"{refused.code}: {refused.message}")

    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, own_relay, "127.0.0.1", 0, None)
        tester = bridge(f"ws://localhost:{server.port}/rooms/here", token=token("bridge"))
        async with tester, told("4403: loop: this is the bridge itself"):
            ann, bob = await tester.join("here", "ann"), await tester.join("here", "bob")
            await ann.publish("hi")
        assert (ann.received, bob.received) == ([], ["hi"])
        nursery.cancel_scope.cancel()


async def test_the_room_that_it_does_not_lead_into_does_not_exist() -> None:
    async with remote() as there:
        settings = {"url": there.url, "room": "here"}
        async with PluginTester(Bridge, rooms="*", settings=settings) as tester:
            with pytest.raises(Refused) as caught:
                await tester.join("elsewhere", "ann")
            assert (caught.value.code, caught.value.setting) == ("no_such_room", "plugins.bridge.room")


async def test_it_connects_again_and_what_was_said_meanwhile_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    async with remote() as there, bridge(there.url, token_file=str(file), subprotocols=["x.v1"]) as tester:
        ann = await tester.join("here", "ann")
        connection = await there.connected()
        assert there.requests[0]["authorization"] == "Bearer first"
        assert there.offered[0] == ["x.v1"]
        file.write_text("second\n")
        await connection.aclose(1001, "restart")
        await tester.settle()
        await ann.publish("again")
        await there.connected(2)
        assert there.requests[1]["authorization"] == "Bearer second"
        await there.until(lambda: there.heard == ["again"])
        assert tester.failures == []


async def test_what_waits_is_bounded_in_bytes_and_what_is_dropped_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    async with bridge("ws://localhost:1/", queue_bytes=1024, reconnect_min=60, reconnect_max=60) as tester:
        ann, bob = await tester.join("here", "ann"), await tester.join("here", "bob")
        for _ in range(5):
            await ann.publish("x" * 500)
        assert len(bob.received) == 5
        assert await ann.call("status") == {"connected": False, "sent": 0, "received": 0, "dropped": 3}
    assert sum("queue_bytes is used up" in text for text in caplog.messages) == 1


async def test_its_state_can_be_asked_for() -> None:
    async with remote() as there, bridge(there.url) as tester:
        ann = await tester.join("here", "ann")
        await (await there.connected()).send_message("one")
        await heard(ann, 1)
        await ann.publish("two")
        await there.until(lambda: bool(there.heard))
        await tester.settle()
        assert await ann.call("status") == {"connected": True, "sent": 1, "received": 1, "dropped": 0}
        with pytest.raises(Refused, match="no_such_method"):
            await ann.call("other")


async def test_nobody_there_is_no_failure_of_the_plugin(tmp_path: Path) -> None:
    for settings in ({}, {"token_file": str(tmp_path / "none")}):
        async with bridge("ws://localhost:1/", **settings) as tester:
            for _ in range(2):  # it tries again
                async with told("no connection to the other side"):
                    pass
            assert tester.failures == []


async def test_tls_is_checked_against_the_authorities_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    async with remote(context) as there:
        async with bridge(there.url, ca_file=str(tmp_path / "ca.pem")) as tester:
            ann = await tester.join("here", "ann")
            await (await there.connected()).send_message("safe")
            assert await heard(ann, 1) == ["safe"]
        async with bridge(there.url, ca_file=str(tmp_path / "other.pem")), told("is not trusted"):
            pass
        assert len(there.connections) == 1


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"url": "http://example.com"}, "url must be wss"),
        ({"url": "ws://example.com/", "token": "t"}, "must not travel unencrypted"),
        ({"url": "wss://a/", "token": "t", "token_file": "f"}, "not both"),
        ({"url": "wss://a/", "direction": "up"}, "direction: invalid enum value 'up'"),
        ({}, "the setting `url` is missing"),
    ],
)
def test_wrong_settings_are_refused_at_start(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        PluginTester(Bridge, rooms="here", settings={"room": "here", **settings})


def test_its_settings_hide_their_secrets() -> None:
    settings = Bridge.Settings(url="wss://a/?ticket=hidden", room="here", token="hidden")
    assert "hidden" not in repr(settings)
