"""Pages of plugins, below /plugins/NAME/ on the public port: found, let in by token, asked, answered.

Not here: what a page says (plugin/web). The one rule: without a good token nothing is said of a page that is not
public, not even whether it is there.
"""

from __future__ import annotations

from typing import Final

import trio

from relay.errors import Refused, Rejected
from relay.front.guard import Guard
from relay.front.state import State
from relay.front.tenants import tenant_of
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
    """A page that is not public is that of the caller's tenant, a public one of the tenant whose host it is."""

    def __init__(self, state: State, guard: Guard) -> None:
        self._state = state
        self._guard = guard

    def serves(self, request: Request) -> bool:
        return request.path.startswith(BASE)

    async def answer(self, request: Request) -> Response:
        """Raises Rejected."""
        name, _, rest = request.path.removeprefix(BASE).partition("/")
        owner = self._state.rules.hosts.owner(request.host)
        plugin, page = self._find(owner or "", name, request.method, f"/{rest}")
        subject = None
        if page is None or not page.public:
            identity = await self._guard.identify(request, find_credential(request))
            subject = identity.subject
            tenant = tenant_of(self._state, identity, owner).name
            if tenant != (owner or ""):
                plugin, page = self._find(tenant, name, request.method, f"/{rest}")
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

    def _find(self, tenant: str, name: str, method: str, path: str) -> tuple[Supervised | None, Page | None]:
        served = self._state.tenants.get(tenant)
        plugins = served.plugins if served is not None else []
        plugin = next((plugin for plugin in plugins if plugin.name == name), None)
        page = None if plugin is None else plugin.pages.get(("GET" if method == "HEAD" else method, path))
        return plugin, page

    @staticmethod
    def _none(plugin: Supervised | None, path: str) -> Rejected:
        allowed = [] if plugin is None else sorted(method for method, at in plugin.pages if at == path)
        if allowed:
            return Rejected(
                405, "method_not_allowed", "this page has other methods", headers=(("Allow", ", ".join(allowed)),)
            )
        return Rejected(404, "not_found", "nothing is served at this path")
