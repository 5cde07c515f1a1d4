"""Which handler answers which path, and the loop that serves one connection until it ends or becomes a WebSocket.

Not here: what the handlers say, and the upgrade itself. The one rule: a handler cannot hurt: a refusal becomes its
status, a bug a 500 without detail and one log entry, a slow one a 503, and the process lives.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

from relay.config.schema import Timeouts
from relay.errors import Rejected
from relay.net.handshake import is_upgrade
from relay.net.http import HTTPConnection, Request, Response

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

_log = logging.getLogger(__name__)


class Router:
    """Exact routes: (method, path) to handler. GET's handler answers HEAD too; OPTIONS needs one of its own."""

    __slots__ = ("_routes", "answered", "fallback")

    def __init__(self) -> None:
        self.answered: Callable[[int], None] = lambda status: None
        """Told the status of every answer, refusals included."""
        self.fallback: Handler | None = None
        """Asked about paths without a route; it raises Rejected(404) itself if it knows nothing better."""
        self._routes: dict[str, dict[str, Handler]] = {}

    def add(self, method: str, path: str, handler: Handler) -> None:
        """Raises ValueError for a route that exists."""
        methods = self._routes.setdefault(path, {})
        if method in methods:
            raise ValueError(f"{method} {path} has a handler already")
        methods[method] = handler

    async def dispatch(self, request: Request) -> Response:
        """The response to one request; handlers' refusals and bugs included. Raises only what the stream raises."""
        try:
            response = await self._find(request)(request)
            response.check()
            return response
        except Rejected as rejected:
            return Response.from_rejected(rejected)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise  # the connection broke while the body was read: nobody is left to answer
        except Exception:
            _log.exception("handler of %s %s failed", request.method, request.path)
            return Response.from_rejected(Rejected(500, "internal", "a bug on our side; it was logged"))

    def _find(self, request: Request) -> Handler:
        methods = self._routes.get(request.path)
        if methods is None and self.fallback is not None:
            return self.fallback
        if methods is None:
            raise Rejected(404, "not_found", "nothing is served at this path")
        handler = methods.get(request.method) or (methods.get("GET") if request.method == "HEAD" else None)
        if handler is None:
            allowed = sorted({*methods, "HEAD"} if "GET" in methods else methods)
            raise Rejected(
                405,
                "method_not_allowed",
                f"{request.method} is not for this path",
                headers=(("Allow", ", ".join(allowed)),),
            )
        return handler


async def serve_requests(
    connection: HTTPConnection, first_request: Request, router: Router, timeouts: Timeouts, *, upgrades: bool = True
) -> Request | None:
    """Answer `first_request` and those after it until the connection must end: then None, and only closing it is left.

    A request for a WebSocket is not answered but returned: the caller goes on from there. With `upgrades` False (the
    internal listener) it is a request like any other. Raises only what the stream raises.
    """
    request: Request | None = first_request
    try:
        while request is not None:
            if upgrades and is_upgrade(request):
                return request
            await _answer(connection, request, router, timeouts)
            request = await _next(connection, timeouts) if connection.reusable else None
    except Rejected as rejected:
        router.answered(rejected.status)
        await connection.refuse(rejected)
    else:
        await connection.finish()
    return None


async def _answer(connection: HTTPConnection, request: Request, router: Router, timeouts: Timeouts) -> None:
    with trio.move_on_after(timeouts.http_request) as deadline:
        response = await router.dispatch(request)
        await connection.respond(response)
        router.answered(response.status)
    if deadline.cancelled_caught:
        status = 408 if connection.body_pending else 503  # whose fault it was
        raise Rejected(status, "timeout", "the request took too long", setting="timeouts.http_request")


async def _next(connection: HTTPConnection, timeouts: Timeouts) -> Request | None:
    """The next request; None when none came. Raises Rejected for one that could not be read."""
    waiting = False
    with trio.move_on_after(timeouts.http_idle):
        waiting = await connection.wait_for_request()
    if not waiting:
        return None
    with trio.move_on_after(timeouts.head):
        return await connection.next_request()
    raise Rejected(408, "timeout", "the request head did not come in time", setting="timeouts.head")
