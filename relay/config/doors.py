"""The settings of the other ways in: proxies in front, whose word about a client's address is believed.

Not here: tokens and certificates (trust). The one rule: everything here is off until somebody switches it on.
"""

from __future__ import annotations

from typing import Annotated, Literal

from relay.config.table import Table, about, items


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
