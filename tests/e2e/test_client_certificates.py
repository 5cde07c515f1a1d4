"""The Python client shows a certificate to a relay that asks for one: in the place of a token, on all its sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from relay.client import ConnectFailed, Disconnected, Message, connect, connect_plain
from relay.devclients import make_client
from tests.e2e.harness import running_relay
from tests.e2e.test_resume import network

pytestmark = pytest.mark.e2e

PATIENCE = 20.0


async def test_it_stands_for_a_token_and_is_shown_again_by_every_socket(tmp_path: Path) -> None:
    files = make_client(tmp_path / "clients", "ann.example")
    grants = {"default_grants": {"join": ["chat:*"], "publish": ["chat:*"]}}
    settings: dict[str, dict[str, Any]] = {
        "tls": {"client_certificates": "required", "client_ca": [str(files.authorities)]},
        "auth": {"mtls": grants},
        "plugins": {"chat": {"rooms": "chat:*", "history": 10}},
    }
    async with running_relay(tmp_path, settings) as relay, network(relay) as net:
        given: dict[str, Any] = {"ca_file": relay.certificates.authority}
        with pytest.raises((ConnectFailed, Disconnected)):
            async with connect(relay.wss("/ws"), **given):
                pass
        given["client_certificate"] = (files.certificate, files.key)
        async with (
            connect(net.url, resume=True, **given) as ann,
            connect_plain(relay.wss("/rooms/chat:a"), **given) as plain,
        ):
            assert ann.subject == "ann.example"
            await ann.join("chat:a")
            await ann.open_socket("urgent")
            net.cut()
            await plain.send("hi")
            with trio.fail_after(PATIENCE):
                message = await ann.receive()
            assert isinstance(message, Message)
            assert (message.data, message.sender) == ("hi", "ann.example")
