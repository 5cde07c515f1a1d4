"""A peer to compare handshakes with: Starlette on uvicorn, which serves WebSockets with the `websockets` library.

    python starlette_echo.py PORT CERTIFICATE KEY

Every path answers each message to its sender. No compression, no token; stock asyncio.
"""

from __future__ import annotations

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect


async def handle(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        pass


if __name__ == "__main__":
    uvicorn.run(
        Starlette(routes=[WebSocketRoute("/{path:path}", handle)]),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        ssl_certfile=sys.argv[2],
        ssl_keyfile=sys.argv[3],
        ws_per_message_deflate=False,
        loop="asyncio",
        log_level="warning",
        backlog=4096,
    )
