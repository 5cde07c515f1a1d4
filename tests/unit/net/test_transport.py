"""The socket of one client, plain and with TLS: what is read, what is written, and how it ends."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from functools import cache
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from relay.net.link import Link
from relay.net.transport import WRITE_SIZE, Lost, Transport, Wants
from relay.protocols.plain import Plain
from relay.session.connection import Connection
from tests.unit.net.kit import masked, open_net, tcp_pair
from tests.unit.session.kit import identity
from tests.unit.session.plugins import Quick

both = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


class Ends:
    """A transport and the stream at its other end."""

    def __init__(self, transport: Transport, stream: trio.abc.Stream, sock: Any) -> None:
        self.transport = transport
        self.stream = stream
        self.sock = sock

    async def received(self) -> bytes:
        """What the transport has received, once something has come."""
        while (data := self.transport.receive()) is None:
            await trio.lowlevel.wait_readable(self.transport.fd)
        return data

    async def sent(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            count = self.transport.send(rest[:WRITE_SIZE])
            if not count:
                await trio.lowlevel.wait_writable(self.transport.fd)
            rest = rest[count:]

    async def heard(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += await self.stream.receive_some(65536)
        return data


async def handshake(transport: Transport) -> None:
    """To its end. Raises Lost."""
    while (wants := transport.handshake()) is not Wants.NOTHING:
        await (trio.lowlevel.wait_readable if wants is Wants.READ else trio.lowlevel.wait_writable)(transport.fd)


@contextlib.asynccontextmanager
async def connected(tls: bool, *, small: bool = False, unsent: int = 16384) -> AsyncIterator[Ends]:
    server, client = tcp_pair(small)
    sock = trio.socket.from_stdlib_socket(client)
    plain = trio.SocketStream(sock)
    with trio.fail_after(5):
        try:
            if not tls:
                yield Ends(Transport(server, unsent_bytes=unsent), plain, sock)
                return
            transport = Transport(server, contexts()[0], unsent_bytes=unsent)
            stream = trio.SSLStream(plain, contexts()[1], server_hostname="localhost")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.do_handshake)
                await handshake(transport)
            yield Ends(transport, stream, sock)
        finally:
            server.close()
            sock.close()


@both
async def test_bytes_go_both_ways(tls: bool) -> None:
    async with connected(tls) as ends:
        assert ends.transport.tls is tls
        assert ends.transport.send(b"to the client") == 13
        assert await ends.heard(13) == b"to the client"
        await ends.stream.send_all(b"to the server")
        assert await ends.received() == b"to the server"
        assert ends.transport.receive() is None, "nothing has come"


@both
async def test_more_than_the_socket_takes_waits_and_arrives_unchanged(tls: bool) -> None:
    data = bytes(range(256)) * 8000
    async with connected(tls, small=True) as ends, trio.open_nursery() as nursery:
        nursery.start_soon(ends.sent, data)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await ends.heard(len(data)) == data


@both
async def test_a_full_socket_takes_nothing_and_says_so(tls: bool) -> None:
    async with connected(tls, small=True) as ends:
        taken = 0
        while count := ends.transport.send(bytes(WRITE_SIZE)):
            taken += count
        assert ends.transport.send(bytes(WRITE_SIZE)) == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends.sent, bytes(WRITE_SIZE))
            assert await ends.heard(taken + WRITE_SIZE) == bytes(taken + WRITE_SIZE)


@both
async def test_what_the_kernel_holds_unsent_is_told(tls: bool) -> None:
    async with connected(tls, small=True) as ends:
        assert ends.transport.unsent() == 0
        written = 0
        while sent := ends.transport.send(bytes(4096)):
            written += sent
        unsent = ends.transport.unsent()
        assert unsent is not None
        assert 0 < unsent < 2 * written
        ends.transport.close()
        assert ends.transport.unsent() is None


@both
async def test_the_other_sides_end_is_read_as_nothing(tls: bool) -> None:
    async with connected(tls) as ends:
        await ends.stream.send_all(b"last")
        with contextlib.suppress(trio.BrokenResourceError):
            await ends.stream.aclose()
        assert await ends.received() == b"last"
        assert await ends.received() == b""


async def test_an_end_without_goodbye_is_an_end_too() -> None:
    async with connected(True) as ends:
        ends.sock.close()
        assert await ends.received() == b""


async def test_a_reset_is_lost_with_its_name() -> None:
    async with connected(False) as ends:
        ends.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ends.sock.close()
        with pytest.raises(Lost, match="ECONNRESET"):
            await ends.received()


@both
async def test_writing_to_somebody_who_is_gone_is_lost(tls: bool) -> None:
    async with connected(tls) as ends:
        ends.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ends.sock.close()
        await trio.testing.wait_all_tasks_blocked(0.01)
        with pytest.raises(Lost):
            await ends.sent(bytes(1_000_000))


@both
async def test_after_a_half_close_the_client_hears_the_end_and_may_go_on_talking(tls: bool) -> None:
    async with connected(tls) as ends:
        await ends.sent(b"goodbye")
        ends.transport.half_close()
        assert ends.transport.half_closed
        assert await ends.heard(7) == b"goodbye"
        assert await ends.stream.receive_some(100) == b"", "an end, not a broken connection"
        for _ in range(5):
            await ends.sock.send(b"whatever this is")
            assert await ends.received() == b"whatever this is"
        ends.sock.shutdown(socket.SHUT_WR)
        assert await ends.received() == b""


@both
async def test_a_close_is_a_clean_end(tls: bool) -> None:
    async with connected(tls) as ends:
        await ends.sent(b"bye")
        ends.transport.close()
        assert await ends.heard(3) == b"bye"
        assert await ends.stream.receive_some(100) == b""


@both
async def test_an_abort_is_a_reset(tls: bool) -> None:
    async with connected(tls) as ends:
        ends.transport.abort()
        with pytest.raises(trio.BrokenResourceError):
            await ends.heard(1_000_000)


async def test_a_failed_handshake_sends_its_alert() -> None:
    server, client = tcp_pair()
    transport = Transport(server, contexts()[0], unsent_bytes=16384)
    sock = trio.socket.from_stdlib_socket(client)
    with trio.fail_after(5), server, client:
        await sock.send(b"\x16\x03\x01\x00\x04rude")
        with pytest.raises(Lost, match="TLS"):
            await handshake(transport)
        assert (await sock.recv(100))[:1] == b"\x15", "an alert (RFC 8446 section 5.1)"


async def test_sends_of_many_sizes_over_tls_are_unchanged_when_the_socket_is_full_again_and_again() -> None:
    async with connected(True, small=True) as ends:
        data = b"".join(bytes([size % 251]) * size for size in range(1, 900))

        async def send() -> None:
            place = 0
            for size in range(1, 900):
                rest = memoryview(data)[place : place + size]
                place += size
                while rest:
                    count = ends.transport.send(rest)
                    if not count:
                        await trio.lowlevel.wait_writable(ends.transport.fd)
                    rest = rest[count:]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            assert await ends.heard(len(data)) == data


async def test_over_tls_too_a_close_frame_survives_a_client_that_goes_on_talking() -> None:
    async with open_net({"q": (Quick, {})}) as net, connected(True) as ends:
        link = Link(net.services, ends.transport, net.poller, net.poller.tick, net.engine_limits)
        link.connection = Connection(net.services, link, identity("ann"), Plain(), "s", "q:a")
        ended = trio.Event()
        link.gone = lambda _: ended.set()
        link.start(b"")
        await ends.stream.send_all(b"\x81\x01x" + masked(1, "more") * 50)
        await trio.testing.wait_all_tasks_blocked(0.01)
        for _ in range(20):
            await ends.stream.send_all(masked(1, "and more") * 100)
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert not ended.is_set()
        heard = await ends.heard(4)
        assert heard[:1] == b"\x88"
        assert int.from_bytes(heard[2:4], "big") == 1002
        while await ends.stream.receive_some(100):
            pass
        ends.sock.close()
        await ended.wait()
