"""A WebSocket client over TLS, as small as can be: its own cost and buffers must not be part of what is measured.

Not here: what messages mean (dialects). The one rule: `receive` never waits, and returns as soon as something has come.
"""

from __future__ import annotations

import base64
import os
import socket
import ssl
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10
READ_SIZE: Final = 65536


class Ended(Exception):
    """The connection cannot be made, or is over; the text says why."""


class Socket:
    """One connection, TLS and WebSocket handshake done. Blocking until `poll` is called.

    Raises Ended, also when the server refuses.
    """

    def __init__(
        self,
        address: tuple[str, int],
        path: str,
        authority: Path,
        *,
        token: str = "",
        subprotocol: str = "",
        receive_buffer: int = 0,
    ) -> None:
        self.bytes_in = 0
        self._buffer = bytearray()
        self._message = bytearray()
        self._opcode = 0
        context = ssl.create_default_context(cafile=str(authority))
        raw = socket.socket()
        try:
            if receive_buffer:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            raw.settimeout(10)
            raw.connect(address)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sock = context.wrap_socket(raw, server_hostname="localhost")
            self._shake_hands(path, token, subprotocol)
        except OSError as error:
            raw.close()
            raise Ended(str(error)) from None

    def _shake_hands(self, path: str, token: str, subprotocol: str) -> None:
        lines = [
            f"GET {path} HTTP/1.1",
            "Host: localhost",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        ]
        if token:
            lines.append(f"Authorization: Bearer {token}")
        if subprotocol:
            lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
        self._sock.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self._buffer:
            data = self._sock.recv(READ_SIZE)
            if not data:
                raise Ended("closed during the handshake")
            self._buffer += data
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        status = head.split(b"\r\n", 1)[0].decode("latin-1")
        if " 101 " not in f"{status} ":
            raise Ended(f"{path}: {status} {rest[:200]!r}")
        self._buffer = bytearray(rest)

    def fileno(self) -> int:
        return self._sock.fileno()

    def poll(self) -> None:
        """From now on nothing blocks but `send`."""
        self._sock.setblocking(False)

    def send(self, payload: bytes, opcode: int = BINARY) -> None:
        """One message."""
        self.send_many([payload], opcode)

    def send_many(self, payloads: Iterable[bytes], opcode: int = BINARY) -> None:
        """Messages in one write. The mask is zero: there is no proxy to protect, and masking costs more than sending.

        Waits until the kernel has taken all. Raises Ended.
        """
        data = b"".join(_head(len(payload), opcode) + payload for payload in payloads)
        polling = self._sock.gettimeout() == 0
        try:
            self._sock.settimeout(None)
            self._sock.sendall(data)
        except OSError as error:
            raise Ended(str(error)) from None
        finally:
            if polling:
                self._sock.setblocking(False)

    def receive(self) -> tuple[float, list[tuple[int, bytes]]] | None:
        """When one read was done, and the whole messages that it completed: (opcode, payload). None: nothing has come.

        Pings are answered. Raises Ended.
        """
        try:
            data = self._sock.recv(READ_SIZE)
        except (ssl.SSLWantReadError, BlockingIOError):
            return None
        except OSError as error:
            raise Ended(str(error)) from None
        now = time.monotonic()
        if not data:
            raise Ended("closed by the server")
        self.bytes_in += len(data)
        self._buffer += data
        return now, self._messages()

    def early(self) -> list[tuple[int, bytes]]:
        """Whole messages that came together with the handshake."""
        return self._messages()

    def _messages(self) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        buffer = self._buffer
        at = 0
        while len(buffer) - at >= 2:
            size, start = buffer[at + 1] & 127, at + 2
            if size >= 126:
                length = 2 if size == 126 else 8
                start += length
                if len(buffer) < start:
                    break
                size = int.from_bytes(buffer[start - length : start], "big")
            if len(buffer) < start + size:
                break
            first, payload = buffer[at], bytes(buffer[start : start + size])
            at = start + size
            self._frame(first, payload, found)
        if at:
            del buffer[:at]
        return found

    def _frame(self, first: int, payload: bytes, found: list[tuple[int, bytes]]) -> None:
        opcode, final = first & 15, first & 0x80
        if opcode == CLOSE:
            code, reason = int.from_bytes(payload[:2], "big"), payload[2:].decode(errors="replace")
            raise Ended(f"closed by the server: {code} {reason}")
        if opcode == PING:
            self.send(payload, PONG)
        elif opcode in (TEXT, BINARY) and final:
            found.append((opcode, payload))
        elif opcode in (0, TEXT, BINARY):
            self._opcode = opcode or self._opcode
            self._message += payload
            if final:
                found.append((self._opcode, bytes(self._message)))
                self._message.clear()

    def close(self) -> None:
        self._sock.close()


def _head(size: int, opcode: int) -> bytes:
    """A frame's head with a mask of zeros (RFC 6455 section 5.2)."""
    if size < 126:
        return bytes([0x80 | opcode, 0x80 | size, 0, 0, 0, 0])
    if size < 65536:
        return bytes([0x80 | opcode, 0xFE]) + size.to_bytes(2, "big") + bytes(4)
    return bytes([0x80 | opcode, 0xFF]) + size.to_bytes(8, "big") + bytes(4)
