"""The playground page as a user meets it: two browser tabs chat, and a refusal is explained."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlencode

import pytest
import trio

from tests.e2e.browser import Browser, Tab, chromium
from tests.e2e.harness import RelayProcess

pytestmark = [pytest.mark.e2e, pytest.mark.chromium]

PATIENCE = 60.0


async def open_page(browser: Browser, relay: RelayProcess, name: str, mode: str, room: str, token: str) -> Tab:
    """The page, its form filled by the address as `relay dev` prints it, and submitted."""
    given = urlencode({"token": token, "room": room, "name": name, "mode": mode})
    tab = await browser.tab(f"{relay.url}/#{given}")
    await tab.evaluate("document.getElementById('toggle').click()")
    return tab


async def say(tab: Tab, text: str) -> None:
    await tab.evaluate(
        f"document.getElementById('text').value = {json.dumps(text)}; document.getElementById('send').click()"
    )


async def sees(tab: Tab, text: str) -> None:
    """Until a line in the page's log holds the text."""
    await tab.until(f"document.getElementById('log').innerText.includes({json.dumps(text)})")


@pytest.mark.parametrize("mode", ["plain", "relay.v1.json"])
async def test_two_tabs_chat(relay: RelayProcess, chromium_path: str, tmp_path: Path, mode: str) -> None:
    room = f"chat:playground-{mode}"
    with trio.fail_after(PATIENCE):
        async with chromium(chromium_path, tmp_path, relay.certificates.certificate) as browser:
            tabs = [await open_page(browser, relay, name, mode, room, relay.token(name)) for name in ("ann", "bob")]
            for tab in tabs:
                await tab.until("document.getElementById('state').dataset.state === 'open'")
            await say(tabs[0], "hello from ann <b>not markup</b>")
            await sees(tabs[1], "hello from ann <b>not markup</b>")
            await say(tabs[1], "and hello from bob")
            await sees(tabs[0], "and hello from bob")


async def test_a_refused_token_is_explained_on_the_page(
    relay: RelayProcess, chromium_path: str, tmp_path: Path
) -> None:
    with trio.fail_after(PATIENCE):
        async with chromium(chromium_path, tmp_path, relay.certificates.certificate) as browser:
            token = relay.token("ann", expires_in=-60)
            tab = await open_page(browser, relay, "ann", "plain", "lobby", token)
            await tab.until("!document.getElementById('explanation').hidden")
            explanation = await tab.evaluate("document.getElementById('explanation').textContent")
            assert "the token has expired" in explanation
