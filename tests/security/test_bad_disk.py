"""The disk is full: the log's and that of durable rooms. The relay serves on, acknowledges nothing that is not written,
says why, counts what it could not log, and is well again when there is space, by itself.

The audit's disk: tests/e2e/test_audit.py. The disk here is a file system of one megabyte in memory.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from tests.components import small_disk
from tests.conftest import Figures
from tests.e2e.harness import START, Overrides, request
from tests.security.attack import TEXT, V1_JSON, Socket, ask, frame, socket_to, upgrade
from tests.security.siege import NO_LIMITS, RelayApart

pytestmark = pytest.mark.e2e

DURABLE: Final = "/rooms/chat:kept"
PATIENCE: Final = 60.0
NEWCOMERS: Final = 50
CONNECTIONS: Final = NEWCOMERS + 4
WORDS: Final = 500
"""Said while the disk is full, in a room that nobody keeps."""


class RelayWithALogFile(RelayApart):
    """Its log goes into a file, as an operator's `2>>relay.log` does it."""

    def __init__(self, folder: Path, overrides: Overrides, log: Path) -> None:
        super().__init__(folder, overrides)
        self.log_path = log
        self.prefix = ["sh", "-c", f'exec "$@" 2>>{log}', "sh"]

    def wait_for_log(self, message: str, seconds: float = START, **_: Any) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in self.log_path.read_text().splitlines() if self.log_path.exists() else ():
                if line.endswith("}") and json.loads(line)["message"] == message:
                    return dict(json.loads(line))
            time.sleep(0.02)
        raise RuntimeError(f"no {message!r} in {self.log_path}")


class Disk:
    """`filler` takes all the space there is."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._filler = root / "filler"

    def fill(self) -> None:
        with open(self._filler, "ab", buffering=0) as file:
            for size in (65536, 512, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    pass
        assert os.statvfs(self.root).f_bavail == 0

    def free(self) -> None:
        self._filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as root:
        yield Disk(root)


async def say(client: Socket, data: object, **more: Any) -> dict[str, Any]:
    """Publishes in the durable room; the answer. What else is heard is passed over."""
    message = {"t": "publish", "room": "chat:kept", "data": data, "id": "said", **more}
    await client.send(frame(TEXT, json.dumps(message).encode()))
    while True:
        answer: dict[str, Any] = json.loads(await client.hear())
        if answer.get("id") == "said":
            return answer


async def lost_lines(relay: RelayApart) -> int:
    text = (await request(relay, "/metrics", internal=True)).body.decode()
    found = re.search(r"^relay_log_lines_lost_total (\S+)$", text, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


async def test_a_full_disk_stops_nothing_but_what_needs_it_and_that_only_while_it_is_full(
    folder: Path, disk: Disk, figures: Figures
) -> None:
    settings: Overrides = {
        "limits": NO_LIMITS,
        "history": {"file": str(disk.root / "rooms.db")},
        "plugins": {
            "chat": {"rooms": ["chat:*"], "history": 1000, "durable": True},
            "echo": {"rooms": ["echo:*"]},
        },
    }
    relay = RelayWithALogFile(folder, settings, disk.root / "relay.log")
    await trio.to_thread.run_sync(relay.start)
    try:
        with trio.fail_after(PATIENCE):
            kept, refused, lost = await live_through_it(relay, disk)
        figures(f"disk full: {refused} publishes refused, {lost} log lines lost, {len(kept)} messages acknowledged")
        await trio.to_thread.run_sync(relay.stop)
        lines = [json.loads(line) for line in relay.log_path.read_text().splitlines()]  # no half ones
        assert lines[-1]["message"] == "stopped", "the log goes on"
        closed = [line for line in lines if line["message"] == "connection closed"]
        assert CONNECTIONS - len(closed) <= lost, "what is missing was counted"
        told = [line for line in lines if line["message"].startswith("messages cannot be written")]
        assert len(told) <= 1  # in ten seconds, and it is on the same disk
        relay.log_path.unlink()
        await trio.to_thread.run_sync(relay.start)
        async with socket_to(relay, "/ws", subprotocol=V1_JSON) as client:
            await client.send(frame(TEXT, b'{"t":"join","id":1,"room":"chat:kept","last":1000}'))
            with trio.fail_after(PATIENCE):
                while (said := json.loads(await client.hear())).get("id") != 1:
                    pass
            found = [(message["offset"], message["data"]) for message in said["messages"]]
            assert found == kept, "what was acknowledged, and nothing else"
    finally:
        relay.stop()


async def live_through_it(relay: RelayWithALogFile, disk: Disk) -> tuple[list[tuple[int, Any]], int, int]:
    """(Offset and data of each message that was acknowledged; how many were refused; log lines lost.)"""
    kept: list[tuple[int, Any]] = []
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(socket_to(relay, DURABLE, relay.token("w"), subprotocol=V1_JSON))
        listener = await stack.enter_async_context(socket_to(relay, DURABLE, relay.token("l"), subprotocol=V1_JSON))

        async def keep(data: str) -> None:
            answer = await say(writer, data)
            assert answer["t"] == "ok", answer
            kept.append((answer["offset"], data))

        for number in range(10):
            await keep(f"before {number}")
        assert await lost_lines(relay) == 0

        disk.fill()
        refused = 0
        for number in range(200):  # what SQLite had allocated already is used up first
            answer = await say(writer, f"full {number} " + "x" * 2000)
            if answer["t"] == "ok":
                kept.append((answer["offset"], f"full {number} " + "x" * 2000))
                continue
            refused += 1
            assert answer["code"] == "unavailable"
            assert answer["limit"] == "history.file"
            assert "could not be written to disk" in answer["message"]
            assert answer["retry_after"] > 0.0
        assert refused > 100

        async with socket_to(relay, "/rooms/echo:attack") as other:  # newcomers too are served
            for number in range(WORDS):
                await other.say(str(number))
                assert await other.hear() == str(number)
        for _ in range(NEWCOMERS):
            assert (await ask(relay, upgrade("/rooms/echo:attack", relay.token()))).status == 101
        assert (await request(relay, "/readyz", internal=True)).status == 200
        lost = await lost_lines(relay)
        assert lost > 0

        disk.free()
        answer = {"t": "error"}
        while answer["t"] != "ok":
            answer = await say(writer, "after")
        kept.append((answer["offset"], "after"))
        for number in range(10):
            await keep(f"after {number}")
        assert (await ask(relay, upgrade("/rooms/echo:attack", relay.token()))).status == 101
        assert [offset for offset, _ in kept] == list(range(1, len(kept) + 1)), "no number was used up by what was lost"
        heard: list[tuple[int, Any]] = []
        while len(heard) < len(kept):
            said = json.loads(await listener.hear())
            if said["t"] == "message":
                heard.append((said["offset"], said["data"]))
        assert heard == kept, "what was refused was heard by nobody"
    return kept, refused, await lost_lines(relay)
