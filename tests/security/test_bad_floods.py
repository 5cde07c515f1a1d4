"""Floods by many at once, and crowds that fall silent: what they cost the relay and those beside them, in figures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.conftest import Figures
from tests.e2e.harness import Overrides
from tests.security.attack import (
    CONTINUATION,
    PING,
    TEXT,
    V1_JSON,
    Socket,
    Vanished,
    close_payload,
    frame,
    send_until_refused,
    socket_to,
)
from tests.security.siege import apart, under_attack

pytestmark = pytest.mark.e2e

ATTACKERS: Final = int(os.environ.get("RELAY_ROUNDS", "40"))


async def test_a_crowd_that_floods_with_pings_is_cut_and_others_do_not_notice(folder: Path, figures: Figures) -> None:
    cut: list[float] = []

    async def flood() -> None:
        async with socket_to(relay) as client:
            began = trio.current_time()
            await send_until_refused(client.stream, frame(PING, b"x" * 50) * 2000)
            try:
                while (got := await client.next())[0] != 8:
                    pass
            except Vanished:  # its reset overtook our close frame: it sent on and on
                got = 8, close_payload(1008, "too many control frames [limits.control_frames]")
            assert got[1] == close_payload(1008, "too many control frames [limits.control_frames]")
            cut.append(trio.current_time() - began)

    async with apart(folder) as relay:
        spent = relay.cpu()
        async with (
            under_attack(relay, {"connections_closed:1008": ATTACKERS}) as bystander,
            trio.open_nursery() as crowd,
        ):
            for _ in range(ATTACKERS):
                crowd.start_soon(flood)
        spent = relay.cpu() - spent
        figures(
            f"{ATTACKERS} x 2000 pings at once: the last one cut after {1000 * max(cut):.0f} ms, "
            f"{1000 * spent / ATTACKERS:.0f} ms of CPU each (TLS handshakes included), "
            f"a bystander's slowest word {1000 * bystander.slowest:.0f} ms"
        )
        assert max(cut) < 10.0


@pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "one byte"])
async def test_fragments_without_end_cost_no_more_than_the_first_thousand(
    folder: Path, payload: bytes, figures: Figures
) -> None:
    many = frame(CONTINUATION, payload, fin=False) * 1000
    async with apart(folder) as relay:
        async with under_attack(relay, {"connections_closed:1009": 1}) as bystander, socket_to(relay) as client:
            spent = relay.cpu()
            await client.send(frame(TEXT, b"", fin=False))
            for _ in range(600):
                await send_until_refused(client.stream, many)
            code, reason = await client.closed()
            assert (code, reason.endswith("[limits.fragments]")) == (1009, True)
            spent = relay.cpu() - spent
        figures(
            f"600,001 fragments of {len(payload)} bytes: 1009, {1000 * spent:.0f} ms of CPU, "
            f"a bystander's slowest word {1000 * bystander.slowest:.0f} ms"
        )
        assert spent < 1.0


async def test_a_crowd_that_falls_silent_is_found_and_presence_is_right_again(folder: Path, figures: Figures) -> None:
    """As behind a line that was cut: no FIN, no RST, nothing."""
    beat: Overrides = {"websocket": {"heartbeat": 0.6, "heartbeat_timeout": 0.4}}
    dead = {"connections_dead": ATTACKERS, "connections_closed:1006": ATTACKERS + 1}
    async with apart(folder, beat) as relay:

        async def members(client: Socket) -> int:
            await client.say(json.dumps({"t": "presence", "id": 1, "room": "chat:half"}))
            while True:
                opcode, payload = await client.next()
                if opcode == PING:
                    await client.send(frame(10, payload))
                elif b'"count"' in payload:
                    return int(json.loads(payload)["count"])

        async def be_silent() -> None:
            async with socket_to(relay, "/rooms/chat:half", relay.token(f"silent {len(there)}")):
                there.append(1)
                if len(there) == ATTACKERS:
                    all_there.set()
                await over.wait()

        there: list[int] = []
        all_there, over = trio.Event(), trio.Event()
        async with (
            under_attack(relay, dead),
            socket_to(relay, "/ws", relay.token("observer"), subprotocol=V1_JSON) as observer,
            trio.open_nursery() as nursery,
        ):
            for _ in range(ATTACKERS):
                nursery.start_soon(be_silent)
            await all_there.wait()
            silent_since = trio.current_time()
            while await members(observer):  # it asks again and again: each answer is a round trip
                pass
            took = trio.current_time() - silent_since
            over.set()
        figures(f"{ATTACKERS} half-open clients: presence is right after {took:.1f} s, at 0.6 s between heartbeats")
