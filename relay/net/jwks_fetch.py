"""Keeps the keys of one URL fresh: the I/O around `auth.jwks.JwksCache`.

Not here: when to fetch and what a key set may hold (`auth.jwks`). The one rule: whatever the other end does, a fetch
costs a bounded time and a bounded memory; whatever clients do, there is one per cooldown at most.
"""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, Final

import trio

from relay.auth.jwks import JwksCache, KeyDocument, parse_jwks
from relay.config import schema
from relay.errors import ConfigError, ConfigProblem

if TYPE_CHECKING:
    from httpx2 import AsyncClient

log = logging.getLogger(__name__)


class FetchError(Exception):
    """A fetch brought no key set; the text says why and never quotes what was received."""


class JwksFetcher:
    """Fetches what `cache` needs when it needs it. `keep_fresh` is the task, `wait_for_kid` what handshakes call."""

    def __init__(self, cache: JwksCache, settings: schema.JWKS, table: str = "auth.jwks") -> None:
        """`table` is the config table of the settings. Raises ConfigError when the URL is not https."""
        if not settings.url.lower().startswith("https://"):
            problem = ConfigProblem("configuration", f"{table}.url", "keys are fetched over https only")
            raise ConfigError([problem])
        self._cache: Final = cache
        self._settings: Final = settings
        self._table: Final = table
        self._wake = trio.Event()
        self._done = trio.Event()

    async def keep_fresh(self) -> None:
        """Fetch now, and whenever the cache says so, until cancelled. Failures are logged and counted, never raised."""
        while True:
            with trio.move_on_after(self._cache.due(trio.current_time())):
                await self._wake.wait()
            self._wake = trio.Event()
            if self._cache.due(trio.current_time()) > 0.0:
                await trio.lowlevel.checkpoint()  # the plan was changed, not the present
                continue
            self._cache.begin(trio.current_time())
            try:
                await self._fetch_once()
            finally:
                done, self._done = self._done, trio.Event()
                done.set()

    async def wait_for_kid(self, kid: str | None) -> bool:
        """Whether the key of `kid` is here, after one early fetch where that is allowed; None: whether any was fetched.

        Waits at most `timeout` seconds. Any number of callers share one fetch; within the cooldown there is
        none.
        """
        now = trio.current_time()
        if self._cache.knows(kid):
            await trio.lowlevel.checkpoint()
            return True
        planned = self._cache.due(now)
        worth_it = self._cache.ask_early(now)
        if self._cache.due(now) < planned or worth_it:
            self._wake.set()
        done = self._done
        with trio.move_on_after(self._settings.timeout if worth_it else 0.0):
            await done.wait()
        return self._cache.knows(kid)

    async def _fetch_once(self) -> None:
        try:
            with trio.fail_after(self._settings.timeout):
                document = await self._fetch()
        except trio.TooSlowError:
            self._failed(f"no answer within {self._settings.timeout:g} s")
        except FetchError as error:
            self._failed(str(error))
        except Exception:
            # A background task must not take the relay down, and its keys are as good as they were.
            log.exception("fetching the key set of %s", self._settings.url)
            self._failed("a bug on our side")
        else:
            if self._cache.succeed(document, trio.current_time()):
                keys, skipped = len(document.keys), dict(document.skipped)
                log.info("key set of %s: %d keys, passed over: %s", self._settings.url, keys, skipped)

    def _failed(self, why: str) -> None:
        self._cache.fail(why)
        log.warning("key set of %s not fetched, the keys stay as they are: %s", self._settings.url, why)

    async def _fetch(self) -> KeyDocument:
        """One request. Raises FetchError."""
        import httpx2  # late: its import is slow, and most relays need no URL

        try:
            # Anew for each fetch, in a thread: reading the authorities takes long, and their file may have changed.
            context = await trio.to_thread.run_sync(_tls_context, self._settings.ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise FetchError(f"{self._table}.ca_file cannot be used: {error.strerror or error}") from None
        try:
            async with httpx2.AsyncClient(verify=context, timeout=None, follow_redirects=False) as client:
                data = await self._read(client)
        except (httpx2.ConnectError, httpx2.InvalidURL) as error:
            raise FetchError(f"cannot connect: {_root_cause(error)}") from None
        except (httpx2.HTTPError, OSError) as error:  # their texts may quote what was received
            raise FetchError(type(error).__name__) from None
        try:
            return await trio.to_thread.run_sync(_parse, data, self._settings.max_bytes)
        except ValueError as error:
            raise FetchError(str(error)) from None

    async def _read(self, client: AsyncClient) -> bytes:
        """The body, never more than `max_bytes` of it in memory (and one chunk). Raises FetchError."""
        headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
        async with client.stream("GET", self._settings.url, headers=headers) as response:
            if response.is_redirect:
                raise FetchError(f"status {response.status_code}: redirects are not followed; configure the final URL")
            if response.status_code != 200:
                raise FetchError(f"status {response.status_code}")
            encoding = response.headers.get("Content-Encoding", "identity")
            if encoding.lower() != "identity":
                raise FetchError("the answer has a Content-Encoding, which was not asked for")
            data = bytearray()
            with trio.CancelScope() as scope:
                async for chunk in response.aiter_raw():  # raw: unpacking would have no bound
                    if len(data) + len(chunk) > self._settings.max_bytes:
                        # Not `raise`: that would leave the library's generators open, a cancelled read unwinds them.
                        scope.cancel()
                    else:
                        data += chunk
            if scope.cancel_called:
                raise FetchError(
                    f"the key set has more than {self._settings.max_bytes} bytes ({self._table}.max_bytes)"
                )
            return bytes(data)


def _tls_context(ca_file: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file or None)


def _root_cause(error: BaseException) -> str:
    """The text of the first link in the chain that has one: a failed TLS handshake arrives wrapped in empty errors."""
    link: BaseException | None = error
    while link is not None:
        if str(link):
            return str(link)
        link = link.__cause__ or link.__context__
    return type(error).__name__


def _parse(data: bytes, max_bytes: int) -> KeyDocument:
    return parse_jwks(data, max_bytes=max_bytes)
