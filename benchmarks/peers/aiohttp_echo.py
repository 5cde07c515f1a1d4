"""A peer to compare handshakes with: aiohttp's WebSocket server as its documentation shows it, on stock asyncio.

    python aiohttp_echo.py PORT CERTIFICATE KEY

Every path answers each message to its sender. No compression, no token.
"""

from __future__ import annotations

import ssl
import sys

from aiohttp import WSMsgType, web


async def handle(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


if __name__ == "__main__":
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    app = web.Application()
    app.router.add_get("/{path}", handle)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), ssl_context=context, access_log=None, backlog=4096)
