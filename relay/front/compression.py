"""Which compression a new connection gets: permessage-deflate, where it is on and the client offers it.

Not here: what an offer may say (net/deflate), how frames are compressed (protocols/deflated, net/deflating). The one
rule: connections that keep no context share frames, so there is one object for each wire format and window; those that
keep one are counted, and when there are `websocket.deflate_contexts` of them, the next ones share.
"""

from __future__ import annotations

from collections.abc import Sequence

from relay.config.schema import Config
from relay.counters import Counters
from relay.errors import Rejected
from relay.net.deflate import Agreement, Wishes, agree, parse_offers
from relay.protocols.base import WireProtocol
from relay.protocols.deflated import Compressor, Deflated


class Compression:
    """For the connections of one process. What it hands out outlives a reload that changes nothing about it."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._settings: tuple[object, ...] = ()
        self._compressors: dict[int, Compressor] = {}
        self._deflated: dict[tuple[WireProtocol, int], Deflated] = {}

    def agree(self, offers: Sequence[str], config: Config, session: WireProtocol | None = None) -> Agreement | None:
        """What is agreed on with a client that sent these lines of Sec-WebSocket-Extensions; None: no compression.

        `session` is the wire format of the session that one more socket is for: where its messages are compressed for
        all who share them, this socket must be able to read them. Raises Rejected(400).
        """
        settings = config.websocket
        shared = isinstance(session, Deflated)
        if not settings.deflate and not shared:
            return None
        context = settings.deflate_context and not shared and self._counters.contexts < settings.deflate_contexts
        if session is not None and not shared and not context:
            return None  # its messages are not compressed for anybody
        agreement = agree(parse_offers(offers), Wishes(settings.deflate_window_bits, context))
        if isinstance(session, Deflated) and (agreement is None or agreement.server_bits < session.bits):
            why = "this session's messages are compressed: offer permessage-deflate as on its first socket"
            raise Rejected(400, "other_protocol", why)
        return agreement

    def protocol(self, inner: WireProtocol, agreement: Agreement | None, config: Config) -> WireProtocol:
        """How to speak to a client: `inner`, or the same with messages compressed for all who share them."""
        if agreement is None or agreement.server_context:
            return inner
        settings = config.websocket
        now = (settings.deflate_level, settings.deflate_min_bytes, config.outbox.part_bytes)
        if now != self._settings:
            self._settings = now
            self._compressors.clear()
            self._deflated.clear()
        bits = agreement.server_bits
        found = self._deflated.get((inner, bits))
        if found is None:
            compressor = self._compressors.get(bits)
            if compressor is None:
                compressor = self._compressors[bits] = Compressor(bits, settings.deflate_level, self._counters)
            found = Deflated(inner, compressor, max(1, settings.deflate_min_bytes), config.outbox.part_bytes)
            self._deflated[inner, bits] = found
        return found

    def entered(self, agreement: Agreement | None) -> None:
        if agreement is not None:
            self._counters.compressed += 1
            self._counters.contexts += agreement.has_context

    def left(self, agreement: Agreement | None) -> None:
        if agreement is not None:
            self._counters.compressed -= 1
            self._counters.contexts -= agreement.has_context
