"""What happened, in lines that are only added to, and whose order nobody can change unseen."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from plugins.audit import FIRST, Audit, Book
from plugins.chat import Chat
from relay.errors import ConfigError, Refused
from relay.ops.chain import Chain, parts_of
from relay.plugin.api import Arrival
from relay.plugin.testing import PluginTester


def audited(file: Path, *, decisions: bool = False, **settings: Any) -> PluginTester:
    return PluginTester(
        Audit, filters="*", owner=Chat, decisions=decisions, settings={"file": str(file), **settings}
    )  # fmt: skip


def lines(*files: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for file in files for line in file.read_bytes().splitlines()]


def broken(files: Iterable[Path]) -> list[str]:
    chain = Chain(files)
    for _ in chain:
        pass
    return chain.broken


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what a thread does; the test's clock jumps meanwhile."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await trio.sleep(0.01)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "log" / "audit.jsonl"


async def test_who_came_what_was_said_and_who_went(file: Path) -> None:
    async with audited(file) as tester:
        arrival = Arrival("s1", "ann", "192.0.2.1", "relay.v1.json", "")
        tester.plugin.on_connect(arrival)
        ann = await tester.join("r", "ann")
        await ann.publish("secret words", key="k")
        with pytest.raises(Refused, match="no_such_method"):
            await ann.call("mute", {"subject": "bob"})
        await ann.leave()
        tester.plugin.on_disconnect(arrival, 1000)
    told = lines(file)
    assert [one["what"] for one in told] == ["connect", "join", "message", "call", "leave", "disconnect"]
    message = told[2]
    assert (message["room"], message["subject"], message["bytes"], message["kind"], message["key"]) == (
        "r", "ann", 12, "text", "k",
    )  # fmt: skip
    assert (told[3]["method"], told[5]["code"], told[0]["address"]) == ("mute", 1000, "192.0.2.1")
    assert "secret words" not in str(told)
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert broken([file]) == []


async def test_what_was_said_is_written_where_that_is_wanted_and_cut(file: Path) -> None:
    async with audited(file, payloads=True, payload_bytes=8) as tester:
        ann = await tester.join("r", "ann")
        await ann.publish({"a": 1})
        await ann.publish("a long text")
    assert [one["data"] for one in lines(file) if one["what"] == "message"] == ['{"a":1}', '"a long ']


async def test_what_the_disk_is_too_slow_for_is_counted(file: Path) -> None:
    async with audited(file, queue=3) as tester:
        for number in range(10):
            tester.plugin.on_connect(Arrival(f"s{number}", "ann", "", "", ""))
    told = lines(file)
    assert [one["what"] for one in told] == ["connect", "connect", "connect", "gap"]
    assert told[-1]["lines"] == 7
    assert broken([file]) == []


def fields(number: int, at: float = 0.0) -> dict[str, Any]:
    return {"at": at, "what": "test", "number": number}


def test_a_chain_goes_on_over_restarts_and_files(file: Path) -> None:
    for number in range(6):
        book = Book(file, 150, False, True)
        book.write([fields(number)])
        book.close()
    files = [*sorted(file.parent.glob("audit.jsonl.*")), file]
    assert len(files) > 2
    assert [one["number"] for one in lines(*files)] == list(range(6))
    assert lines(files[0])[0]["prev"] == FIRST
    assert broken(files) == []
    assert broken(files[1:]) == [], "those before it may have been put away"
    assert len(broken(reversed(files))) > 0


def test_a_day_has_a_file_of_its_own(file: Path) -> None:
    book = Book(file, 0, True, False)
    book.write([fields(1, 0.0), fields(2, 86399.0), fields(3, 86400.0)])
    book.close()
    assert [one["number"] for one in lines(file.with_name("audit.jsonl.19700101.0001"))] == [1, 2]
    assert [one["number"] for one in lines(file)] == [3]


def test_half_a_line_that_a_crash_left_is_cut_off(file: Path) -> None:
    book = Book(file, 0, False, True)
    book.write([fields(1)])
    book.close()
    with file.open("ab") as half:
        half.write(b'{"at":1,"wh')
    book = Book(file, 0, False, True)
    book.write([fields(2)])
    book.close()
    assert [one["number"] for one in lines(file)] == [1, 2]
    assert broken([file]) == []


@pytest.mark.parametrize("change", ["alter", "remove", "insert", "swap", "nonsense"])
def test_every_change_is_seen(file: Path, change: str) -> None:
    book = Book(file, 0, False, False)
    book.write(fields(number) for number in range(5))
    book.close()
    told = file.read_bytes().splitlines()
    if change == "alter":
        told[2] = told[2].replace(b'"number":2', b'"number":9')
    elif change == "remove":
        del told[2]
    elif change == "insert":
        prev = hashlib.sha256(told[1]).hexdigest()
        told.insert(2, msgspec.json.encode({**fields(9), "prev": prev}))
    elif change == "swap":
        told[1], told[2] = told[2], told[1]
    else:
        told[2] = b"nonsense"
    file.write_bytes(b"".join(line + b"\n" for line in told))
    assert broken([file]) != []


async def test_what_the_relay_and_other_plugins_refuse_is_written_where_that_is_wanted(
    file: Path, autojump_clock: Any
) -> None:
    async with audited(file, decisions=True) as tester:
        for _ in range(3):
            tester.decisions.add("refused", "forbidden", session="s1", subject="ann", room="other", plugin="feed")
        tester.decisions.add("rejected", "token_expired", setting="auth.leeway", address="192.0.2.1", detail="late")
        tester.decisions.add("left", "1006", session="s1", subject="ann")
        await tester.advance(0.2)
    told = lines(file)
    assert [one["what"] for one in told] == ["decision", "decision"]
    assert {name: told[0][name] for name in told[0] if name not in ("at", "prev")} == {
        "what": "decision", "kind": "refused", "code": "forbidden", "session": "s1", "subject": "ann", "room": "other",
        "plugin": "feed", "count": 3,
    }  # fmt: skip
    assert (told[1]["code"], told[1]["setting"], told[1]["detail"]) == ("token_expired", "auth.leeway", "late")


async def test_without_asking_for_it_it_hears_of_no_decisions(file: Path, autojump_clock: Any) -> None:
    async with audited(file) as tester:
        tester.decisions.add("refused", "forbidden", subject="ann")
        await tester.advance(0.2)
    assert not list(file.parent.iterdir())


async def test_decisions_beyond_what_a_batch_holds_are_counted_as_missing(file: Path, autojump_clock: Any) -> None:
    async with audited(file, decisions=True) as tester:
        for number in range(1003):
            tester.decisions.add("refused", "forbidden", session=f"s{number}")
        await tester.advance(0.2)
    told = lines(file)
    assert [one["what"] for one in told] == ["decision"] * 1000 + ["gap"]
    assert told[-1]["lines"] == 3


def test_a_plugin_that_would_hear_nothing_is_told_so() -> None:
    with pytest.raises(ConfigError, match="no on_decisions"):
        PluginTester(Chat, decisions=True)


def test_each_tenant_has_a_file_of_its_own(file: Path) -> None:
    class Relay:
        tenant = "acme"

        def counter(self, *args: Any) -> None: ...

    plugin = Audit("audit", Audit.Settings(file=str(file)), Relay())  # type: ignore[arg-type]
    assert plugin._book.path == file.with_name("audit.acme.jsonl")


def test_a_chain_is_written_by_one_alone(file: Path) -> None:
    one, two = Book(file, 0, False, False), Book(file, 0, False, False)
    assert one.write([fields(1)]) == (1, None)
    done, problem = two.write([fields(2)])
    assert (done, str(problem)) == (0, f"{file} is written by somebody else")
    one.close()
    assert two.write([fields(2)]) == (1, None)
    assert broken([file]) == []
    two.close()


class Disk:
    """A disk on which so many bytes are free; then writing fails in the middle of a line, as real ones do."""

    def __init__(self, free: int) -> None:
        self.free = free

    def write(self, file: int, data: bytes) -> int:
        some = data[: self.free]
        if not some:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.free -= len(some)
        return _write(file, some)


_write: Callable[[int, bytes], int] = os.write


def test_what_a_full_disk_took_half_of_is_taken_back(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(10_000)
    monkeypatch.setattr(os, "write", disk.write)
    book = Book(file, 0, False, True)
    assert book.write([fields(1)]) == (1, None)
    disk.free = 150
    done, problem = book.write([fields(2), fields(3)])
    assert (done, problem is not None and problem.errno) == (0, errno.ENOSPC)
    assert [one["number"] for one in lines(file)] == [1]
    disk.free = 10_000
    assert book.write([fields(2), fields(3)]) == (2, None)
    book.close()
    assert [one["number"] for one in lines(file)] == [1, 2, 3]
    assert broken([file]) == []


def test_what_was_put_aside_before_the_disk_was_full_is_not_written_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(400)
    monkeypatch.setattr(os, "write", disk.write)
    book = Book(file, 150, False, True)
    batch = [fields(number) for number in range(5)]
    done, problem = book.write(batch)
    assert 0 < done < 5
    assert problem is not None
    disk.free = 10_000
    assert book.write(batch[done:]) == (5 - done, None)
    book.close()
    assert [one["number"] for one in lines(*parts_of(file))] == list(range(5))
    assert broken(parts_of(file)) == []


async def test_while_the_disk_is_full_lines_wait_and_then_all_are_there(
    file: Path, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(1000)
    monkeypatch.setattr(os, "write", disk.write)
    async with audited(file) as tester:
        ann = await tester.join("r", "ann")
        for number in range(10):
            await ann.publish(str(number))
            await tester.advance(0.1)
        await until(lambda: "No space left" in caplog.text)
        disk.free = 10**6
        await until(lambda: not tester.plugin._waiting)
        assert tester.failures == []
    told = [one["what"] for one in lines(file)]
    assert told == ["join", *["message"] * 10]
    assert broken([file]) == []


async def test_what_the_queue_does_not_hold_meanwhile_is_counted_in_a_gap(
    file: Path, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(0)
    monkeypatch.setattr(os, "write", disk.write)
    async with audited(file, queue=3) as tester:
        ann = await tester.join("r", "ann")
        for number in range(10):
            await ann.publish(str(number))
            await tester.advance(0.1)
        disk.free = 10**6
        await until(lambda: not tester.plugin._waiting)
        await ann.publish("again")
    chain = Chain([file])
    told = [line["what"] for _, line in chain]
    assert told[-1] == "message"
    assert told.count("message") + chain.missing == 11
    assert (chain.broken, tester.failures) == ([], [])


def test_another_version_of_a_file_that_somebody_has_put_there_goes_on_with_the_chain(file: Path) -> None:
    book = Book(file, 0, False, False)
    book.write([fields(1)])
    book.close()
    file.rename(file.with_name("away"))
    book.write([fields(2)])
    book.close()
    assert broken([file.with_name("away"), file]) == []


def test_a_file_of_yesterday_is_put_aside_by_the_next_process_too(file: Path) -> None:
    book = Book(file, 0, True, False)
    book.write([fields(1, 100.0)])
    book.close()
    os.utime(file, (100.0, 100.0))
    book = Book(file, 0, True, False)
    book.write([fields(2, 90000.0)])
    book.close()
    assert [one["number"] for one in lines(file.with_name("audit.jsonl.19700101.0001"))] == [1]
    assert broken(parts_of(file)) == []
