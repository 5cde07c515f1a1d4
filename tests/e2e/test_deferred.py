"""The token in the first message, over real TLS: the Python client, a browser, plugins that are asked about clients."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest
import trio
import trio_websocket

from relay.client import Disconnected, Message, connect, connect_plain
from tests.e2e.browser import chromium
from tests.e2e.harness import RelayProcess, request, running_relay

pytestmark = pytest.mark.e2e

PATIENCE = 60.0

ASKED = """
from relay.plugin.api import Plugin, Refused
from relay.plugin.arrival import Arrival


class Asked(Plugin):
    \"\"\"Lets in nobody called eve.\"\"\"

    def on_connect(self, arrival: Arrival) -> None:
        if arrival.subject == "eve":
            raise Refused("not_you", "eve has to stay outside")

    def on_message(self, room, sender, message):
        room.broadcast(message)
"""


@pytest.fixture
async def hospitable(tmp_path: Path) -> AsyncIterator[RelayProcess]:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "asked.py").write_text(ASKED)
    relay = RelayProcess(tmp_path)
    keys = [{"algorithm": "HS256", "kid": "dev", "secret_file": str(relay.certificates.token_secret)}]
    settings: dict[str, Any] = {
        "auth": {"deferred": {"enabled": True}, "keys": keys},
        "limits": {"connections_per_subject": 2},
        "plugins": {"asked": {"rooms": "asked:*"}, "chat": {"rooms": "chat:*"}},
    }
    async with running_relay(tmp_path, settings) as running:
        yield running


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_the_python_client_says_its_token_first_on_all_its_sockets(
    hospitable: RelayProcess, codec: Literal["json", "msgpack"]
) -> None:
    trusted = hospitable.certificates.authority
    with trio.fail_after(PATIENCE):
        async with (
            connect(hospitable.wss("/ws"), token=hospitable.token("ann"), ca_file=trusted, codec=codec) as ann,
            connect(
                hospitable.wss("/ws"), token=hospitable.token("bob"), ca_file=trusted, codec=codec, deferred=True
            ) as bob,
        ):
            assert bob.subject == "bob"
            await ann.join("chat:a")
            await bob.join("chat:a")
            second = await bob.open_socket("bulk")
            assert second.open
            await ann.publish("chat:a", "by the second socket", channel="bulk")
            while not isinstance(event := await bob.receive(), Message):
                pass
            assert event.data == "by the second socket"
            await second.close()
            await bob.auth(hospitable.token("bob", expires_in=1000.0))


async def test_what_is_asked_of_everybody_is_asked_after_the_token(hospitable: RelayProcess) -> None:
    trusted, wss = hospitable.certificates.authority, hospitable.wss
    with trio.fail_after(PATIENCE):
        for path, subject, grants, code, words in (
            ("/rooms/chat:a", "eve", {}, 4403, "not_you: eve has to stay outside [plugins.asked]"),
            ("/rooms/chat:a", "bob", {"join": ["chat:b"]}, 4403, "forbidden: "),
            ("/rooms/void:a", "bob", {}, 4404, "no_such_room: "),
        ):
            async with connect_plain(wss(path), ca_file=trusted) as guest:
                await guest.send(hospitable.token(subject, **grants))
                with pytest.raises(Disconnected) as ended:
                    await guest.receive()
                assert ended.value.code == code
                assert words in ended.value.reason
        token = hospitable.token("ann")
        async with (
            connect_plain(wss("/rooms/chat:a"), token=token, ca_file=trusted),
            connect_plain(wss("/rooms/chat:a"), token=token, ca_file=trusted),
        ):
            with pytest.raises(Disconnected) as ended:
                async with connect(wss("/ws"), token=token, ca_file=trusted, deferred=True):
                    pass
            assert ended.value.code == 4229
        metrics = (await request(hospitable, "/metrics", internal=True)).body.decode()
        assert 'relay_guests_ended_total{outcome="not_you"} 1.0' in metrics
        assert "relay_guests 0.0" in metrics


async def test_guests_are_told_when_the_server_goes_away(hospitable: RelayProcess) -> None:
    with trio.fail_after(PATIENCE):
        stream = await trio.open_ssl_over_tcp_stream("localhost", hospitable.port, ssl_context=hospitable.ssl_context)
        async with trio.open_nursery() as nursery:
            guest = await trio_websocket.wrap_client_stream(
                nursery, stream, "localhost", "/ws", subprotocols=["relay.v1.json"]
            )
            hospitable.process.terminate()
            assert json.loads(await guest.get_message())["code"] == 1001
            with pytest.raises(trio_websocket.ConnectionClosed) as closed:
                await guest.get_message()
            assert closed.value.reason is not None
            assert closed.value.reason.code == 1001
            await hospitable.until_exit()
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(stream)


@pytest.mark.chromium
async def test_a_page_says_its_token_first(hospitable: RelayProcess, chromium_path: str, tmp_path: Path) -> None:
    token = hospitable.token("ann")
    with trio.fail_after(PATIENCE):
        async with chromium(chromium_path, tmp_path / "profile", hospitable.certificates.certificate) as browser:
            tab = await browser.tab(hospitable.url + "/")
            heard = await tab.evaluate(
                f"""new Promise(resolve => {{
                    const heard = [], socket = new WebSocket({json.dumps(hospitable.wss("/ws"))}, "relay.v1.json")
                    socket.onopen = () => {{
                        socket.send(JSON.stringify({{t: "auth", token: {json.dumps(token)}, id: 1}}))
                        socket.send(JSON.stringify({{t: "join", room: "chat:a", id: 2}}))
                    }}
                    socket.onmessage = event => {{
                        const said = JSON.parse(event.data)
                        heard.push([said.t, said.id || 0])
                        if (said.id == 2) resolve(heard)
                    }}
                    socket.onclose = event => resolve(event.code + " " + event.reason)
                }})"""
            )
            assert heard == [["hello", 0], ["ok", 1], ["ok", 2]]
            ended = await tab.evaluate(
                f"""new Promise(resolve => {{
                    const socket = new WebSocket({json.dumps(hospitable.wss("/rooms/chat:a"))})
                    socket.onopen = () => socket.send("not.a.token")
                    socket.onclose = event => resolve(event.code + " " + event.reason)
                }})"""
            )
            assert ended.startswith("4401 token_malformed: ")
