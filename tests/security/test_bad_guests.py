"""Strangers that are let in to say who they are (`auth.deferred`): silent, slow, flooding, lying, or gone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.e2e.harness import Overrides
from tests.security.attack import (
    BINARY,
    CLOSE,
    CONTINUATION,
    ELSEWHERE,
    PING,
    TEXT,
    V1_JSON,
    Socket,
    answer_of,
    ask,
    frame,
    reset_on_close,
    send_until_refused,
    tls,
    upgrade,
)
from tests.security.siege import RelayThread, besieged, folder_with, under_attack

pytestmark = pytest.mark.e2e

ROOM = "/rooms/echo:attack"
ON: Overrides = {
    "auth": {"deferred": {"enabled": True, "guests": 40, "per_address": 30, "bytes": 4096}},
    "timeouts": {"auth": 1.0, "close": 2.0},
}


@pytest.fixture(scope="module")
def hospitable(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayThread]:
    folder = folder_with(certificates, tmp_path_factory.mktemp("hospitable"))
    keys = [{"algorithm": "HS256", "kid": "dev", "secret_file": str(folder / "certs" / "token-secret")}]
    with besieged(folder, {**ON, "auth": {**ON["auth"], "keys": keys}}) as relay:
        yield relay


@asynccontextmanager
async def stranger(
    relay: RelayThread, path: str = "/ws", *, early: bytes = b"", source: str = ELSEWHERE
) -> AsyncIterator[Socket]:
    """Somebody who is accepted without a token. `early` is sent behind the request head."""
    async with tls(relay, source=source) as stream:
        await stream.send_all(upgrade(path, None, V1_JSON if path == "/ws" else None) + early)
        answer = await answer_of(stream)
        assert answer.status == 101, answer
        yield Socket(stream, answer.body)


def auth(token: str, **more: object) -> bytes:
    return frame(TEXT, json.dumps({"t": "auth", "token": token, **more}).encode())


def counted(code: str, count: int = 1) -> dict[str, int | range]:
    return {f"handshakes_rejected:{code}": count, f"guests_ended:{code}": count}


@pytest.mark.parametrize(
    ("said", "code", "close", "about"),
    [
        pytest.param(frame(TEXT, b'{"t":"join","room":"echo:a"}'), "auth_expected", 4401, "must be", id="another"),
        pytest.param(frame(TEXT, b"\0" * 100), "auth_expected", 4401, "[auth.deferred.enabled]", id="garbage"),
        pytest.param(frame(TEXT, b"[" * 4000), "auth_expected", 4401, "", id="nested"),
        pytest.param(frame(BINARY, b"\x81\xa1t"), "1003", 1003, "text", id="binary"),
        pytest.param(frame(TEXT, b"\xff\xfe"), "1007", 1007, "UTF-8", id="not UTF-8"),
        pytest.param(frame(TEXT, b"{}", mask=None), "1002", 1002, "masked", id="not masked"),
        pytest.param(frame(TEXT, b"{}", reserved=4), "1002", 1002, "reserved", id="compressed all the same"),
        pytest.param(frame(TEXT, b"", declared=1 << 40, width=64), "too_large", 1009, "4096", id="huge"),
        pytest.param(frame(TEXT, b"x" * 60000), "too_large", 1009, "[auth.deferred.bytes]", id="large"),
        pytest.param(
            frame(TEXT, b"{", fin=False) + frame(CONTINUATION, b"", fin=False) * 20, "too_large", 1009, "16", id="bits"
        ),
        pytest.param(frame(PING) * 30, "1008", 1008, "[limits.control_frames]", id="pings"),
        pytest.param(frame(TEXT, b'{"t":"ping"}') * 1000, "too_large", 1009, "4096", id="words"),
        pytest.param(auth("a.b.c"), "token_malformed", 4401, "token_malformed: ", id="no token"),
    ],
)
async def test_what_is_no_token_ends_it_with_a_code_and_a_reason(
    hospitable: RelayThread, said: bytes, code: str, close: int, about: str
) -> None:
    async with under_attack(hospitable, counted(code, 2)):
        async with stranger(hospitable) as guest:
            await send_until_refused(guest.stream, said)
            found, reason = await bye_and_close(guest)
            assert found == close
            assert about in reason
        async with stranger(hospitable, early=said) as guest:
            assert (await bye_and_close(guest))[0] == close


async def bye_and_close(guest: Socket) -> tuple[int, str]:
    """Pongs may come, then `bye` and a close that say the same."""
    while (said := json.loads(await guest.hear()))["t"] != "bye":
        assert said["t"] == "pong"
    code, reason = await guest.closed()
    assert said["code"] == code
    return code, reason


async def test_silence_and_drips_end_at_the_deadline(hospitable: RelayThread) -> None:
    token = hospitable.token("mallory")
    async with (
        under_attack(hospitable, counted("timeout", 3)) as bystander,
        stranger(hospitable) as silent,
        stranger(hospitable) as slow,
        stranger(hospitable, ROOM) as plain,
        trio.open_nursery() as nursery,
    ):

        async def drip() -> None:
            for byte in auth(token):
                await send_until_refused(slow.stream, bytes([byte]))
                await bystander.a_word()

        nursery.start_soon(drip)
        for guest in (silent, slow):
            assert await bye_and_close(guest) == (4401, "timeout: the token did not come in time [timeouts.auth]")
        assert (await plain.closed())[0] == 4401
        nursery.cancel_scope.cancel()


async def test_guests_are_bounded_in_all_and_for_an_address_and_others_come_in_all_the_while(
    hospitable: RelayThread,
) -> None:
    request = upgrade("/ws", None, V1_JSON)
    moved: dict[str, int | range] = {
        "handshakes_rejected:too_many_guests": 2,
        "handshakes_rejected:timeout": range(41),
        "guests_ended:left": range(41),
    }
    async with under_attack(hospitable, moved), AsyncExitStack() as stack:

        async def come(source: str) -> None:
            await stack.enter_async_context(stranger(hospitable, source=source))

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(come, ELSEWHERE)
        refused = await ask(hospitable, request, source=ELSEWHERE)
        assert (refused.status, refused.json()["setting"]) == (429, "auth.deferred.per_address")
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(come, "127.0.0.3")
        refused = await ask(hospitable, request, source="127.0.0.4")
        assert (refused.status, refused.json()["setting"]) == (503, "auth.deferred.guests")
        known = await ask(hospitable, upgrade("/ws", hospitable.token("ann"), V1_JSON), source=ELSEWHERE)
        assert known.status == 101, "who brings a token needs no guest's place"


async def test_who_leaves_in_any_way_leaves_nothing(hospitable: RelayThread) -> None:
    async with under_attack(hospitable, {"guests_ended:left": 60}):
        for number in range(60):
            async with stranger(hospitable) as guest:
                if number % 3 == 1:
                    reset_on_close(guest.stream)  # type: ignore[arg-type]
                elif number % 3 == 2:
                    await guest.send(frame(CLOSE, b"\x03\xe8"))
                    assert await guest.next() == (CLOSE, b"\x03\xe8")


async def test_bad_tokens_make_the_address_wait_as_at_the_handshake(folder: Path) -> None:
    keys = [{"algorithm": "HS256", "kid": "dev", "secret_file": str(folder / "certs" / "token-secret")}]
    with besieged(folder, {**ON, "auth": {**ON["auth"], "keys": keys}, "limits": {"auth_failures": 3}}) as relay:
        forged = relay.token("mallory")[:-6] + "AAAAAA"
        moved = {**counted("token_bad_signature", 3), "handshakes_rejected:too_many_failures": 1}
        async with under_attack(relay, moved):
            for _ in range(3):
                async with stranger(relay, early=auth(forged)) as guest:
                    assert (await bye_and_close(guest))[0] == 4401
            refused = await ask(relay, upgrade("/ws", None, V1_JSON), source=ELSEWHERE)
            assert (refused.status, refused.json()["error"]) == (429, "too_many_failures")
        assert forged.rpartition(".")[2] not in relay.log


async def test_a_good_token_does_not_open_what_it_does_not_grant(hospitable: RelayThread) -> None:
    mine = hospitable.token("mallory", join=["echo:mine"])
    everywhere = hospitable.token("mallory")
    over = hospitable.token("mallory", expires_in=-60)
    moved = {**counted("forbidden"), **counted("no_such_room"), **counted("token_expired")}
    async with under_attack(hospitable, moved):
        for path, token, close in (
            (ROOM, mine, 4403), ("/rooms/nothing:here", everywhere, 4404), (ROOM, over, 4401),
        ):  # fmt: skip
            async with stranger(hospitable, path) as guest:
                await guest.say(token)
                assert (await guest.closed())[0] == close


async def test_what_comes_behind_a_good_token_is_the_sessions_affair(hospitable: RelayThread) -> None:
    """In order, in the same read, and judged by the session's rules: a second token renews, garbage is refused."""
    token = hospitable.token("mallory")
    join = frame(TEXT, b'{"t":"join","room":"echo:attack","id":2}')
    words = b"".join(
        frame(TEXT, json.dumps({"t": "publish", "room": "echo:attack", "data": n, "id": n + 10}).encode())
        for n in range(50)
    )
    async with under_attack(hospitable, {"guests_ended:admitted": 2, "requests_refused:bad_request": 1}):
        async with stranger(hospitable, early=auth(token, id=1) + join + words + auth(token, id=3)) as guest:
            heard = [json.loads(await guest.hear()) for _ in range(104)]
            assert [said["t"] for said in heard[:3]] == ["hello", "ok", "ok"]
            answers = [said["id"] for said in heard if said["t"] == "ok"]
            assert answers == [1, 2, *range(10, 60), 3]
            await guest.send(frame(TEXT, b"garbage"))
            assert json.loads(await guest.hear())["code"] == "bad_request"
        async with stranger(hospitable, early=auth(token) + b"\xff\xff\xff\xff\xff\xff") as guest:
            assert json.loads(await guest.hear())["t"] == "hello"
            assert (await bye_and_close(guest))[0] == 1002


async def test_without_the_mode_a_stranger_gets_a_status(relay: RelayThread) -> None:
    async with under_attack(relay, {"handshakes_rejected:token_missing": 1}):
        assert (await ask(relay, upgrade("/ws", None, V1_JSON))).status == 401
