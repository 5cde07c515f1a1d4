"""`websockets` with its defaults: /sub listens, /urgent is passed on to it, /bulk makes bulk when told "TOTAL SIZE".

    websockets_server.py PORT CERTIFICATE KEY await|fifo

await: each bulk message waits until the library has taken the one before (`await send`); fifo: all at once with
`broadcast`, as a room does that hears them from its publisher.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys

from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

subscribers: set[ServerConnection] = set()
mode = sys.argv[4]


async def handle(connection: ServerConnection) -> None:
    path = connection.request.path if connection.request is not None else ""
    try:
        if path == "/sub":
            subscribers.add(connection)
            await connection.wait_closed()
            subscribers.discard(connection)
        elif path == "/urgent":
            async for message in connection:
                broadcast(subscribers, message)
        else:
            async for message in connection:
                total, size = map(int, message.split())
                await send_bulk(total, size)
    except ConnectionClosed:
        pass


async def send_bulk(total: int, size: int) -> None:
    payload = b"B" + os.urandom(size - 1)
    for _ in range(total // size):
        if mode == "fifo":
            broadcast(subscribers, payload)
        else:
            for subscriber in list(subscribers):
                await subscriber.send(payload)


async def main() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    async with serve(handle, "0.0.0.0", int(sys.argv[1]), ssl=context) as server:
        await server.serve_forever()


asyncio.run(main())
