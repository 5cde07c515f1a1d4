"""A peer to compare with: the `websockets` library as its documentation shows it, `broadcast()` on stock asyncio.

    python websockets_broadcast.py PORT CERTIFICATE KEY

Paths: /sub listens, /pub is broadcast to all that listen, /echo answers its sender. No compression, as in the relay.
"""

from __future__ import annotations

import asyncio
import ssl
import sys

from websockets.asyncio.server import ServerConnection, broadcast, serve

subscribers: set[ServerConnection] = set()


async def handle(connection: ServerConnection) -> None:
    path = connection.request.path if connection.request is not None else ""
    if path == "/echo":
        async for message in connection:
            await connection.send(message)
    elif path == "/pub":
        async for message in connection:
            broadcast(subscribers, message)
    else:
        subscribers.add(connection)
        try:
            await connection.wait_closed()
        finally:
            subscribers.discard(connection)


async def main(port: int, certificate: str, key: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with serve(handle, "127.0.0.1", port, ssl=context, compression=None, backlog=4096):
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
