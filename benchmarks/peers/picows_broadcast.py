"""A peer to compare with: picows on uvloop, one direct send per subscriber, over TLS.

    python picows_broadcast.py PORT CERTIFICATE KEY

Paths: /sub listens, /pub is broadcast to all that listen, /echo answers its sender.
"""

from __future__ import annotations

import ssl
import sys

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

DATA = (WSMsgType.TEXT, WSMsgType.BINARY)
subscribers: set[WSTransport] = set()


class Subscriber(WSListener):  # type: ignore[misc]
    def on_ws_connected(self, transport: WSTransport) -> None:
        subscribers.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        subscribers.discard(transport)


class Publisher(WSListener):  # type: ignore[misc]
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type in DATA:
            payload = frame.get_payload_as_bytes()
            for subscriber in subscribers:
                subscriber.send(frame.msg_type, payload)


class Echo(WSListener):  # type: ignore[misc]
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type in DATA:
            transport.send(frame.msg_type, frame.get_payload_as_bytes())


def listener(request: WSUpgradeRequest) -> WSListener:
    return {b"/pub": Publisher, b"/echo": Echo}.get(request.path, Subscriber)()


async def main(port: int, certificate: str, key: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = await ws_create_server(listener, "127.0.0.1", port, ssl=context, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
