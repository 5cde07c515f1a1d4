"""Who comes without a token: a deadline, a place and bytes of his own, and nothing else until he has said who he is."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from relay.config.schema import Config
from relay.counters import Counters
from relay.errors import Rejected
from relay.front.guests import Guest, Guests
from relay.net.transport import Lost
from relay.protocols.base import WireProtocol
from relay.protocols.frames import opened
from relay.protocols.plain import Plain
from tests.unit.net.kit import close, masked
from tests.unit.protocols.table import JSON, MSGPACK
from tests.unit.session.kit import settings

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
ACCEPT = b"HTTP/1.1 101"
TOKEN = "a.b.c"


def auth(**more: Any) -> bytes:
    return masked(TEXT, msgspec.json.encode({"t": "auth", "token": TOKEN, **more}))


class Line:
    """A transport without a socket: what comes is what a test puts in, one read each; `None` is the client's end."""

    def __init__(self) -> None:
        self.put, self._get = trio.open_memory_channel[bytes | None](math.inf)
        self.sent: list[bytes] = []
        self.half_closed = False

    async def receive_some(self) -> bytes:
        return await self._get.receive() or b""

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(data)

    def half_close(self) -> None:
        self.half_closed = True


class Door:
    """The part of the front that guests see."""

    def __init__(self, **deferred: Any) -> None:
        self.config: Config = settings(auth={"deferred": {"enabled": True, **deferred}})
        self.counters = Counters()
        self.state: Any = SimpleNamespace(
            guests=set(), rules=SimpleNamespace(config=self.config, certificates=SimpleNamespace(identify=True)),
            addresses=SimpleNamespace(key=lambda address: address), check_failures=lambda address: None,
        )  # fmt: skip
        services: Any = SimpleNamespace(config=self.config, counters=self.counters)
        self.guests = Guests(self.state, services)
        self.line = Line()

    def enter(self, address: str = "192.0.2.1", protocol: WireProtocol = JSON.protocol) -> Guest:
        request: Any = SimpleNamespace(remote=address, certificate=None)
        transport: Any = self.line
        return self.guests.enter(request, transport, protocol)

    async def token(self, *reads: bytes | None, early: bytes = b"", protocol: WireProtocol = JSON.protocol) -> str:
        """What a guest has said for his token who sends this. Raises as `credential`."""
        for data in reads:
            self.line.put.send_nowait(data)
        with trio.fail_after(1000):
            credential = await self.enter(protocol=protocol).credential(ACCEPT, early)
        assert credential.kind == "message"
        return credential.value

    async def refused(self, *reads: bytes | None, **more: Any) -> tuple[str, int, str | None]:
        """Code, close code and setting of the refusal."""
        with pytest.raises(Rejected) as refusal:
            await self.token(*reads, **more)
        return refusal.value.code, int(refusal.value.close_code), refusal.value.setting


async def test_a_token_is_taken_from_the_first_message_of_each_wire_format(autojump_clock: object) -> None:
    assert await Door().token(auth()) == TOKEN
    packed = masked(BINARY, msgspec.msgpack.encode({"t": "auth", "token": TOKEN, "id": 1}))
    assert await Door().token(packed, protocol=MSGPACK.protocol) == TOKEN
    assert await Door().token(masked(TEXT, f" {TOKEN}\n"), protocol=Plain()) == TOKEN
    assert await Door().token(early=auth()) == TOKEN, "it may come behind the request head"


async def test_a_token_may_come_byte_by_byte_and_in_fragments(autojump_clock: object) -> None:
    door = Door()
    assert await door.token(*(bytes([byte]) for byte in auth())) == TOKEN
    assert door.line.sent == [ACCEPT]
    first = bytes([masked(TEXT, "a.b")[0] & 0x7F]) + masked(TEXT, "a.b")[1:]
    rest = bytes([0x80]) + masked(TEXT, ".c")[1:]
    assert await Door().token(first, masked(PING, "between"), rest, protocol=Plain()) == TOKEN


async def test_pings_of_both_kinds_are_answered_and_nothing_else_is_handled(autojump_clock: object) -> None:
    door = Door()
    ping = masked(TEXT, msgspec.json.encode({"t": "ping", "id": 3}))
    assert await door.token(masked(PING, "there?"), ping, auth()) == TOKEN
    assert [opened(sent) for sent in door.line.sent[1:]] == [(PONG, b"there?"), (TEXT, b'{"t":"pong","id":3}')]
    join = masked(TEXT, msgspec.json.encode({"t": "join", "room": "q:a"}))
    assert await Door().refused(join + auth()) == ("auth_expected", 4401, "auth.deferred.enabled")
    assert await Door().refused(masked(TEXT, "{")) == ("auth_expected", 4401, "auth.deferred.enabled")


async def test_what_is_no_message_of_the_wire_format_ends_it_with_its_own_code(autojump_clock: object) -> None:
    assert await Door().refused(masked(BINARY, b"\x81")) == ("1003", 1003, None)
    assert await Door().refused(masked(BINARY, TOKEN), protocol=Plain()) == ("1003", 1003, None)
    assert await Door().refused(masked(TEXT, b"\xff"), protocol=Plain()) == ("1007", 1007, None)
    assert await Door().refused(b"\x81\x01a") == ("1002", 1002, None), "not masked"
    assert await Door().refused(b"".join(masked(PING, "") for _ in range(50))) == (
        "1008", 1008, "limits.control_frames",
    )  # fmt: skip


async def test_bytes_are_bounded_whatever_they_are(autojump_clock: object) -> None:
    too_large = ("too_large", 1009, "auth.deferred.bytes")
    assert await Door(bytes=512).refused(masked(TEXT, "x" * 600)[:10]) == too_large, "told by the head alone"
    assert await Door(bytes=512).refused(*[masked(TEXT, '{"t":"ping"}')] * 100) == too_large
    assert await Door(bytes=512).refused(*[masked(TEXT, '{"t":"ping"}')] * 30, auth(id="x" * 200)) == too_large
    piece = bytes([0]) + masked(TEXT, "")[1:]
    assert await Door().refused(b"\x01" + masked(TEXT, "a")[1:], *[piece] * 20) == too_large


async def test_what_comes_behind_the_token_is_neither_counted_nor_looked_at(autojump_clock: object) -> None:
    door = Door(bytes=512)
    behind = masked(TEXT, "y" * 5000) + b"\x00not even a frame"
    door.line.put.send_nowait(auth(id=7) + behind)
    guest = door.enter()
    await guest.credential(ACCEPT, b"")
    said: list[tuple[object, ...]] = []
    main = SimpleNamespace(
        closing=None, identity=SimpleNamespace(expires=9.0), ok=lambda *what: said.append(("ok", *what))
    )
    link: Any = SimpleNamespace(
        start=lambda early, last: said.append(("start", early, last)), take=lambda data: said.append(("take", data)),
        connection=SimpleNamespace(main=main),
    )  # fmt: skip
    guest.begin(link, 5)
    assert said == [("start", b"", 5), ("ok", 7, {"expires": 9.0}), ("take", behind)]
    assert (door.state.guests, door.counters.guests) == (set(), {"admitted": 1})


async def test_who_says_nothing_is_told_after_the_deadline(autojump_clock: object) -> None:
    door = Door()
    began = trio.current_time()
    assert await door.refused(auth()[:-1]) == ("timeout", 4401, "timeouts.auth")
    assert trio.current_time() - began == door.config.timeouts.auth


async def test_a_drip_of_pings_does_not_put_the_deadline_off(autojump_clock: object) -> None:
    door = Door()
    async with trio.open_nursery() as nursery:

        async def drip() -> None:
            while True:
                await trio.sleep(0.5)
                door.line.put.send_nowait(masked(PING, ""))

        nursery.start_soon(drip)
        assert (await door.refused())[0] == "timeout"
        nursery.cancel_scope.cancel()


async def test_who_goes_away_is_told_nothing_and_who_closes_is_answered(autojump_clock: object) -> None:
    with pytest.raises(Lost):
        await Door().token(None)
    door = Door()
    with pytest.raises(Lost):
        await door.token(close(4000, "changed my mind"), None)
    assert opened(door.line.sent[-1]) == (CLOSE, (4000).to_bytes(2, "big"))


async def test_places_are_bounded_in_all_and_for_an_address_and_given_back_once() -> None:
    door = Door(guests=3, per_address=2)
    first, second = door.enter("192.0.2.1"), door.enter("192.0.2.1")
    with pytest.raises(Rejected) as refusal:
        door.enter("192.0.2.1")
    assert (refusal.value.status, refusal.value.setting) == (429, "auth.deferred.per_address")
    third = door.enter("192.0.2.2")
    with pytest.raises(Rejected) as refusal:
        door.enter("192.0.2.3")
    assert (refusal.value.status, refusal.value.setting) == (503, "auth.deferred.guests")
    first.leave()
    first.leave()
    assert len(door.state.guests) == 2
    fourth = door.enter("192.0.2.1")
    for guest in (second, third, fourth):
        guest.leave()
    assert (door.state.guests, len(door.guests._of_address), door.counters.guests) == (set(), 0, {"left": 4})


async def test_a_refusal_is_told_by_bye_and_close_and_counted(autojump_clock: object) -> None:
    door = Door()
    guest = door.enter()
    door.line.put.send_nowait(None)
    await guest.refuse(Rejected(401, "token_expired", "the token has expired", setting="auth.leeway"))
    guest.leave()
    (said,) = door.line.sent
    size = said[1] if said[1] < 126 else int.from_bytes(said[2:4], "big")
    head = 2 if said[1] < 126 else 4
    bye = msgspec.json.decode(said[head : head + size])
    assert (bye["t"], bye["code"], bye["reason"], bye["limit"]) == (
        "bye", 4401, "token_expired: the token has expired", "auth.leeway",
    )  # fmt: skip
    opcode, payload = opened(said[head + size :])
    assert (opcode, payload[2:]) == (CLOSE, b"token_expired: the token has expired [auth.leeway]")
    assert door.line.half_closed
    assert door.counters.guests == {"token_expired": 1}


async def test_a_flood_behind_a_refusal_is_not_read_for_ever(autojump_clock: object) -> None:
    door = Door()
    guest = door.enter(protocol=Plain())
    for _ in range(100):
        door.line.put.send_nowait(bytes(10000))
    await guest.refuse(Rejected(401, "token_expired", "the token has expired"))
    assert door.line.put.statistics().current_buffer_used > 80


async def test_nobody_is_waited_for_when_the_server_goes_away(autojump_clock: object) -> None:
    door = Door()
    guest = door.enter()
    async with trio.open_nursery() as nursery:

        async def drain() -> None:
            await trio.testing.wait_all_tasks_blocked()
            guest.dismiss()

        nursery.start_soon(drain)
        with pytest.raises(Rejected) as refusal:
            await guest.credential(ACCEPT, b"")
    assert (refusal.value.code, int(refusal.value.close_code)) == ("draining", 1001)


def test_only_who_brings_nothing_is_a_guest_and_only_where_that_is_on() -> None:
    door = Door()
    nothing: Any = SimpleNamespace(credential=None)
    token: Any = SimpleNamespace(credential="x")
    request: Any = SimpleNamespace(certificate=None)
    certified: Any = SimpleNamespace(certificate=object())
    assert door.guests.expects(request, nothing)
    assert not door.guests.expects(request, token)
    assert not door.guests.expects(certified, nothing)
    assert not Door(enabled=False).guests.expects(request, nothing)
