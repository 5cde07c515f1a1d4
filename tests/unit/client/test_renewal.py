"""A client that renews its token by itself, given where to get one."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from relay.client import ConnectFailed, Disconnected, Expiring, Message, Refusal, Refused, connect
from relay.client.renewal import Renewal
from tests.unit.client.server import Peer, relay_v1, wired


class Source:
    """Gives a, b, c, …; what is an exception is raised."""

    def __init__(self, *failures: Exception | None) -> None:
        self.failures = list(failures)
        self.asked_at: list[float] = []

    async def __call__(self) -> str:
        await trio.lowlevel.checkpoint()
        self.asked_at.append(trio.current_time())
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        return "abcdefghijkl"[len(self.asked_at) - 1]


async def test_the_token_is_asked_for_at_the_start_and_again_when_the_relay_says_so() -> None:
    tokens: list[str] = []

    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        tokens.append(peer.header("authorization"))
        for expires in (1_800_000_000.0, 1_900_000_000.0):
            await peer.say({"t": "expiring", "in": 60.0})
            asked = await peer.asked()
            assert asked["t"] == "auth"
            tokens.append(asked["token"])
            await peer.say({"t": "ok", "id": asked["id"], "expires": expires})
        await peer.say({"t": "message", "room": "r", "data": "the end"})
        await peer.hear()

    async with wired(script) as url, connect(url, token=Source()) as relay:
        event = await relay.receive()
        assert isinstance(event, Message), "the notice is seen to, and no event"
        assert tokens == ["Bearer a", "b", "c"]
        while relay.expires != 1_900_000_000.0:
            await trio.lowlevel.checkpoint()


async def test_a_session_that_may_only_listen_is_renewed_too() -> None:
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        refusal = {"code": "unauthorized", "message": "the token has expired", "limit": "auth.on_expiry"}
        await peer.say({"t": "error", "id": None, **refusal})
        asked = await peer.asked()
        await peer.say({"t": "ok", "id": asked["id"], "expires": 1_800_000_000.0})
        await peer.say({"t": "message", "room": "r", "data": asked["token"]})
        await peer.hear()

    async with wired(script) as url, connect(url, token=Source()) as relay:
        assert isinstance(await relay.receive(), Refusal)
        message = await relay.receive()
        assert isinstance(message, Message)
        assert message.data == "b"


async def test_without_a_source_the_notice_is_an_event() -> None:
    async def script(peer: Peer) -> None:
        await relay_v1(peer)
        await peer.say({"t": "expiring", "in": 60.0})
        await peer.hear()

    async with wired(script) as url, connect(url, token="a") as relay:
        assert await relay.receive() == Expiring(60.0)


async def test_a_source_that_fails_at_the_start_is_the_programs_affair(autojump_clock: MockClock) -> None:
    async with wired(relay_v1) as url:
        with pytest.raises(ZeroDivisionError):
            async with connect(url, token=Source(ZeroDivisionError())):
                raise AssertionError

        async def never() -> str:
            await trio.sleep_forever()
            raise AssertionError

        with pytest.raises(ConnectFailed, match=r"no token within 0\.05 s"):
            async with connect(url, token=never, connect_timeout=0.05):
                raise AssertionError


async def test_a_source_that_fails_is_asked_again_more_and_more_rarely(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source(*[OSError("issuer down")] * 8)
    taken: list[str] = []

    async def auth(token: str) -> None:
        await trio.lowlevel.checkpoint()
        taken.append(token)

    renewal = Renewal(source, auth)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(renewal.run)
        renewal.want()
        await trio.sleep(1000)
        assert taken == ["i"]
        pauses = [after - before for before, after in zip(source.asked_at, source.asked_at[1:], strict=False)]
        for pause, most in zip(pauses, [1, 2, 4, 8, 16, 30, 30, 30], strict=True):
            assert 0.75 * most <= pause <= most
        assert "issuer down" in caplog.text
        renewal.want()
        await trio.sleep(1000)
        assert taken == ["i", "j"]
        nursery.cancel_scope.cancel()


async def test_a_token_that_the_relay_refuses_is_followed_by_another(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    source = Source()

    async def auth(token: str) -> None:
        await trio.lowlevel.checkpoint()
        if token != "c":
            raise Refused("rate_limited", "wait", retry_after=20.0)

    renewal = Renewal(source, auth)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(renewal.run)
        renewal.want()
        await trio.sleep(100)
        assert len(source.asked_at) == 3
        assert source.asked_at[1] - source.asked_at[0] >= 15
        nursery.cancel_scope.cancel()


async def test_with_the_session_the_renewal_ends() -> None:
    async def auth(token: str) -> None:
        await trio.lowlevel.checkpoint()
        raise Disconnected(1006)

    renewal = Renewal(Source(), auth)
    renewal.want()
    with trio.fail_after(5):
        await renewal.run()
