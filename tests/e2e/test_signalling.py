"""Two real browsers find each other through the relay, and then speak without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from tests.components import ROOT
from tests.e2e.browser import Browser, Tab, chromium
from tests.e2e.harness import RelayProcess, running_relay

pytestmark = [pytest.mark.e2e, pytest.mark.chromium]

PATIENCE = 15.0
SCRIPT = (ROOT / "examples" / "signalling" / "peers.js").read_text()
LOCAL_CANDIDATES = "--disable-features=WebRtcHideLocalIpsWithMdns"
"""Names that only multicast DNS can resolve are of no use where there is no network."""


async def page(browser: Browser, relay: RelayProcess, subject: str) -> Tab:
    """A page in the room; `heard` collects what comes from peers, who hear its greeting."""
    tab = await browser.tab(relay.url)
    given = ", ".join(map(json.dumps, (relay.wss("/ws"), relay.token(subject), "call:tea")))
    await tab.evaluate(
        SCRIPT
        + f"""
        window.heard = []; window.left = []; window.channels = {{}};
        window.mesh = connectPeers({given}, {{
            onChannel: (channel, peer) => {{
                channels[peer.session] = channel;
                channel.onmessage = ({{data}}) => heard.push(data);
                channel.send("from {subject} to " + peer.subject);
            }},
            onLeft: (session) => left.push(session),
        }}); undefined"""
    )
    return tab


async def test_two_pages_open_a_data_channel_and_speak_without_the_relay(chromium_path: str, tmp_path: Path) -> None:
    settings = {"plugins": {"signalling": {"rooms": "call:*"}}}
    with trio.fail_after(PATIENCE):
        async with (
            running_relay(tmp_path, settings) as relay,
            chromium(chromium_path, tmp_path / "profile", relay.certificates.certificate, LOCAL_CANDIDATES) as browser,
        ):
            ann, bob = await page(browser, relay, "ann"), await page(browser, relay, "bob")
            assert await ann.until("heard.length && heard") == ["from bob to ann"]
            assert await bob.until("heard.length && heard") == ["from ann to bob"]
            # A second tab of the same subject is a peer of its own.
            other = await page(browser, relay, "bob")
            assert await other.until("heard.length === 2 && [...heard].sort()") == [
                "from ann to bob",
                "from bob to bob",
            ]
            assert await ann.until("heard.length === 2 && heard[1]") == "from bob to ann"
            await other.evaluate("mesh.leave()")
            await ann.until("left.length === 1")
            relay.process.kill()  # the peers have no need of it any more
            await ann.until("mesh.socket.readyState === WebSocket.CLOSED")
            await bob.evaluate("Object.values(channels).find((one) => one.readyState === 'open').send('still here')")
            assert await ann.until("heard[2]") == "still here"
