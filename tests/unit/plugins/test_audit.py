"""What happened, in lines that are only added to, and whose order nobody can change unseen."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from plugins.audit import FIRST, Audit, Book, verify
from plugins.chat import Chat
from relay.errors import Refused
from relay.plugin.api import Arrival
from relay.plugin.testing import PluginTester
from tests.components import ROOT


def audited(file: Path, **settings: Any) -> PluginTester:
    return PluginTester(Audit, filters="*", owner=Chat, settings={"file": str(file), **settings})


def lines(*files: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for file in files for line in file.read_bytes().splitlines()]


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
    assert list(verify([file])) == []


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
    assert list(verify([file])) == []


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
    assert list(verify(files)) == []
    assert list(verify(files[1:])) == [], "those before it may have been put away"
    assert len(list(verify(reversed(files)))) > 0


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
    assert list(verify([file])) == []


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
    assert list(verify([file])) != []


def test_the_chain_is_looked_at_from_the_command_line(file: Path) -> None:
    book = Book(file, 0, False, False)
    book.write(fields(number) for number in range(3))
    book.close()

    def looked() -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "plugins.audit", str(file)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    assert looked() == (0, "the chain is whole\n")
    file.write_bytes(b"\n".join(file.read_bytes().splitlines()[::-1]) + b"\n")
    status, said = looked()
    assert status == 1
    assert f"{file}:2: the chain is broken" in said


async def test_a_disk_that_fails_costs_lines_that_are_counted_and_nobody_else(file: Path, autojump_clock: Any) -> None:
    async with audited(file) as tester:
        ann = await tester.join("r", "ann")
        book = tester.plugin._book
        good, book._path = book._path, Path("/proc/no/such/file")
        await ann.publish("1")
        with trio.fail_after(30):
            while not tester.failures:  # noqa: ASYNC110
                await trio.sleep(0.01)
        book._path = good
        await trio.sleep(10)
        await ann.publish("2")
    told = [one["what"] for one in lines(file)]
    assert "gap" in told
    assert told[-1] == "message"
    assert list(verify([file])) == []
