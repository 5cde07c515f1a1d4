"""Credentials that are not a token in a header: tickets used twice, stolen or raced for, and cookies that a browser
sends for a page of somebody else's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.harness import UPGRADE, Answer, bearer
from tests.security.attack import ELSEWHERE, ask, head
from tests.security.siege import RelayThread, besieged, folder_with, under_attack

pytestmark = pytest.mark.e2e

ROOM = "/rooms/echo:attack"
PAGE = "https://app.example"


@pytest.fixture(scope="module")
def open_door(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayThread]:
    auth: dict[str, Any] = {
        "tickets": {"enabled": True, "bind_address": True, "ipv4_prefix": 32, "per_subject": 3},
        "cookie": "__Host-relay",
        "allowed_origins": ["*", PAGE],
    }
    with besieged(folder_with(certificates, tmp_path_factory.mktemp("open")), {"auth": auth}) as relay:
        relay.configure({"auth": auth})
        yield relay


async def a_ticket(relay: RelayThread, subject: str = "ann", *, source: str = "127.0.0.1", **more: float) -> str:
    request = head("/auth/ticket", {**bearer(relay.token(subject, **more)), "Content-Length": "0"}, method="POST")
    answer = await ask(relay, request, source=source)
    assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
    assert answer.json()["expires_in"] == 30
    return str(answer.json()["ticket"])


async def bring(relay: RelayThread, ticket: str, source: str = "127.0.0.1") -> Answer:
    return await ask(relay, head(f"{ROOM}?ticket={ticket}", UPGRADE), source=source)


async def test_a_ticket_opens_one_websocket_and_not_a_second(open_door: RelayThread) -> None:
    async with under_attack(open_door, {"handshakes_rejected:ticket_unknown": 1}):
        ticket = await a_ticket(open_door)
        assert (await bring(open_door, ticket)).status == 101
        again = await bring(open_door, ticket)
        assert (again.status, again.json()["error"]) == (401, "ticket_unknown")


async def test_of_many_who_race_for_one_ticket_one_wins(open_door: RelayThread) -> None:
    answers: list[int] = []

    async def race(ticket: str) -> None:
        answers.append((await bring(open_door, ticket)).status)

    async with under_attack(open_door, {"handshakes_rejected:ticket_unknown": 19}):
        ticket = await a_ticket(open_door)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(race, ticket)
    assert sorted(answers) == [101, *[401] * 19]


async def test_a_ticket_taken_elsewhere_is_refused_and_void(open_door: RelayThread) -> None:
    counts = {"handshakes_rejected:ticket_elsewhere": 1, "handshakes_rejected:ticket_unknown": 1}
    async with under_attack(open_door, counts):
        ticket = await a_ticket(open_door)
        stolen = await bring(open_door, ticket, ELSEWHERE)
        assert (stolen.json()["error"], stolen.json()["setting"]) == ("ticket_elsewhere", "auth.tickets.bind_address")
        assert (await bring(open_door, ticket)).status == 401


async def test_a_ticket_does_not_outlive_its_token(open_door: RelayThread) -> None:
    async with under_attack(open_door, {"handshakes_rejected:token_expired": 1}):
        ticket = await a_ticket(open_door, expires_in=-9.0)  # within auth.leeway for a second
        await trio.sleep(1.2)
        answer = await bring(open_door, ticket)
        assert (answer.status, answer.json()["error"]) == (401, "token_expired")


async def test_no_ticket_stands_in_the_log_or_the_metrics(open_door: RelayThread) -> None:
    ticket = await a_ticket(open_door)
    await bring(open_door, ticket)
    await bring(open_door, ticket)
    assert ticket not in open_door.log


@pytest.mark.parametrize("given", ["nothing", "a cookie", "the query", "a ticket"])
async def test_a_ticket_is_given_for_a_token_in_the_header_alone(open_door: RelayThread, given: str) -> None:
    path = "/auth/ticket"
    fields = {"Content-Length": "0", "Origin": PAGE}
    if given == "a cookie":
        fields["Cookie"] = f"__Host-relay={open_door.token()}"
    if given == "the query":
        path += f"?token={open_door.token()}"
    if given == "a ticket":
        path += f"?ticket={await a_ticket(open_door)}"
    answer = await ask(open_door, head(path, fields, method="POST"))
    assert answer.status == 401
    assert answer.headers["access-control-allow-origin"] == PAGE


async def test_a_page_may_ask_for_a_ticket(open_door: RelayThread) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    preflight = await ask(open_door, head("/auth/ticket", asked, method="OPTIONS"))
    assert preflight.status == 204
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert preflight.headers["access-control-allow-headers"] == "authorization"
    assert "access-control-allow-credentials" not in preflight.headers


async def test_where_tickets_are_off_both_ends_say_which_setting_it_is(relay: RelayThread) -> None:
    async with under_attack(relay, {"handshakes_rejected:tickets_off": 1}):
        refused = await bring(relay, "x")
        request = head("/auth/ticket", {**bearer(relay.token()), "Content-Length": "0"}, method="POST")
        for answer in (refused, await ask(relay, request)):
            assert (answer.status, answer.json()["setting"]) == (404, "auth.tickets.enabled")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (PAGE, 101), (None, 403), ("https://evil.example", 403), ("null", 403), ("https://localhost", 403),
        ("http://app.example", 403), ("https://app.example.evil.example", 403), (f"{PAGE}, https://evil.example", 403),
    ],
)  # fmt: skip
async def test_a_cookie_counts_only_for_pages_that_are_allowed_by_name(
    open_door: RelayThread, origin: str | None, status: int
) -> None:
    """The configuration allows every origin, `*`, for those who bring a token themselves."""
    fields = {**UPGRADE, "Cookie": f"__Host-relay={open_door.token()}"}
    if origin is not None:
        fields["Origin"] = origin
    async with under_attack(open_door, {} if status == 101 else {"handshakes_rejected:cookie_origin": 1}):
        answer = await ask(open_door, head(ROOM, fields))
        assert answer.status == status
        if status == 403:
            assert answer.json()["setting"] == "auth.allowed_origins"


async def test_two_cookies_of_the_name_are_refused_because_a_neighbour_may_have_set_one(open_door: RelayThread) -> None:
    cookies = f"__Host-relay={open_door.token('mallory')}; __Host-relay={open_door.token()}"
    async with under_attack(open_door, {"handshakes_rejected:bad_request": 1}):
        answer = await ask(open_door, head(ROOM, {**UPGRADE, "Cookie": cookies, "Origin": PAGE}))
        assert answer.status == 400


async def test_without_the_setting_a_cookie_is_nothing(relay: RelayThread) -> None:
    fields = {**UPGRADE, "Cookie": f"__Host-relay={relay.token()}", "Origin": "https://localhost"}
    async with under_attack(relay, {"handshakes_rejected:token_missing": 1}):
        assert (await ask(relay, head(ROOM, fields))).status == 401
