"""Addresses that may not come in, and those that try token after token."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.e2e.harness import bearer
from tests.security.attack import (
    ELSEWHERE,
    Vanished,
    answer_of,
    ask,
    head,
    open_socket,
    socket_to,
    tcp,
    the_rest,
    tls,
    upgrade,
)
from tests.security.siege import besieged, under_attack

pytestmark = pytest.mark.e2e

ROOM = "/rooms/echo:attack"
FORGED = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImRldiJ9.eyJzdWIiOiJhbm4ifQ.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


async def test_a_denied_address_is_turned_away_before_tls_and_a_reload_changes_who_is(folder: Path) -> None:
    with besieged(folder, {"limits": {"deny_addresses": ["127.0.0.2"]}}) as relay:
        async with (
            under_attack(relay, {"handshakes_rejected:address_denied": 1}),
            tcp(relay, source=ELSEWHERE) as stream,
        ):
            assert await the_rest(stream) == b"", "not even an alert"
        relay.configure({"limits": {"allow_addresses": ["127.0.0.1", "127.0.0.2"], "deny_addresses": []}})
        await trio.to_thread.run_sync(relay.reload)
        async with under_attack(relay, {}), socket_to(relay, ROOM, source=ELSEWHERE) as client:
            await client.say("here I am")
            assert await client.hear() == "here I am"
        relay.configure({"limits": {"allow_addresses": ["127.0.0.1"]}})
        await trio.to_thread.run_sync(relay.reload)
        async with under_attack(relay, {"handshakes_rejected:address_denied": 1}):
            with pytest.raises((Vanished, trio.BrokenResourceError)):
                await ask(relay, upgrade(ROOM, relay.token()), source=ELSEWHERE)


BACKOFF = {"auth_failures": 3, "auth_backoff": 60.0}


async def test_who_tries_token_after_token_has_to_wait_and_its_good_token_too_while_others_come_in(
    folder: Path,
) -> None:
    with besieged(folder, {"limits": BACKOFF}) as relay:
        counts = {"handshakes_rejected:token_bad_signature": 3, "handshakes_rejected:too_many_failures": 2}
        async with under_attack(relay, counts):
            for _ in range(3):
                assert (await ask(relay, upgrade(ROOM, FORGED), source=ELSEWHERE)).status == 401
            for token in (FORGED, relay.token()):
                refused = await ask(relay, upgrade(ROOM, token), source=ELSEWHERE)
                assert refused.status == 429
                assert refused.json()["error"] == "too_many_failures"
                assert refused.json()["setting"] == "limits.auth_failures"
                assert 1 <= int(refused.headers["retry-after"]) <= 60
            checked = await ask(relay, head("/auth/check", bearer(relay.token())), source=ELSEWHERE)
            assert checked.status == 429, "no way around it to find out whether a token is good"
            assert (await ask(relay, upgrade(ROOM, relay.token()))).status == 101


async def test_guesses_at_auth_check_count_as_well(folder: Path) -> None:
    with besieged(folder, {"limits": BACKOFF}) as relay:
        async with under_attack(relay, {"handshakes_rejected:too_many_failures": 1}):
            for _ in range(3):
                assert (await ask(relay, head("/auth/check", bearer(FORGED)), source=ELSEWHERE)).status == 401
            assert (await ask(relay, upgrade(ROOM, FORGED), source=ELSEWHERE)).status == 429


async def test_old_tokens_and_a_good_one_between_shut_nobody_out(folder: Path) -> None:
    """Behind one address are many: an office whose apps wake up with old tokens is no attack."""
    with besieged(folder, {"limits": BACKOFF}) as relay:
        counts = {"handshakes_rejected:token_expired": 6, "handshakes_rejected:token_bad_signature": 4}
        async with under_attack(relay, counts):
            for _ in range(6):
                expired = relay.token(expires_in=-3600.0)
                assert (await ask(relay, upgrade(ROOM, expired), source=ELSEWHERE)).status == 401
            for _ in range(2):
                for _ in range(2):
                    assert (await ask(relay, upgrade(ROOM, FORGED), source=ELSEWHERE)).status == 401
                async with tls(relay, source=ELSEWHERE) as stream:
                    await open_socket(relay, stream, ROOM)


async def test_a_page_is_told_with_a_close_frame_where_that_is_asked_for(folder: Path) -> None:
    settings = {"limits": {**BACKOFF, "auth_failures": 1}, "websocket": {"accept_then_close": True}}
    with besieged(folder, settings) as relay:
        counts = {"handshakes_rejected:token_bad_signature": 1, "handshakes_rejected:too_many_failures": 1}
        async with under_attack(relay, counts):
            for code, word in ((4401, "token_bad_signature"), (4229, "too_many_failures")):
                async with tls(relay, source=ELSEWHERE) as stream:
                    await stream.send_all(upgrade(ROOM, FORGED))
                    answer = await answer_of(stream)
                    assert answer.status == 101
                    assert int.from_bytes(answer.body[2:4], "big") == code
                    assert word.encode() in answer.body
