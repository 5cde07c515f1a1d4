"""Whose address a connection counts as: that of its peer, or of the client a trusted proxy speaks for.

Not here: what the headers look like (net/proxy_protocol, net/forwarded), and the limits. The one rule: only who is
trusted is asked whom it speaks for, hop by hop; so the address that counts is the last one that somebody trusted has
seen with its own eyes.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import trio

from relay.config import schema
from relay.config.address import parse_network, unix_path
from relay.errors import Rejected
from relay.limits.addresses import UNIX, parse_ip
from relay.limits.counts import AddressLimits
from relay.net.forwarded import hops
from relay.net.head import Headers
from relay.net.proxy_protocol import V2_BYTES, HeaderReader, Malformed, Version

if TYPE_CHECKING:
    from relay.front.guests import Guest


class Trusted:
    """A list of addresses and networks. Raises ValueError for what is neither."""

    __slots__ = ("_networks", "_unix")

    def __init__(self, texts: list[str]) -> None:
        self._unix = UNIX in texts
        self._networks = [parse_network(text) for text in texts if text != UNIX]

    def __contains__(self, address: str) -> bool:
        ip = parse_ip(address)
        return any(ip in network for network in self._networks) if ip is not None else self._unix and address == UNIX


def unspoken_for(config: schema.Config) -> bool:
    """Whether clients come through a Unix socket, of whom nobody says which address they are from."""
    by_socket = any(unix_path(text) is not None for text in config.server.listen)
    return by_socket and (UNIX not in config.proxy.trusted or config.proxy.protocol == config.proxy.forwarded == "none")


class HeaderRefused(Exception):
    """A trusted peer sent no PROXY header, or a bad one: only closing is left. `kind`: malformed, timeout or eof."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class Doors:
    """The table [proxy], compiled. Raises ValueError."""

    __slots__ = ("_header", "_protocol", "trusted")

    def __init__(self, settings: schema.Proxy) -> None:
        self.trusted = Trusted(settings.trusted)
        self._protocol: Version | None = None if settings.protocol == "none" else settings.protocol
        self._header = "" if settings.forwarded == "none" else settings.forwarded

    def expects_header(self, peer: str) -> bool:
        """Whether a connection from there has to begin with a PROXY header."""
        return self._protocol is not None and peer in self.trusted

    async def source(self, sock: socket.socket, peer: str, seconds: float) -> str:
        """The address a connection is from, by the PROXY header that `peer` has to send. Raises HeaderRefused.

        `sock` is raw and does not block; what follows the header is still in it.
        """
        reader = HeaderReader(self._protocol or "any")
        try:
            with trio.fail_after(seconds):
                await _read_header(sock, reader)
        except trio.TooSlowError:
            raise HeaderRefused("timeout", "the PROXY header did not come in time") from None
        except Malformed as malformed:
            raise HeaderRefused("malformed", str(malformed)) from None
        except (OSError, EOFError):
            raise HeaderRefused("eof", "the connection ended before its PROXY header") from None
        return reader.source or peer

    def waits_for_head(self, address: str) -> bool:
        """Whether the request head will tell whose address counts: nothing is counted for this one before."""
        return self._header != "" and address in self.trusted

    def client(self, headers: Headers, address: str) -> str:
        """The address that counts for a request which came from `address`.

        It is the last one in the header that is not trusted; or the first, where all are; or, where a proxy does not
        say, the proxy's own.
        """
        if self._header and address in self.trusted:
            for hop in hops(self._header, headers.getlist(self._header)):
                if hop is None:
                    break
                address = hop
                if hop not in self.trusted:
                    break
        return address


async def _read_header(sock: socket.socket, reader: HeaderReader) -> None:
    """Takes exactly the header off the socket. Raises Malformed, OSError, and EOFError where the connection ends."""
    await trio.lowlevel.checkpoint()
    while not reader.done:
        try:
            seen = sock.recv(V2_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)
            continue
        if not seen:
            raise EOFError
        sock.recv(reader.feed(seen))


class Visit:
    """One connection's place among those of its address; it may turn out later, and change, whose that is."""

    __slots__ = ("_addresses", "_key", "address", "guest")

    def __init__(self, addresses: AddressLimits, address: str) -> None:
        self.address = address
        self._addresses = addresses
        self._key: str | None = None
        self.guest: Guest | None = None  # while it is one

    def enter(self, address: str, now: float) -> Rejected | None:
        """Counts for this address from now on. A refusal is returned: it may have to wait for TLS to be told."""
        if self._key is not None and address == self.address:
            return None
        self.leave()
        self.address = address
        try:
            self._key = self._addresses.enter(address, now)
        except Rejected as rejected:
            return rejected
        return None

    def leave(self) -> None:
        if self._key is not None:
            self._addresses.leave(self._key)
            self._key = None
