"""What comes before a connection lives: request heads, tokens, words of proxies. Each a function of bytes for the
fuzzer.

Not here: what comes on a live one (on_the_wire). The one rule: as in targets.
"""

from __future__ import annotations

import json
from ipaddress import ip_address
from random import Random
from typing import Any, Final

import h11
import jwt

from relay.auth.keys import KeySet, VerificationKey
from relay.auth.refusals import TOKEN_CODES
from relay.auth.tokens import Verifier
from relay.config import schema
from relay.errors import Rejected
from relay.net.deflate import Wishes, agree, parse_offers
from relay.net.forwarded import hops
from relay.net.handshake import check_upgrade, find_credential, is_upgrade
from relay.net.head import Headers, HeadScanner, Request
from relay.net.origins import OriginPolicy
from relay.net.proxy_protocol import HeaderReader, Malformed
from tests.fuzz.noise import twisted

# Request heads.

_h11_limits: Final = 8192


def head(data: bytes) -> str:
    """One request head, in one piece and byte by byte the same verdict; then the WebSocket handshake of it."""
    whole = _scan(data, len(data))
    for step in (1, 7):
        assert _scan(data, step) == whole
    end, refused = whole
    if refused is not None:
        assert refused[0] in (400, 431, 501, 505)
        return f"{refused[0]} {refused[1]}"
    if end is None:
        return "not whole"
    machine = h11.Connection(h11.SERVER, max_incomplete_event_size=_h11_limits)
    machine.receive_data(data[:end])
    try:
        event = machine.next_event()
    except h11.RemoteProtocolError:
        return "400 of h11"
    assert isinstance(event, h11.Request), event
    try:
        request = Request(
            event.method.decode("ascii"),
            event.target.decode("ascii"),
            Headers((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers),
            http_version=event.http_version.decode("ascii"),
        )
        request.parameter("room")
        find_credential(request, token_in_query=True, cookie="token")
        ORIGINS.allows(request.headers.get("origin"), request.host, True)
        if not is_upgrade(request):
            return "a request"
        upgrade = check_upgrade(request, token_in_query=True, cookie="token")
        agreement = agree(parse_offers(upgrade.extensions), Wishes(15, True))
    except Rejected as rejected:
        assert rejected.status in (400, 401, 405, 426, 505)
        return f"{rejected.status} {rejected.code}"
    assert request.method == "GET"
    assert upgrade.credential is None or upgrade.credential.value.isascii()
    return "a handshake" if agreement is None else "a handshake with compression"


def _scan(data: bytes, step: int) -> tuple[int | None, tuple[int, str] | None]:
    scanner = HeadScanner(1024, 12)
    end = None
    try:
        for stop in [*range(step, len(data), step), len(data)] if data else []:
            end = scanner.advance(data[:stop])
            if end is not None:
                break
    except Rejected as rejected:
        return None, (rejected.status, rejected.code)
    return end, None


ORIGINS: Final = OriginPolicy(["self", "https://*.example.com", "http://localhost:3000"])
WEBSOCKET: Final = (
    b"GET /rooms/lobby?last=5 HTTP/1.1\r\nHost: relay.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
HEADS: Final = [
    WEBSOCKET + b"Authorization: Bearer e30.e30.e30\r\n\r\n",
    WEBSOCKET + b"Sec-WebSocket-Protocol: relay.v1.json, bearer.e30.e30.e30\r\nOrigin: https://relay.example\r\n\r\n",
    WEBSOCKET.replace(b"/rooms/lobby?last=5", b"/ws?session=abc&channels=urgent,state&token=e30") + b"\r\n",
    WEBSOCKET.replace(b"lobby", b"chat:%C3%A9%2F1")
    + b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n",
    WEBSOCKET
    + b"Cookie: a=b; token=e30.e30.e30\r\nSec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10,"
    + b" permessage-deflate; client_no_context_takeover\r\n\r\n",
    b"GET /auth/check?room=lobby HTTP/1.1\r\nHost: [::1]:8443\r\nAuthorization: Bearer abc\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    b"GET https://relay.example/ws HTTP/1.1\r\nHost: relay.example\r\nConnection: keep-alive, Upgrade\r\n\r\n",
    b"OPTIONS * HTTP/1.0\r\n\r\n",
]
HEAD_WORDS: Final = [
    b"\r\n", b"\n", b"\r", b"\0", b":", b" ", b"\t", b",", b";", b"\xff", b"%00", b"%", b"%zz", b"?token=", b"&token=x",
    b"#", b"\r\n\r\n", b"Host: a\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.0",
    b"Sec-WebSocket-Protocol: ", b"bearer.", b"xn--a", b"Expect: 100-continue\r\n", b"A: b\r\n" * 13, b"X" * 700,
    b"http://", b"//", b"../", b"[", b"]", b"@", b"=", b'"', b"Origin: null\r\n",
    b"permessage-deflate", b"; server_max_window_bits=", b"client_max_window_bits", b"8", b"16", b"Cookie: token=",
    b"?ticket=",
]  # fmt: skip


# Tokens.

SECRET: Final = b"0123456789abcdef0123456789abcdef"
NOW: Final = 1_790_000_000.0


def _token(claims: dict[str, Any], algorithm: str = "HS256", **header: Any) -> bytes:
    body = {"sub": "ann", "exp": int(NOW) + 600, **claims}
    return jwt.encode(body, SECRET * 2, algorithm, headers={"kid": "k", **header}).encode()


GOOD_TOKENS: Final = [
    _token({}),
    _token({"relay": {"join": ["chat:*"], "publish": ["chat:{sub}"], "channels": ["urgent"]}}),
    _token({"nbf": int(NOW), "iat": int(NOW), "jti": "1", "aud": "relay", "iss": "https://issuer.example"}),
]
BAD_TOKENS: Final = [_token({}, "HS512"), _token({"exp": 1}), _token({}, crit=["x"]), b"e30.e30.", b"..", b"a.b.c"]
VERIFIER: Final = Verifier(
    KeySet([VerificationKey.make("k", "HS256", SECRET * 2)]), schema.Auth(audience="relay", cache_tokens=16)
)
ACCEPTED: Final = {good for good in GOOD_TOKENS if b"." in good}
TOKEN_WORDS: Final = [
    b".", b"=", b"e30", b"eyJhbGciOiJub25lIn0", b"eyJhbGciOiJIUzI1NiIsImtpZCI6ImsifQ", b"-", b"_", b"\0", b"\xff", b" ",
    b"A" * 50, b"/", b"+",
]  # fmt: skip


def token(data: bytes) -> str:
    """No change to a good token is accepted, and every refusal is one of the table."""
    try:
        identity = VERIFIER.verify(data, NOW)
    except Rejected as rejected:
        assert rejected.status == 401
        assert rejected.code in TOKEN_CODES
        assert data.decode("latin-1") not in rejected.reason or len(data) < 4
        return rejected.code
    assert data in ACCEPTED, "a token was accepted that nobody signed"
    assert identity.subject == "ann"
    return "accepted"


# Claims: what stands in a token that somebody did sign.


def claims(data: bytes) -> str:
    """A token over these bytes, rightly signed: refused, or its subject is clean and its grants can be asked."""
    signed = jwt.api_jws.encode(data, SECRET * 2, "HS256", headers={"kid": "k"})
    try:
        identity = VERIFIER.verify(signed, NOW)
    except Rejected as rejected:
        assert rejected.code in TOKEN_CODES
        return rejected.code
    assert 0 < len(identity.subject.encode()) <= 255
    assert identity.subject.isprintable() or any(ord(character) > 127 for character in identity.subject)
    assert identity.expires > NOW - 60
    identity.grants.may_join("chat:1")
    return "accepted"


CLAIMS: Final[list[dict[str, Any]]] = [
    {"sub": "ann", "exp": int(NOW) + 600, "aud": "relay", "relay": {"join": ["chat:*"], "channels": ["urgent"]}},
    {"sub": "ann", "exp": NOW + 0.5, "nbf": NOW - 1, "iat": NOW, "aud": ["relay", "x"], "jti": "1", "iss": "https://i"},
]


def build_claims(source: Random) -> bytes:
    document = twisted(source, source.choice(CLAIMS))
    return json.dumps(twisted(source, document) if source.random() < 0.3 else document).encode()


# What proxies say of the client.


def proxy(data: bytes) -> str:
    """A PROXY header, in one piece and byte by byte the same: an address, none, or Malformed; nothing behind it is
    taken.
    """
    whole = _read_header(data, len(data))
    assert _read_header(data, 1) == whole
    assert _read_header(data, 5) == whole
    taken, source, problem = whole
    if problem:
        assert not any(byte > 126 for byte in problem.encode())
        return "malformed"
    if source is not None:
        assert str(ip_address(source)) == source
    return "not whole" if taken < 0 else "unknown" if source is None else "an address"


def _read_header(data: bytes, step: int) -> tuple[int, str | None, str]:
    reader = HeaderReader("any")
    taken = 0
    try:
        for start in range(0, len(data), max(1, step)):
            piece = data[start : start + step]
            used = reader.feed(piece)
            taken += used
            if reader.done:
                return taken, reader.source, ""
            assert used == len(piece)
    except Malformed as malformed:
        return 0, None, str(malformed)
    return -1, None, ""


PROXIES: Final = [
    b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n\x16\x03\x01",
    b"PROXY TCP6 2001:db8::7 ::1 1 0\r\nGET / HTTP/1.1\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\x09\x09\x09\x09\x10\x00\x01\xbbhello",
    b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24" + bytes(36),
]
PROXY_WORDS: Final = [
    b"PROXY ",
    b" ",
    b"\r\n",
    b"TCP4",
    b"TCP6",
    b"\0\x0c",
    b"::",
    b"256",
    b"65536",
    b"\x21\x11",
    b"01",
]


def forwarded(data: bytes) -> str:
    """`Forwarded` and `X-Forwarded-For`: what stands to the left changes nothing of what was read to the right."""
    line = data.decode("latin-1")
    outcome = "nothing"
    for name in ("forwarded", "x-forwarded-for"):
        found = list(hops(name, [line]))
        for address in found:
            if address is not None:
                assert str(ip_address(address)) == address
                outcome = "an address"
        trusted = "for=192.0.2.60" if name == "forwarded" else "192.0.2.60"
        assert next(hops(name, [line + ", " + trusted])) == "192.0.2.60"
        assert next(hops(name, [line, trusted])) == "192.0.2.60"
    return outcome


FORWARDED: Final = [
    b'for=192.0.2.43, for="[2001:db8:cafe::17]:4711";proto=https;by=203.0.113.43',
    b"203.0.113.195, 2001:db8::7, [2001:db8::8]:99, 192.0.2.1:80",
    b'for=_hidden;host="a, b", for=unknown',
]
FORWARDED_WORDS: Final = [
    b",",
    b'"',
    b"\\",
    b";",
    b"=",
    b"for=",
    b"[",
    b"]",
    b":",
    b"%",
    b"\t",
    b"::ffff:1.2.3.4",
    b"\xff",
]
