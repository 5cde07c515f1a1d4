"""Revocation while the relay runs: which sessions end, and what the file says and is told."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from relay.auth.revocation import Revocation, Revocations, RevocationsFull
from relay.config import load
from relay.errors import CloseCode, ConfigError
from relay.front.revoking import Revoking, read_at_start
from relay.process.clocks import watch_wall_clock
from relay.session.everybody import AT_ONCE
from tests.unit.session.kit import START, Client, House, open_house, settings
from tests.unit.session.plugins import Quick

PLUGINS: dict[str, Any] = {"q": (Quick, {})}


class Desk:
    """A house whose tokens may be revoked."""

    def __init__(self, house: House, path: Path | None, **auth: Any) -> None:
        self.house = house
        overrides = [(f"auth.{name}", str(value)) for name, value in auth.items()]
        if path is not None:
            overrides.append(("auth.revocation_file", str(path)))
        self.loaded = load(None, environ={}, overrides=overrides)
        self.revocations = Revocations(self.loaded.config.auth.max_revocations)
        rules = SimpleNamespace(config=self.loaded.config, loaded=self.loaded)
        self.state = SimpleNamespace(rules=rules, revocations=self.revocations)
        seen = read_at_start(self.loaded, self.revocations, house.services.wall())
        sessions = house.services.sessions
        self.revoking = Revoking(self.state, sessions.values, house.services.wall, seen)  # type: ignore[arg-type]
        house.services.check_revoked = self.revocations.check

    def client(self, subject: str = "ann", **token: Any) -> Client:
        """With a token that has these: jti, issuer, issued."""
        client = self.house.client(subject)
        sessions, connection = self.house.services.sessions, client.connection
        connection.session = f"{connection.session} {len(sessions)}"  # the kit's names are one for each subject
        sessions[connection.session] = connection
        client.connection.identity = dataclasses.replace(client.connection.identity, **token)
        return client


@asynccontextmanager
async def open_desk(path: Path | None = None, **auth: Any) -> AsyncIterator[Desk]:
    async with open_house(PLUGINS, settings()) as house:
        yield Desk(house, path, **auth)


def write(path: Path, *lines: str) -> None:
    """As a careful program does: a new file in the place of the old."""
    beside = path.with_suffix(".new")
    beside.write_text("".join(f"{line}\n" for line in lines))
    beside.replace(path)


# What ends.


async def test_the_sessions_of_a_revoked_token_end_with_4401_and_no_others() -> None:
    async with open_desk() as desk:
        ann, other, bob = desk.client(jti="1"), desk.client(jti="2"), desk.client("bob", jti="1")
        outcome = await desk.revoking.add(Revocation(jti="1", subject="ann"))
        assert ann.closed is not None
        assert (ann.closed.code, ann.closed.reason) == (CloseCode.UNAUTHORIZED, "the token was revoked")
        assert (other.closed, bob.closed) == (None, None)
        assert (outcome.closed, outcome.kept) == (1, False)
        assert outcome.problem == "there is no file to keep it in [auth.revocation_file]"
        assert desk.house.counters.tokens == {"revoked": 1}


async def test_what_counts_is_the_newest_token_of_a_session() -> None:
    async with open_desk() as desk:
        ann = desk.client(jti="old", issued=START)
        desk.house.tokens["new"] = dataclasses.replace(ann.connection.identity, jti="new", issued=START + 10)
        ann.say(t="auth", token="new", id=1)
        await desk.revoking.add(Revocation(jti="old"))
        await desk.revoking.add(Revocation(subject="ann", issued_before=START + 10))
        assert ann.closed is None
        await desk.revoking.add(Revocation(jti="new"))
        assert ann.closed is not None


async def test_a_token_that_was_revoked_after_it_was_checked_begins_no_session() -> None:
    async with open_desk() as desk:
        await desk.revoking.add(Revocation(subject="ann"))
        ann = desk.client()  # its handshake was half way through
        assert ann.closed is not None
        assert ann.closed.code == CloseCode.UNAUTHORIZED


async def test_others_are_served_while_many_sessions_are_looked_through() -> None:
    async with open_desk() as desk:
        clients = [desk.client() for _ in range(4 * AT_ONCE)]
        turns: list[int] = []

        async def other() -> None:
            while not turns or turns[-1] < len(clients):
                turns.append(sum(client.closed is not None for client in clients))
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            assert (await desk.revoking.add(Revocation(subject="ann"))).closed == len(clients)
        assert all(client.closed for client in clients)
        assert any(0 < seen < len(clients) for seen in turns)


async def test_an_entry_is_kept_for_the_longest_life_of_a_token(autojump_clock: MockClock) -> None:
    async with open_desk(max_lifetime=3600.0, leeway=5.0) as desk:
        outcome = await desk.revoking.add(Revocation(jti="1"))
        assert outcome.entry.until == START + trio.current_time() + 3605
        await trio.sleep(3604)
        await desk.revoking.look()
        assert len(desk.revocations) == 1
        await trio.sleep(2)
        await desk.revoking.look()
        assert len(desk.revocations) == 0


async def test_what_is_taken_back_lets_in_again() -> None:
    async with open_desk() as desk:
        entry = Revocation(subject="ann")
        await desk.revoking.add(entry)
        assert await desk.revoking.undo((None, "bob", None, None, None)) is None
        outcome = await desk.revoking.undo(entry.conditions)
        assert outcome is not None
        assert outcome.entry == entry
        assert desk.client().closed is None


async def test_the_list_may_be_full() -> None:
    async with open_desk(max_revocations=1) as desk:
        await desk.revoking.add(Revocation(jti="1"))
        with pytest.raises(RevocationsFull):
            await desk.revoking.add(Revocation(jti="2"))


# The file.


async def test_a_new_file_ends_sessions_at_the_next_look(tmp_path: Path) -> None:
    path = tmp_path / "revoked.jsonl"
    async with open_desk(path) as desk:
        ann, bob = desk.client(), desk.client("bob")
        await desk.revoking.look()
        write(path, "# Monday", '{"subject": "ann"}')
        await desk.revoking.look()
        assert ann.closed is not None
        assert bob.closed is None
        write(path, '{"subject": "bob"}')  # as long as before, but for the comment
        await desk.revoking.look()
        assert bob.closed is not None
        assert desk.client().closed is None, "ann is not in the file any more"


async def test_a_file_with_a_bad_line_leaves_the_list_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "revoked.jsonl"
    write(path, '{"subject": "ann"}')
    async with open_desk(path) as desk:
        assert desk.client().closed is not None
        write(path, '{"subject": "bob"}', '{"sub": "cid"}', "")
        for _ in range(3):
            await desk.revoking.look()
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert record.fields == {  # type: ignore[attr-defined]
            "problems": [f"{path}:2: Object contains unknown field `sub`"],
            "setting": "auth.revocation_file",
        }
        assert desk.client().closed is not None
        assert desk.client("bob").closed is None
        write(path, '{"subject": "bob"}')
        await desk.revoking.look()
        assert desk.client("bob").closed is not None


async def test_a_file_that_goes_away_revokes_nobody_less(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "revoked.jsonl"
    write(path, '{"subject": "ann"}')
    async with open_desk(path) as desk:
        path.unlink()
        for _ in range(3):
            await desk.revoking.look()
        assert desk.client().closed is not None
        assert [record.fields["problems"] for record in caplog.records if record.levelno == logging.ERROR] == [
            [f"{path}: the file is gone"]
        ]
        write(path, '{"subject": "bob"}')
        await desk.revoking.look()
        assert desk.client().closed is None


async def test_a_file_that_cannot_be_read_is_tried_again_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "revoked.jsonl"
    async with open_desk(path) as desk:
        path.mkdir()
        for _ in range(3):
            await desk.revoking.look()
        assert [record.fields["problems"] for record in caplog.records if record.levelno == logging.ERROR] == [
            [f"{path}: Is a directory"]
        ]
        path.rmdir()
        write(path, '{"subject": "ann"}')
        await desk.revoking.look()
        assert desk.client().closed is not None


async def test_without_the_setting_the_file_counts_no_more(tmp_path: Path) -> None:
    path = tmp_path / "revoked.jsonl"
    write(path, '{"subject": "ann"}')
    async with open_desk(path) as desk:
        desk.state.rules.config = load(None, environ={}).config  # after a reload
        await desk.revoking.look()
        assert desk.client().closed is None


async def test_what_is_revoked_here_stands_in_the_file_for_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "revoked.jsonl"
    async with open_desk(path) as desk:
        for entry in (Revocation(jti="1"), Revocation(subject="ann", issued_before=START + 1e6, until=START + 2e6)):
            outcome = await desk.revoking.add(entry)
            assert (outcome.kept, outcome.problem) == (True, "")
        await desk.revoking.look()
        assert len(desk.revocations) == 2
        assert path.stat().st_mode & 0o777 == 0o600
    async with open_desk(path) as desk:
        assert set(desk.revocations) == {
            Revocation(jti="1"), Revocation(subject="ann", issued_before=START + 1e6, until=START + 2e6)
        }  # fmt: skip
        assert desk.client().closed is not None


async def test_a_last_line_without_an_end_is_not_joined_to_what_is_added(tmp_path: Path) -> None:
    path = tmp_path / "revoked.jsonl"
    path.write_text('{"jti": "1"}')
    async with open_desk(path) as desk:
        await desk.revoking.add(Revocation(jti="2"))
        assert path.read_text() == '{"jti": "1"}\n{"jti":"2"}\n'


async def test_what_is_taken_back_leaves_the_file_too(tmp_path: Path) -> None:
    path = tmp_path / "revoked.jsonl"
    write(path, "# mine", '{"jti": "1"}', '{"jti": "over", "until": 5}')
    path.chmod(0o640)
    async with open_desk(path) as desk:
        await desk.revoking.add(Revocation(jti="2"))
        for jti in ("1", "2"):
            assert await desk.revoking.undo((jti, None, None, None, None)) is not None
        assert path.read_text() == "# mine\n"
        assert path.stat().st_mode & 0o777 == 0o640
        assert os.listdir(tmp_path) == [path.name]
        await desk.revoking.look()
        assert len(desk.revocations) == 0


async def test_a_disk_that_fails_un_revokes_nobody(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "revoked.jsonl"
    async with open_desk(path) as desk:
        ann = desk.client()
        outcome = await desk.revoking.add(Revocation(subject="ann"))
        assert ann.closed is not None
        assert not outcome.kept
        assert outcome.problem == f"{path}: No such file or directory [auth.revocation_file]"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"jti": "1"}\n{"jti": 1}\n', ":2: Expected `str | null`, got `int` - at `$.jti`"),
        (b"\xff", ": is not UTF-8"),
        (b'{"jti": "1"}\n{"jti": "2"}\n', ": there are 1 revocations already, which is the most"),
        (b"#" + b" " * 9000, ": there are 1 revocations already, which is the most"),
    ],
)
async def test_a_file_that_is_no_good_keeps_the_relay_from_starting(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "revoked.jsonl"
    path.write_bytes(content)
    overrides = [("auth.revocation_file", str(path)), ("auth.max_revocations", "1")]
    with pytest.raises(ConfigError) as error:
        read_at_start(load(None, environ={}, overrides=overrides), Revocations(1), START)
    (told,) = error.value.problems
    assert told.key == "auth.revocation_file"
    assert told.what.startswith(f"{path}{problem}")


# The wall clock.


async def test_the_tokens_of_live_sessions_follow_a_wall_clock_that_is_set(autojump_clock: MockClock) -> None:
    async with open_house(PLUGINS, settings(auth={"leeway": 0.0})) as house:
        ann, bob = house.client("ann", expires_in=1800), house.client("bob", expires_in=7200)
        right, offset = house.services.wall, 0.0

        def wall() -> float:
            return right() + offset

        house.services.wall = wall
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_wall_clock, wall, house.services.sessions.values)
            await trio.sleep(10)
            offset = 3600.0
            await trio.sleep(1.5)
            assert ann.closed is not None
            assert bob.closed is None
            offset = -3600.0
            await trio.sleep(7200)
            assert bob.closed is None
            await trio.sleep(3600)
            assert bob.closed is not None
            nursery.cancel_scope.cancel()


async def test_a_wall_clock_that_is_steered_is_let_be(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_house(PLUGINS) as house:
        with trio.move_on_after(100):
            await watch_wall_clock(lambda: START + trio.current_time() * 1.0005, house.services.sessions.values)
        assert "the wall clock was set" not in caplog.text
