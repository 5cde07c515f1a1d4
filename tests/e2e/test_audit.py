"""The audit of a real relay: what happened and what was refused is there, over restarts and full disks, and the command
line shows it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.clients import trio_client
from tests.e2e.harness import UPGRADE, RelayProcess, bearer, request, running_relay

pytestmark = pytest.mark.e2e

PLUGINS = {
    "chat": {"rooms": "chat:*"},
    "feed": {"rooms": "feed:*", "publishers": ["nobody"]},
    "audit": {"filters": "*", "decisions": True, "file": "log/audit.jsonl"},
}


def audit(relay: RelayProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "relay", "audit", "log/audit.jsonl", *arguments]
    return subprocess.run(command, cwd=relay.folder, capture_output=True, text=True, check=False, timeout=30)


async def told(relay: RelayProcess, *arguments: str) -> list[dict[str, Any]]:
    done = await trio.to_thread.run_sync(audit, relay, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


async def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - another process does it
            await trio.sleep(0.02)


async def test_what_was_done_and_what_was_refused_and_by_whom_is_shown_by_the_command(tmp_path: Path) -> None:
    async with running_relay(tmp_path, {"plugins": PLUGINS}) as relay:
        async with trio_client(relay, "/rooms/chat:tea", relay.token("ann")) as ann:
            await ann.say("hello")
        async with trio_client(relay, "/rooms/feed:news", relay.token("bob")) as bob:
            await bob.say("mine")
            file = tmp_path / "log" / "audit.jsonl"
            await until(lambda: file.exists() and b'"code":"forbidden"' in file.read_bytes())
        token = relay.token("eve", expires_in=-1000)
        answer = await request(relay, "/rooms/chat:tea", {**UPGRADE, **bearer(token)})
        assert answer.status == 401
        await until(lambda: b"token_expired" in file.read_bytes())
        await until(lambda: b'"subject":"bob","what":"disconnect"' in file.read_bytes())
    done = [(one["what"], one["subject"]) for one in await told(relay, "--room", "chat:*") if "subject" in one]
    assert done == [("join", "ann"), ("message", "ann"), ("leave", "ann")]
    [refused] = await told(relay, "--subject", "bob", "--what", "decision")
    assert (refused["kind"], refused["code"], refused["plugin"]) == ("refused", "forbidden", "feed")
    [rejected] = await told(relay, "--code", "token_expired", "--since", "1h")
    assert (rejected["kind"], rejected["address"]) == ("rejected", "127.0.0.1")
    shown = await trio.to_thread.run_sync(audit, relay, "--code", "forbidden")
    assert "bob from 127.0.0.1" in shown.stdout
    assert "the chain is whole" in shown.stderr
    assert token not in (tmp_path / "log" / "audit.jsonl").read_text()


async def test_the_chain_goes_on_after_a_restart_and_a_change_in_it_is_found(tmp_path: Path) -> None:
    relay = RelayProcess(tmp_path, {"plugins": PLUGINS})
    for subject in ("ann", "bob"):
        await trio.to_thread.run_sync(relay.start)
        try:
            async with trio_client(relay, "/rooms/chat:tea", relay.token(subject)) as client:
                await client.say("hello")
        finally:
            await trio.to_thread.run_sync(relay.stop)
    assert [one["subject"] for one in await told(relay, "--what", "message")] == ["ann", "bob"]
    file = tmp_path / "log" / "audit.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"bytes":5', b'"bytes":6', 1))
    done = await trio.to_thread.run_sync(audit, relay, "--verify")
    assert done.returncode == 1
    assert "the chain is broken" in done.stderr


async def test_a_full_disk_holds_up_nobody_and_what_was_lost_is_counted(tmp_path: Path) -> None:
    audit = {"filters": "*", "file": "log/audit.jsonl", "queue": 20}  # no decisions: each lost line is a message
    plugins = {**PLUGINS, "audit": audit}
    async with (
        running_relay(tmp_path, {"plugins": plugins}) as relay,
        trio_client(relay, "/rooms/chat:tea", relay.token("ann")) as ann,
        trio_client(relay, "/rooms/chat:tea", relay.token("bob")) as bob,
    ):
        file = tmp_path / "log" / "audit.jsonl"
        await until(lambda: file.exists() and file.read_bytes().count(b'"what":"join"') == 2)
        size = file.stat().st_size
        whole = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(relay.process.pid, resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
        for number in range(50):
            await ann.say(str(number))
            with trio.fail_after(10):
                assert await bob.hear() == str(number)
        await until(lambda: "the audit cannot be written" in relay.log)
        await until(lambda: file.stat().st_size == size)  # what was half written is taken back
        metrics = (await request(relay, "/metrics", internal=True)).body.decode()
        dropped = [line for line in metrics.splitlines() if 'what="dropped"' in line]
        assert dropped
        assert float(dropped[0].split()[-1]) >= 30
        resource.prlimit(relay.process.pid, resource.RLIMIT_FSIZE, whole)
        await until(lambda: b'"what":"message"' in file.read_bytes())
        await ann.say("last")
        assert await bob.hear() == "last"
        await until(lambda: file.read_bytes().count(b'"what":"gap"'))
    found = await told(relay)
    messages = [one for one in found if one["what"] == "message"]
    missing = sum(one["lines"] for one in found if one["what"] == "gap")
    assert len(messages) + missing == 51
    assert time.time() - messages[-1]["at"] < 100
