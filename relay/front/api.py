"""The API of the internal listener: keys, routes with parameters, typed bodies, one shape for every refusal.

Not here: what a route does (api_routes, and whoever else adds one). The one rule: nothing is looked at before the key
is, and whatever goes wrong is told as `{"error": code, "reason": sentence, "setting": config key if any}`.

    def show(asked: Asked) -> Any:
        return {"room": asked.path["room"], "most": asked.number("limit", 100, most=1000)}

    api.add("GET", "/rooms/{room}", show, query=("limit",))
"""

from __future__ import annotations

import hashlib
import hmac
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
import trio

from relay.config.suggest import did_you_mean
from relay.counters import Counters
from relay.errors import Refused, Rejected
from relay.net.head import Request, decoded
from relay.net.http import Response

log = logging.getLogger("relay")

BASE: Final = "/api/v1"
KEYS_SETTING: Final = "internal.api_keys"
OTHER: Final = "other"  # the label of requests for no route

STATUS_FOR_REFUSAL: Final[dict[str, int]] = {
    "bad_request": 400,
    "bad_room": 400,
    "no_such_channel": 400,
    "forbidden": 403,
    "room_closed": 403,
    "no_such_room": 404,
    "no_such_subject": 404,
    "too_large": 413,
    "rate_limited": 429,
    "internal": 500,
    "in_progress": 409,
    "plugin_off": 503,
    "unavailable": 503,
    "timeout": 504,
}
"""What `Refused` is over HTTP; a plugin's own word is 409."""

Body = TypeVar("Body")
Handler: TypeAlias = Callable[["Asked"], Any]
"""Gives what JSON can express, or a Response; may be async. Raises Rejected or Refused."""


class ApiKeys:
    """The keys, as digests: what is compared has one length and is not the secret."""

    __slots__ = ("_digests",)

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def check(self, authorization: str | None) -> None:
        """Looks at an Authorization header. Raises Rejected: 403 where there are no keys, 401 for a wrong one."""
        if not self._digests:
            raise Rejected(403, "api_off", "the API is off: it has no keys", setting=KEYS_SETTING)
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            why = "a key is needed: Authorization: Bearer KEY"
            raise Rejected(401, "api_key_missing", why, setting=KEYS_SETTING)
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        found = False
        for each in self._digests:  # all of them: the time it takes tells nothing
            found |= hmac.compare_digest(each, digest)
        if not found:
            raise Rejected(401, "api_key_wrong", "this key is not known here", setting=KEYS_SETTING)

    def __len__(self) -> int:
        return len(self._digests)


@dataclass(slots=True, frozen=True)
class Asked:
    """One request: the parameters in its path and its query, and its body as the route's type."""

    address: str
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any = None

    def number(self, name: str, default: int, *, most: int) -> int:
        """A query parameter from 1 to `most`. Raises Rejected(400)."""
        text = self.query.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
            raise Rejected(400, "bad_request", f"{name} is not a number from 1 to {most}")
        return int(text)

    def decoded(self, type_: type[Body]) -> Body:
        """The body, typed. Only for routes with that body."""
        assert isinstance(self.body, type_)
        return self.body


class Route:
    """One method of one path. `parts` are its segments; `{name}` takes any one segment."""

    __slots__ = ("body", "handler", "method", "parts", "pattern", "query")

    def __init__(
        self, method: str, pattern: str, handler: Handler, body: type[Any] | None, query: tuple[str, ...]
    ) -> None:
        self.method = method
        self.pattern = BASE + pattern
        self.parts = pattern.strip("/").split("/")
        self.handler = handler
        self.body: msgspec.json.Decoder[Any] | None = None if body is None else msgspec.json.Decoder(body)
        self.query = query

    def match(self, segments: list[str]) -> dict[str, str] | None:
        """The parameters, by name; None: it is another path."""
        if len(segments) != len(self.parts):
            return None
        found = {}
        for part, segment in zip(self.parts, segments, strict=True):
            if part[0] == "{":
                found[part[1:-1]] = segment
            elif part != segment:
                return None
        return found


class Api:
    """All routes. `keys` and `body_bytes` give what is in force now: a reload changes both."""

    def __init__(
        self, counters: Counters, keys: Callable[[], ApiKeys], body_bytes: Callable[[], int] = lambda: 1048576
    ) -> None:
        self._counters = counters
        self._keys = keys
        self._body_bytes = body_bytes
        self.routes: list[Route] = []

    def add(
        self, method: str, path: str, handler: Handler, *, body: type[Any] | None = None, query: tuple[str, ...] = ()
    ) -> None:
        """A route below /api/v1. `body` is a msgspec type, `query` the parameters it knows. Raises ValueError."""
        route = Route(method, path, handler, body, query)
        if any(other.method == method and other.pattern == route.pattern for other in self.routes):
            raise ValueError(f"{method} {route.pattern} has a handler already")
        self.routes.append(route)

    def serves(self, request: Request) -> bool:
        return request.path == BASE or request.path.startswith(BASE + "/")

    async def answer(self, request: Request) -> Response:
        """The answer to one request. Raises Rejected."""
        label, status = OTHER, 500
        try:
            self._keys().check(request.headers.get("authorization"))
            route, parameters = self._find(request)
            label = route.pattern
            asked = Asked(request.remote, parameters, _query(request, route), await self._body(request, route))
            response = await _respond(route, asked)
            status = response.status
        except Rejected as rejected:
            status = rejected.status
            raise
        finally:
            self._counters.api_requests[label, status] += 1
            if request.method != "GET":
                fields = {"method": request.method, "path": request.path, "status": status, "address": request.remote}
                log.info("api request", extra={"fields": fields})
        return response

    def _find(self, request: Request) -> tuple[Route, dict[str, str]]:
        """A literal segment goes before a parameter. Raises Rejected: 404, 405."""
        segments = [decoded(segment) for segment in request.raw_path[len(BASE) :].strip("/").split("/")]
        found = [(route, match) for route in self.routes if (match := route.match(segments)) is not None]
        if not found:
            raise Rejected(404, "not_found", f"the API has no such path; docs/api.md lists them, below {BASE}")
        method = "GET" if request.method == "HEAD" else request.method
        fitting = [(route, match) for route, match in found if route.method == method]
        if not fitting:
            allowed = ", ".join(sorted({route.method for route, _ in found}))
            why = f"{request.method} is not for this path; it takes {allowed}"
            raise Rejected(405, "method_not_allowed", why, headers=(("Allow", allowed),))
        return min(fitting, key=lambda pair: len(pair[1]))

    async def _body(self, request: Request, route: Route) -> Any:
        """Raises Rejected: 400, 413."""
        data = await request.read_body(self._body_bytes(), "internal.api_body_bytes")
        if route.body is None:
            if data:
                raise Rejected(400, "bad_request", "this path takes no body")
            return None
        try:
            return route.body.decode(data or b"{}")
        except (ValueError, RecursionError) as error:  # msgspec's own errors are ValueErrors
            why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise Rejected(400, "bad_request", f"the body cannot be understood: {why[:300]}") from None


def _query(request: Request, route: Route) -> dict[str, str]:
    """Raises Rejected(400) for a parameter the route does not know: a misspelt filter would show everything."""
    for name in request.query:
        if name not in route.query:
            known = f"known are {', '.join(route.query)}" if route.query else "none is known"
            why = f"no query parameter {name[:60]!r} here; {did_you_mean(name, route.query) or known}"
            raise Rejected(400, "bad_request", why)
    return {name: request.parameter(name) or "" for name in request.query}


async def _respond(route: Route, asked: Asked) -> Response:
    try:
        answer = route.handler(asked)
        if inspect.isawaitable(answer):
            answer = await _finished(answer)
        else:
            await trio.lowlevel.checkpoint()
    except Refused as refused:
        raise Rejected(
            STATUS_FOR_REFUSAL.get(refused.code, 409), refused.code, refused.message,
            retry_after=refused.retry_after, setting=refused.setting,
        ) from None  # fmt: skip
    if isinstance(answer, Response):
        return answer
    return Response.json(answer, headers=[("Cache-Control", "no-store")])


async def _finished(answer: Awaitable[Any]) -> Any:
    return await answer
