"""Whose address counts: a peer's own, unless it is trusted and says for whom it speaks."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from relay.config.schema import Limits, Proxy
from relay.front.doors import Doors, HeaderRefused, Trusted, Visit
from relay.limits.counts import AddressLimits
from relay.net.head import Headers

HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"


def behind(*lines: str, name: str = "X-Forwarded-For") -> Headers:
    return Headers((name, line) for line in lines)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def test_networks_addresses_and_unix_sockets_are_trusted_by_name() -> None:
    trusted = Trusted(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "unix"])
    assert all(a in trusted for a in ("10.1.2.3", "192.0.2.7", "2001:db8::1", "unix", "::ffff:10.1.2.3"))
    assert not any(a in trusted for a in ("11.1.2.3", "192.0.2.8", "2001:db9::1", "", "fe80::1%eth0", "::1"))
    assert "unix" not in Trusted(["0.0.0.0/0"])


def test_only_trusted_peers_have_to_send_a_header_and_only_where_it_is_switched_on() -> None:
    assert not Doors(Proxy(trusted=["10.0.0.0/8"])).expects_header("10.0.0.1")
    doors = Doors(Proxy(trusted=["10.0.0.0/8"], protocol="v2"))
    assert (doors.expects_header("10.0.0.1"), doors.expects_header("192.0.2.1")) == (True, False)


async def test_the_header_names_the_source_and_not_a_byte_behind_it_is_taken(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    doors = Doors(Proxy(trusted=["unix"], protocol="any"))
    theirs.send(HEADER + b"\x16\x03\x01 and so on")
    assert await doors.source(ours, "unix", 5) == "192.0.2.7"
    assert ours.recv(100) == b"\x16\x03\x01 and so on"


async def test_a_header_may_come_byte_by_byte(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    doors = Doors(Proxy(trusted=["unix"], protocol="v1"))

    async def drip() -> None:
        for byte in HEADER:
            theirs.send(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        assert await doors.source(ours, "unix", 5) == "192.0.2.7"


async def test_a_proxy_that_speaks_for_itself_counts_as_itself(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.send(b"PROXY UNKNOWN\r\n")
    assert await Doors(Proxy(trusted=["unix"], protocol="v1")).source(ours, "unix", 5) == "unix"


@pytest.mark.parametrize(
    ("said", "kind"), [(b"\x16\x03\x01", "malformed"), (b"PROXY TC", "timeout"), (b"", "timeout"), (None, "eof")]
)
async def test_a_bad_a_late_and_a_missing_header_are_refused_each_by_its_kind(
    pair: tuple[socket.socket, socket.socket], said: bytes | None, kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = pair
    theirs.shutdown(socket.SHUT_WR) if said is None else theirs.send(said)
    with pytest.raises(HeaderRefused) as caught:
        await Doors(Proxy(trusted=["unix"], protocol="any")).source(ours, "unix", 5)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("peer", "lines", "client"),
    [
        ("192.0.2.1", ["6.6.6.6"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["6.6.6.6, 192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["6.6.6.6", "192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["6.6.6.6, 192.0.2.7, 10.0.0.2, 10.0.0.3"], "192.0.2.7"),
        ("10.0.0.1", ["10.0.0.9, 10.0.0.2"], "10.0.0.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.7, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.7, unknown, 10.0.0.2"], "10.0.0.2"),
        ("unix", ["192.0.2.7"], "192.0.2.7"),
    ],
)
def test_the_last_address_that_is_not_trusted_counts(peer: str, lines: list[str], client: str) -> None:
    doors = Doors(Proxy(trusted=["10.0.0.0/8", "unix"], forwarded="x-forwarded-for"))
    assert doors.waits_for_head(peer) == (peer != "192.0.2.1")
    assert doors.client(behind(*lines), peer) == client


def test_only_the_header_of_the_configuration_is_read() -> None:
    doors = Doors(Proxy(trusted=["10.0.0.0/8"], forwarded="forwarded"))
    both = Headers([("X-Forwarded-For", "6.6.6.6"), ("Forwarded", 'for="[2001:db8::7]:1"')])
    assert doors.client(both, "10.0.0.1") == "2001:db8::7"
    assert Doors(Proxy(trusted=["10.0.0.0/8"])).client(both, "10.0.0.1") == "10.0.0.1"


def test_a_visit_counts_for_one_address_at_a_time_and_leaves_nothing() -> None:
    limits = AddressLimits(Limits(connections_per_address=1))
    one, other = Visit(limits, "10.0.0.1"), Visit(limits, "10.0.0.1")
    assert one.enter("192.0.2.7", 0.0) is None
    assert one.enter("192.0.2.7", 0.0) is None
    refused = other.enter("192.0.2.7", 0.0)
    assert refused is not None
    assert refused.setting == "limits.connections_per_address"
    assert one.enter("192.0.2.8", 0.0) is None
    assert other.enter("192.0.2.7", 0.0) is None
    assert limits.connections == 2
    one.leave()
    other.leave()
    other.leave()
    assert limits.connections == 0
