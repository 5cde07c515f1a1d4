"""Presence is right whatever becomes of a client: killed, frozen, gone and back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import trio

from relay.client import Client, Joined, Left, connect
from tests.components import ROOT
from tests.e2e.harness import ALL_ROOMS, RelayProcess, running_relay

ROOM = "chat:a"
SITTER = """
import sys, trio
from relay.client import connect

async def main():
    url, token, authority, room = sys.argv[1:]
    async with connect(url, token=token, ca_file=authority) as relay:
        await relay.join(room)
        async for event in relay:
            pass

trio.run(main)
"""


def settings(**table: Any) -> dict[str, dict[str, Any]]:
    return {
        "plugins": {"chat": {"rooms": "chat:*", "presence": True, "presence_claims": ["name"], **table}},
        "websocket": {"heartbeat": 1.0, "heartbeat_timeout": 1.0},
    }


def token(relay: RelayProcess, subject: str, **more: Any) -> str:
    claims = {"sub": subject, "exp": time.time() + 300, "relay": ALL_ROOMS, **more}
    return jwt.encode(claims, relay.token_secret.removesuffix(b"\n"), "HS256", headers={"kid": "dev"})


@contextmanager
def sitter(relay: RelayProcess, folder: Path, subject: str) -> Iterator[subprocess.Popen[bytes]]:
    """A client that is a process of its own."""
    authority = str(relay.certificates.authority)
    arguments = [relay.wss("/ws"), token(relay, subject, name=subject.title()), authority, ROOM]
    process = subprocess.Popen(
        [sys.executable, "-c", SITTER, *arguments], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def hears(client: Client) -> Joined | Left:
    with trio.fail_after(15):
        while True:
            event = await client.receive()
            if isinstance(event, Joined | Left):
                return event


async def test_a_killed_client_leaves_and_one_that_is_frozen_does_too(tmp_path: Path) -> None:
    async with running_relay(tmp_path, settings()) as relay:
        authority = str(relay.certificates.authority)
        async with connect(relay.wss("/ws"), token=token(relay, "ann"), ca_file=authority) as ann:
            await ann.join(ROOM)
            with sitter(relay, tmp_path, "bob") as bob:
                assert await hears(ann) == Joined(ROOM, "bob", {"name": "Bob"})
                bob.send_signal(signal.SIGKILL)
                assert await hears(ann) == Left(ROOM, "bob")
            with sitter(relay, tmp_path, "cid") as cid:
                assert await hears(ann) == Joined(ROOM, "cid", {"name": "Cid"})
                cid.send_signal(signal.SIGSTOP)  # its kernel still answers, nobody else does
                assert await hears(ann) == Left(ROOM, "cid")
            assert (await ann.members(ROOM)).subjects == ["ann"]


async def test_who_is_killed_and_back_in_time_was_never_away(tmp_path: Path) -> None:
    async with running_relay(tmp_path, settings(presence_debounce=60.0)) as relay:
        authority = str(relay.certificates.authority)
        async with connect(relay.wss("/ws"), token=token(relay, "ann"), ca_file=authority) as ann:
            await ann.join(ROOM)
            with sitter(relay, tmp_path, "bob") as bob:
                assert isinstance(await hears(ann), Joined)
                bob.send_signal(signal.SIGKILL)
                await relay.until_log("connection closed", subject="bob")
                assert (await ann.members(ROOM)).connections == {"bob": 0}
            with sitter(relay, tmp_path, "bob"):
                with trio.fail_after(15):
                    while (await ann.members(ROOM)).connections:
                        pass  # each of these is a question and its answer
                with sitter(relay, tmp_path, "cid"):
                    assert await hears(ann) == Joined(ROOM, "cid", {"name": "Cid"}), "of bob nothing is told"
