"""The HTTP pages: health, /auth/check and the playground on the public port, metrics and the API on the internal one.

Not here: HTTP itself (net/http, net/routes). The one rule: the public port tells nothing about the inside.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import TYPE_CHECKING, Final

import trio

from relay.auth.tokens import Identity
from relay.config.schema import Timeouts
from relay.counters import Counters
from relay.errors import Rejected
from relay.front.api import Api
from relay.front.guard import Guard, tickets_off
from relay.front.plugin_pages import PluginPages
from relay.front.state import State
from relay.front.tenants import Tenant, tenant_of
from relay.net.handshake import find_credential
from relay.net.head import Request
from relay.net.http import HTTPConnection, Response
from relay.net.link import Link
from relay.net.routes import Router, serve_requests
from relay.net.transport import Lost, Transport
from relay.ops.entry import Gauges
from relay.ops.logs import lines_lost
from relay.ops.metrics import exposition
from relay.plugin.meters import Meter

if TYPE_CHECKING:
    from relay.net.link import Link

LOOKED_AT: Final = 1000  # connections whose socket is asked when metrics are, a microsecond each


class Pages:
    """Handlers of both listeners' routes."""

    def __init__(self, state: State, counters: Counters, api: Api | None = None) -> None:
        self.state = state
        self.guard = Guard(state, counters)
        self.api = api
        self.counters = counters
        self.meters: Callable[[], Iterable[tuple[str, Meter]]] = list
        """The plugins' own figures."""
        self.plugin_pages: PluginPages | None = None

    def public(self) -> Router:
        router = Router()
        router.answered = self._count
        self._add_health(router)
        router.add("GET", "/auth/check", self.auth_check)
        router.add("OPTIONS", "/auth/check", self.auth_preflight)
        router.add("POST", "/auth/ticket", self.auth_ticket)
        router.add("OPTIONS", "/auth/ticket", self.auth_preflight)
        router.fallback = self.websocket_only
        if self.state.rules.config.server.playground:
            for path, page in self._playground().items():
                router.add("GET", path, page)
        return router

    def internal(self) -> Router:
        router = Router()
        router.answered = self._count
        self._add_health(router)
        router.add("GET", "/metrics", self.metrics)
        router.fallback = self._api_or_nothing
        return router

    async def _api_or_nothing(self, request: Request) -> Response:
        if self.api is not None and self.api.serves(request):
            return await self.api.answer(request)
        await trio.lowlevel.checkpoint()
        raise Rejected(404, "not_found", "nothing is served at this path")

    def _playground(self) -> dict[str, Callable[[Request], Awaitable[Response]]]:
        from relay.ops.playground import playground_pages

        def handler(
            content: bytes, content_type: str, headers: list[tuple[str, str]]
        ) -> Callable[[Request], Awaitable[Response]]:
            async def serve(request: Request) -> Response:
                await trio.lowlevel.checkpoint()
                return Response(200, content, content_type=content_type, headers=headers)

            return serve

        return {path: handler(*page) for path, page in playground_pages().items()}

    def _add_health(self, router: Router) -> None:
        router.add("GET", "/healthz", self.healthz)
        router.add("GET", "/readyz", self.readyz)

    async def websocket_only(self, request: Request) -> Response:
        """A page of a plugin; or a plain request where WebSockets are served (RFC 9110 section 15.5.22)."""
        if self.plugin_pages is not None and self.plugin_pages.serves(request):
            return await self.plugin_pages.answer(request)
        await trio.lowlevel.checkpoint()
        if request.path == "/ws" or request.path.startswith("/rooms/"):
            upgrade = (("Upgrade", "websocket"), ("Connection", "Upgrade"))
            raise Rejected(426, "upgrade_required", "this address is for WebSockets", headers=upgrade)
        raise Rejected(404, "not_found", "nothing is served at this path")

    async def healthz(self, request: Request) -> Response:
        """Alive: the event loop turns."""
        await trio.lowlevel.checkpoint()
        return Response.json({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """Ready for new connections; 503 while draining, or short of memory."""
        await trio.lowlevel.checkpoint()
        state = self.state
        status = "draining" if state.draining else "short of memory" if state.short_of_memory else "ready"
        return Response.json({"status": status}, 200 if state.ready else 503)

    async def auth_check(self, request: Request) -> Response:
        """Tells a page why its token is refused, which the browser's WebSocket does not."""
        cors = self._cors(request)
        try:
            identity = await self._identity(request)
        except Rejected as rejected:
            response = Response.from_rejected(rejected)
            response.headers.extend(cors)
            return response
        grants = identity.grants
        answer = {
            "subject": identity.subject,
            "expires": identity.expires,
            "issuer": identity.issuer,
            "join_at_start": list(grants.join_at_start),
        }
        room = request.parameter("room")
        if room is not None:
            tenant = self.state.tenants.get(identity.tenant)
            room = tenant.services.hub.aliases.resolve(room) if tenant is not None else room
            answer["room"] = {"name": room, "join": grants.may_join(room), "publish": grants.may_publish(room)}
        return Response.json(answer, headers=[("Cache-Control", "no-store"), *cors])

    async def _identity(self, request: Request) -> Identity:
        rules = self.state.rules
        auth = rules.config.auth
        identity = await self.guard.identify(request, find_credential(request, token_in_query=auth.token_in_query))
        tenant_of(self.state, identity, rules.hosts.owner(request.host))
        return identity

    async def auth_ticket(self, request: Request) -> Response:
        """Trades the token in the header for a ticket. A cookie would let any page ask for one."""
        cors = self._cors(request)
        try:
            if not self.state.rules.config.auth.tickets.enabled:
                raise tickets_off()
            credential = find_credential(request)
            identity = await self.guard.identify(
                request, credential if credential and credential.kind == "header" else None
            )
            tenant_of(self.state, identity, self.state.rules.hosts.owner(request.host))
            ticket, lifetime = self.guard.issue(request, identity)
        except Rejected as rejected:
            response = Response.from_rejected(rejected)
            response.headers.extend(cors)
            return response
        answer = {"ticket": ticket, "expires_in": lifetime}
        return Response.json(answer, headers=[("Cache-Control", "no-store"), *cors])

    async def auth_preflight(self, request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        return Response(204, b"", headers=self._cors(request))

    def _cors(self, request: Request) -> list[tuple[str, str]]:
        """Pages that may connect may also ask why they could not (Fetch standard, CORS protocol)."""
        origin = request.headers.get("origin")
        rules = self.state.rules
        owner = rules.hosts.owner(request.host)
        if origin is None or not rules.allows_origin(origin, request.host, self.state.certificates is not None, owner):
            return []
        return [
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Allow-Headers", "authorization"),
            ("Access-Control-Allow-Methods", "GET, POST"),
            ("Access-Control-Max-Age", "600"),
            ("Vary", "Origin"),
        ]

    async def metrics(self, request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        each = self._each()
        counters, gauges = each[""]
        accept = request.headers.get("accept") or ""
        content_type, body = exposition(counters, gauges, accept=accept, tenants=each if len(each) > 1 else None)
        return Response(200, body, content_type=content_type)

    def _each(self) -> dict[str, tuple[Counters, Gauges]]:
        """The figures of each tenant, with what live connections have counted for themselves so far."""
        totals = {name: copy.copy(tenant.services.counters) for name, tenant in self.state.tenants.items()}
        links: dict[str, list[Link]] = {name: [] for name in totals}
        for link in self.state.links:
            name = link.connection.identity.tenant
            tenant = self.state.tenants.get(name)
            if tenant is None or link.services is not tenant.services:  # it was taken out, and its clients are going
                continue
            links[name].append(link)
            if not link.finished:
                total = totals[name]
                total.bytes_in += link.bytes_in
                total.bytes_out += link.writer.bytes_out
                total.messages_in += link.connection.messages
        return {name: (totals[name], self._gauges(tenant, links[name])) for name, tenant in self.state.tenants.items()}

    def _gauges(self, tenant: Tenant, links: list[Link]) -> Gauges:
        protocols: dict[str, int] = {}
        hub = tenant.services.hub
        waiting = [0] * len(hub.channels)
        for link in links:
            name = link.connection.protocol.name
            protocols[name] = protocols.get(name, 0) + 1
            link.outbox.add_sizes(waiting)
        unsent, most = unsent_bytes(links)
        certificates = self.state.certificates
        journal = hub.journal
        return Gauges(
            meters=self.meters() if not tenant.name else (),
            rooms=len(hub.rooms),
            members=sum(room.size for room in hub.rooms.values()),
            published=hub.published,
            delivered=hub.delivered,
            connections_by_protocol=protocols,
            remembered_bytes=hub.archive.bytes,
            rooms_asleep=len(hub.archive),
            journal_bytes=None if journal is None else journal.bytes,
            journal_failures=None if journal is None else journal.failures,
            outbox_bytes=dict(zip(hub.channels.names, waiting, strict=True)),
            unsent_bytes=unsent,
            unsent_bytes_most=most,
            certificate_expiry={} if certificates is None else {"main": certificates.expires_at()},
            started_at=self.state.started_at,
            loop_lag=self.state.lag.longest,
            ready=self.state.ready,
            log_lines_lost=lines_lost(),
            revocations=len(self.state.revocations),
            guests=len(self.state.guests),
            short_of_memory=bool(self.state.short_of_memory),
            addresses_waiting=self.state.failures.waiting(trio.current_time()),
        )

    def _count(self, status: int) -> None:
        self.counters.http_requests[status] += 1


def unsent_bytes(links: Collection[Link]) -> tuple[int | None, int | None]:
    """What the kernel holds unsent for these connections, and the most for one; (None, None) where it does not tell.

    One system call for each: of more than LOOKED_AT, as many are taken at random, and the sum is an estimate.
    """
    looked_at = random.sample(list(links), LOOKED_AT) if len(links) > LOOKED_AT else links
    found = [unsent for link in looked_at if (unsent := link.transport.unsent()) is not None]
    if not found and links:
        return None, None
    return sum(found) * len(links) // max(1, len(found)), max(found, default=0)


async def serve_internal(stream: Transport, remote: str, router: Router, state: State) -> None:
    """One connection of the internal listener: plain HTTP, keep-alive. Raises nothing."""
    timeouts: Timeouts = state.rules.config.timeouts
    http = HTTPConnection(stream, state.rules.config.limits, remote=remote, tls=False)
    try:
        request = None
        with trio.move_on_after(timeouts.head):
            request = await http.next_request()
        if request is not None:
            await serve_requests(http, request, router, timeouts, upgrades=False)
    except Rejected as rejected:
        await http.refuse(rejected)
    except Lost:
        pass
    finally:
        stream.close()
