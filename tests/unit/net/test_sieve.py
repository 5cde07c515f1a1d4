"""Networks that the kernel turns away: which packets the filter drops, who gets in again and when."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from relay.net.listener import accept_from
from relay.net.sieve import FEW, MOST, WINDOW, Shut, Sieve, program, release
from tests.unit.net.test_listener import needs_ipv6

ESTABLISHED = 1  # include/net/tcp_states.h

ips = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


def passes(code: bytes, source: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Runs a program as the kernel would (Documentation/networking/filter.rst) over a packet from there."""
    steps = list(struct.iter_unpack("=HBBI", code))
    header = {4: bytes(12), 6: bytes(8)}[source.version] + source.packed
    place, accumulator = 0, 0
    while True:
        kind, equal, differs, value = steps[place]
        place += 1
        match kind:
            case 0x20:
                (accumulator,) = struct.unpack_from("!I", header, value - 0xFFF00000)
            case 0x54:
                accumulator &= value
            case 0x15:
                place += equal if accumulator == value else differs
            case 0x06:
                return value != 0
            case _:
                raise AssertionError(kind)


@given(st.lists(st.tuples(ips, st.integers(16, 128)), max_size=MOST), ips)
def test_a_packet_passes_unless_its_source_is_in_one_of_the_networks(
    drawn: list[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]],
    source: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    networks = [
        ipaddress.ip_network((ip, 32 if ip.version == 4 else bits), strict=False)
        for ip, bits in drawn
        if ip.version == source.version
    ]
    code = program(networks)
    assert passes(code, source) == all(source not in network for network in networks)
    assert not any(passes(code, network.network_address) for network in networks)
    assert not any(passes(code, network[-1]) for network in networks)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(64)
        sock.setblocking(False)
        yield sock


def reaches(listener: socket.socket, source: str) -> bool:
    """On the loopback, a SYN that is not dropped is answered before connect() returns."""
    with socket.socket(listener.family) as sock:
        sock.bind((source, 0))
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname()[:2])
        state: int = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        return state == ESTABLISHED


def shut_out(sieve: Sieve, network: str, seconds: float = 10.0, now: float = 0.0) -> None:
    for _ in range(FEW):
        sieve.refused(Shut(network, seconds), now)
    sieve.settle(now)


def test_who_was_turned_away_often_is_dropped_until_the_time_is_over(listener: socket.socket) -> None:
    sieve = Sieve(listener)
    for _ in range(FEW - 1):
        sieve.refused(Shut("127.0.1.1", 10.0), 0.0)
    sieve.settle(0.0)
    assert reaches(listener, "127.0.1.1")
    assert sieve.until == float("inf")
    sieve.refused(Shut("127.0.1.1", 10.0), 0.5)
    sieve.settle(0.5)
    assert sieve.until == 10.5
    assert not reaches(listener, "127.0.1.1")
    assert reaches(listener, "127.0.1.2")
    sieve.settle(10.4)
    assert not reaches(listener, "127.0.1.1")
    sieve.settle(10.5)
    assert reaches(listener, "127.0.1.1")
    assert sieve.until == float("inf")


def test_refusals_that_are_far_apart_shut_nobody_out(listener: socket.socket) -> None:
    sieve = Sieve(listener)
    for number in range(3 * FEW):
        sieve.refused(Shut("127.0.1.1", 10.0), number * WINDOW / (FEW - 1))
        sieve.settle(0.0)
    assert reaches(listener, "127.0.1.1")


def test_only_so_many_networks_are_shut_out_at_once(listener: socket.socket) -> None:
    sieve = Sieve(listener)
    for number in range(MOST + 1):
        shut_out(sieve, f"127.0.2.{number}", seconds=10.0 + number)
    assert not reaches(listener, "127.0.2.0")
    assert not reaches(listener, f"127.0.2.{MOST - 1}")
    assert reaches(listener, f"127.0.2.{MOST}")


@needs_ipv6
def test_of_ipv6_the_whole_network_is_meant() -> None:
    with socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        sock.listen(8)
        sieve = Sieve(sock)
        shut_out(sieve, "2001:db8::/64")
        shut_out(sieve, "127.0.0.1")
        shut_out(sieve, "fe80::%lo/64")
        assert reaches(sock, "::1")
        shut_out(sieve, "::/64")
        assert not reaches(sock, "::1")


def test_a_connection_that_was_let_in_before_goes_on(listener: socket.socket) -> None:
    with socket.create_connection(listener.getsockname(), timeout=5, source_address=("127.0.1.1", 0)) as client:
        sieve = Sieve(listener)
        shut_out(sieve, "127.0.1.1")
        sock, _ = listener.accept()
        with sock:
            release(sock)
            client.sendall(b"still here")
            sock.settimeout(5)
            assert sock.recv(100) == b"still here"


def test_where_the_kernel_takes_no_filter_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as sock:
        sieve = Sieve(sock)
    shut_out(sieve, "127.0.1.1")
    shut_out(sieve, "127.0.1.2", now=2 * WINDOW)
    assert [record.message for record in caplog.records] == [
        "the kernel takes no filter for a listening socket: Bad file descriptor"
    ]
    assert sieve.until == float("inf")


def test_a_unix_socket_has_no_sieve() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sieve = Sieve(sock)
        shut_out(sieve, "unix")
        assert sieve.until == float("inf")


async def test_the_accept_loop_shuts_out_whom_its_handler_turns_away_and_lets_in_again(
    autojump_clock: trio.testing.MockClock, listener: socket.socket
) -> None:
    refuse, taken = True, trio.Event()

    def handle(sock: socket.socket, address: str) -> Shut | None:
        sock.close()
        if not refuse:
            taken.set()
            return None
        return Shut(address, 30.0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept_from, listener, handle, trio.lowlevel.checkpoint)
        for _ in range(1000):
            if not reaches(listener, "127.0.1.1"):
                break
            await trio.sleep(0.01)
        assert not reaches(listener, "127.0.1.1")
        refuse = False
        await trio.sleep(31.0)
        assert reaches(listener, "127.0.1.1")
        await taken.wait()
        nursery.cancel_scope.cancel()
