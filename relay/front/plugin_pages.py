"""Pages of plugins, below /plugins/NAME/ on the public port: found, let in by token, asked, answered.

Not here: what a page says (plugin/web). The one rule: without a good token nothing is said of a page that is not
public, not even whether it is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import trio

from relay.errors import Refused, Rejected
from relay.front.guard import Guard
from relay.net.handshake import find_credential
from relay.net.head import Request
from relay.net.http import Response
from relay.plugin.supervisor import Supervised
from relay.plugin.web import Page, WebRequest

BASE: Final = "/plugins/"
BODY_BYTES: Final = 1048576

STATUS_FOR_REFUSAL: Final[dict[str, int]] = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "no_such_room": 404,
    "no_such_subject": 404,
    "too_large": 413,
    "rate_limited": 429,
    "internal": 500,
    "plugin_off": 503,
    "timeout": 504,
}
"""What `Refused` is over HTTP; a plugin's own word is 409."""


class PluginPages:
    def __init__(self, plugins: Iterable[Supervised], guard: Guard) -> None:
        self._plugins = {plugin.name: plugin for plugin in plugins}
        self._guard = guard

    def serves(self, request: Request) -> bool:
        return request.path.startswith(BASE)

    async def answer(self, request: Request) -> Response:
        """Raises Rejected."""
        name, _, rest = request.path.removeprefix(BASE).partition("/")
        plugin = self._plugins.get(name)
        page = None if plugin is None else self._find(plugin, request.method, f"/{rest}")
        subject = None
        if page is None or not page.public:
            subject = (await self._guard.identify(request, find_credential(request))).subject
        if plugin is None or page is None:
            await trio.lowlevel.checkpoint()
            raise self._none(plugin, f"/{rest}")
        asked = WebRequest(
            request.method,
            page.path,
            {key: values[-1] for key, values in request.query.items()},
            {key: value for key, value in request.headers.items() if key != "authorization"},
            await request.read_body(BODY_BYTES),
            subject,
        )
        try:
            said = await plugin.serve(page, asked)
        except Refused as refused:
            status = STATUS_FOR_REFUSAL.get(refused.code, 409)
            raise Rejected(
                status, refused.code, refused.message, retry_after=refused.retry_after, setting=refused.setting
            ) from None
        return Response(said.status, said.body, said.content_type, said.headers)

    @staticmethod
    def _find(plugin: Supervised, method: str, path: str) -> Page | None:
        return plugin.pages.get(("GET" if method == "HEAD" else method, path))

    @staticmethod
    def _none(plugin: Supervised | None, path: str) -> Rejected:
        allowed = [] if plugin is None else sorted(method for method, at in plugin.pages if at == path)
        if allowed:
            return Rejected(
                405, "method_not_allowed", "this page has other methods", headers=(("Allow", ", ".join(allowed)),)
            )
        return Rejected(404, "not_found", "nothing is served at this path")
