"""The relay's parts without sockets, TLS or other processes: nanoseconds of CPU for each, the least of several tries.

    python -m benchmarks.micro                  all of them
    python -m benchmarks.micro outbox tick      those whose name begins so

Not here: what a delivery costs in full (`run`). The one rule: each part is called as the relay calls it.
"""

from __future__ import annotations

import gc
import itertools
import random
import time
import timeit
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import click
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.inmemory import PLAIN, Relay, masked
from benchmarks.report import table
from benchmarks.servers import ALL_ROOMS
from relay.auth.keys import KeySet, VerificationKey
from relay.auth.tokens import Verifier
from relay.config import schema
from relay.delivery.channels import Channels
from relay.delivery.outbox import Outbox, put_all
from relay.delivery.tick import Tick
from relay.limits.buckets import Rate
from relay.limits.quotas import Bound, take
from relay.limits.quotas import Rule as QuotaRule
from relay.model import Kind, Message, Payload
from relay.net.deflate import Agreement
from relay.net.link import Link
from relay.net.slow_path import EngineLimits
from relay.net.websocket import Engine
from relay.protocols.base import WireProtocol
from relay.protocols.deflated import Compressor, Deflated
from relay.protocols.relay_v1 import RelayV1Json, RelayV1Msgpack

TEXT: Final = 1
SIZE: Final = 128
MEMBERS: Final = 1000
KEYS: Final = 200
PAYLOAD: Final = b"x" * SIZE


@dataclass(frozen=True, slots=True)
class Part:
    """One thing to measure: `call` does it `count` times."""

    name: str
    call: Callable[[], object]
    count: int = 1


class Nobody:
    """An engine's sink and an outbox's owner that does nothing."""

    def several(self) -> None: ...
    def ping(self, payload: bytes) -> None: ...
    def pong(self, payload: bytes) -> None: ...
    def closed(self, code: int, reason: str) -> None: ...
    def failed(self, reason: object) -> None: ...
    def flush(self) -> None: ...
    def overflowed(self, lane: object, room: str) -> None: ...


def engine_parts() -> Iterator[Part]:
    frame = masked(TEXT, PAYLOAD)
    small = masked(TEXT, b"x" * 100)
    halves = frame[:70], frame[70:]
    for fast, path in ((True, "fast path"), (False, "wsproto")):
        engine = Engine(Nobody(), EngineLimits(65536, 1024, Rate(0), fast))
        engine.message = _ignore
        feed = engine.feed
        yield Part(f"engine: 100 byte frame alone in a read, {path}", partial(feed, small, 0.0))
        yield Part(f"engine: {SIZE} byte frame alone in a read, {path}", partial(feed, frame, 0.0))
        yield Part(f"engine: {SIZE} byte frame, eight in a read, {path}", partial(feed, frame * 8, 0.0), 8)
        yield Part(f"engine: {SIZE} byte frame in two reads, {path}", partial(_feed_each, engine, halves))


def _ignore(opcode: int, payload: bytes) -> None:
    """A session that does nothing."""


def _feed_each(engine: Engine, reads: tuple[bytes, ...]) -> None:
    for read in reads:
        engine.feed(read, 0.0)


def outbox_parts() -> Iterator[Part]:
    channels = Channels(schema.default_channels())
    owner: Any = Nobody()
    tick = Tick(lambda: None)
    frame = b"f" * (SIZE + 4)
    message = Message("chat:bench", Payload(Kind.TEXT, PAYLOAD))
    box = Outbox(channels, owner, tick)
    index = channels.default

    def put_take(times: int) -> None:
        for _ in range(times):
            box.put(index, frame, message)
        box.take(1 << 20)

    yield Part("outbox: put one, take one", partial(put_take, 1))
    yield Part("outbox: put eight, take them joined; per frame", partial(put_take, 8), 8)
    keyed = [Message("chat:bench", Payload(Kind.TEXT, PAYLOAD), key=str(key)) for key in range(KEYS)]
    state = channels.index("state")
    latest = Outbox(channels, owner, tick)

    def replace() -> None:
        for one in keyed:
            latest.put(state, frame, one)

    yield Part(f"outbox: a newer value for one of {KEYS} keys that wait", replace, KEYS)
    boxes = [Outbox(channels, owner, tick) for _ in range(MEMBERS)]

    def fan_out() -> None:
        put_all(boxes, channels.lanes[index], frame, message, None)
        for one in boxes:
            one.take(1 << 20)
            one.touched = False
        tick.touched.clear()

    yield Part("outbox: put_all and take, per outbox", fan_out, MEMBERS)


def tick_parts() -> Iterator[Part]:
    relay = Relay()
    members = [relay.connect("chat:plain") for _ in range(MEMBERS + 1)]
    frame = masked(TEXT, PAYLOAD)
    room = relay.server.hub.rooms["chat:plain"]
    message = Message("chat:plain", Payload(Kind.TEXT, PAYLOAD))

    def deliver() -> None:
        relay.tick.running = True
        relay.server.hub.deliver(room, message)
        relay.tick.flush()

    yield Part("tick: hub.deliver and flush, per member", deliver, MEMBERS + 1)
    yield Part("tick: one message read, sent to 1,000; per member", partial(relay.say, members[0], frame), MEMBERS)
    yield Part(
        "tick: eight messages read, each to 1,000; per delivery", partial(relay.say, members[0], frame * 8), 8000
    )
    two = [relay.connect("chat:two") for _ in range(2)]
    yield Part("tick: one message read, sent to one", partial(relay.say, two[0], frame))
    echo = relay.connect("echo:bench")
    yield Part("tick: one message read, echoed", partial(relay.say, echo, frame))
    json = [relay.connect("chat:json", RelayV1Json()) for _ in range(2)]
    publish = b'{"t":"publish","room":"chat:json","data":"' + PAYLOAD + b'"}'
    yield Part("tick: one relay.v1.json message read, sent to one", partial(relay.say, json[0], masked(TEXT, publish)))


def session_parts() -> Iterator[Part]:
    """What a client asks beside publishing; each is read, done and answered."""
    relay = Relay()
    relay.connect("chat:held", RelayV1Json())  # else each join opens the room, and each leave frees it
    link = relay.connect("", RelayV1Json())
    ping, join, leave, opening, freeing = (
        masked(TEXT, request)
        for request in (
            b'{"t":"ping","id":1}',
            b'{"t":"join","id":1,"room":"chat:held"}',
            b'{"t":"leave","id":1,"room":"chat:held"}',
            b'{"t":"join","id":1,"room":"chat:empty"}',
            b'{"t":"leave","id":1,"room":"chat:empty"}',
        )
    )

    def each(*requests: bytes) -> None:
        for request in requests:
            relay.say(link, request)

    yield Part("session: ping, answered", partial(each, ping))
    yield Part("session: join and leave, both answered", partial(each, join, leave))
    yield Part("session: the same, with the room opened and freed", partial(each, opening, freeing))


def deflate_parts() -> Iterator[Part]:
    """A broadcast to 1,000, of JSON as games send it: not compressed, compressed once for all, a context for each."""
    for size in (256, 1024, 4096):
        frames = [masked(TEXT, _positions(size, number)) for number in range(50)]
        for how in ("not compressed", "shared", "contexts"):
            relay = Relay()
            protocol: WireProtocol = PLAIN
            if how == "shared":
                protocol = Deflated(PLAIN, Compressor(12, 1, relay.services.counters), 128)
            agreement = Agreement("", 12, True, 12, True) if how == "contexts" else None
            members = [relay.connect("chat:deflate", protocol, agreement) for _ in range(MEMBERS + 1)]
            for frame in frames:
                relay.say(members[0], frame)
            sent = sum(link.writer.bytes_out for link in members) // MEMBERS // len(frames)
            say = partial(_say_next, relay, members[0], itertools.cycle(frames))
            yield Part(f"deflate: {size} bytes of JSON to 1,000, {how}: {sent} bytes each; per member", say, MEMBERS)


def _positions(size: int, number: int) -> bytes:
    """About that many bytes; another `number`, other positions."""
    chosen = random.Random(number)
    players = []
    while len(encoded := msgspec.json.encode(players)) < size:
        x, y = round(chosen.random() * 100, 2), round(chosen.random() * 100, 2)
        players.append({"id": chosen.randrange(1000), "x": x, "y": y, "state": "moving"})
    return encoded


def _say_next(relay: Relay, link: Link, frames: Iterator[bytes]) -> None:
    relay.say(link, next(frames))


def protocol_parts() -> Iterator[Part]:
    data = PAYLOAD.decode()
    publish = {"t": "publish", "id": 7, "room": "chat:bench", "data": data}
    one, other = RelayV1Json(), RelayV1Msgpack()
    cases: list[tuple[WireProtocol, int, bytes, Kind]] = [
        (PLAIN, TEXT, PAYLOAD, Kind.TEXT),
        (one, TEXT, _encoded(one, publish), Kind.JSON),
        (other, 2, _encoded(other, publish), Kind.MSGPACK),
    ]
    for protocol, opcode, raw, kind in cases:
        own = Payload(kind, PAYLOAD if protocol is PLAIN else _encoded(protocol, data))
        message = Message("chat:bench", own, "ann", offset=7, at=1.5)
        yield Part(f"protocol: {protocol.name}, decode", partial(protocol.decode, opcode, raw, "chat:bench"))
        yield Part(f"protocol: {protocol.name}, encode", partial(protocol.message, message))
    text = Message("chat:bench", Payload(Kind.TEXT, PAYLOAD), "ann", offset=7, at=1.5)
    yield Part("protocol: relay.v1.json, encode plain text", partial(one.message, text))


def _encoded(protocol: Any, value: object) -> bytes:
    encoded: bytes = protocol._encoder.encode(value)
    return encoded


def token_parts() -> Iterator[Part]:
    secret = b"s" * 48
    elliptic, edwards = generate_private_key(SECP256R1()), Ed25519PrivateKey.generate()
    keys: list[tuple[str, Any, Any]] = [
        ("HS256", secret, secret),
        ("ES256", elliptic, elliptic.public_key()),
        ("EdDSA", edwards, edwards.public_key()),
    ]
    now = time.time()
    claims = {"sub": "ann", "exp": now + 3600, "relay": ALL_ROOMS}
    for algorithm, private, public in keys:
        key_set = KeySet([VerificationKey.make("k", algorithm, public)])
        token = jwt.encode(claims, private, algorithm, headers={"kid": "k"})
        for kept, how in ((0, "verified"), (100, "known already")):
            verifier = Verifier(key_set, schema.Auth(cache_tokens=kept))
            yield Part(f"token: {algorithm}, {how}", partial(verifier.verify, token, now))


def plugin_parts() -> Iterator[Part]:
    """What the relay adds to a plugin's own hook: supervision, the watchdog's marks."""
    relay = Relay()
    link = relay.connect("chat:bench")
    supervised = next(one for one in relay.services.plugins if one.name == "chat")
    peer: Any = link.connection
    room = relay.server.hub.open("chat:hook")
    message = Message("chat:hook", Payload(Kind.TEXT, PAYLOAD), "ann")
    supervised._on_message = _hook
    yield Part("plugin: a sync hook that does nothing, called by itself", partial(_hook, room, peer, message))
    yield Part("plugin: the same under supervision", partial(supervised.message, room, peer, message))


def _hook(room: object, peer: object, message: object) -> None:
    """A plugin that does nothing."""


def quota_parts() -> Iterator[Part]:
    """What one message costs the quotas about it: none, one, and three."""
    now = itertools.count(1)
    for count in (1, 3):
        rules = [
            QuotaRule(f"q{number}", schema.Quota(counts="messages_in", per="room", rate=1e12), None)
            for number in range(count)
        ]
        bounds = tuple((rule, rule.buckets.hold("chat:a", 0.0)) for rule in rules)
        what = "one quota" if count == 1 else f"{count} quotas"
        yield Part(f"quota: {what} asked about a message", partial(_take, bounds, now))
    frame = masked(TEXT, PAYLOAD)
    for settings in ("", '[quotas.room]\ncounts = "messages_in"\nper = "room"\nrate = 1000000000\n'):
        relay = Relay(settings)
        link = relay.connect("echo:bench")
        how = "with a quota per room" if settings else "without a quota"
        yield Part(f"quota: one message read, echoed, {how}", partial(relay.say, link, frame))


def _take(bounds: tuple[Bound, ...], now: Iterator[int]) -> None:
    take(bounds, SIZE, float(next(now)))


PARTS: Final = {
    "engine": engine_parts,
    "outbox": outbox_parts,
    "tick": tick_parts,
    "session": session_parts,
    "deflate": deflate_parts,
    "protocol": protocol_parts,
    "token": token_parts,
    "plugin": plugin_parts,
    "quota": quota_parts,
}


def nanoseconds(part: Part, tries: int, seconds: float) -> float:
    """The least CPU time one of `part.count` takes, in `tries` tries of about `seconds` each."""
    timer = timeit.Timer(part.call, timer=time.process_time)
    part.call()
    once = max(timer.timeit(10) / 10, 1e-7)
    number = max(1, int(seconds / once))
    return min(timer.repeat(tries, number)) / number / part.count * 1e9


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--quick", is_flag=True, help="Short tries: good for a look.")
def main(parts: tuple[str, ...], quick: bool) -> None:
    """Measure the relay's parts one by one; PARTS: all of them unless named."""
    rows = []
    for name in parts or PARTS:
        for part in PARTS[name]():
            gc.collect()
            rows.append((part.name, f"{nanoseconds(part, 3 if quick else 9, 0.02 if quick else 0.2):,.0f}"))
    click.echo(table(("part", "ns"), rows))


if __name__ == "__main__":
    main()
