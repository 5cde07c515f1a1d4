"""Compression between a real relay and clients of three makes that negotiate it, beside one that does not."""

from __future__ import annotations

import json
import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
import websockets.trio.client
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from tests.e2e.browser import chromium
from tests.e2e.clients import Client, chromium_client, node_client, trio_client, websockets_client
from tests.e2e.harness import RelayProcess, bearer, request, running_relay

pytestmark = pytest.mark.e2e

PATIENCE = 60.0
MODES = [
    pytest.param({"deflate": True}, id="shared"),
    pytest.param({"deflate": True, "deflate_context": True, "deflate_window_bits": 15}, id="contexts"),
]


def lines(number: int) -> str:
    """About 4 KB: more than each of the clients needs before it compresses."""
    return json.dumps([{"player": f"p{place}", "x": place * number, "grüße": "👋"} for place in range(90)])


async def metric(relay: RelayProcess, name: str) -> int:
    text = (await request(relay, "/metrics", internal=True)).body.decode()
    found = re.search(rf"^relay_{name} (\S+)$", text, re.MULTILINE)
    assert found is not None, name
    return int(float(found[1]))


@pytest.mark.chromium
@pytest.mark.node
@pytest.mark.parametrize("websocket", MODES)
async def test_clients_of_three_makes_negotiate_it_and_hear_each_other_and_one_that_does_not(
    tmp_path: Path, websocket: dict[str, Any], node: tuple[str, Path], chromium_path: str
) -> None:
    path = "/rooms/chat:packed"
    with trio.fail_after(PATIENCE):
        async with running_relay(tmp_path, {"websocket": websocket}) as relay, AsyncExitStack() as stack:
            enter = stack.enter_async_context
            browser = await enter(chromium(chromium_path, tmp_path / "profile", relay.certificates.certificate))
            tab = await browser.tab(relay.url + "/")
            clients: dict[str, Client] = {
                "chromium": await chromium_client(tab, relay, path, relay.token("chromium")),
                "node": await enter(node_client(node, relay, path, relay.token("node"))),
                "websockets": await enter(websockets_client(relay, path, relay.token("websockets"))),
                "trio": await enter(trio_client(relay, path, relay.token("trio"))),
            }
            negotiated = {name: client.extensions for name, client in clients.items()}
            assert negotiated.pop("trio") == ""
            for name, extensions in negotiated.items():
                assert extensions.startswith("permessage-deflate"), name
                if name != "node":  # `ws` tells the name alone
                    kept = websocket.get("deflate_context", False)
                    assert ("server_no_context_takeover" in extensions) is not kept, (name, extensions)
            assert await metric(relay, "compressed_connections") == 3
            for number in range(5):
                for speaker, client in clients.items():
                    await client.say(lines(number) + speaker)
                    for listener, other in clients.items():
                        if listener != speaker:
                            assert await other.hear() == lines(number) + speaker
            said = 5 * 4 * len(lines(1).encode())
            before = await metric(relay, "deflate_input_bytes_total")
            after = await metric(relay, "deflate_output_bytes_total")
            assert after < before // 4
            if websocket.get("deflate_context"):
                assert before > 2 * said, "each connection compresses for itself"
            else:
                assert before < 1.2 * said, "one frame for all who share it"


@pytest.mark.parametrize("websocket", MODES)
async def test_history_answers_and_large_messages_come_through_compressed(
    tmp_path: Path, websocket: dict[str, Any]
) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            running_relay(tmp_path, {"websocket": websocket}) as relay,
            websockets_client(relay, "/ws", relay.token("ann"), ["relay.v1.json"]) as ann,
        ):
            await ann.hear()
            await ann.say(json.dumps({"t": "join", "room": "chat:h", "id": 1}))
            await ann.hear()
            large = "grüße, " * 3000
            for data in ("a" * 1000, large):
                await ann.say(json.dumps({"t": "publish", "room": "chat:h", "data": data, "id": 2}))
                assert json.loads(await ann.hear())["t"] == "ok"
            await ann.say(json.dumps({"t": "history", "room": "chat:h", "last": 10, "id": 3}))
            answer = json.loads(await ann.hear())
            assert [message["data"] for message in answer["messages"]] == ["a" * 1000, large]
            async with websockets_client(relay, "/ws?parts=0", relay.token("bob"), ["relay.v1.json"]) as bob:
                await bob.hear()
                await bob.say(json.dumps({"t": "join", "room": "chat:h", "id": 1}))
                await bob.hear()
                await bob.say(json.dumps({"t": "publish", "room": "chat:h", "data": large}))
                heard = await ann.connection.recv()
                while isinstance(heard, str) and json.loads(heard)["t"] != "message":
                    heard = await ann.connection.recv()
                if websocket.get("deflate_context"):
                    assert heard[:1] == b"\xc1", "parts go as they are"
                else:
                    assert json.loads(heard)["data"] == large, "compressed it fits into one part: it comes whole"


async def test_more_sockets_of_a_session_share_its_compression(tmp_path: Path) -> None:
    def more(relay: RelayProcess, session: str, **options: Any) -> Any:
        return websockets.trio.client.connect(
            relay.wss(f"/ws?session={session}&channels=urgent"), ssl=relay.ssl_context, proxy=None,
            additional_headers=bearer(relay.token("ann")), subprotocols=[Subprotocol("relay.v1.json")], **options,
        )  # fmt: skip

    with trio.fail_after(PATIENCE):
        async with (
            running_relay(tmp_path, {"websocket": {"deflate": True}}) as relay,
            websockets_client(relay, "/ws", relay.token("ann"), ["relay.v1.json"]) as ann,
        ):
            session = json.loads(await ann.hear())["session"]
            await ann.say(json.dumps({"t": "join", "room": "chat:legs", "id": 1}))
            await ann.hear()
            with pytest.raises(InvalidStatus) as refused:
                async with more(relay, session, compression=None):
                    pass
            assert refused.value.response.status_code == 400
            assert b"offer permessage-deflate" in refused.value.response.body
            async with more(relay, session) as urgent:
                assert "permessage-deflate" in urgent.response.headers["Sec-WebSocket-Extensions"]
                said = {"t": "publish", "room": "chat:legs", "data": "x" * 900, "channel": "urgent", "echo": True}
                await urgent.send(json.dumps(said))
                assert json.loads(await urgent.recv())["data"] == "x" * 900
            assert await metric(relay, "deflate_input_bytes_total") > 900
