"""The end of an HTTP connection: an answer arrives although its client still sends, and nobody holds it for long."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from relay.errors import Rejected
from relay.net.http import HTTPConnection, Response
from tests.unit.net.http_kit import GET, LIMITS, connected, read_answer


async def test_a_client_that_still_sends_can_read_its_answer(autojump_clock: trio.testing.MockClock) -> None:
    to_server, at_server = trio.testing.lockstep_stream_one_way_pair()  # each send waits until it is read
    to_client, at_client = trio.testing.memory_stream_one_way_pair()
    connection = HTTPConnection(trio.StapledStream(to_client, at_server), LIMITS)
    begin = trio.current_time()
    answer = b""

    async def upload() -> None:
        nonlocal answer
        await to_server.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n")
        for _ in range(20):
            await to_server.send_all(b"x" * 1000)
        answer = bytes(await at_client.receive_some())
        await to_server.aclose()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            request = await connection.next_request()
            assert request is not None
            with pytest.raises(Rejected) as caught:
                await request.read_body(100)
            await connection.refuse(caught.value)
    assert read_answer(answer)[0] == 413
    assert trio.current_time() == begin  # it ended with the client, not with its time


async def test_lingering_ends_after_two_seconds(autojump_clock: trio.testing.MockClock) -> None:
    client, server = trio.testing.memory_stream_pair()
    connection = HTTPConnection(server, LIMITS)
    await client.send_all(b"bad\r\n\r\n")
    with pytest.raises(Rejected) as caught:
        await connection.next_request()
    begin = trio.current_time()
    await connection.refuse(caught.value)
    assert trio.current_time() - begin == pytest.approx(2.0)


async def test_a_body_that_made_no_sense_is_read_on_after_the_answer() -> None:
    connection, stream = connected(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"nonsense\r\n", b"more", b"and more"
    )
    request = await connection.next_request()
    assert request is not None
    with pytest.raises(Rejected):
        await request.read_body(100)
    await connection.respond(Response(400))
    assert read_answer(stream.sent)[1]["connection"] == "close"
    assert not connection.reusable
    assert stream.chunks
    await connection.finish()
    assert not stream.chunks


async def test_a_head_that_could_not_be_read_is_answered_for_the_last_time() -> None:
    connection, stream = connected(b"nonsense\r\n\r\n" + GET)
    with pytest.raises(Rejected):
        await connection.next_request()
    await connection.respond(Response(400))
    assert read_answer(stream.sent)[1]["connection"] == "close"
    assert not connection.reusable


async def test_lingering_ends_after_64_kib(autojump_clock: trio.testing.MockClock) -> None:
    connection, stream = connected(b"bad\r\n", *[b"x" * 16384] * 10)
    with pytest.raises(Rejected) as caught:
        await connection.next_request()
    await connection.refuse(caught.value)
    assert len(stream.chunks) == 6


async def test_nothing_lingers_when_everything_was_read(autojump_clock: trio.testing.MockClock) -> None:
    client, server = trio.testing.memory_stream_pair()
    connection = HTTPConnection(server, LIMITS)
    await client.send_all(GET)
    await connection.next_request()
    await connection.respond(Response(), close=True)
    begin = trio.current_time()
    await connection.finish()
    assert trio.current_time() == begin


async def test_lingering_survives_a_reset() -> None:
    client, server = trio.testing.memory_stream_pair()
    connection = HTTPConnection(server, LIMITS)
    await client.send_all(b"bad\r\n\r\n")
    with pytest.raises(Rejected):
        await connection.next_request()
    await server.aclose()
    await connection.finish()


async def test_an_answer_that_was_cut_off_is_the_last_one(autojump_clock: trio.testing.MockClock) -> None:
    client, server = trio.testing.lockstep_stream_pair()
    connection = HTTPConnection(server, LIMITS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, GET)
        await connection.next_request()
    with trio.move_on_after(1):
        await connection.respond(Response())  # nobody reads
    assert connection.answered
    assert not connection.reusable
    await connection.refuse(Rejected(503, "timeout", "too slow"))  # says nothing more: it would look like a part of it


async def test_a_client_that_does_not_read_cannot_hold_a_refusal(autojump_clock: trio.testing.MockClock) -> None:
    _client, server = trio.testing.lockstep_stream_pair()
    connection = HTTPConnection(server, LIMITS)
    begin = trio.current_time()
    await connection.refuse(Rejected(408, "timeout", "too slow"))
    assert trio.current_time() - begin <= 4
