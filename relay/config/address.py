"""Addresses to listen on, as people write them: ":8443", "127.0.0.1:8443", "[::1]:8443", "localhost:0".

Not here: resolving names and opening sockets. The one rule: what is not clear is refused, with what would be.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

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
