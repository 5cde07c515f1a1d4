"""The upgrade from HTTP to WebSocket: RFC 6455 section 4.2, taken literally.

Not here: whether the token is good (auth), which origins may come (origins), what compression is agreed on. The one
rule: whatever the client sent, the outcome is an `Upgrade` or `Rejected`, never another exception, and what passed was
a request that any strict proxy in front has read the same way.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from relay.errors import Rejected
from relay.net.head import Headers, Request, malformed

__all__ = [
    "Credential", "Upgrade", "accept_response", "check_upgrade", "choose_subprotocol", "find_credential", "is_upgrade",
]  # fmt: skip

BEARER: Final = "bearer."
"""Prefix of the subprotocol entry that carries a token: a browser's WebSocket can send no other header of its own."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_VERSION: Final = "13"
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2
_B64TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750 section 2.1
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")
"""16 bytes in base64, in the one spelling an encoder makes (RFC 4648 section 3.5): the last four bits are zero."""
_VISIBLE: Final = re.compile(r"[\t -~]*")


@dataclass(frozen=True, slots=True)
class Credential:
    """What a client says to prove who it is, as sent, not verified; ASCII, but in a message. `kind`: where it was."""

    kind: Literal["header", "subprotocol", "cookie", "ticket", "query", "message"]
    value: str = field(repr=False)


class Upgrade:
    """A request that may become a WebSocket.

    `subprotocols`: those offered, in the client's order, without the one that carries a token. `credential`: None if
    there was none. `origin`: as sent, None outside browsers. `extensions`: the lines of
    Sec-WebSocket-Extensions as sent, ASCII, grammar not checked. `carrier`: the subprotocol entry that carries a token.
    """

    __slots__ = ("carrier", "credential", "extensions", "key", "origin", "subprotocols")

    def __init__(
        self,
        key: str,
        subprotocols: list[str],
        credential: Credential | None,
        origin: str | None,
        extensions: list[str],
        *,
        carrier: str | None = None,
    ) -> None:
        self.carrier = carrier
        self.key = key
        self.subprotocols = subprotocols
        self.credential = credential
        self.origin = origin
        self.extensions = extensions

    def __repr__(self) -> str:
        return f"<Upgrade subprotocols={self.subprotocols} origin={self.origin!r}>"  # never the credential

    @property
    def token(self) -> str | None:
        """The credential's text, whatever it is; None: there is none."""
        return None if self.credential is None else self.credential.value


def is_upgrade(request: Request) -> bool:
    """Whether the client wants a WebSocket, however badly it says so.

    Another protocol (`Upgrade: h2c`) is ignored, as RFC 9110 section 7.8 allows: the request is plain HTTP then.
    """
    headers = request.headers
    return "sec-websocket-key" in headers or _lists(headers, "upgrade", "websocket")


def check_upgrade(request: Request, *, token_in_query: bool = False, cookie: str = "") -> Upgrade:
    """Check every requirement of RFC 6455 section 4.2.1; take the credential, the origin and the offers out.

    `token_in_query` and `cookie` are the settings in `auth`. Raises Rejected: 400, 405 (method), 426 (version), 505
    (HTTP/1.0), and 401 for a token in the query when that is switched off.
    """
    headers = request.headers
    if request.method != "GET":
        raise Rejected(405, "method_not_allowed", "a WebSocket begins with GET", headers=(("Allow", "GET"),))
    if request.http_version != "1.1":
        raise Rejected(505, "http_version", "a WebSocket needs HTTP/1.1")
    if headers.single("host") is None or not request.host:
        raise malformed("exactly one Host is required")
    if "transfer-encoding" in headers or (headers.get("content-length") or "0").strip("0"):
        raise malformed("a WebSocket request has no body")
    if not _lists(headers, "upgrade", "websocket"):
        raise malformed("Upgrade does not say websocket")
    if not _lists(headers, "connection", "upgrade"):
        raise malformed("Connection does not say upgrade")
    if headers.single("sec-websocket-version") != _VERSION:
        raise Rejected(
            426,
            "websocket_version",
            f"this server speaks WebSocket version {_VERSION}",
            headers=(("Sec-WebSocket-Version", _VERSION), ("Upgrade", "websocket"), ("Connection", "Upgrade")),
        )
    key = _single(headers, "sec-websocket-key")
    if key is None or not _KEY.fullmatch(key):
        raise malformed("Sec-WebSocket-Key is not 16 bytes in base64")
    extensions = headers.getlist("sec-websocket-extensions")
    if not all(map(_VISIBLE.fullmatch, extensions)):
        raise malformed("Sec-WebSocket-Extensions is not ASCII")
    subprotocols = headers.elements("sec-websocket-protocol")
    carriers: list[str] = []
    if subprotocols:
        if not all(map(_TOKEN.fullmatch, subprotocols)) or len(set(subprotocols)) != len(subprotocols):
            raise malformed("Sec-WebSocket-Protocol is not a list of different tokens")
        carriers = [item for item in subprotocols if item.startswith(BEARER)]
        subprotocols = [item for item in subprotocols if not item.startswith(BEARER)]
    return Upgrade(
        key,
        subprotocols,
        find_credential(request, token_in_query=token_in_query, cookie=cookie),
        _single(headers, "origin"),
        extensions,
        carrier=carriers[0] if carriers else None,
    )


def find_credential(request: Request, *, token_in_query: bool = False, cookie: str = "") -> Credential | None:
    """The first there is of: Authorization, a subprotocol `bearer.TOKEN`, the cookie of that name, `?ticket=`,
    `?token=`.

    None when there is none; credentials of another scheme (a browser repeats Basic ones by itself) are not ours. Raises
    Rejected: 400 for a malformed one, 401 for a token in the query when auth.token_in_query is off.
    """
    scheme, _, credentials = (_single(request.headers, "authorization") or "").partition(" ")
    if scheme.lower() == "bearer":
        return Credential("header", _checked(credentials.strip(" "), "Authorization"))
    carried = [item for item in request.headers.elements("sec-websocket-protocol") if item.startswith(BEARER)]
    if len(carried) > 1:
        raise malformed("more than one token in Sec-WebSocket-Protocol")
    if carried:
        return Credential("subprotocol", _checked(carried[0].removeprefix(BEARER), "Sec-WebSocket-Protocol"))
    if cookie and (value := _cookie(request.headers, cookie)) is not None:
        return Credential("cookie", _checked(value, "the cookie"))
    if (ticket := request.parameter("ticket")) is not None:
        return Credential("ticket", _checked(ticket, "the query (a ticket)"))
    token = request.parameter("token")
    if token is None:
        return None
    if not token_in_query:
        raise Rejected(401, "unauthorized", "a token in the query is not accepted here", setting="auth.token_in_query")
    return Credential("query", _checked(token, "the query"))


def _cookie(headers: Headers, name: str) -> str | None:
    """The value of a cookie (RFC 6265 section 5.4). Two of one name may come from two hosts or paths: which one is
    whose cannot be told, so that is malformed.
    """
    found = [
        value.strip(" \t").removeprefix('"').removesuffix('"')
        for line in headers.getlist("cookie")
        for pair in line.split(";")
        for key, separator, value in [pair.partition("=")]
        if separator and key.strip(" \t") == name
    ]
    if len(found) > 1:
        raise malformed("the cookie with the token was sent more than once")
    return found[0] if found else None


def choose_subprotocol(offered: Sequence[str], supported: Sequence[str]) -> str | None:
    """The first one offered that we support; None when none was offered (plain mode).

    Raises Rejected(400) when all are unknown: a client that needs one would close at once (RFC 6455 section 4.1),
    without learning why.
    """
    for item in offered:
        if item in supported:
            return item
    if offered:
        raise Rejected(
            400, "unknown_subprotocol", f"no subprotocol offered is known; known are: {', '.join(supported)}"
        )
    return None


def accept_response(upgrade: Upgrade, subprotocol: str | None, extension: str | None = None) -> bytes:
    """The 101 (RFC 6455 section 4.2.2). `extension` is the answer to the client's offer, such as `permessage-deflate`.

    A browser that offered something fails the connection unless one of its offers is named. So where the token's entry
    was all it offered (plain mode), that entry is the answer: it goes back to the one who sent it, and to nobody else.
    Raises ValueError for a subprotocol that was not offered: the client would fail the connection.
    """
    if subprotocol is not None and subprotocol not in upgrade.subprotocols:
        raise ValueError(f"subprotocol {subprotocol!r} was not offered")
    if subprotocol is None and not upgrade.subprotocols:
        subprotocol = upgrade.carrier
    digest = hashlib.sha1(upgrade.key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode('ascii')}",
    ]
    if subprotocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    if extension is not None:
        lines.append(f"Sec-WebSocket-Extensions: {extension}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _single(headers: Headers, name: str) -> str | None:
    """A field that may stand once, visible ASCII; None when absent."""
    if name not in headers:
        return None
    value = headers.single(name)
    if value is None:
        raise malformed(f"more than one {name} header")
    if not _VISIBLE.fullmatch(value):
        raise malformed(f"the {name} header is not ASCII")
    return value


def _lists(headers: Headers, name: str, wanted: str) -> bool:
    """Whether a list names it, in capitals or not."""
    value = headers.single(name)
    if value is not None and value.lower() == wanted:  # nearly always
        return True
    return any(item.lower() == wanted for item in headers.elements(name))


def _checked(token: str, where: str) -> str:
    if not _B64TOKEN.fullmatch(token):
        raise malformed(f"the token in {where} is malformed")
    return token
