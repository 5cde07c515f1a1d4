"""The PROXY protocol, versions 1 and 2: who stands behind a proxy that passes TCP through. No I/O.

Source: "The PROXY protocol", HAProxy's doc/proxy-protocol.txt, sections 2.1 and 2.2. Not here: whose header is believed
(front/doors) and reading the socket. The one rule: no byte behind the header is taken, because TLS begins there; and
what is not exactly a header is `Malformed`, never guessed at.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, TypeAlias

Version: TypeAlias = Literal["v1", "v2", "any"]

V1_BYTES: Final = 107
"""The longest header of version 1, its CR LF included (section 2.1)."""
V2_BYTES: Final = 536
"""The longest header of version 2 that is taken, its extensions (TLVs) included: one segment on any path."""

_V1: Final = b"PROXY "
_V2: Final = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED: Final = 16
_LOCAL, _PROXY = 0, 1
_UNSPEC, _TCP4, _TCP6, _UNIX_STREAM = 0x00, 0x11, 0x21, 0x31
_ADDRESS_BYTES: Final = {_UNSPEC: 0, _TCP4: 12, _TCP6: 36, _UNIX_STREAM: 216}
_PORT: Final = re.compile(rb"0|[1-9][0-9]{0,4}")
_TEXT: Final = re.compile(rb"[!-~]+(?: [!-~]+)*")


class Malformed(Exception):
    """What came is no PROXY header, or none that may be sent here. The text says why and quotes nothing."""


class HeaderReader:
    """Takes one header in, however it was cut. `done` once it is whole; then `source` is the client's address.

    `source` is None where the header names none: the proxy speaks for itself (LOCAL: a health check), or does not know
    (UNKNOWN, AF_UNSPEC), or the client came to it through a Unix socket. Then the connection's own address is the one.
    """

    __slots__ = ("_buffer", "_version", "done", "source")

    def __init__(self, version: Version) -> None:
        self._version = version
        self._buffer = bytearray()
        self.done = False
        self.source: str | None = None

    def feed(self, data: bytes) -> int:
        """How many of these bytes belong to the header; all of them as long as it is not `done`.

        `data` goes on where the last call's count ended. Raises Malformed.
        """
        before = len(self._buffer)
        self._buffer += data
        end = self._end()
        if end is None:
            return len(data)
        self.done = True
        del self._buffer[end:]
        return end - before

    def _end(self) -> int | None:
        """The header's length once it is whole."""
        seen = self._buffer
        if self._version != "v1" and seen[: len(_V2)] == _V2[: len(seen)]:
            return self._end_v2()
        if self._version != "v2" and seen[: len(_V1)] == _V1[: len(seen)]:
            return self._end_v1()
        wanted = "a PROXY header" if self._version == "any" else f"a PROXY header of version {self._version[1]}"
        raise Malformed(f"the connection does not begin with {wanted}")

    def _end_v1(self) -> int | None:
        newline = self._buffer.find(b"\n", 0, V1_BYTES)
        if newline < 0:
            if len(self._buffer) >= V1_BYTES:
                raise Malformed(f"the header is longer than {V1_BYTES} bytes")
            return None
        line = bytes(self._buffer[: newline + 1])
        if not line.endswith(b"\r\n"):
            raise Malformed("the header does not end with CR LF")
        self.source = _source_v1(line[len(_V1) : -2])
        return newline + 1

    def _end_v2(self) -> int | None:
        seen = self._buffer
        if len(seen) < _V2_FIXED:
            return None
        version, command, family = seen[12] >> 4, seen[12] & 15, seen[13]
        if version != 2 or command not in (_LOCAL, _PROXY):
            raise Malformed("the header has an unknown version or command")
        end = _V2_FIXED + int.from_bytes(seen[14:16], "big")
        if end > V2_BYTES:
            raise Malformed(f"the header is longer than {V2_BYTES} bytes")
        if command == _PROXY:
            needed = _ADDRESS_BYTES.get(family)
            if needed is None:
                raise Malformed("the header is not about a stream over IPv4, IPv6 or a Unix socket")
            if end - _V2_FIXED < needed:
                raise Malformed("the header is too short for its addresses")
        if len(seen) < end:
            return None
        if command == _PROXY and family == _TCP4:
            self.source = str(IPv4Address(bytes(seen[16:20])))
        elif command == _PROXY and family == _TCP6:
            self.source = str(IPv6Address(bytes(seen[16:32])))
        return end


def _source_v1(fields: bytes) -> str | None:
    """The source in `TCP4 source destination port port`, in the one spelling there is; None for UNKNOWN."""
    if not _TEXT.fullmatch(fields):
        raise Malformed("the header is not text with single spaces")
    family, *rest = fields.split(b" ")
    if family == b"UNKNOWN":
        return None  # whatever follows is to be ignored
    if family not in (b"TCP4", b"TCP6") or len(rest) != 4:
        raise Malformed("the header does not say TCP4, TCP6 or UNKNOWN with two addresses and two ports")
    if not all(_PORT.fullmatch(port) and int(port) <= 65535 for port in rest[2:]):
        raise Malformed("the header has a port that is none")
    read = IPv4Address if family == b"TCP4" else IPv6Address
    try:
        source, _ = (read(address.decode()) for address in rest[:2])
    except ValueError:
        raise Malformed("the header has an address that is none") from None
    if isinstance(source, IPv6Address) and source.scope_id:
        raise Malformed("the header has an address that is none")
    return str(source)
