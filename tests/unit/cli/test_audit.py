"""`relay audit`: what it shows of a chain, and that it finds whoever has changed it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plugins.audit import Book
from relay.ops.chain import parts_of
from tests.unit.cli.conftest import Run

DAY = 1_790_000_000.0
TOLD: list[dict[str, Any]] = [
    {"what": "connect", "subject": "ann", "session": "s1", "address": "192.0.2.1"},
    {"what": "message", "subject": "ann", "session": "s1", "room": "chat:tea", "bytes": 4, "kind": "text"},
    {"what": "message", "subject": "bob", "session": "s2", "room": "chat:milk", "bytes": 9, "kind": "text"},
    {"what": "decision", "kind": "refused", "code": "forbidden", "subject": "bob", "room": "feed:x", "plugin": "feed"},
    {"what": "disconnect", "subject": "ann", "session": "s1", "code": 1000},
]


@pytest.fixture
def file(bare: Path) -> Path:
    book = Book(bare / "audit.jsonl", 0, False, False)
    book.write({"at": DAY + number, **fields} for number, fields in enumerate(TOLD))
    book.close()
    return bare / "audit.jsonl"


def shown(run: Run, *arguments: str) -> list[int]:
    result = run("audit", "audit.jsonl", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    return [int(json.loads(line)["at"] - DAY) for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ((), [0, 1, 2, 3, 4]),
        (("--subject", "ann"), [0, 1, 4]),
        (("--session", "s2"), [2]),
        (("--address", "192.0.2.1"), [0]),
        (("--room", "chat:tea"), [1]),
        (("--room", "chat:*"), [1, 2]),
        (("--room", "*"), [1, 2, 3]),
        (("--code", "forbidden"), [3]),
        (("--code", "1000"), [4]),
        (("--what", "connect", "--what", "disconnect"), [0, 4]),
        (("--since", str(DAY + 2)), [2, 3, 4]),
        (("--since", "2026-09-21T14:13:21+00:00", "--until", str(DAY + 2)), [1, 2]),
        (("--until", "1s"), [0, 1, 2, 3, 4]),
        (("--subject", "bob", "--what", "message"), [2]),
        (("--verify",), []),
    ],
)
def test_only_what_was_asked_for_is_shown(file: Path, run: Run, arguments: tuple[str, ...], lines: list[int]):
    assert shown(run, *arguments) == lines


def test_for_people_a_line_has_its_time_its_person_and_what_happened(file: Path, run: Run):
    result = run("audit", str(file), "--code", "forbidden")
    assert result.exit_code == 0
    assert result.stdout.endswith("  decision    bob in feed:x  kind=refused code=forbidden plugin=feed\n")
    assert result.stderr.startswith("5 lines, 1 shown; the chain is whole, and ends with ")


def test_what_others_have_written_cannot_paint_the_terminal(bare: Path, run: Run):
    book = Book(bare / "audit.jsonl", 0, False, False)
    book.write([{"at": DAY, "what": "message", "subject": "\x1b[31mred"}])
    book.close()
    assert "\x1b" not in run("audit", "audit.jsonl").stdout


def test_a_chain_that_was_changed_is_said_where_and_ends_with_1(file: Path, run: Run):
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([*lines[:2], *lines[3:]]) + b"\n")
    result = run("audit", str(file), "--verify")
    assert result.exit_code == 1
    assert f"{file}:3: the chain is broken" in result.stderr
    assert "broken in 1 places" in result.stderr


def test_a_chain_that_was_written_anew_is_found_by_a_hash_kept_elsewhere(file: Path, run: Run):
    last = run("audit", str(file)).stderr.split()[-1]
    assert run("audit", str(file), "--expect", last.upper()).exit_code == 0
    file.unlink()
    book = Book(file, 0, False, False)
    book.write({"at": DAY, **fields} for fields in TOLD[:2])
    book.close()
    result = run("audit", str(file), "--expect", last)
    assert result.exit_code == 1
    assert "no line has the hash" in result.stderr


def test_what_was_put_aside_is_read_first_unless_the_file_is_wanted_alone(bare: Path, run: Run):
    book = Book(bare / "audit.jsonl", 100, False, False)
    for number in range(12):
        book.write([{"at": DAY + number, "what": "test"}])
    book.close()
    (bare / "audit.jsonl.bak").write_text("nothing of ours")
    assert shown(run) == list(range(12))
    assert shown(run, "--alone") == [11]
    assert len(parts_of(bare / "audit.jsonl")) == 12


def test_half_a_line_at_the_end_is_no_broken_chain(file: Path, run: Run):
    with file.open("ab") as half:
        half.write(b'{"at":1,"wh')
    result = run("audit", str(file))
    assert result.exit_code == 0
    assert "the last line is not whole" in result.stderr


def test_lines_that_were_never_written_are_told_of(bare: Path, run: Run):
    book = Book(bare / "audit.jsonl", 0, False, False)
    book.write([{"at": DAY, "what": "gap", "lines": 7}])
    book.close()
    assert "7 lines were never written" in run("audit", "audit.jsonl").stderr


def test_a_file_that_is_not_there_and_a_time_that_is_none_are_said(bare: Path, run: Run):
    result = run("audit", "nowhere.jsonl")
    assert (result.exit_code, result.stderr) == (1, "nowhere.jsonl: No such file or directory\n")
    result = run("audit", "nowhere.jsonl", "--since", "soon")
    assert result.exit_code == 2
    assert "'soon' is not a time" in result.stderr
