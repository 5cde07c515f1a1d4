"""Short of memory: nobody new comes in, who makes it short has to go, and everybody else does not notice."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.e2e.harness import Overrides, request
from tests.security.attack import ask, socket_to, upgrade
from tests.security.siege import NO_LIMITS, RelayApart, apart, under_attack

pytestmark = pytest.mark.e2e

ROOM = "/rooms/feed:siege"
WIDE: Overrides = {"channels": {"default": {"capacity": 256 << 20}}, "timeouts": {"close": 1.0}}
FREE = {**NO_LIMITS, "bytes_per_second": 0.0}


async def marked(relay: RelayApart, memory_bytes: int) -> None:
    """Gives the relay another mark while it runs."""
    relay.configure({**WIDE, "limits": {**FREE, "memory_bytes": memory_bytes}})
    relay.process.send_signal(signal.SIGHUP)


async def resident(relay: RelayApart) -> int:
    text = (await request(relay, "/metrics", internal=True)).body.decode()
    [line] = [line for line in text.splitlines() if line.startswith("relay_resident_memory_bytes ")]
    return int(float(line.split()[1]))


async def until_ready(relay: RelayApart, status: int) -> str:
    """Waits until /readyz answers so, and returns what it says. The test's deadline bounds it."""
    while (answer := await request(relay, "/readyz")).status != status:
        pass
    told: str = answer.json()["status"]
    return told


async def test_above_the_mark_nobody_new_comes_in_and_who_is_there_stays(folder: Path) -> None:
    counts = {"handshakes_rejected:short_of_memory": 1, "connections_shed": 0}
    async with apart(folder, {**WIDE, "limits": FREE}) as relay, under_attack(relay, counts):
        await marked(relay, 1 << 20)
        assert await until_ready(relay, 503) == "short of memory"
        refused = await ask(relay, upgrade(ROOM, relay.token()))
        assert refused.status == 503
        assert (refused.json()["error"], refused.json()["setting"]) == ("short_of_memory", "limits.memory_bytes")
        assert refused.headers["retry-after"] == "10"
        assert (await request(relay, "/healthz")).status == 200, "it need not be restarted"
        await marked(relay, 1 << 40)
        assert await until_ready(relay, 200) == "ready"
        assert (await ask(relay, upgrade(ROOM, relay.token()))).status == 101


async def test_for_whom_most_waits_is_closed_first_and_is_told_why(folder: Path) -> None:
    line = "x" * 60_000
    async with apart(folder, {**WIDE, "limits": FREE}) as relay:
        counts = {"connections_closed:4250": 1, "connections_shed": 1}
        async with (
            under_attack(relay, counts),
            socket_to(relay, ROOM, relay.token("speaker")) as speaker,
            socket_to(relay, ROOM, relay.token("fast")) as fast,
            socket_to(relay, ROOM, relay.token("slow"), receive_buffer=4096) as slow,
        ):
            mark = await resident(relay) + (48 << 20)
            await marked(relay, mark)
            said = 0
            # Said until it is enough; the bystanders' words and those of `fast` go on getting through all the while.
            while said < 5000 and "connections were ended because memory is short" not in relay.log:
                await speaker.say(f"{said} {line}")
                assert (await fast.hear()).startswith(f"{said} ")
                said += 1
            told = await relay.until_log("connections were ended because memory is short")
            assert told["connections"] == 1
            assert told["setting"] == "limits.memory_bytes"
            assert told["used"] > mark
            code, reason = await slow.closed()
            assert code == 4250
            assert reason.endswith("[limits.memory_bytes]")
            await until_ready(relay, 200)
            assert (await ask(relay, upgrade(ROOM, relay.token()))).status == 101
            await speaker.say("and on it goes")
            assert await fast.hear() == "and on it goes"
