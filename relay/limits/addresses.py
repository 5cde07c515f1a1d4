"""Network addresses: what one counts as, and which may come in at all.

Not here: sockets, and finding out the address behind a proxy. The one rule: IPv4 within IPv6 is IPv4, so that nobody
has a second name by writing the first one differently.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, TypeAlias

from relay.config.address import parse_network

IP: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

SUBSCRIBER: Final = 64
"""Bits of the IPv6 network that one subscriber gets, unless the config says otherwise."""

UNIX: Final = "unix"
"""The address of whoever comes through a Unix socket."""

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052 section 2.1


@lru_cache(4096)
def parse_ip(address: str) -> IP | None:
    """The IP address a text means; None for what is none (the name of a Unix socket)."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip


@lru_cache(4096)
def address_key(address: str, prefix: int = SUBSCRIBER) -> str:
    """What an address counts as: itself for IPv4, its network of `prefix` bits for IPv6; IPv4 within IPv6 is IPv4.

    What is no IP address (the name of a Unix socket) stands for itself.
    """
    ip = parse_ip(address)
    if ip is None:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    low = 128 - prefix
    network = ipaddress.IPv6Address(int(ip) >> low << low)
    return f"{network}%{ip.scope_id}/{prefix}" if ip.scope_id else f"{network}/{prefix}"


class Networks:
    """Which addresses may connect, by two lists of networks.

    Of all networks an address is in, the smallest decides; where that is in both lists, `deny` does. An address in
    none comes in unless there is an `allow` list. What is no IP address is a socket of this host, and comes in.
    """

    __slots__ = ("_by_prefix", "_else", "_everybody")

    def __init__(self, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        """Raises ValueError."""
        tables: dict[int, dict[int, dict[int, bool]]] = {4: {}, 6: {}}
        allowed = list(map(parse_network, allow))
        for networks, comes_in in ((allowed, True), (map(parse_network, deny), False)):
            for network in networks:
                host_bits = network.max_prefixlen - network.prefixlen
                table = tables[network.version].setdefault(host_bits, {})
                table[int(network.network_address) >> host_bits] = comes_in
        # One table for each length of prefix, the smallest networks first: as many look-ups as there are lengths.
        self._by_prefix: Final = {version: tuple(sorted(table.items())) for version, table in tables.items()}
        self._else: Final = not allowed
        self._everybody: Final = self._else and not any(self._by_prefix.values())

    def allows(self, address: str) -> bool:
        if self._everybody:
            return True
        ip = parse_ip(address)
        if ip is None:
            return True
        number = int(ip)
        for host_bits, table in self._by_prefix[ip.version]:
            comes_in = table.get(number >> host_bits)
            if comes_in is not None:
                return comes_in
        return self._else
