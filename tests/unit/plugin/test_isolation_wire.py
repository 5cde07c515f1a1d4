"""What the relay and a plugin's process say to each other arrives as it was said, however it is cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model import Kind, Message, Payload
from relay.plugin.isolate.wire import (
    LARGEST,
    Broken,
    Frames,
    frame,
    packed,
    packed_message,
    unpacked,
    unpacked_message,
)

words = st.lists(st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.text(), st.binary()), max_size=5)


@given(said=st.lists(words, max_size=6), cuts=st.lists(st.integers(1, 50), max_size=60))
def test_frames_come_whole_and_in_order_whatever_the_cuts(said: list[list[Any]], cuts: list[int]) -> None:
    data = b"".join(frame("word", *one) for one in said)
    frames, heard, position = Frames(), [], 0
    for cut in [*cuts, len(data) + 1]:
        heard += frames.feed(data[position : position + cut])
        position += cut
    assert heard == [["word", *one] for one in said]


@given(st.binary(max_size=200))
def test_nonsense_is_broken_or_waited_for_and_nothing_else(data: bytes) -> None:
    try:
        for one in Frames().feed(data):
            assert isinstance(one[0], str)
    except Broken:
        pass


def test_a_frame_beyond_the_bound_is_not_waited_for() -> None:
    with pytest.raises(Broken):
        Frames().feed((LARGEST + 1).to_bytes(4, "big"))


@given(
    kind=st.sampled_from([Kind.TEXT, Kind.BINARY]), raw=st.binary(), sender=st.none() | st.text(), echo=st.booleans()
)
def test_messages_and_payloads_survive_the_way(kind: Kind, raw: bytes, sender: str | None, echo: bool) -> None:
    message = Message("r", Payload(kind, raw), sender, "urgent", None, "bob", echo, 7, 1.5)
    [[_, said]] = Frames().feed(frame("say", packed_message(message)))
    back = unpacked_message(said)
    assert [getattr(back, name) for name in message.__struct_fields__[:-1]] == [
        getattr(message, name) for name in message.__struct_fields__[:-1]
    ]
    assert unpacked(packed(message.data)) == message.data
    assert unpacked(packed(None)) is None


@pytest.mark.parametrize("said", [[], [9, b""], [1], "x", 5, ["a", "b"]])
def test_payloads_and_messages_that_are_none_are_broken(said: Any) -> None:
    with pytest.raises(Broken):
        unpacked(said)
    with pytest.raises(Broken):
        unpacked_message(said)
