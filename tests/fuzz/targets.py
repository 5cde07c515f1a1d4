"""All that reads what strangers send, each as a function of bytes: it returns what came of them, or raises, and then it
is a bug.

Not here: where the bytes come from (noise, atheris), and the functions (on_the_wire, on_the_way_in, in_files,
in_session). The one
rule: a target checks more than that nothing is raised: what is refused is refused as documented, what is accepted is
what was meant, and how the bytes were cut into reads changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from tests.fuzz import in_files, in_session, on_the_way_in, on_the_wire
from tests.fuzz.noise import Build
from tests.security.attack import BINARY, TEXT, frame


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


TARGETS: Final = (
    Target(
        "frames",
        on_the_wire.frames,
        on_the_wire.FRAMES,
        [frame(opcode) for opcode in range(16)],
        on_the_wire.build_frames,
    ),
    Target(
        "deflate", on_the_wire.deflated, on_the_wire.DEFLATED, [b"\0\0\xff\xff", b"\x03\0"], on_the_wire.build_deflated
    ),
    Target(
        "json",
        on_the_wire.envelope("relay.v1.json", TEXT),
        [json.dumps(one).encode() for one in on_the_wire.REQUESTS],
        on_the_wire.JSON_WORDS,
        on_the_wire.build_json,
    ),
    Target(
        "msgpack",
        on_the_wire.envelope("relay.v1.msgpack", BINARY),
        [msgspec.msgpack.encode(one) for one in on_the_wire.REQUESTS],
        on_the_wire.MSGPACK_WORDS,
        on_the_wire.build_msgpack,
    ),
    Target(
        "parts",
        on_the_wire.parts,
        on_the_wire.PARTS,
        [b"\x0f\0\0\0\0\0\0\0\0", b"\xff\xff\xff\xff", b"\x01", b"\x02", b"\x04", b"\x13"],
    ),
    Target("head", on_the_way_in.head, on_the_way_in.HEADS, on_the_way_in.HEAD_WORDS),
    Target(
        "token", on_the_way_in.token, [*on_the_way_in.GOOD_TOKENS, *on_the_way_in.BAD_TOKENS], on_the_way_in.TOKEN_WORDS
    ),
    Target(
        "claims",
        on_the_way_in.claims,
        [json.dumps(one).encode() for one in on_the_way_in.CLAIMS],
        on_the_wire.JSON_WORDS,
        on_the_way_in.build_claims,
    ),
    Target("grants", in_files.grants, in_files.GRANTS, in_files.GRANT_WORDS, in_files.build_grants),
    Target("proxy", on_the_way_in.proxy, on_the_way_in.PROXIES, on_the_way_in.PROXY_WORDS),
    Target("forwarded", on_the_way_in.forwarded, on_the_way_in.FORWARDED, on_the_way_in.FORWARDED_WORDS),
    Target(
        "revocations", in_files.revocations, in_files.REVOCATIONS, in_files.REVOCATION_WORDS, in_files.build_revocations
    ),
    Target("names", in_files.names, [name.encode() for name in in_files.NAMES], in_files.NAME_WORDS),
    Target(
        "payload",
        on_the_wire.payload,
        on_the_wire.PAYLOADS,
        [*on_the_wire.JSON_WORDS, *on_the_wire.MSGPACK_WORDS],
        on_the_wire.build_payload,
    ),
    Target("session", in_session.session, in_session.SESSIONS, in_session.SESSION_WORDS, in_session.build_session),
    Target("config", in_files.configuration, in_files.CONFIGS, in_files.CONFIG_WORDS, in_files.build_config),
)
