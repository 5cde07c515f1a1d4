"""Tells a service manager how the relay is (sd_notify(3)): a datagram to the socket it names; nothing without one."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Sends for example "READY=1" or "STOPPING=1". True: somebody was told."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), address)
    except OSError:
        return False
    return True
