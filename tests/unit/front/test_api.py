"""The API's own rules: keys first, then routes, parameters and bodies; every refusal has one shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
import trio

from relay.counters import Counters
from relay.errors import Refused, Rejected
from relay.front.api import OTHER, Api, ApiKeys, Asked
from relay.net.head import Headers, Request
from relay.net.http import Response

KEY = "0123456789abcdef"


class Order(msgspec.Struct, forbid_unknown_fields=True):
    what: str
    count: int = 1


def show(asked: Asked) -> Any:
    return {"path": dict(asked.path), "limit": asked.number("limit", 100, most=1000)}


def order(asked: Asked) -> Any:
    body = asked.decoded(Order)
    return {"ordered": [body.what] * body.count}


async def slow(asked: Asked) -> Any:
    await trio.lowlevel.checkpoint()
    return Response(204)


def refuse(asked: Asked) -> Any:
    raise Refused(asked.path["code"], "because", setting="limits.x")


def bug(asked: Asked) -> Any:
    raise ZeroDivisionError


def api(*keys: str) -> Api:
    made = Api(Counters(), lambda: ApiKeys(keys or (KEY, "another key of 16")), lambda: 1024)
    made.add("GET", "/rooms/{room}", show, query=("limit",))
    made.add("GET", "/rooms/all", lambda asked: "all")
    made.add("POST", "/rooms/{room}", order, body=Order)
    made.add("DELETE", "/rooms/{room}", slow)
    made.add("GET", "/refuse/{code}", refuse)
    made.add("GET", "/bug", bug)
    return made


async def ask(
    api: Api, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, Any]:
    async def read_body(most: int, setting: str | None) -> bytes:
        await trio.lowlevel.checkpoint()
        if len(body) > most:
            raise Rejected(413, "too_large", "too much", setting=setting)
        return body

    fields = {"host": "h", "authorization": f"Bearer {KEY}"} if headers is None else headers
    request = Request(method, target, Headers(fields.items()), remote="10.0.0.1", read_body=read_body)
    try:
        response = await api.answer(request)
    except Rejected as rejected:
        response = Response.from_rejected(rejected)
    return response.status, msgspec.json.decode(response.body) if response.body else None


async def refused(api: Api, method: str, target: str, body: bytes = b"", **more: Any) -> tuple[int, str, str | None]:
    status, answer = await ask(api, method, target, body, **more)
    assert answer["reason"]
    return status, answer["error"], answer.get("setting")


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "api_key_missing"),
        ("", "api_key_missing"),
        ("Bearer", "api_key_missing"),
        (f"Basic {KEY}", "api_key_missing"),
        ("Bearer wrong", "api_key_wrong"),
        (f"Bearer {KEY}x", "api_key_wrong"),
        (f"Bearer {KEY[:-1]}", "api_key_wrong"),
        ("Bearer \xe4\xff", "api_key_wrong"),
    ],
)
async def test_nothing_is_told_without_a_key(authorization: str | None, code: str) -> None:
    headers = {"host": "h"} if authorization is None else {"host": "h", "authorization": authorization}
    for path in ("/api/v1/rooms/a", "/api/v1/nothing"):  # nor whether there is such a path
        found = await refused(api(), "GET", path, headers=headers)
        assert found == (401, code, "internal.api_keys")


async def test_every_key_opens_and_the_scheme_is_spelt_as_one_likes() -> None:
    for value in (f"bearer {KEY}", "BEARER another key of 16"):
        status, _ = await ask(api(), "GET", "/api/v1/rooms/a", headers={"host": "h", "authorization": value})
        assert status == 200


async def test_without_keys_it_is_off_and_says_which_setting() -> None:
    made = Api(Counters(), lambda: ApiKeys(()))
    assert await refused(made, "GET", "/api/v1/info") == (403, "api_off", "internal.api_keys")


async def test_parameters_in_the_path_are_decoded_after_it_was_cut() -> None:
    assert await ask(api(), "GET", "/api/v1/rooms/a%2Fb:%C3%A9") == (200, {"path": {"room": "a/b:é"}, "limit": 100})


async def test_a_literal_segment_goes_before_a_parameter() -> None:
    assert await ask(api(), "GET", "/api/v1/rooms/all") == (200, "all")


async def test_unknown_paths_and_methods() -> None:
    assert await refused(api(), "GET", "/api/v1/room") == (404, "not_found", None)
    assert await refused(api(), "GET", "/api/v1") == (404, "not_found", None)
    assert await refused(api(), "PUT", "/api/v1/rooms/a") == (405, "method_not_allowed", None)
    _, answer = await ask(api(), "PUT", "/api/v1/rooms/a")
    assert "DELETE, GET, POST" in answer["reason"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=", "limit=-1", "limit=1&limit=2", "limt=1"]
)
async def test_a_bad_query_is_refused(query: str) -> None:
    assert await refused(api(), "GET", f"/api/v1/rooms/a?{query}") == (400, "bad_request", None)


async def test_a_misspelt_parameter_gets_a_hint() -> None:
    _, answer = await ask(api(), "GET", "/api/v1/rooms/a?limt=1")
    assert "did you mean `limit`?" in answer["reason"]


async def test_bodies_are_typed() -> None:
    assert await ask(api(), "POST", "/api/v1/rooms/a", b'{"what":"tea","count":2}') == (200, {"ordered": ["tea"] * 2})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "`what`"),
        (b"{", "truncated"),
        (b'{"what":1}', "$.what"),
        (b'{"what":"tea","milk":true}', "`milk`"),
        (b'{"what":"\xff"}', "understood"),
        (b'{"what":' + b"[" * 900, "understood"),
    ],
)
async def test_a_bad_body_says_what_is_wrong_with_it(body: bytes, said: str) -> None:
    status, answer = await ask(api(), "POST", "/api/v1/rooms/a", body)
    assert (status, answer["error"]) == (400, "bad_request")
    assert said in answer["reason"]


async def test_a_large_body_is_refused_with_its_setting() -> None:
    found = await refused(api(), "POST", "/api/v1/rooms/a", b"x" * 1025)
    assert found == (413, "too_large", "internal.api_body_bytes")


async def test_a_body_where_none_belongs_is_refused() -> None:
    assert await refused(api(), "DELETE", "/api/v1/rooms/a", b"{}") == (400, "bad_request", None)


async def test_a_handler_may_wait_and_answer_by_itself() -> None:
    assert await ask(api(), "DELETE", "/api/v1/rooms/a") == (204, None)


@pytest.mark.parametrize(("code", "status"), [("no_such_room", 404), ("too_large", 413), ("not_your_turn", 409)])
async def test_refusals_become_statuses(code: str, status: int) -> None:
    assert await refused(api(), "GET", f"/api/v1/refuse/{code}") == (status, code, "limits.x")


async def test_requests_are_counted_by_route_never_by_path() -> None:
    made = api()
    await ask(made, "GET", "/api/v1/rooms/a")
    await ask(made, "GET", "/api/v1/rooms/b")
    await ask(made, "GET", "/api/v1/nothing")
    await ask(made, "GET", "/api/v1/rooms/b?x=1")
    with pytest.raises(ZeroDivisionError):
        await ask(made, "GET", "/api/v1/bug")
    assert dict(made._counters.api_requests) == {
        ("/api/v1/rooms/{room}", 200): 2,
        ("/api/v1/rooms/{room}", 400): 1,
        ("/api/v1/bug", 500): 1,
        (OTHER, 404): 1,
    }


def test_two_handlers_for_one_route_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="already"):
        api().add("GET", "/bug", bug)
