"""Frames that break RFC 6455, and floods of those that do not: a close frame that says why, with the fast path and
without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.attack import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close_payload,
    frame,
    socket_to,
    the_rest,
)
from tests.security.siege import RelayThread, besieged, folder_with, under_attack

pytestmark = pytest.mark.e2e

LIMITS = {"message_bytes": 65536, "fragments": 64, "control_frames": 20.0, "control_frames_burst": 50}
FIRST = frame(TEXT, b"a", fin=False)
BAD_UTF8 = [b"\xff", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"good \xe2\x82 bad"]


@pytest.fixture(scope="module", params=[True, False], ids=["fast", "slow"])
def framed(
    request: pytest.FixtureRequest, certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RelayThread]:
    """A relay with small limits, with and without the engine's fast path."""
    folder = folder_with(certificates, tmp_path_factory.mktemp("framed"))
    settings = {"websocket": {"fast_path": request.param}, "limits": LIMITS, "timeouts": {"close": 2.0}}
    with besieged(folder, settings) as relay:
        yield relay


@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [
        pytest.param(frame(TEXT, b"hi", mask=None), 1002, "frame not masked", id="unmasked text"),
        pytest.param(frame(PING, b"hi", mask=None), 1002, "frame not masked", id="unmasked ping"),
        pytest.param(frame(TEXT, b"hi", reserved=4), 1002, "reserved bit set", id="RSV1: no compression was agreed on"),
        pytest.param(frame(BINARY, b"hi", reserved=2), 1002, "reserved bit set", id="RSV2"),
        pytest.param(frame(PING, reserved=1), 1002, "reserved bit set", id="RSV3 on a ping"),
        pytest.param(frame(3, b"hi"), 1002, "reserved opcode 3", id="opcode 3"),
        pytest.param(frame(15), 1002, "reserved opcode 15", id="opcode 15"),
        pytest.param(frame(PING, b"x" * 126), 1002, "control frame too long", id="a long ping"),
        pytest.param(frame(CLOSE, declared=1 << 40), 1002, "control frame too long", id="a terabyte of close"),
        pytest.param(frame(PING, b"x", fin=False), 1002, "fragmented control frame", id="a fragmented ping"),
        pytest.param(frame(CONTINUATION, b"x"), 1002, "continuation without a start", id="a continuation of nothing"),
        pytest.param(FIRST + frame(TEXT, b"b"), 1002, "new message inside another", id="a message in a message"),
        pytest.param(frame(TEXT, b"hi", width=16), 1002, "payload length not minimal", id="2 bytes said in 16 bits"),
        pytest.param(frame(TEXT, b"hi", width=64), 1002, "payload length not minimal", id="2 bytes said in 64 bits"),
        pytest.param(frame(TEXT, declared=1 << 63), 1002, "payload length not minimal", id="the 64th bit"),
        pytest.param(frame(CLOSE, b"\x03"), 1002, None, id="half a close code"),
        pytest.param(frame(CLOSE, close_payload(999)), 1002, None, id="close code 999"),
        pytest.param(frame(CLOSE, close_payload(1005)), 1002, None, id="close code 1005"),
        pytest.param(frame(CLOSE, close_payload(1006)), 1002, None, id="close code 1006"),
        pytest.param(frame(CLOSE, close_payload(1000) + b"\xff"), 1007, None, id="a reason that is not UTF-8"),
        *[
            pytest.param(frame(TEXT, bad), 1007, "text is not UTF-8", id=f"text {bad!r}") for bad in BAD_UTF8
        ],
        pytest.param(
            frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"\xac\xff"), 1007, "text is not UTF-8",
            id="bad UTF-8 in a fragment",
        ),
        pytest.param(
            frame(TEXT, b"\xff" + b"a" * 5, declared=60000), 1007, "text is not UTF-8",
            id="bad UTF-8 at a long text's start",
        ),
    ],
)  # fmt: skip
async def test_a_bad_frame_is_answered_with_a_close_frame(
    framed: RelayThread, sent: bytes, code: int, reason: str | None
) -> None:
    async with under_attack(framed, {f"connections_closed:{code}": 1}), socket_to(framed) as client:
        await client.say("good")
        await client.send(sent)
        assert await client.hear() == "good"
        closed, told = await client.closed()
        assert closed == code
        assert told if reason is None else told == reason


@pytest.mark.parametrize(
    ("sent", "setting"),
    [
        pytest.param(frame(TEXT, declared=65537), "limits.message_bytes", id="one byte too many"),
        pytest.param(frame(BINARY, declared=(1 << 63) - 1), "limits.message_bytes", id="all of 63 bits"),
        pytest.param(
            frame(TEXT, b"x" * 60000, fin=False) + frame(CONTINUATION, declared=60000),
            "limits.message_bytes", id="fragments that add up",
        ),
        pytest.param(FIRST + frame(CONTINUATION, b"x", fin=False) * 64, "limits.fragments", id="fragments"),
        pytest.param(FIRST + frame(CONTINUATION, fin=False) * 64, "limits.fragments", id="empty fragments"),
        pytest.param(frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 64, "limits.fragments", id="all empty"),
    ],
)  # fmt: skip
async def test_what_is_too_big_is_closed_before_it_is_sent(framed: RelayThread, sent: bytes, setting: str) -> None:
    async with under_attack(framed, {"connections_closed:1009": 1}), socket_to(framed) as client:
        await client.send(sent)
        code, reason = await client.closed()
        assert code == 1009
        assert reason.endswith(f"[{setting}]")


async def test_a_message_of_just_the_limit_is_no_attack(framed: RelayThread) -> None:
    text = "\u00e9" * 32768
    async with under_attack(framed), socket_to(framed) as client:
        await client.say(text)
        assert await client.hear() == text
        pieces = [frame(CONTINUATION, b"x" * 1024, fin=number == 62) for number in range(63)]
        await client.send(frame(TEXT, b"x" * 1024, fin=False) + b"".join(pieces))
        assert await client.hear() == "x" * 65536


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(frame(CONTINUATION, fin=False), id="empty fragments"),
        pytest.param(frame(BINARY, b"x" * 100_000), id="messages too big"),
        pytest.param(frame(TEXT, b"x", mask=None), id="unmasked frames"),
        pytest.param(b"\xff" * 1000, id="noise"),
    ],
)
async def test_who_goes_on_sending_after_breaking_a_rule_still_learns_which(framed: RelayThread, sent: bytes) -> None:
    """It is not reset, which could take the close frame with it: all it still sends is read and dropped."""
    async with under_attack(framed), socket_to(framed) as client:
        await client.send(FIRST)
        for _ in range(20):
            await client.send(sent * (200_000 // len(sent)))
        opcode, payload = await client.next()
        assert opcode == CLOSE
        assert int.from_bytes(payload[:2], "big") in (1002, 1009)


@pytest.mark.parametrize(("opcode", "answers"), [(PING, 50), (PONG, 0)], ids=["pings", "pongs"])
async def test_a_flood_of_control_frames_is_closed_with_1008(framed: RelayThread, opcode: int, answers: int) -> None:
    async with under_attack(framed, {"connections_closed:1008": 1}), socket_to(framed) as client:
        await client.send(frame(opcode, b"x") * 200)
        heard = 0
        while (got := await client.next())[0] != CLOSE:
            assert got == (PONG, b"x")
            heard += 1
        assert got[1] == close_payload(1008, "too many control frames [limits.control_frames]")
        assert answers <= heard <= answers + 5


async def test_pings_between_fragments_are_answered_and_disturb_nothing(framed: RelayThread) -> None:
    async with under_attack(framed), socket_to(framed) as client:
        await client.send(
            FIRST + frame(PING, b"1") + frame(CONTINUATION, b"b", fin=False) + frame(PONG) + frame(PING, b"2")
        )
        await client.send(frame(CONTINUATION, b"c"))
        assert [await client.next() for _ in range(3)] == [(PONG, b"1"), (PONG, b"2"), (TEXT, b"abc")]


async def test_half_a_frame_and_then_nothing_costs_no_more_than_a_connection(framed: RelayThread) -> None:
    async with under_attack(framed, {"connections_closed:1006": 3}):
        for half in (b"\x81", frame(BINARY, declared=60000) + b"x" * 1000, FIRST):
            async with socket_to(framed) as client:
                await client.send(half)


async def test_who_vanishes_in_the_middle_of_a_close_is_forgotten(framed: RelayThread) -> None:
    async with under_attack(framed, {"connections_closed:1002": 1, "connections_closed:1000": 1}):
        async with socket_to(framed) as client:
            await client.send(frame(3))
        async with socket_to(framed) as client:
            await client.send(frame(CLOSE, close_payload(1000)))


async def test_frames_behind_the_close_frame_are_ignored(framed: RelayThread) -> None:
    async with under_attack(framed, {"connections_closed:1000": 1}), socket_to(framed) as client:
        await client.send(frame(CLOSE, close_payload(1000)) + frame(TEXT, b"ghost") + frame(3) + b"\xff" * 1000)
        assert await client.next() == (CLOSE, close_payload(1000))
        assert await the_rest(client.stream) == b""
