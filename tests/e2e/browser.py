"""A headless Chromium, driven over the Chrome DevTools protocol on a trio-websocket connection.

Not here: what pages do. The one rule: the browser trusts exactly the key of the relay under test (by its SPKI hash) and
nothing else is switched off in its certificate checks.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import math
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

_FLAGS: Final = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-default-browser-check",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--disable-extensions", "--remote-debugging-port=0",
]  # fmt: skip


class PageError(Exception):
    """A script in the page threw: its message."""


class Tab:
    """One page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    async def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited. Raises PageError."""
        answer = await self._browser.call(
            "Runtime.evaluate",
            {"expression": script, "awaitPromise": True, "returnByValue": True},
            session=self._session,
        )
        if details := answer.get("exceptionDetails"):
            raise PageError(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    async def until(self, condition: str) -> Any:
        """The value of an expression as soon as it is truthy, looked at every 10 ms."""
        return await self.evaluate(
            "new Promise((resolve, reject) => { const look = () => { try {"
            f" const value = ({condition}); if (value) resolve(value); else setTimeout(look, 10);"
            " } catch (error) { reject(error); } }; look(); })"
        )


class Browser:
    """The connection to the browser itself; `tab` opens pages."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self._waiting: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}

    async def call(self, method: str, parameters: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        """One command of the DevTools protocol, and its result. Raises PageError for an error answer."""
        request = next(self._ids)
        send, receive = trio.open_memory_channel[dict[str, Any]](1)
        self._waiting[request] = send
        command = {"id": request, "method": method, "params": parameters}
        if session is not None:
            command["sessionId"] = session
        await self._connection.send_message(msgspec.json.encode(command).decode())
        answer = await receive.receive()
        if "error" in answer:
            raise PageError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def tab(self, url: str) -> Tab:
        """A new page, loaded."""
        target = await self.call("Target.createTarget", {"url": "about:blank"})
        attached = await self.call("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        tab = Tab(self, attached["sessionId"])
        outcome = await self.call("Page.navigate", {"url": url}, session=attached["sessionId"])
        if failure := outcome.get("errorText"):
            raise PageError(f"{url}: {failure}")
        await tab.until("document.readyState === 'complete'")
        return tab

    async def read(self) -> None:
        """Hand answers to those who wait for them, until the browser ends."""
        try:
            while True:
                answer = msgspec.json.decode(await self._connection.get_message())
                waiting = self._waiting.pop(answer.get("id"), None)
                if waiting is not None:
                    waiting.send_nowait(answer)
        except ConnectionClosed:
            for waiting in self._waiting.values():
                waiting.close()


@asynccontextmanager
async def chromium(path: str, profile: Path, certificate: Path, *flags: str) -> AsyncIterator[Browser]:
    """A browser with an empty profile in `profile`, that trusts the key of `certificate` (PEM)."""
    command = [
        path,
        *_FLAGS,
        *flags,
        f"--user-data-dir={profile}",
        f"--ignore-certificate-errors-spki-list={spki_hash(certificate)}",
        "about:blank",
    ]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        async with trio.open_nursery() as nursery:
            url = await nursery.start(_watch, process)
            async with open_websocket_url(url, max_message_size=16 << 20) as connection:
                browser = Browser(connection)
                nursery.start_soon(browser.read)
                yield browser
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(5, shield=True):
            process.terminate()
            await process.wait()
        if process.poll() is None:
            process.kill()
        assert process.stderr is not None
        with trio.CancelScope(shield=True):
            await process.stderr.aclose()


async def _watch(process: trio.Process, task_status: trio.TaskStatus[str]) -> None:
    """Read what the browser says, so that its pipe never fills; start with the address of its DevTools."""
    said = b""
    assert process.stderr is not None
    with trio.fail_after(60) as patience:
        async for data in process.stderr:
            if patience.deadline == math.inf:
                continue
            said += data
            if found := re.search(rb"DevTools listening on (ws://\S+)\s", said):
                patience.deadline = math.inf
                task_status.started(found[1].decode())
    if patience.deadline != math.inf:
        raise RuntimeError(f"Chromium ended: {said.decode(errors='replace')[-2000:]}")


def spki_hash(certificate: Path) -> str:
    """The base64 SHA-256 of the certificate's public key (RFC 7469 section 2.4)."""
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    return base64.b64encode(
        hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    ).decode()
