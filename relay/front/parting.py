"""Last words to a client that no session will take leave of: it was refused, or came as a guest and stays none.

Not here: why it is refused (admission, guests), the end of a session (net/link). The one rule: what the client has sent
is read before the connection is closed, because closing with that unread resets it, and our last words with it.
"""

from __future__ import annotations

from typing import Final

import trio

from relay.errors import Rejected
from relay.front.state import PROTOCOLS
from relay.net.handshake import Upgrade, accept_response
from relay.net.transport import Lost, Transport
from relay.protocols.frames import close_frame

MOST: Final = 65536
"""Bytes that are read to be dropped: who sends more is not waiting for our words."""


async def linger(transport: Transport, seconds: float) -> None:
    """Sends nothing more, and drops what still comes until the client ends. Raises nothing but Cancelled."""
    transport.half_close()
    dropped = 0
    with trio.move_on_after(seconds):
        try:
            while dropped < MOST and (data := await transport.receive_some()):
                dropped += len(data)
        except Lost:
            pass


async def accept_then_close(transport: Transport, upgrade: Upgrade, rejected: Rejected, seconds: float) -> None:
    """For browsers, which hide a status from their page: 101, then a close frame with the code and the reason. Raises
    Lost.
    """
    subprotocol = next((name for name in upgrade.subprotocols if name in PROTOCOLS), None)
    reason = f"{rejected.code}: {rejected.reason}" + (f" [{rejected.setting}]" if rejected.setting else "")
    await transport.send_all(accept_response(upgrade, subprotocol) + close_frame(rejected.close_code, reason))
    await linger(transport, seconds)
