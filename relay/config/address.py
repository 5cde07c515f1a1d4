"""Addresses as people write them: to listen on (":8443", "[::1]:8443", "localhost:0"), and networks ("192.0.2.0/24").

Not here: resolving names and opening sockets. The one rule: what is not clear is refused, with what would be.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

EVERY: Final = ("::", "0.0.0.0")  # noqa: S104 - ':PORT' asks for just that
NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")  # loosely RFC 1123 section 2.1


def parse_listen(text: str) -> list[tuple[str, int]]:
    """The (host, port) pairs that `text` means; ":PORT" and "*:PORT" mean every address, first IPv6, then IPv4.

    A host is an IPv6 address without its brackets, an IPv4 address, or a name that is still to be resolved. Port 0 lets
    the system choose. Raises ValueError with one sentence that does not repeat `text`.
    """
    host, colon, digits = text.rpartition(":")
    if not colon:
        raise ValueError("no port: write HOST:PORT, or :PORT for every address")
    if not (digits.isascii() and digits.isdigit() and int(digits[:6]) <= 65535 and len(digits) <= 5):
        raise ValueError("the port must be a number from 0 to 65535")
    port = int(digits)
    if host in ("", "*"):
        return [(every, port) for every in EVERY]
    if host.startswith("[") and host.endswith("]"):
        try:
            return [(str(ipaddress.IPv6Address(host[1:-1])), port)]
        except ValueError:
            raise ValueError("what stands in brackets must be an IPv6 address") from None
    if ":" in host:
        raise ValueError("an IPv6 address must stand in brackets: [::1]:8443")
    if re.fullmatch(r"[0-9.]+", host):
        try:
            return [(str(ipaddress.IPv4Address(host)), port)]
        except ValueError:
            raise ValueError("the host is neither an IPv4 address nor a name") from None
    if not NAME.fullmatch(host) or len(host) > 253:
        raise ValueError("the host is neither an address nor a name")
    return [(host, port)]


def parse_network(text: str) -> Network:
    """A network as people write it: "192.0.2.0/24", "2001:db8::/32", or one address.

    Raises ValueError with one sentence that does not repeat `text`, but for a network that must have been meant.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("neither an IP address nor a network such as 192.0.2.0/24 or 2001:db8::/32") from None
    raise ValueError(f"has bits set behind its prefix: {meant} is the network it is in")
