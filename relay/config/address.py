"""Addresses as people write them: to listen on (":8443", "[::1]:8443", "localhost:0", "unix:/run/relay.sock"), and
networks ("192.0.2.0/24").

Not here: resolving names and opening sockets. The one rule: what is not clear is refused, with what would be.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from typing import Final, TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

EVERY: Final = ("::", "0.0.0.0")  # noqa: S104 - ':PORT' asks for just that
NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")  # loosely RFC 1123 section 2.1

UNIX: Final = "unix:"
PATH_BYTES: Final = 103 if sys.platform == "darwin" else 107
"""What fits into the address of a Unix socket (unix(7)), but for the zero behind it."""


def unix_path(text: str) -> str | None:
    """The path in "unix:/run/relay/public.sock"; None for what is an address of another kind.

    Raises ValueError with one sentence that does not repeat `text`.
    """
    if not text.startswith(UNIX):
        return None
    path = text.removeprefix(UNIX)
    if "/" not in path or path.endswith("/") or not path.isprintable():
        raise ValueError(
            "what follows unix: must be the path of a file, with a slash in it: unix:/run/relay/public.sock"
        )
    if problem := path_problem(path):
        raise ValueError(problem)
    return path


def path_problem(path: str) -> str | None:
    """Why a path cannot be a Unix socket's, as a sentence; None: it can."""
    if len(os.fsencode(path)) > PATH_BYTES:
        return f"the path of a Unix socket has at most {PATH_BYTES} bytes"
    return None


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
