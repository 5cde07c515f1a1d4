"""The machine runs out of descriptors: who cannot be served is told so at once, the operator is still heard, and it is
over when it is over.

    RELAY_ROUNDS=10 python -m pytest tests/security/test_bad_shortages.py     ten such crowds, one after the other
"""

from __future__ import annotations

import os
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest
import trio

from relay.net.listener import SPARE
from tests.conftest import Figures
from tests.e2e.harness import request
from tests.security.attack import Vanished, answer_of, ask, tcp, tls, upgrade
from tests.security.siege import RelayApart, apart, under_attack

pytestmark = pytest.mark.e2e

ROOM: Final = "/rooms/echo:attack"
FILES: Final = 300
CROWD: Final = 1000
ROUNDS: Final = int(os.environ.get("RELAY_ROUNDS", "1"))
ANSWER: Final = 15.0
"""Seconds until each of a thousand must know, on a busy machine."""
BACK: Final = 5.0
AT_ONCE: Final = 150


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process, which is all the clients, may open more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * CROWD)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Crowd:
    """A thousand clients who want in, `AT_ONCE` of them on their way at any time. Who is let in stays."""

    def __init__(self, relay: RelayApart) -> None:
        self.relay = relay
        self.outcomes: Counter[str] = Counter()
        self.served = trio.CapacityLimiter(AT_ONCE)
        self.leave = trio.Event()
        self.all_know = trio.Event()

    async def come(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(CROWD):
                nursery.start_soon(self._client)

    async def _client(self) -> None:
        async with AsyncExitStack() as stack:
            async with self.served:
                with trio.fail_after(ANSWER):
                    self._know(await self._ask(stack))
            await self.leave.wait()

    async def _ask(self, stack: AsyncExitStack) -> str:
        """What came of it. The connection, if there is one, goes on the stack."""
        try:
            stream = await stack.enter_async_context(tls(self.relay))
            await stream.send_all(upgrade(ROOM, self.relay.token("mallory")))
            answer = await answer_of(stream)
        except (trio.BrokenResourceError, ConnectionResetError, Vanished):
            await stack.aclose()
            return "closed"
        if answer.status != 101:
            assert answer.json()["setting"] == "limits.max_connections"
            assert answer.headers["retry-after"] == "5"
            await stack.aclose()
        return str(answer.status)

    def _know(self, outcome: str) -> None:
        self.outcomes[outcome] += 1
        if self.outcomes.total() == CROWD:
            self.all_know.set()


async def test_a_thousand_clients_and_three_hundred_descriptors(
    folder: Path, many_files: None, figures: Figures
) -> None:
    """Each is let in, or told 503, or closed at once; nobody is left waiting. The operator is heard all the while."""
    async with apart(folder, prefix=["prlimit", f"--nofile={FILES}:{FILES}"]) as relay:
        warned = await relay.until_log("the limit of open files is lower than limits.max_connections needs")
        for _ in range(ROUNDS):
            crowd = Crowd(relay)
            counts = {"handshakes_rejected:full": range(CROWD // 2, CROWD)}
            async with under_attack(relay, counts, tells="no descriptors", seconds=120.0, patience=ANSWER) as bystander:
                before = relay.lines()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(crowd.come)
                    await crowd.all_know.wait()
                    assert crowd.outcomes["101"] == warned["connections"] - 2  # the bystanders
                    assert set(crowd.outcomes) <= {"101", "503", "closed"}
                    assert (await request(relay, "/metrics", internal=True)).status == 200
                    assert not crowd.leave.is_set()
                    crowd.leave.set()
                began = trio.current_time()
                with trio.fail_after(BACK):
                    while (await ask(relay, upgrade(ROOM, relay.token()))).status != 101:
                        await bystander.a_word()
                seconds = trio.current_time() - began
                told = "".join(relay.log.splitlines(keepends=True)[before:]).count("no descriptors are left")
                assert told <= 2  # one in ten seconds
            figures(f"{CROWD} clients, {FILES} descriptors: {dict(crowd.outcomes)}; a new one in after {seconds:.2f} s")


async def test_when_descriptors_run_short_later_on_the_rest_is_turned_away_and_comes_in_when_there_are_some(
    folder: Path,
) -> None:
    places = 8
    async with apart(folder, {"limits": {"max_connections": 100}, "timeouts": {"tls": 20.0}}) as relay:
        counts = {
            "tls_failures:eof": range(places, places + 3),
            "handshakes_rejected:full": range(58 - places, 61 - places),
        }
        async with under_attack(relay, counts, tells="no descriptors are left"):
            here = (await relay.standing())["descriptors"] + places + SPARE
            resource.prlimit(relay.process.pid, resource.RLIMIT_NOFILE, (here, here))
            async with AsyncExitStack() as stack:
                for _ in range(60):
                    await stack.enter_async_context(tcp(relay))
                await relay.until_log("no descriptors are left for clients: they are turned away")
            assert (await ask(relay, upgrade(ROOM, relay.token()))).status == 101
        assert relay.log.count("no descriptors are left") == 1
