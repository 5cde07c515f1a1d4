"""Logs: one line per record whatever was logged, no token in it, nothing lost without being counted."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.ops import logs
from relay.ops.logs import FIELD_BYTES, clean, configure, lines_lost, log_event, redact

log = logging.getLogger("relay.tests.logs")

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    quiet = {name: logging.getLogger(name).level for name in logs._QUIET}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, number in quiet.items():
        logging.getLogger(name).setLevel(number)


def written(message: str, *args: Any, format: logs.Format = "json", **fields: object) -> str:
    stream = io.StringIO()
    logging.getLogger().handlers.clear()  # pytest's own would format the record too
    configure("debug", format, stream)
    log.info(message, *args, extra={"fields": fields})
    return stream.getvalue()


def logged(message: str, *args: Any, **fields: object) -> dict[str, Any]:
    text = written(message, *args, **fields)
    assert text.count("\n") == 1
    line = json.loads(text)
    assert isinstance(line, dict)
    return line


def test_a_json_line_says_when_how_bad_who_and_what():
    line = logged("listening on %s", "[::]:8443", port=8443, tls=True)
    assert line == {
        "time": line["time"],
        "level": "info",
        "logger": "relay.tests.logs",
        "message": "listening on [::]:8443",
        "port": 8443,
        "tls": True,
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])


@given(st.text(), st.text(), st.text(alphabet=st.characters(min_codepoint=0, max_codepoint=0x2069)))
def test_nothing_logged_makes_a_second_json_line(message: str, name: str, value: str):
    line = logged("%s", message, **{name: value})
    assert line["logger"] == "relay.tests.logs"
    for text in line.values():
        if isinstance(text, str):
            assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202e]", text)


@given(st.text(), st.text())
def test_nothing_logged_makes_a_second_text_line_or_moves_the_cursor(message: str, value: str):
    text = written("%s", message, format="text", value=value)
    assert text.endswith("\n")
    assert len(text[:-1].splitlines()) == 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e]", text[:-1])


def test_a_forged_line_is_shown_as_what_it_is():
    line = logged("from %s", 'ann\r\n{"level":"error"}\x1b[2J\u202e')
    assert line["message"] == 'from ann\\x0d\\x0a{"level":"error"}\\x1b[2J\\u202e'


@pytest.mark.parametrize(
    "text",
    [
        JWT,
        f"subprotocols: relay.v1.json, bearer.{JWT}",
        f"Authorization: Bearer {JWT}",
        "authorization: bearer c2VjcmV0LXNlY3JldC1zZWNyZXQ",
        f"GET /ws?token={JWT}&x=1",
        "GET /ws?ticket=Zk3vQq0oVbX",
        JWT[:60],
        f"'{JWT}'",
    ],
)
@pytest.mark.parametrize("format", ["json", "text"])
def test_a_token_is_never_written(text: str, format: logs.Format):
    pieces = [part for part in re.split(r"[^A-Za-z0-9_-]+", text) if len(part) > 10 and part.lower() != "authorization"]
    pieces = [part for part in pieces if part != "subprotocols"]
    assert pieces
    try:
        raise ValueError(text)
    except ValueError:
        stream = io.StringIO()
        configure("debug", format, stream)
        log.exception("seen %s", text, extra={"fields": {"header": text, "list": [text]}})
    out = stream.getvalue()
    assert "[token]" in out
    assert not [piece for piece in pieces if piece in out]


@given(
    st.binary(min_size=10, max_size=60),
    st.binary(min_size=20, max_size=64),
    st.text(alphabet="ab .,;\n", max_size=1100),
    st.text(max_size=20),
)
def test_no_jwt_shows_wherever_it_stands(payload: bytes, signature: bytes, before: str, after: str):
    import jwt

    token = jwt.utils.base64url_encode(b'{"alg":"HS256"}') + b"." + jwt.utils.base64url_encode(b'{"' + payload)
    whole = (token + b"." + jwt.utils.base64url_encode(signature)).decode()
    line = json.dumps(logged(before + whole + " " + after, field=before + whole))
    assert jwt.utils.base64url_encode(signature).decode() not in line
    assert not re.search(r"eyJ[\w-]{6,}", line)


def test_words_about_tokens_are_left_alone():
    for text in ("the bearer said no", "token refused: it has expired", "a jwt is eyJ-something", "Bearer of bad news"):
        assert redact(text) == text


def test_a_long_field_is_cut_and_says_by_how_much():
    line = logged("x" * 5000, subject="é" * 5000)
    assert line["message"] == "x" * FIELD_BYTES + f"…(+{5000 - FIELD_BYTES} bytes)"
    assert line["subject"].startswith("é" * 512)
    assert len(line["subject"].encode()) < FIELD_BYTES + 40


def test_half_a_million_fields_are_not_written():
    line = logged("many", **{f"f{i}": i for i in range(500)})
    assert line["fields_left_out"] == 500 - logs.FIELDS
    assert len(line) == 4 + logs.FIELDS + 1


def test_a_field_cannot_take_the_place_of_the_level():
    line = logged("hello", level="error", time="never", exception="no")
    assert line["level"] == "info"
    assert (line["field_level"], line["field_time"], line["field_exception"]) == ("error", "never", "no")


def test_values_of_any_kind_become_json():
    line = logged("kinds", big=2**200, nothing=None, ratio=0.5, raw=b"\x00\xff", many=["a", 1], odd=object)
    assert line["big"] == str(2**200)
    assert line["nothing"] is None
    assert line["ratio"] == 0.5
    assert line["raw"] == r"b'\x00\xff'"
    assert line["many"] == "a, 1"
    assert "object" in line["odd"]


def test_a_traceback_is_one_field():
    stream = io.StringIO()
    configure("info", "json", stream)
    try:
        raise RuntimeError("no\x1bluck")
    except RuntimeError:
        log.exception("failed")
    (line,) = stream.getvalue().splitlines()
    trace = json.loads(line)["exception"]
    assert trace.startswith("Traceback")
    assert trace.endswith("RuntimeError: no\\x1bluck")
    assert "\n" in trace


def test_a_long_traceback_keeps_its_end():
    stream = io.StringIO()
    configure("info", "json", stream)
    try:
        raise RuntimeError("x" * 100_000 + " the end")
    except RuntimeError:
        log.exception("failed")
    trace = json.loads(stream.getvalue())["exception"]
    assert trace.endswith("the end")
    assert len(trace) < logs.TRACE_BYTES + 100


def test_a_traceback_in_text_cannot_look_like_a_record():
    stream = io.StringIO()
    configure("info", "text", stream)
    try:
        raise RuntimeError("a\n12:00:00.000 ERROR    all is lost")
    except RuntimeError:
        log.exception("failed")
    first, *rest = stream.getvalue().splitlines()
    assert "failed" in first
    assert rest
    assert all(line.startswith("    | ") for line in rest)


def test_arguments_that_do_not_fit_do_not_reach_the_caller():
    line = logged("%d clients", "many")
    assert "%d clients" in line["message"]
    assert "many" in line["message"]


def test_auto_is_json_in_a_file_and_text_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    configure("info", "auto", terminal)
    log.warning("careful", extra={"fields": {"room": "a b"}})
    assert "\x1b[33mWARNING" in terminal.getvalue()
    assert 'room="a b"' in terminal.getvalue()
    file = io.StringIO()
    configure("info", "auto", file)
    log.warning("careful")
    assert json.loads(file.getvalue())["message"] == "careful"


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    configure("info", "auto", terminal)
    log.warning("careful")
    assert "\x1b" not in terminal.getvalue()


def test_a_line_that_cannot_be_written_is_counted_and_nothing_else_happens():
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    handler = configure("info", "json", Full())
    log.info("one")
    log.info("two")
    assert handler.lost == 2


class Disk(io.RawIOBase):
    """Takes as many bytes as there is space for, and then says that it is full."""

    def __init__(self, space: int) -> None:
        self.space = space
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self.space:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = bytes(data)[: self.space]
        self.space -= len(taken)
        self.data += taken
        return len(taken)


def on(disk: Disk, *, buffered: bool = True) -> io.TextIOWrapper:
    """As the interpreter makes standard error, with PYTHONUNBUFFERED or without."""
    return io.TextIOWrapper(io.BufferedWriter(disk) if buffered else disk, line_buffering=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("buffered", [True, False])
def test_on_a_disk_that_is_full_for_a_while_lines_are_whole_or_lost_and_each_lost_one_is_counted(buffered: bool):
    disk = Disk(250)
    stream = on(disk, buffered=buffered)
    handler = configure("info", "json", stream)
    for number in range(100):
        if number == 40:
            disk.space = 1
        if number == 60:
            disk.space = 1 << 20
        log.info(str(number))
    said = [json.loads(line)["message"] for line in disk.data.splitlines()]
    assert handler.lost == 100 - len(said)
    assert said[:3] == ["0", "1", "2"]  # the third was half written when the disk was full
    assert said[3:] == [str(number) for number in range(60, 100)]


def test_a_line_that_nothing_can_be_written_of_is_lost_at_once():
    with open("/dev/full", "w") as full:
        handler = configure("info", "json", full)
        log.info("one")
        log.info("two")
    assert handler.lost == 2
    log.info("three")  # the file is closed, which is no reason to fail either
    assert handler.lost == 3


def test_a_reload_forgets_neither_what_was_lost_nor_the_rest_of_a_line():
    disk = Disk(10)
    stream = on(disk)
    configure("info", "json", stream)
    log.info("one")
    log.info("two")
    assert lines_lost() == 1
    handler = configure("info", "json", stream)
    assert handler.lost == lines_lost() == 1
    disk.space = 1000
    log.info("three")
    assert [json.loads(line)["message"] for line in disk.data.splitlines()] == ["one", "three"]


def test_configuring_again_replaces_what_was_there():
    first, second = io.StringIO(), io.StringIO()
    configure("info", "json", first)
    configure("warning", "json", second)
    log.info("not this")
    log.warning("this")
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["message"] == "this"


def test_libraries_that_log_payloads_are_kept_quiet():
    stream = io.StringIO()
    configure("debug", "json", stream)
    logging.getLogger("trio-websocket").debug("ping %r", b"secret")
    logging.getLogger("relay").debug("ours")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["ours"]


def test_log_event_takes_a_level_by_name_or_number():
    stream = io.StringIO()
    configure("info", "json", stream)
    log_event(log, "warning", "connection closed", code=1000, room="lobby")
    log_event(log, logging.ERROR, "connection lost")
    log_event(log, "debug", "never seen")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["level"], first["code"], first["room"]) == ("warning", 1000, "lobby")
    assert second["level"] == "error"


def test_clean_redacts_before_it_cuts():
    assert "eyJ" not in clean("x" * (FIELD_BYTES - 20) + JWT)
