"""The Python client renews its token by itself, with a real relay over TLS."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from relay.client import Client, Disconnected, Message, connect
from tests.e2e.harness import running_relay

pytestmark = pytest.mark.e2e

PATIENCE = 40.0


async def until_the_end(client: Client) -> None:
    async for _ in client:
        pass


async def test_a_session_outlives_its_token_given_where_to_get_another(tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE):
        async with running_relay(tmp_path, {"auth": {"leeway": 0.0}}) as relay:
            given: list[float] = []

            async def token() -> str:
                await trio.lowlevel.checkpoint()
                given.append(trio.current_time())
                return relay.token("ann", expires_in=1.5 if len(given) < 3 else 300.0)

            trusted = relay.certificates.authority
            async with (
                connect(relay.wss("/ws"), token=token, ca_file=trusted) as ann,
                connect(relay.wss("/ws"), token=relay.token("bob", expires_in=1.5), ca_file=trusted) as bob,
            ):
                first = ann.expires
                assert first is not None
                await ann.join("echo:a")
                with pytest.raises(Disconnected) as ended:
                    await until_the_end(bob)
                assert ended.value.code == 4401
                while ann.expires is None or ann.expires < first + 200:
                    await ann.ping()
                assert len(given) == 3
                await ann.publish("echo:a", "still here")
                event = await ann.receive()
                assert isinstance(event, Message)
                assert event.data == "still here", "and nothing of all that was an event"
