"""Pages of a plugin: methods marked with `@route`, served by the public listener below /plugins/NAME/.

    @route("GET", "/board")
    def board(self, request: WebRequest) -> dict[str, int]:
        return self.scores

Not here: HTTP (net), and who may ask (front/plugin_pages). The one rule: a page needs a token unless it says
`public=True`, and what it raises hurts nobody but the one who asked.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

import msgspec

MARK: Final = "__relay_route__"
METHODS: Final = ("GET", "POST", "PUT", "DELETE")
_PATH: Final = re.compile(r"/(?:[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*)?")
_json: Final = msgspec.json.Encoder()

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(slots=True, frozen=True)
class WebRequest:
    """What was asked. `path` is below /plugins/NAME; `subject` whose token came along, None on a public page.

    `query` has the last value of each parameter; names in `headers` are lower case.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    subject: str | None

    def json(self) -> Any:
        """The body as a JSON document. Raises ValueError."""
        return msgspec.json.decode(self.body)


@dataclass(slots=True, frozen=True)
class WebResponse:
    """An answer. A page may also return str, bytes or anything JSON can express, and None for 204."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True, frozen=True)
class Page:
    """One marked method, bound to its plugin."""

    method: str
    path: str
    public: bool
    handler: Callable[[WebRequest], Any] = field(compare=False)
    is_async: bool = False


def route(
    method: Literal["GET", "POST", "PUT", "DELETE"], path: str, *, public: bool = False
) -> Callable[[Method], Method]:
    """Marks a method `(self, request)` as the page at /plugins/NAME/path. It may be async."""

    def marked(function: Method) -> Method:
        setattr(function, MARK, (method, path, public))
        return function

    return marked


def is_page(value: object) -> bool:
    return hasattr(value, MARK)


def check_page(name: str, function: Callable[..., Any]) -> list[tuple[str, str]]:
    """What is wrong with a marked method, as (what, hint)."""
    if not inspect.isfunction(function):
        return [("is marked with @route, but is no plain method", "")]
    method, path, _ = getattr(function, MARK)
    if method not in METHODS:
        return [(f"has the method {method!r}", f"one of {', '.join(METHODS)}")]
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        return [(f"has the path {path!r}", "it begins with / and has no parameters: those come in the query")]
    if list(inspect.signature(function).parameters)[1:] != ["request"]:
        return [("does not take (self, request)", f"def {name}(self, request: WebRequest)")]
    return []


def pages(plugin: object) -> dict[tuple[str, str], Page]:
    """The marked methods of a plugin, by method and path."""
    found = {}
    for name in dir(type(plugin)):
        function = inspect.getattr_static(type(plugin), name)
        if is_page(function):
            method, path, public = getattr(function, MARK)
            handler = getattr(plugin, name)
            found[method, path] = Page(method, path, public, handler, inspect.iscoroutinefunction(handler))
    return found


def as_response(answer: object) -> WebResponse:
    """What a page returned. Raises TypeError for what JSON cannot express."""
    if isinstance(answer, WebResponse):
        return answer
    if answer is None:
        return WebResponse(204)
    if isinstance(answer, str):
        return WebResponse(body=answer.encode())
    if isinstance(answer, bytes):
        return WebResponse(body=answer, content_type="application/octet-stream")
    return WebResponse(body=_json.encode(answer), content_type="application/json")
