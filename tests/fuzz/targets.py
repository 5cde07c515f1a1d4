"""All that reads what strangers send, each as a function of bytes: it returns what came of them, or raises, and then it
is a bug.

Not here: where the bytes come from (noise, atheris). The one rule: a target checks more than that nothing is raised:
what is refused is refused as documented, what is accepted is what was meant, and how the bytes were cut into reads
changes nothing.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import h11
import jwt
import msgspec

from relay.auth.grants import RoomPattern, compile_grants
from relay.auth.keys import KeySet, VerificationKey
from relay.auth.refusals import TOKEN_CODES
from relay.auth.tokens import Verifier
from relay.config import schema
from relay.config.loader import load
from relay.errors import CLOSE_CODES, ERROR_CODES, CloseCode, CloseReason, ConfigError, Refused, Rejected
from relay.front.state import PLAIN, PROTOCOLS
from relay.limits.buckets import Rate
from relay.model import Kind, Message, Payload
from relay.net.handshake import check_upgrade, find_token, is_upgrade
from relay.net.head import Headers, HeadScanner, Request
from relay.net.origins import OriginPolicy
from relay.net.websocket import Engine, EngineLimits
from relay.protocols.base import Auth, Command, ProtocolError, Publish
from relay.protocols.names import check_room_name
from relay.protocols.parts import FIRST, LAST, Joiner, Part, PartRefused, decode_part, encode_part
from tests.fuzz.noise import Build, twisted
from tests.security.attack import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_payload, frame


@dataclass(frozen=True, slots=True)
class Target:
    """`check` returns a word for what came of an input. `words` belong to the grammar of its inputs, `build` makes some
    with a shape.
    """

    name: str
    check: Callable[[bytes], str]
    seeds: Sequence[bytes]
    words: Sequence[bytes] = field(default=(b"",))
    build: Build | None = None


# Frames.

LIMITS: Final = {fast: EngineLimits(600, 6, Rate(1.0, 5), fast) for fast in (True, False)}
FRAME_CODES: Final = {
    CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_PAYLOAD, CloseCode.POLICY, CloseCode.TOO_BIG,
}  # fmt: skip


class Heard:
    """What an engine tells, one after the other."""

    __slots__ = ("engine", "events")

    def __init__(self, fast: bool) -> None:
        self.events: list[tuple[object, ...]] = []
        self.engine = Engine(self, LIMITS[fast])
        self.engine.message = self.message

    def message(self, opcode: int, payload: bytes) -> None:
        if opcode == TEXT:
            payload.decode()
        assert len(payload) <= 600
        self.events.append((opcode, payload))

    def ping(self, payload: bytes) -> None:
        self.events.append(("ping", payload))

    def pong(self, payload: bytes) -> None:
        self.events.append(("pong", payload))

    def closed(self, code: int, reason: str) -> None:
        self.events.append(("closed", code, reason))

    def failed(self, reason: CloseReason) -> None:
        self.events.append(("failed", reason.code, reason.setting))


def frames(data: bytes) -> str:
    """Whole and cut anywhere, on the fast path and through wsproto, the same is heard (RFC 6455 section 5)."""
    whole = Heard(True)
    whole.engine.feed(data, 100.0)
    cut = data[-1] * len(data) // 256 if data else 0
    for fast, places in ((False, (0, len(data))), (True, (0, cut, len(data))), (False, (0, cut, len(data)))):
        other = Heard(fast)
        for start, stop in itertools.pairwise(places):
            if start < stop:
                other.engine.feed(data[start:stop], 100.0)
        assert other.events == whole.events, (fast, places)
    ends = [event for event in whole.events if event[0] in ("closed", "failed")]
    assert len(ends) <= 1
    if not ends:
        return "open"
    assert whole.events[-1] is ends[0]
    assert whole.engine.stopped
    if ends[0][0] == "failed":
        assert ends[0][1] in FRAME_CODES
    return f"{ends[0][0]} {ends[0][1]}" if ends[0][0] == "failed" else "closed"


FRAMES: Final = [
    frame(TEXT, b"hello"),
    frame(BINARY, bytes(200)),
    frame(TEXT, "grüße 🎉".encode()) + frame(PING, b"p"),
    frame(TEXT, b"a" * 130) + frame(TEXT, b"b", width=16),
    frame(TEXT, b"fra", fin=False) + frame(PING, b"x") + frame(CONTINUATION, b"gment"),
    frame(BINARY, b"", fin=False) + frame(CONTINUATION, b"", fin=False) + frame(CONTINUATION, b"end"),
    frame(TEXT, "é".encode()[:1], fin=False) + frame(CONTINUATION, "é".encode()[1:]),
    frame(PONG) + frame(PING, bytes(125)),
    frame(CLOSE, close_payload(1000, "bye")),
    frame(CLOSE, b"") + frame(TEXT, b"late"),
    frame(BINARY, b"", declared=601, width=16),
    frame(TEXT, b"", declared=1 << 62, width=64),
    frame(TEXT, b"short", width=64),
    frame(TEXT, b"zipped", reserved=4),
    frame(PING, b"1") * 6,
    frame(TEXT, b"unmasked", mask=None),
]


def build_frames(source: Random) -> bytes:
    """Some frames, most of them right."""
    sent = b""
    for _ in range(source.randint(1, 7)):
        payload = source.choice((b"", b"hello", "é🎉".encode(), b"\xc3", source.randbytes(source.randrange(140))))
        mask = source.randbytes(4)
        kind = source.random()
        if kind < 0.5:
            sent += frame(source.choice((TEXT, BINARY, CONTINUATION)), payload, fin=source.random() < 0.6, mask=mask)
        elif kind < 0.7:
            sent += frame(source.choice((PING, PONG)), payload[:125], mask=mask)
        elif kind < 0.8:
            code = source.choice((999, 1000, 1001, 1004, 1005, 1006, 1015, 2999, 3000, 4999, 5000, 65535))
            sent += frame(CLOSE, close_payload(code, "") + payload[:100], mask=mask)
        elif kind < 0.9:
            declared = source.choice((0, 125, 126, 600, 601, 65535, 65536, 1 << 63))
            sent += frame(source.choice((TEXT, PING)), payload, declared=declared, width=64, mask=mask)
        else:
            opcode, reserved = source.randrange(16), source.randrange(8)
            sent += frame(
                opcode, payload, fin=source.random() < 0.5, reserved=reserved, mask=source.choice((mask, None))
            )
    return sent[: source.randint(1, len(sent))] if source.random() < 0.3 else sent


# Envelopes.

OFFERED: Final = "room"


def envelope(name: str, opcode: int) -> Callable[[bytes], str]:
    """A message on relay.v1: a command, or `Refused`, or the end; what is passed on can be said in every format."""
    protocol = PROTOCOLS[name]

    def check(data: bytes) -> str:
        if opcode == TEXT:
            try:
                data.decode()
            except UnicodeDecodeError:  # the engine lets no other text through
                return "no text"
        try:
            command = protocol.decode(opcode, data, "")
        except Refused as refused:
            assert refused.code in ERROR_CODES
            assert refused.request is None or isinstance(refused.request, int | str)
            protocol.error(refused.request, refused)
            return refused.code
        except ProtocolError as error:
            assert error.reason.code in CLOSE_CODES
            return "closed"
        return _passed_on(command)

    return check


def _passed_on(command: Command) -> str:
    if type(command) is Publish:
        message = Message(
            command.room, command.data, "ann", command.channel, command.key, command.to, command.echo, 7, 1.5
        )
        _said_everywhere(message)
    elif not isinstance(command, Auth):
        assert isinstance(getattr(command, OFFERED, ""), str)
    return type(command).__name__


def _said_everywhere(message: Message) -> None:
    """In each format, as one frame of the server's."""
    for protocol in (PLAIN, *PROTOCOLS.values()):
        encoded = protocol.message(message)
        assert encoded[0] in (0x81, 0x82)
        assert not encoded[1] & 0x80
    msgspec.json.decode(message.data.as_json())
    if len(message.data) > 40:
        for protocol in PROTOCOLS.values():
            parts = protocol.parts(message)
            assert parts is None or parts.cut(1, 0, 20)[0] == 0x82


REQUESTS: Final[list[dict[str, Any]]] = [
    {"t": "join", "id": 1, "room": "chat:1", "last": 10, "members": True},
    {"t": "join", "id": "a", "room": "chat:1", "since": {"epoch": "e", "offset": 7}},
    {"t": "leave", "id": 2, "room": "chat:1"},
    {"t": "publish", "id": 3, "room": "chat:1", "data": {"n": [1, 2.5, None, True, "é"]}, "channel": "urgent"},
    {"t": "publish", "room": "chat:1", "data": "text", "key": "k", "to": "bob", "echo": True, "ttl": 5.0},
    {"t": "publish", "room": "chat:1", "data": [[[[[{"deep": {}}]]]]]},
    {"t": "call", "id": 4, "room": "chat:1", "method": "last", "data": {"x": 1}, "timeout": 2.0},
    {"t": "presence", "id": 5, "room": "chat:1"},
    {"t": "history", "id": 6, "room": "chat:1", "last": 5},
    {"t": "auth", "id": 7, "token": "e30.e30.e30"},
    {"t": "ping", "id": 8},
]
JSON_WORDS: Final = [
    b'"t":', b'"id":', b'"room":', b'"data":', b"null", b"true", b"-0", b"1e999", b"1" * 40, b'"\\ud800"', b"\\u0000",
    b"[[[[[[[[", b"]]]]]]]]", b"{", b"}", b",", b'"', b"\\", b"\xff", b"\xed\xa0\x80", b"9007199254740993", b"0.1e-400",
    *(json.dumps(request["t"]).encode() for request in REQUESTS),
]  # fmt: skip
MSGPACK_WORDS: Final = [
    b"\xc0", b"\xc1", b"\xc4\x00", b"\xc4\x04abcd", b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", b"\xd3\x80\0\0\0\0\0\0\0",
    b"\xcb\x7f\xf8\0\0\0\0\0\0", b"\xdc\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\x91" * 30,
    b"\xd6\xff\0\0\0\0", b"\xc7\x00\x05", b"\xa4data", b"\xa4room", b"\xa1t", b"\xa2id", b"\xa2\xff\xfe", b"\x80",
]  # fmt: skip


def build_json(source: Random) -> bytes:
    document = twisted(source, source.choice(REQUESTS))
    return json.dumps(twisted(source, document) if source.random() < 0.3 else document, ensure_ascii=False).encode()


def build_msgpack(source: Random) -> bytes:
    document = twisted(source, source.choice(REQUESTS))
    return msgspec.msgpack.encode(twisted(source, document) if source.random() < 0.3 else document)


# Parts.


def parts(data: bytes) -> str:
    """Pieces of the input, each taken for a part: bounded in bytes and streams, and refused once a message."""
    joiner = Joiner(300, 500, 3)
    seen = []
    while data:
        size, data = data[0], data[1:]
        piece, data = data[:size], data[size:]
        try:
            part = decode_part(b"\xc1" + piece)
            assert encode_part(part) == b"\xc1" + piece
            whole = joiner.add(part, float(len(data)))
        except PartRefused as refused:
            assert refused.code in ERROR_CODES
            seen.append("refused")
        except Refused as refused:
            assert refused.code == "bad_part"
            seen.append("bad")
        else:
            if whole is not None:
                assert len(whole[1]) <= 300
            seen.append("part" if whole is None else "whole")
        assert 0 <= joiner.held <= 500
        assert len(joiner) <= 3
    for _, left in joiner.expire(1e9, 30.0, 600.0):
        assert isinstance(left, bytes)
    assert (joiner.held, len(joiner)) == (0, 0)
    return " ".join(sorted(set(seen)))


def _pieces(*parts: Part) -> bytes:
    encoded = [encode_part(part)[1:] for part in parts]
    return b"".join(bytes([len(one)]) + one for one in encoded)


PARTS: Final = [
    _pieces(Part(FIRST | LAST, 1, 0, 4, b"{}", b"abcd")),
    _pieces(Part(FIRST, 1, 0, 8, b'{"t":"publish"}', b"abcd"), Part(LAST, 1, 4, 8, b"", b"efgh")),
    _pieces(
        Part(FIRST, 1, 0, 8, b"{}", b"abcd"), Part(FIRST, 2, 0, 6, b"{}", b"xyz"), Part(LAST, 1, 4, 8, b"", b"efgh"),
        Part(LAST, 2, 3, 6, b"", b"xyz"),
    ),
    _pieces(Part(FIRST, 9, 0, 200, b"{}", b"a" * 50), Part(4, 9, 50, 200, b"", b"")),
    _pieces(*(Part(FIRST, stream, 0, 250, b"{}", b"a" * 150) for stream in range(4))),
]  # fmt: skip


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
        find_token(request, token_in_query=True)
        ORIGINS.allows(request.headers.get("origin"), request.host, True)
        if not is_upgrade(request):
            return "a request"
        upgrade = check_upgrade(request, token_in_query=True)
    except Rejected as rejected:
        assert rejected.status in (400, 401, 405, 426, 505)
        return f"{rejected.status} {rejected.code}"
    assert request.method == "GET"
    assert upgrade.token is None or upgrade.token.isascii()
    return "a handshake"


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


def grants(data: bytes) -> str:
    """Grants of any shape: compiled, or refused as token_bad_grants; then asked about a room."""
    try:
        claim = json.loads(data)
    except (ValueError, RecursionError):
        return "no JSON"
    try:
        compiled = compile_grants(claim, "a{sub}*:b")
    except Rejected as rejected:
        assert rejected.code == "token_bad_grants"
        return "refused"
    for room in ("chat:1", "a{sub}*:b", "", ":", "x" * 300):
        compiled.may_join(room), compiled.may_publish(room), compiled.may_see(room), compiled.may_call(room)
    assert not compiled.may_use_channel("control")
    return "compiled"


GRANTS: Final = [
    b'{"join":["chat:*","a:*:log","user:{sub}"],"publish":["chat:{sub}"]}',
    b'{"join":["*"],"presence":[],"history":["x"],"call":["*"],"channels":["urgent","*"]}',
    b'{"join_at_start":["user:{sub}","lobby"],"publish":["lobby"]}',
    b"{}",
]
GRANT_WORDS: Final = [
    b"*", b"{sub}", b"{sub}*", b":", b"::", b'"join":', b'["', b'"]', b'"\\u202e"', b'"\\ud800"', b'"\\u0000"', b"null",
    b'"' + b"a" * 1025 + b'"', b"[]", b"{}", b",", b"1e400",
]  # fmt: skip


def build_grants(source: Random) -> bytes:
    return json.dumps(twisted(source, json.loads(source.choice(GRANTS)))).encode()


# Room names and patterns.


def names(data: bytes) -> str:
    """A name that is accepted can be matched by itself as a pattern, and is what it was when it has been on a wire."""
    text = data.decode("utf-8", "surrogatepass" if data[:1] > b"m" else "replace") if _decodes(data) else ""
    problem = check_room_name(text, 255)
    try:
        pattern: RoomPattern | None = RoomPattern(text)
    except ValueError:
        pattern = None
    if problem is None:
        assert text.encode().decode() == text
        assert text.isprintable() or any(ord(character) > 127 for character in text)
        assert pattern is not None
        assert pattern.matches(text)
        assert msgspec.json.decode(msgspec.json.encode(text)) == text
    if pattern is not None:
        for room in ("chat:1", "chat:", "", "a:b:log", text):
            pattern.matches(room)
    return f"{'a name' if problem is None else 'no name'}, {'a pattern' if pattern else 'no pattern'}"


def _decodes(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


NAMES: Final = [
    "lobby",
    "chat:1",
    "a:*:log",
    "chat:te*",
    "*",
    "grüße:世界",
    "a" * 255,
    "👩‍👩‍👧",
    "user:{sub}",
    "a::b",
    "",
]
NAME_WORDS: Final = [
    b"*", b":", b"{", b"}", b" ", b"\0", b"\n", b"\x7f", b"\xc2\xa0", b"\xe2\x80\xae", b"\xed\xa0\x80", b"\xef\xbb\xbf",
    b"\xf0\x9f\x8e\x89", b"../", b"%2f", b">", b".", b"\xe2\x80\x8d",
]  # fmt: skip


# Payloads: from any form to any other.


def payload(data: bytes) -> str:
    """Bytes of any kind become text, JSON, msgpack and plain, and no form is ever refused."""
    kind = Kind(1 + (data[0] & 3)) if data else Kind.BINARY
    raw = data[1:]
    try:
        if kind == Kind.TEXT:
            raw.decode()
        elif kind == Kind.JSON:
            msgspec.json.decode(raw)
        elif kind == Kind.MSGPACK:
            msgspec.msgpack.decode(raw)
    except (ValueError, RecursionError):
        kind = Kind.BINARY
    _said_everywhere(Message("r", Payload(kind, raw), None))
    return kind.name


PAYLOADS: Final = [
    *(bytes([2]) + json.dumps(request).encode() for request in REQUESTS),
    *(bytes([3]) + msgspec.msgpack.encode(request) for request in REQUESTS),
    b"\0" + "text 🎉".encode(),
    b"\1" + bytes(range(256)),
]


def build_payload(source: Random) -> bytes:
    document = twisted(source, source.choice(REQUESTS))
    packed = source.random() < 0.5
    return b"\3" + msgspec.msgpack.encode(document) if packed else b"\2" + json.dumps(document).encode()


# The configuration.

_folder: Final = Path(tempfile.gettempdir())


class Configuration:
    """config.toml with anything in it: a configuration, or problems that each say where and what."""

    def __init__(self) -> None:
        self._file: Path | None = None

    def __call__(self, data: bytes) -> str:
        if self._file is None:
            memory = Path("/dev/shm")
            folder = tempfile.mkdtemp(prefix="relay-fuzz-", dir=memory if memory.is_dir() else None)
            self._file = Path(folder, "config.toml")
        self._file.write_bytes(data)
        try:
            loaded = load(self._file, environ={})
        except ConfigError as error:
            assert error.problems
            for problem in error.problems:
                assert problem.where
                assert problem.key
                assert problem.what
                if "hunter2" not in problem.key:  # else it stood where a name belongs
                    assert "hunter2" not in problem.what + problem.hint, "a secret is shown"
            return "refused"
        for key in loaded.config.auth.keys:
            assert not key.secret or f"secret={key.secret!r}" not in repr(loaded.config)
        for api_key in loaded.config.internal.api_keys:
            assert repr(api_key) not in repr(loaded.config.internal)
        return "loaded"

    def clean_up(self) -> None:
        if self._file is not None:
            self._file.unlink(missing_ok=True)
            self._file.parent.rmdir()


CONFIGS: Final = [
    b'[server]\nlisten = ["127.0.0.1:0", ":8443"]\nplayground = true\n',
    b"[limits]\nmessage_bytes = 65536\nmessages_per_second = 10.5\n[timeouts]\ntls = 5\n",
    b'[[auth.keys]]\nalgorithm = "HS256"\nkid = "a"\nsecret = "hunter2-hunter2-hunter2-hunter2-hunter2"\n',
    b'[plugins.chat]\nrooms = ["lobby", "chat:*"]\nhistory = 9\n[channels.bulk]\ncapacity = 4096\noverflow = "pause"\n',
    b'[internal]\nlisten = []\napi_keys = ["hunter2-hunter2-hunter2"]\n',
    b'auth = { allowed_origins = ["https://app.example"], jwks = { url = "https://issuer.example/jwks" } }\n',
]
CONFIG_WORDS: Final = [
    b"[", b"]", b"[[", b"]]", b"=", b'"', b"'''", b'"""', b"\n", b"\\u0000", b"\\", b".", b"true", b"nan", b"-inf",
    b"1979-05-27",
    b"0x", b"1" * 30, b"{", b"}", b"#", b"\xff", b"\xef\xbb\xbf", b"[limits]\n", b"[auth]\n", b'secret = "hunter2"\n',
    b"[" * 60, b"a.b.c = 1\n", b"-1", b"1e400", b"\r",
]  # fmt: skip

configuration: Final = Configuration()


def build_config(source: Random) -> bytes:
    """Two or three settings of the schema, with values of any kind."""
    lines = []
    for _ in range(source.randint(1, 3)):
        table = source.choice(schema.Config.__struct_fields__)
        keys = getattr(type(getattr(DEFAULTS, table)), "__struct_fields__", ("chat", "bulk"))
        value = source.choice(VALUES)
        lines.append(f"{table}.{source.choice(keys)} = {value}")
    return "\n".join(lines).encode()


DEFAULTS: Final = schema.Config()
VALUES: Final = (
    "0", "1", "-1", "1.5", "1e300", "nan", "inf", "true", '""', '"x"', '"*"', '":8443"', "[]", '["a"]', '["a", "a"]',
    "[1]", "{}", "{ a = 1 }", '{ rooms = "chat:*" }', "[{}]", "1979-05-27", "9223372036854775807",
    "9223372036854775808",
    '[{ algorithm = "HS256", secret = "hunter2" }]', '{ capacity = 4096, overflow = "latest" }', '"127.0.0.1:0"',
)  # fmt: skip

TARGETS: Final = (
    Target("frames", frames, FRAMES, [frame(opcode) for opcode in range(16)], build_frames),
    Target(
        "json", envelope("relay.v1.json", TEXT), [json.dumps(one).encode() for one in REQUESTS], JSON_WORDS, build_json
    ),
    Target(
        "msgpack",
        envelope("relay.v1.msgpack", BINARY),
        [msgspec.msgpack.encode(one) for one in REQUESTS],
        MSGPACK_WORDS,
        build_msgpack,
    ),
    Target("parts", parts, PARTS, [b"\x0f\0\0\0\0\0\0\0\0", b"\xff\xff\xff\xff", b"\x01", b"\x02", b"\x04", b"\x13"]),
    Target("head", head, HEADS, HEAD_WORDS),
    Target("token", token, [*GOOD_TOKENS, *BAD_TOKENS], TOKEN_WORDS),
    Target("claims", claims, [json.dumps(one).encode() for one in CLAIMS], JSON_WORDS, build_claims),
    Target("grants", grants, GRANTS, GRANT_WORDS, build_grants),
    Target("names", names, [name.encode() for name in NAMES], NAME_WORDS),
    Target("payload", payload, PAYLOADS, [*JSON_WORDS, *MSGPACK_WORDS], build_payload),
    Target("config", configuration, CONFIGS, CONFIG_WORDS, build_config),
)
