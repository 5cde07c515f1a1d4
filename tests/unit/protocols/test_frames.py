"""Frames as the server sends them: whole, unmasked, and read by wsproto as they were meant."""

from __future__ import annotations

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage

from relay.protocols.frames import BINARY, PING, TEXT, close_frame, frame


def heard(data: bytes) -> Event:
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(data)
    (event,) = client.events()
    return event


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_every_length_is_read_as_it_was_written(size: int) -> None:
    text = heard(frame(TEXT, b"a" * size))
    assert isinstance(text, TextMessage)
    assert (text.data, text.message_finished) == ("a" * size, True)
    binary = heard(frame(BINARY, b"\xff" * size))
    assert isinstance(binary, BytesMessage)
    assert (bytes(binary.data), binary.message_finished) == (b"\xff" * size, True)


@pytest.mark.parametrize(("size", "head"), [(125, 2), (126, 4), (65535, 4), (65536, 10)])
def test_the_shortest_length_encoding_is_used(size: int, head: int) -> None:
    assert len(frame(BINARY, bytes(size))) == head + size


def test_a_ping_is_a_control_frame() -> None:
    assert heard(frame(PING, b"x")) == Ping(b"x")


def test_a_close_frame_carries_code_and_reason() -> None:
    assert heard(close_frame(4401, "the token has expired")) == CloseConnection(4401, "the token has expired")


@pytest.mark.parametrize("reason", ["a" * 200, "é" * 100, "🚂" * 40, "a" + "水" * 50])
def test_a_long_reason_is_cut_at_a_character(reason: str) -> None:
    made = close_frame(1008, reason)
    assert len(made) <= 2 + 125
    event = heard(made)
    assert isinstance(event, CloseConnection)
    assert event.reason
    assert reason.startswith(event.reason)
    assert len(event.reason.encode()) > 119
