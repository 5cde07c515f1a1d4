"""What comes on a live connection: frames, envelopes, parts, payloads. Each a function of bytes for the fuzzer.

Not here: what comes before the connection lives (on_the_way_in). The one rule: as in targets.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Callable
from random import Random
from typing import Any, Final

import msgspec

from relay.errors import CLOSE_CODES, ERROR_CODES, CloseCode, CloseReason, Refused
from relay.front.state import PLAIN, PROTOCOLS, relay_v1
from relay.limits.buckets import Rate
from relay.model import Kind, Message, Payload
from relay.net.deflate import Agreement, Wishes, agree, parse_offers
from relay.net.slow_path import EngineLimits
from relay.net.websocket import Engine
from relay.protocols.base import Ack, Auth, Command, Position, ProtocolError, Publish, Resume
from relay.protocols.parts import FIRST, LAST, Joiner, Part, PartRefused, decode_part, encode_part
from tests.fuzz.noise import twisted
from tests.security.attack import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_payload, frame

# Frames.

LIMITS: Final = {fast: EngineLimits(600, 6, Rate(1.0, 5), fast) for fast in (True, False)}
FRAME_CODES: Final = {
    CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_PAYLOAD, CloseCode.POLICY, CloseCode.TOO_BIG,
}  # fmt: skip


class Heard:
    """What an engine tells, one after the other."""

    __slots__ = ("engine", "events")

    def __init__(self, fast: bool, agreement: Agreement | None = None) -> None:
        self.events: list[tuple[object, ...]] = []
        self.engine = Engine(self, LIMITS[fast], agreement)
        self.engine.message = self.message

    def message(self, opcode: int, payload: bytes) -> None:
        if opcode == TEXT:
            payload.decode()
        assert len(payload) <= 600
        self.events.append((opcode, payload))

    def several(self) -> None: ...

    def inflated(self, more: int) -> None: ...

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
    return _end_of(whole)


def _end_of(heard: Heard) -> str:
    ends = [event for event in heard.events if event[0] in ("closed", "failed")]
    assert len(ends) <= 1
    if not ends:
        return "open"
    assert heard.events[-1] is ends[0]
    assert heard.engine.stopped
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


# Compressed frames.

AGREEMENTS: Final = [
    agree(parse_offers([offer]), Wishes(15, True))
    for offer in ("permessage-deflate", "permessage-deflate; client_no_context_takeover; client_max_window_bits=9")
]


def deflated(data: bytes) -> str:
    """Compressed messages, whole and cut anywhere, with a context and without: never more than a message may have."""
    outcomes = []
    for agreement in AGREEMENTS:
        whole = Heard(True, agreement)
        whole.engine.feed(data, 100.0)
        cut = data[-1] * len(data) // 256 if data else 0
        other = Heard(True, agreement)
        for piece in (data[:cut], data[cut:]):
            if piece:
                other.engine.feed(piece, 100.0)
        assert other.events == whole.events, cut
        outcomes.append(_end_of(whole))
    return outcomes[0] if outcomes[0] == outcomes[1] else "by context"


def _zipped(message: bytes, tail: int = 4) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -9)
    squeezed = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return squeezed[: len(squeezed) - tail]


DEFLATED: Final = [
    frame(TEXT, _zipped(b"hello hello hello"), reserved=4),
    frame(TEXT, _zipped(b"first first")[:5], reserved=4, fin=False) + frame(CONTINUATION, _zipped(b"first first")[5:]),
    frame(BINARY, _zipped(bytes(600)), reserved=4) + frame(BINARY, _zipped(bytes(601)), reserved=4),
    frame(BINARY, _zipped(bytes(1 << 20)), reserved=4),
    frame(TEXT, b"plain") + frame(TEXT, _zipped("é🎉".encode() * 40), reserved=4) + frame(PING, b"x"),
    frame(TEXT, b"\x03\x00" * 9, reserved=4),
    frame(TEXT, b"", reserved=4),
    frame(TEXT, _zipped(b"\xff\xfe"), reserved=4),
]


def build_deflated(source: Random) -> bytes:
    sent = b""
    for _ in range(source.randint(1, 4)):
        message = source.choice((b"", b"ab" * 99, "🎉".encode() * 50, source.randbytes(90), bytes(599), bytes(50000)))
        squeezed = bytearray(_zipped(message, source.choice((4, 4, 4, 0, 2))))
        if squeezed and source.random() < 0.4:
            squeezed[source.randrange(len(squeezed))] ^= 1 << source.randrange(8)
        cut = source.randrange(len(squeezed) + 1) if source.random() < 0.4 else len(squeezed)
        first = source.choice((TEXT, BINARY))
        sent += frame(first, bytes(squeezed[:cut]), fin=cut == len(squeezed), reserved=source.choice((4, 4, 4, 0)))
        if cut < len(squeezed):
            sent += frame(CONTINUATION, bytes(squeezed[cut:]), reserved=source.choice((0, 0, 0, 4)))
    return sent


# Envelopes.

SPOKEN: Final = (PLAIN, *map(relay_v1, PROTOCOLS), relay_v1("relay.v1.json", fields=frozenset({"key"})))
OFFERED: Final = "room"


def envelope(name: str, opcode: int) -> Callable[[bytes], str]:
    """A message on relay.v1: a command, or `Refused`, or the end; what is passed on can be said in every format."""
    protocol = relay_v1(name)

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
    elif type(command) is Resume:
        assert all(isinstance(room, str) for room in command.rooms)
        assert all(type(position) is Position for position in command.rooms.values())
    elif not isinstance(command, Auth):
        assert isinstance(getattr(command, OFFERED, ""), str)
        assert type(command) is not Ack or type(command.offset) is int
    return type(command).__name__


def _said_everywhere(message: Message) -> None:
    """In each format, as one frame of the server's."""
    for protocol in SPOKEN:
        encoded = protocol.message(message)
        assert encoded[0] in (0x81, 0x82)
        assert not encoded[1] & 0x80
    try:
        msgspec.json.decode(message.data.as_json())
    except msgspec.ValidationError:  # a number beyond any range is JSON all the same, and passed on as it came
        json.loads(message.data.as_json())
    if len(message.data) > 40:
        for protocol in SPOKEN[1:]:
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
    {"t": "resume", "id": 9, "rooms": {"chat:1": {"epoch": "e", "offset": 7}, "chat:2": {"epoch": "", "offset": 0}}},
    {"t": "ack", "id": 10, "room": "chat:1", "offset": 9},
    {"t": "resync", "id": 11, "room": "state:1", "key": "k"},
    {"t": "join", "id": 12, "room": "state:1", "delta": True},
    {"t": "publish", "id": 13, "room": "chat:1", "data": 1, "once": "o", "confirm": 2.5},
    {"t": "history", "id": 14, "room": "chat:1", "last": 2, "before": 70},
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
