"""What people write: the configuration, the file of revocations, room names, patterns and grants. Each a function of
bytes for the fuzzer.

Not here: what comes by network (on_the_way_in, on_the_wire). The one rule: as in targets.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from relay.auth.grants import RoomPattern, compile_grants
from relay.auth.revocation import BadRevocations, RevocationsFull, entries_in, entry_in, line_of
from relay.config import schema
from relay.config.loader import load
from relay.errors import ConfigError, Rejected
from relay.protocols.names import check_room_name
from tests.fuzz.noise import twisted


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


# The file of revocations.


def revocations(data: bytes) -> str:
    """Entries, each written back the same; or the lines that are none, without a word of what stood there."""
    text = data.decode("utf-8", "replace")
    try:
        entries = entries_in(text, 1_790_000_000.0, 8)
    except BadRevocations as bad:
        assert bad.problems
        for number, what in bad.problems:
            assert 1 <= number <= len(text.splitlines()) + 1
            assert what
        return "refused"
    except RevocationsFull:
        return "full"
    assert len(entries) <= 8
    for entry in entries:
        assert entry_in(line_of(entry)) == entry
    return f"{min(2, len(entries))} entries"


REVOCATIONS: Final = [
    b'{"jti": "abc", "until": 1890000000}\n# a comment\n\n{"subject": "ann", "issued_before": 1790000000}\n',
    b'{"issuer": "https://i.example", "issued_before": 1790000000.5, "until": 1890000000}\r\n',
    *(b'{"subject": "s%d"}\n' % number * 1 for number in range(3)),
]
REVOCATION_WORDS: Final = [
    b'{"jti":', b'"until":', b"1e999", b"-1", b"null", b"\n", b"\r", b"\xe2\x80\xa8", b'""', b"#", b"}",
    b"[" * 50, b'"a":1',
]  # fmt: skip


def build_revocations(source: Random) -> bytes:
    entries = [json.loads(line) for line in (REVOCATIONS[0].splitlines()[0], REVOCATIONS[0].splitlines()[3])]
    return b"\n".join(
        json.dumps(twisted(source, source.choice(entries))).encode() for _ in range(source.randint(1, 10))
    )


# The configuration.


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
        """Takes the file away; the next call makes another."""
        file, self._file = self._file, None
        if file is not None:
            file.unlink(missing_ok=True)
            file.parent.rmdir()


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
