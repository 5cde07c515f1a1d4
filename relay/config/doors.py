"""The settings of the other ways in: proxies in front, whose word about a client's address is believed, tickets, and
tokens that come late.

Not here: tokens and certificates (trust). The one rule: everything here is off until somebody switches it on.
"""

from __future__ import annotations

from typing import Annotated, Literal

from relay.config.table import Count, Seconds, Table, about, items


class Proxy(Table, frozen=True):
    """Proxies in front of the public listener, so that limits and the log have the client's address, not theirs.

    Only what trusted peers say is believed; from everybody else a PROXY header is a protocol error and a header about
    the client is ignored.
    """

    trusted: Annotated[
        list[str],
        about(
            "Addresses and networks of your proxies, as '10.0.0.0/8' or '::1'; 'unix' is whoever comes through a Unix "
            "socket."
        ),
    ] = items()
    protocol: Annotated[
        Literal["none", "v1", "v2", "any"],
        about(
            "PROXY protocol of trusted peers: unless 'none', each of their connections must begin with such a header. "
            "All others are clients that come without a proxy."
        ),
    ] = "none"
    forwarded: Annotated[
        Literal["none", "forwarded", "x-forwarded-for"],
        about(
            "Header in which trusted peers say whom a request is from: Forwarded (RFC 7239) or X-Forwarded-For. The "
            "last address in it that is not trusted counts."
        ),
    ] = "none"


class Deferred(Table, frozen=True):
    """Tokens in the first message, for clients and protocols that cannot send one with their request: who comes without
    any is let in as a guest, and has `timeouts.auth` seconds to send it.
    """

    enabled: Annotated[bool, about("Let in who comes without a token, as a guest.")] = False
    guests: Annotated[int, about("Guests at once; further ones get 503.", ge=1)] = 1000
    per_address: Annotated[
        Count, about("Guests at once from one address (IPv6: one network of limits.ipv6_prefix bits); beyond it 429.")
    ] = 16
    bytes: Annotated[
        int, about("Bytes a guest may send up to the end of its token; beyond it the end (1009).", ge=512, le=65536)
    ] = 16384


class Tickets(Table, frozen=True):
    """One-time tickets: `POST /auth/ticket` trades a token for a word that opens one WebSocket, as `?ticket=…`."""

    enabled: Annotated[bool, about("Give them out, and take them.")] = False
    lifetime: Annotated[Seconds, about("Seconds in which one must be used.")] = 30.0
    capacity: Annotated[int, about("Unused ones kept at most; beyond it 503.", ge=1)] = 10000
    per_subject: Annotated[int, about("Unused ones of one subject; one more makes the oldest void.", ge=1)] = 8
    bind_address: Annotated[bool, about("Good only for the network that it was given to.")] = False
    ipv4_prefix: Annotated[int, about("Bits of an IPv4 address that must agree.", ge=1, le=32)] = 24
    ipv6_prefix: Annotated[int, about("Bits of an IPv6 address that must agree.", ge=1, le=128)] = 64
