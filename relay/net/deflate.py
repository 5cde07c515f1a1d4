"""permessage-deflate (RFC 7692): what is agreed on in the handshake, and inflating what a client sends. Sans-IO.

Not here: compressing (protocols/deflated where many share a frame, net/deflating where a connection has a context of
its own), frames (websocket). The one rule: what a client sends decides how much is inflated only up to the limit: the
memory of a bomb is that of the largest message, whatever it promises.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from relay.net.head import malformed

NAME: Final = "permessage-deflate"
TAIL: Final = b"\x00\x00\xff\xff"  # RFC 7692 section 7.2.1: cut off by who compresses, put back by who inflates
MOST_BITS: Final = 15
LEAST_BITS: Final = 9  # zlib makes no raw stream with a window of 8 bits, so an offer that asks for one is declined
STREAMS: Final = 16  # final blocks (section 7.2.3.4) in one message; more are only sent to cost time

_BITS: Final = frozenset(map(str, range(8, MOST_BITS + 1)))  # section 7.1.2: decimal, no leading zeros
_WORD: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER: Final = re.compile(rf'[ \t]*({_WORD})[ \t]*(?:=[ \t]*(?:({_WORD})|"({_WORD})")[ \t]*)?')

Parameters = dict[str, str | None]


@dataclass(slots=True, frozen=True)
class Wishes:
    """What the server wants. `window_bits` bounds both windows; `context` keeps them between messages."""

    window_bits: int
    context: bool

    @property
    def windows(self) -> tuple[int, ...]:
        """The server's windows to choose from, largest first. Few, because each is a frame of its own for those who
        share frames: a client's wish for 11 bits is answered with 9.
        """
        return tuple(sorted({bits for bits in (self.window_bits, 12, 9) if bits <= self.window_bits}, reverse=True))


@dataclass(slots=True, frozen=True)
class Agreement:
    """What both sides keep to. `response` goes into the 101."""

    response: str
    server_bits: int
    server_context: bool
    client_bits: int
    client_context: bool

    @property
    def has_context(self) -> bool:
        """Whether this connection holds memory for compression while it is silent."""
        return self.server_context or self.client_context


def parse_offers(lines: Sequence[str]) -> list[Parameters | None]:
    """The offers of permessage-deflate in the lines of Sec-WebSocket-Extensions, in the client's order of preference.

    None stands for an offer that names a parameter twice. Other extensions are left out. Raises Rejected(400) for what
    is not a list of extensions at all (RFC 6455 section 9.1).
    """
    offers: list[Parameters | None] = []
    for line in lines:
        position = 0
        while position < len(line):
            if line[position] in ", \t":  # empty members of a list are nothing (RFC 9110 section 5.6.1)
                position += 1
                continue
            name, parameters, position = _extension(line, position)
            if name == NAME:
                offers.append(parameters)
    return offers


def _extension(line: str, position: int) -> tuple[str, Parameters | None, int]:
    """One extension that begins at `position`: its name, its parameters, and where it ends."""
    name = ""
    parameters: Parameters = {}
    twice = False
    while True:
        match = _PARAMETER.match(line, position)
        if match is None or (not name and (match[2] or match[3])):
            raise malformed("Sec-WebSocket-Extensions is not a list of extensions (RFC 6455 section 9.1)")
        position = match.end()
        if not name:
            name = match[1]
        else:
            twice = twice or match[1] in parameters
            parameters[match[1]] = match[2] or match[3]
        if position == len(line) or line[position] == ",":
            return name, None if twice else parameters, position + 1
        if line[position] != ";":
            raise malformed("Sec-WebSocket-Extensions is not a list of extensions (RFC 6455 section 9.1)")
        position += 1


def agree(offers: Sequence[Parameters | None], wishes: Wishes) -> Agreement | None:
    """The first offer that can be accepted, as RFC 7692 section 7.1 says; None: none can."""
    for offer in offers:
        agreement = None if offer is None else _accept(offer, wishes)
        if agreement is not None:
            return agreement
    return None


def _accept(offer: Parameters, wishes: Wishes) -> Agreement | None:
    """None: declined, because of a parameter that is unknown, has a value it may not have, or asks the impossible."""
    server_bits = client_bits = MOST_BITS
    for name, value in offer.items():
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return None
        elif name == "server_max_window_bits":
            if value not in _BITS:
                return None
            server_bits = int(value)
        elif name == "client_max_window_bits":
            if value is not None and value not in _BITS:
                return None
            client_bits = int(value or MOST_BITS)
        else:
            return None
    chosen = next((bits for bits in wishes.windows if bits <= server_bits), None)
    if chosen is None:
        return None
    said = [NAME]
    server_context = wishes.context and "server_no_context_takeover" not in offer
    client_context = wishes.context and "client_no_context_takeover" not in offer
    if not server_context:
        said.append("server_no_context_takeover")
    if not client_context:
        said.append("client_no_context_takeover")
    if "server_max_window_bits" in offer:
        said.append(f"server_max_window_bits={chosen}")
    if "client_max_window_bits" in offer:  # else the client does not know the word (section 7.1.2.2)
        client_bits = min(client_bits, wishes.window_bits)
        said.append(f"client_max_window_bits={client_bits}")
    return Agreement("; ".join(said), chosen, server_context, client_bits, client_context)


class TooLarge(Exception):
    """A message inflates to more than it may."""


class Broken(Exception):
    """It is not DEFLATE (RFC 1951), or refers to what is not in the window."""


class Inflater:
    """Inflates one client's messages, frame by frame. `most` bytes may come of one message.

    `busy` while a compressed message has begun and not ended. Without context, nothing is kept between messages.
    """

    __slots__ = ("_bits", "_context", "_left", "_most", "_stream", "busy")

    def __init__(self, most: int, agreement: Agreement) -> None:
        self._most = most
        self._bits = -max(agreement.client_bits, LEAST_BITS)  # a larger window inflates what a smaller one made
        self._context = agreement.client_context
        self._stream: zlib._Decompress | None = None
        self._left = 0
        self.busy = False

    @property
    def largest_frame(self) -> int:
        """Bytes beyond which a compressed message cannot be one of `most` bytes, however badly it was compressed."""
        return self._most + self._most // 8 + 4096

    def inflate(self, data: bytes, *, last: bool) -> bytes:
        """What the payload of one frame of a message stands for; `last`: it ends the message.

        Raises TooLarge, Broken; the connection cannot go on after either.
        """
        if not self.busy:
            self.busy = True
            self._left = self._most
        stream = self._stream
        if stream is None:
            stream = zlib.decompressobj(self._bits)
        rest = data + TAIL if last else data
        plain = b""
        for _ in range(STREAMS):
            try:
                more = stream.decompress(rest, self._left + 1)
            except zlib.error as error:
                raise Broken(str(error)) from None
            self._left -= len(more)
            if self._left < 0:
                raise TooLarge
            plain = plain + more if plain else more
            if not stream.eof:
                break
            # A final block ends zlib's stream, not the message: what follows is another stream (section 7.2.3.4).
            rest = stream.unused_data
            stream = zlib.decompressobj(self._bits)
            if not rest:
                break
        else:
            raise Broken("too many final blocks")
        self._stream = stream
        if last:
            self.busy = False
            if not self._context:
                self._stream = None
        return plain
