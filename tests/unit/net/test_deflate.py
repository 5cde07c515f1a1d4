"""What permessage-deflate agrees on, and what inflating lets through (RFC 7692)."""

from __future__ import annotations

import contextlib
import itertools
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.headers import build_extension, parse_extension

from relay.errors import Rejected
from relay.net.deflate import STREAMS, TAIL, Agreement, Broken, Inflater, TooLarge, Wishes, agree, parse_offers

NAME = "permessage-deflate"
SHARED = Wishes(12, context=False)
CONTEXT = Wishes(15, context=True)
MIB = 1 << 20


def agreed(line: str, wishes: Wishes = CONTEXT) -> str | None:
    agreement = agree(parse_offers([line]), wishes)
    return None if agreement is None else agreement.response


def inflater(most: int = MIB, bits: int = 15, *, context: bool = False) -> Inflater:
    return Inflater(most, Agreement("", 15, False, bits, context))


def deflated(*payloads: bytes, bits: int = 15, level: int = 6) -> list[bytes]:
    """Each compressed with the context of those before it."""
    stream = zlib.compressobj(level, zlib.DEFLATED, -bits)
    return [(stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL) for data in payloads]


# The offer.


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", []),
        ("x-other", []),
        (NAME, [{}]),
        (f" ,, {NAME} ,", [{}]),
        (f"x-other; a=1, {NAME}; client_max_window_bits", [{"client_max_window_bits": None}]),
        (f'{NAME} ; server_max_window_bits = "10"', [{"server_max_window_bits": "10"}]),
        (f"{NAME}; a; b, {NAME}", [{"a": None, "b": None}, {}]),
        (f"{NAME}; a; a=1, {NAME}", [None, {}]),
    ],
)
def test_offers_are_found_in_their_order(line: str, found: list[object]) -> None:
    assert parse_offers([line]) == found
    assert parse_offers([line, NAME]) == [*found, {}], "lines of one name are one list (RFC 9110 section 5.3)"


@pytest.mark.parametrize(
    "line",
    [f"{NAME};", f"{NAME}; ;a", f"{NAME}=1", f"{NAME}; a=", f'{NAME}; a="', f'{NAME}; a="x y"', f"{NAME} other", "a/b",
     f"{NAME}; a=1 2", "=", ";", f'{NAME}; a=""', "\x80"],
)  # fmt: skip
def test_what_is_no_list_of_extensions_is_refused(line: str) -> None:
    with pytest.raises(Rejected) as raised:
        parse_offers([line])
    assert (raised.value.status, raised.value.code) == (400, "bad_request")


@pytest.mark.parametrize(
    "bad",
    [
        "unknown",
        "server_max_window_bits",
        "server_max_window_bits=7",
        "server_max_window_bits=8",  # possible, but not for zlib
        "server_max_window_bits=16",
        "server_max_window_bits=010",
        "server_max_window_bits=abc",
        "server_max_window_bits=-9",
        "server_max_window_bits=1e1",
        "client_max_window_bits=7",
        "client_max_window_bits=16",
        "client_max_window_bits=09",
        "client_max_window_bits=x",
        "server_no_context_takeover=1",
        "client_no_context_takeover=true",
        "server_no_context_takeover; server_no_context_takeover",
        "client_max_window_bits; client_max_window_bits=10",
        "Server_No_Context_Takeover",
    ],
)
def test_an_offer_that_says_what_it_may_not_say_is_declined_and_the_next_one_taken(bad: str) -> None:
    assert agreed(f"{NAME}; {bad}") is None
    assert agreed(f"{NAME}; client_max_window_bits; {bad}") is None
    assert agreed(f"{NAME}; {bad}, {NAME}") == NAME


@pytest.mark.parametrize(
    ("line", "response"),
    [
        (NAME, NAME),
        (f"{NAME}; client_max_window_bits", f"{NAME}; client_max_window_bits=15"),
        (f"{NAME}; client_max_window_bits=11", f"{NAME}; client_max_window_bits=11"),
        (f"{NAME}; server_max_window_bits=15", f"{NAME}; server_max_window_bits=15"),
        (f"{NAME}; server_max_window_bits=14", f"{NAME}; server_max_window_bits=12"),
        (f"{NAME}; server_max_window_bits=11", f"{NAME}; server_max_window_bits=9"),
        (f"{NAME}; server_max_window_bits=8, {NAME}; server_max_window_bits=9", f"{NAME}; server_max_window_bits=9"),
        (f"{NAME}; server_no_context_takeover", f"{NAME}; server_no_context_takeover"),
        (f"{NAME}; client_no_context_takeover", f"{NAME}; client_no_context_takeover"),
    ],
)
def test_an_offer_is_answered_with_what_holds(line: str, response: str) -> None:
    assert agreed(line) == response


def test_without_contexts_both_sides_are_told_to_keep_none() -> None:
    none = f"{NAME}; server_no_context_takeover; client_no_context_takeover"
    assert agreed(NAME, SHARED) == none
    assert agreed(f"{NAME}; client_max_window_bits", SHARED) == f"{none}; client_max_window_bits=12"
    assert agreed(f"{NAME}; server_max_window_bits=15", SHARED) == f"{none}; server_max_window_bits=12"


def test_clients_cannot_multiply_the_frames_of_a_broadcast() -> None:
    for most in range(9, 16):
        wishes = Wishes(most, context=False)
        chosen = {agree([{"server_max_window_bits": str(bits)}], wishes) for bits in range(9, 16)}
        assert len({agreement.server_bits for agreement in chosen if agreement}) <= 3


flags = st.booleans()
bits = st.one_of(st.none(), st.integers(9, 15))


@settings(deadline=None)
@given(
    server_flag=flags, client_flag=flags, server_bits=bits, client_bits=st.one_of(st.none(), st.just(True), bits),
    most=st.integers(9, 15), context=flags,
)  # fmt: skip
def test_another_implementation_understands_every_answer_and_sees_the_same_in_it(
    server_flag: bool, client_flag: bool, server_bits: int | None, client_bits: int | bool | None, most: int,
    context: bool,
) -> None:  # fmt: skip
    factory = ClientPerMessageDeflateFactory(server_flag, client_flag, server_bits, client_bits)  # type: ignore[arg-type]
    offer = build_extension([(factory.name, list(factory.get_request_params()))])  # type: ignore[list-item]
    agreement = agree(parse_offers([offer]), Wishes(most, context))
    assert agreement is not None
    ((name, parameters),) = parse_extension(agreement.response)  # type: ignore[arg-type]
    assert name == NAME
    theirs = factory.process_response_params(parameters, [])
    assert isinstance(theirs, PerMessageDeflate)
    assert theirs.remote_no_context_takeover is not agreement.server_context
    assert theirs.local_no_context_takeover is not agreement.client_context
    assert theirs.local_max_window_bits <= agreement.client_bits
    assert theirs.remote_max_window_bits >= agreement.server_bits


@given(line=st.text(st.sampled_from(list(f'{NAME};,= \t"x1_')), max_size=60))
def test_whatever_the_header_says_it_is_read_or_refused(line: str) -> None:
    with contextlib.suppress(Rejected):  # any other exception fails the test
        agree(parse_offers([line]), CONTEXT)


# Inflating.

payloads = st.lists(st.one_of(st.binary(max_size=300), st.text(max_size=100).map(lambda text: text.encode() * 9)))


@settings(deadline=None, max_examples=200)
@given(payloads=payloads, context=flags, window=st.integers(9, 15), data=st.data())
def test_every_split_of_every_compressed_message_inflates_to_it(
    payloads: list[bytes], context: bool, window: int, data: st.DataObject
) -> None:
    reader = inflater(bits=window, context=context)
    packed = deflated(*payloads, bits=window) if context else [deflated(one, bits=window)[0] for one in payloads]
    for plain, compressed in zip(payloads, packed, strict=True):
        cuts = data.draw(st.lists(st.integers(0, len(compressed)), max_size=4))
        edges = [0, *sorted(cuts), len(compressed)]
        pieces = [compressed[start:stop] for start, stop in itertools.pairwise(edges)]
        found = b"".join(reader.inflate(piece, last=False) for piece in pieces[:-1])
        found += reader.inflate(pieces[-1], last=True)
        assert found == plain
        assert not reader.busy


@settings(deadline=None, max_examples=100)
@given(payloads=payloads, context=flags, window=st.integers(9, 15))
def test_what_another_implementation_compresses_is_understood(
    payloads: list[bytes], context: bool, window: int
) -> None:
    theirs = PerMessageDeflate(not context, not context, 15, window)
    reader = inflater(bits=window, context=context)
    for plain in payloads:
        frame = theirs.encode(Frame(Opcode.BINARY, plain))
        assert frame.rsv1
        assert reader.inflate(bytes(frame.data), last=True) == plain


@pytest.mark.parametrize(
    ("sent", "plain"),
    [
        ("f248cdc9c90700", b"Hello"),  # the examples of RFC 7692 section 7.2.3
        ("f200110000", b"Hello"),
        ("000500faff48656c6c6f00", b"Hello"),
        ("f348cdc9c9070000", b"Hello"),
        ("f248050000 00ffffcac9c90700".replace(" ", ""), b"Hello"),
        ("00", b""),
    ],
)
def test_the_examples_of_the_rfc(sent: str, plain: bytes) -> None:
    data = bytes.fromhex(sent)
    if sent == "f200110000":  # "Hello" again, out of the context
        reader = inflater(context=True)
        assert reader.inflate(bytes.fromhex("f248cdc9c90700"), last=True) == plain
        assert reader.inflate(data, last=True) == plain
    else:
        assert inflater().inflate(data, last=True) == plain


def test_a_message_of_just_the_limit_comes_through_and_one_byte_more_does_not() -> None:
    for plain in (b"a" * 1000, bytes(range(250)) * 4):
        for pieces in (1, 2, 7):
            (packed,) = deflated(plain)
            step = -(-len(packed) // pieces)
            places = range(0, len(packed), step)

            def whole(reader: Inflater, packed: bytes = packed, places: range = places) -> bytes:
                last = places[-1]
                step = places.step
                return b"".join(reader.inflate(packed[at : at + step], last=at == last) for at in places)

            assert whole(inflater(1000)) == plain
            with pytest.raises(TooLarge):
                whole(inflater(999))


def test_each_message_has_the_whole_limit() -> None:
    reader = inflater(1000, context=True)
    for packed in deflated(*[b"a" * 1000] * 5):
        assert reader.inflate(packed, last=True) == b"a" * 1000


def test_what_cannot_be_compressed_may_be_a_little_larger_on_the_wire() -> None:
    plain = bytes(zlib.crc32(bytes([number & 255, number >> 8])) & 255 for number in range(65536))
    for level in (0, 1, 9):
        stream = zlib.compressobj(level, zlib.DEFLATED, -9, 1)
        packed = stream.compress(plain) + stream.flush(zlib.Z_SYNC_FLUSH)
        assert len(packed) <= inflater(65536).largest_frame


def test_a_bomb_costs_no_more_memory_than_the_largest_message() -> None:
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(stream.compress(bytes(MIB)) for _ in range(64)) + stream.flush(zlib.Z_SYNC_FLUSH)
    reader = inflater(65536)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            reader.inflate(bomb, last=True)
        assert tracemalloc.get_traced_memory()[1] < 400_000
    finally:
        tracemalloc.stop()


def test_nothing_is_kept_between_messages_without_a_context() -> None:
    reader = inflater()
    first, second = deflated(b"one and the same" * 9, b"one and the same" * 9)
    reader.inflate(first, last=True)
    with pytest.raises(Broken):
        reader.inflate(second, last=True)


@pytest.mark.parametrize("bad", [b"\xff\xff", b"\x07", b"garbage", b"\x03\x00\xff", b"\x00\x05\x00\x00\x00Hello"])
def test_what_is_not_deflate_is_said_to_be_broken(bad: bytes) -> None:
    with pytest.raises(Broken):
        inflater().inflate(bad, last=True)


def test_final_blocks_are_followed_up_to_a_number() -> None:
    def final(data: bytes) -> bytes:
        stream = zlib.compressobj(6, zlib.DEFLATED, -15)
        return stream.compress(data) + stream.flush()

    few = b"".join(final(b"x") for _ in range(STREAMS - 1))
    assert inflater().inflate(few + b"\x00", last=True) == b"x" * (STREAMS - 1)
    with pytest.raises(Broken):
        inflater().inflate(few + final(b"x") * 2 + b"\x00", last=True)
    with pytest.raises(TooLarge):
        inflater(5).inflate(few + b"\x00", last=True)


@settings(deadline=None)
@given(frames=st.lists(st.tuples(st.binary(max_size=200), st.booleans()), max_size=8), context=flags)
def test_noise_is_inflated_or_refused(frames: list[tuple[bytes, bool]], context: bool) -> None:
    reader = inflater(1000, context=context)
    total = 0
    try:
        for data, last in frames:
            total = (total if reader.busy else 0) + len(reader.inflate(data, last=last))
            assert total <= 1000
    except (Broken, TooLarge):
        pass
