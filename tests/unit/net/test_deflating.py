"""A connection that compresses with a context of its own: what leaves can be inflated in the order in which it left."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
import trio

from relay.model import Kind, Message, Payload
from relay.net.deflate import TAIL, Agreement
from relay.net.deflating import DeflatingWriter
from relay.net.link import Link
from relay.net.transport import Transport
from relay.protocols.frames import RSV1
from relay.protocols.plain import Plain
from relay.session.connection import Connection
from tests.unit.net.kit import Net, masked, open_net, tcp_pair
from tests.unit.protocols.table import JSON
from tests.unit.session.kit import channels, identity, settings
from tests.unit.session.plugins import Quick

PLUGINS: dict[str, Any] = {"q": (Quick, {"history": 50}), "bulky": (Quick, {"channel": "bulk"})}
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9
ON = settings(websocket={"deflate": True, "deflate_context": True, "deflate_min_bytes": 32})
WORDS = b'{"player":"ann","x":10,"y":20,"state":"moving"}'


class Reader:
    """A client on a socket that inflates with one context; `frames` are (opcode with RSV1, payload as it was)."""

    def __init__(self, net: Net, *, home: str = "q:a", protocol: Any = None, small: bool = False) -> None:
        server, self.sock = tcp_pair(small)
        agreement = Agreement("", 12, True, 15, True)
        transport = Transport(server, unsent_bytes=net.config.outbox.unsent_bytes)
        self.link = Link(net.services, transport, net.poller, net.poller.tick, net.engine_limits, agreement)
        self.link.connection = Connection(
            net.services, self.link, identity("ann"), protocol or Plain(), "session of ann", home
        )
        net.clients.append(self)  # type: ignore[arg-type]
        self._data = bytearray()
        self._stream = zlib.decompressobj(-12)
        self.wire = 0
        self.link.start(b"", 0)

    async def next(self) -> tuple[int, bytes]:
        first, size = await self._take(2)
        if size >= 126:
            size = int.from_bytes(await self._take(2 if size == 126 else 8), "big")
        payload = await self._take(size)
        self.wire += size
        if first & RSV1:
            payload = self._stream.decompress(payload + TAIL)
        return first & 0x7F, payload

    async def _take(self, count: int) -> bytes:
        while len(self._data) < count:
            await trio.lowlevel.wait_readable(self.sock)
            data = self.sock.recv(65536)
            assert data, "ended"
            self._data += data
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken


async def test_similar_messages_shrink_to_little_and_all_arrive_in_order() -> None:
    async with open_net(PLUGINS, ON) as net:
        reader = Reader(net)
        assert isinstance(reader.link.writer, DeflatingWriter)
        bob = net.connect("bob", protocol=Plain(), home="q:a")
        said = [WORDS.replace(b"10", str(number).encode()) for number in range(200)]
        await bob.send(*(masked(TEXT, text) for text in said))
        for text in said:
            assert await reader.next() == (TEXT | RSV1, text)
        assert reader.wire < len(b"".join(said)) // 4
        assert net.counters.deflate_before == len(b"".join(said))
        assert net.counters.deflate_after == reader.wire


async def test_short_messages_control_frames_and_parts_go_as_they_are() -> None:
    async with open_net(PLUGINS, settings(websocket={"deflate": True, "deflate_context": True})) as net:
        reader = Reader(net, home="", protocol=JSON.protocol)
        assert (await reader.next())[0] == TEXT | RSV1, "hello is long"
        reader.sock.send(masked(TEXT, msgspec.json.encode({"t": "join", "room": "q:a", "id": 1})))
        assert (await reader.next())[0] == TEXT
        reader.sock.send(masked(PING, b"x" * 100))
        assert await reader.next() == (10, b"x" * 100)
        room = net.hub.rooms["q:a"]
        net.hub.publish(room, Message("q:a", Payload(Kind.TEXT, b"y" * 40_000)), None)
        left = 40_000
        while left:
            opcode, payload = await reader.next()
            assert opcode == BINARY
            left -= payload.count(b"y")
        net.hub.publish(room, Message("q:a", Payload(Kind.TEXT, b"y" * 400)), None)
        opcode, payload = await reader.next()
        assert (opcode, msgspec.json.decode(payload)["data"]) == (TEXT | RSV1, "y" * 400)


async def test_what_overtakes_is_compressed_in_the_order_in_which_it_leaves() -> None:
    """Bulk that waits, urgent messages that pass it, and some of the bulk dropped before it was ever compressed."""
    table = channels(bulk={"overflow": "drop_oldest", "capacity": 65536})
    async with open_net(PLUGINS, settings(websocket={"deflate": True, "deflate_context": True}, channels=table)) as net:
        reader = Reader(net, home="bulky:a", small=True)
        room = net.hub.rooms["bulky:a"]
        for number in range(400):
            noise = b"".join(zlib.crc32(b"%d %d" % (number, part)).to_bytes(4, "big") for part in range(128))
            net.hub.publish(room, Message("bulky:a", Payload(Kind.BINARY, b"bulk %4d " % number + noise)), None)
            if number % 40 == 20:
                urgent = b"urgent %4d " % number + WORDS * 9
                net.hub.publish(room, Message("bulky:a", Payload(Kind.BINARY, urgent), channel="urgent"), None)
            if number % 50 == 0:
                await trio.lowlevel.checkpoint()
        heard = []
        while not heard or heard[-1] != b"bulk  399":
            heard.append((await reader.next())[1][:9])
        bulk = [text for text in heard if text.startswith(b"bulk")]
        assert bulk == sorted(bulk)
        assert len(bulk) < 400, "some were dropped"
        assert sum(text.startswith(b"urgent") for text in heard) == 10


async def test_what_waits_is_sent_before_the_close_frame() -> None:
    async with open_net(PLUGINS, ON) as net:
        reader = Reader(net)
        net.hub.publish(net.hub.rooms["q:a"], Message("q:a", Payload(Kind.TEXT, WORDS)), None)
        reader.sock.send(masked(CLOSE, b"\x03\xe8"))
        heard = [await reader.next()]
        while heard[-1][0] != CLOSE:
            heard.append(await reader.next())
        assert heard[-1] == (CLOSE, b"\x03\xe8")


async def test_what_a_client_compressed_counts_against_its_rate_as_what_it_stands_for() -> None:
    limits = {"bytes_per_second": 1000.0, "bytes_burst": 60_000, "slow_down": 5.0}
    async with open_net(PLUGINS, settings(limits=limits)) as net:
        reader = Reader(net)
        stream = zlib.compressobj(6, zlib.DEFLATED, -15)
        packed = (stream.compress(bytes(60_000)) + stream.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)
        frame = bytearray(masked(BINARY, packed))
        frame[0] |= RSV1
        again = stream.compress(bytes(60_000)) + stream.flush(zlib.Z_SYNC_FLUSH)
        second = bytearray(masked(BINARY, again.removesuffix(TAIL)))
        second[0] |= RSV1
        reader.sock.send(frame)
        while net.counters.messages_in == 0 and reader.link.connection.messages < 1:
            await trio.lowlevel.checkpoint()
        reader.sock.send(second)
        opcode, payload = await reader.next()
        assert opcode == CLOSE
        assert int.from_bytes(payload[:2], "big") == 4229
        assert b"limits.bytes_per_second" in payload
