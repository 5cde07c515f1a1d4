"""Codes of the other ways in: proxies in front, tickets, cookies.

Not here: who raises them. The one rule: as in handshake, an entry says what this code means here.
"""

from __future__ import annotations

from typing import Final

from relay.explain.entry import Explanation

PROXIES: Final = (
    Explanation(
        "proxy_malformed", ("handshake",), "A trusted proxy's connection did not begin with a good PROXY header.",
        "The proxy does not send one, or another version than proxy.protocol; or somebody else has a trusted address.",
        "Nothing.",
        "In HAProxy: `send-proxy-v2` on the server line, and `check-send-proxy` for its checks. See docs/proxies.md.",
        ("proxy.protocol", "proxy.trusted"),
    ),
    Explanation(
        "proxy_timeout", ("handshake",), "A trusted proxy's PROXY header did not come in time.",
        "A check that opens the port and says nothing, or a proxy that waits for its client first.",
        "Nothing.",
        "Have the proxy send the header at once; let its check send one, or ask /readyz.",
        ("timeouts.proxy", "proxy.protocol"),
    ),
    Explanation(
        "proxy_eof", ("handshake",), "A trusted proxy's connection ended before its PROXY header was whole.",
        "A health check that only opens the port, or a client that left at once.",
        "Nothing.",
        "Nothing, or let the proxy ask /readyz.",
        ("proxy.protocol",),
    ),
)  # fmt: skip

CREDENTIALS: Final = (
    Explanation(
        "cookie_origin", ("handshake",), "The token came in a cookie, and not from a page that is allowed by name.",
        "A page of somebody else's (cross-site WebSocket hijacking), a client that is no browser, or an"
        " origin that only '*' lets in.",
        "Outside a browser send the token in the Authorization header.",
        "List the origins of your own pages in auth.allowed_origins; 'self' is the relay's own.",
        ("auth.allowed_origins", "auth.cookie"), 403,
    ),
    Explanation(
        "tickets_off", ("handshake",), "A ticket was asked for or brought, and tickets are off.",
        "The setting auth.tickets.enabled is false.",
        "Send the token itself.",
        "Switch auth.tickets.enabled on and send SIGHUP.",
        ("auth.tickets.enabled",), 404,
    ),
    Explanation(
        "too_many_tickets", ("handshake",), "As many tickets as may be are out and not used yet.",
        "Many clients ask for tickets and do not connect, or the capacity is too small for a wave of reconnects.",
        "Wait for Retry-After.",
        "Raise auth.tickets.capacity; one ticket is some hundred bytes. A shorter lifetime helps too.",
        ("auth.tickets.capacity", "auth.tickets.lifetime"), 503,
    ),
)  # fmt: skip

ENTRIES: Final = (*PROXIES, *CREDENTIALS)
