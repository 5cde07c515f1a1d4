"""Which connection gets which compression."""

from __future__ import annotations

from typing import Any

import pytest

from relay.config.schema import Config
from relay.counters import Counters
from relay.errors import Rejected
from relay.front.compression import Compression
from relay.front.state import PLAIN, relay_v1
from relay.protocols.deflated import Deflated
from tests.unit.session.kit import settings

OFFER = ["permessage-deflate; client_max_window_bits"]
JSON = relay_v1("relay.v1.json")


def on(**keys: Any) -> Config:
    return settings(websocket={"deflate": True, **keys})


def test_it_is_off_from_the_start_and_then_nobody_reads_the_header() -> None:
    compression = Compression(Counters())
    assert compression.agree(OFFER, settings()) is None
    assert compression.agree(["no list;; at all"], settings()) is None
    assert compression.protocol(PLAIN, None, settings()) is PLAIN


def test_who_does_not_offer_it_is_spoken_to_as_before() -> None:
    compression = Compression(Counters())
    assert compression.agree([], on()) is None
    with pytest.raises(Rejected):
        compression.agree(["permessage-deflate;"], on())


def test_all_with_the_same_window_share_one_protocol() -> None:
    compression, config = Compression(Counters()), on()
    agreement = compression.agree(OFFER, config)
    small = compression.agree(["permessage-deflate; server_max_window_bits=9"], config)
    one = compression.protocol(PLAIN, agreement, config)
    assert isinstance(one, Deflated)
    assert one is compression.protocol(PLAIN, agreement, on())
    assert one is not compression.protocol(JSON, agreement, config)
    other = compression.protocol(PLAIN, small, config)
    assert isinstance(other, Deflated)
    assert (one.bits, other.bits) == (12, 9)


def test_a_reload_that_changes_how_it_is_compressed_holds_for_new_connections() -> None:
    compression = Compression(Counters())
    agreement = compression.agree(OFFER, on())
    before = compression.protocol(PLAIN, agreement, on())
    assert compression.protocol(PLAIN, agreement, on(deflate_level=9)) is not before


def test_contexts_are_bounded_and_those_beyond_share() -> None:
    counters = Counters()
    compression, config = Compression(counters), on(deflate_context=True, deflate_contexts=2)
    kept = []
    for _ in range(2):
        agreement = compression.agree(OFFER, config)
        assert agreement is not None
        assert agreement.server_context
        assert compression.protocol(PLAIN, agreement, config) is PLAIN, "each compresses for itself"
        compression.entered(agreement)
        kept.append(agreement)
    third = compression.agree(OFFER, config)
    assert third is not None
    assert not third.has_context
    compression.entered(third)
    assert (counters.compressed, counters.contexts) == (3, 2)
    for agreement in (*kept, third):
        compression.left(agreement)
    assert (counters.compressed, counters.contexts) == (0, 0)


def test_a_second_socket_must_be_able_to_read_what_its_session_shares() -> None:
    compression, config = Compression(Counters()), on()
    agreement = compression.agree(OFFER, config)
    session = compression.protocol(JSON, agreement, config)
    assert compression.agree(OFFER, config, session) == agreement
    for offers in ([], ["permessage-deflate; server_max_window_bits=9"]):
        with pytest.raises(Rejected) as raised:
            compression.agree(offers, config, session)
        assert raised.value.code == "other_protocol"
    assert compression.agree(OFFER, settings(), session) == agreement, "also when it has been switched off since"
    kept = compression.agree(OFFER, on(deflate_context=True), session)
    assert kept is not None
    assert not kept.has_context, "a frame is not compressed twice"
    assert compression.agree(OFFER, config, JSON) is None, "its messages are not compressed for anybody"
