"""The log: one line per record on one stream, JSON for machines or coloured text for a terminal.

Not here: what is worth a line (whoever logs decides). The one rule: nothing a client sent can forge a line, move a
cursor or carry a token into the log: text is redacted first, then made visible character by character, then cut.

    log = logging.getLogger("relay.net")
    log_event(log, "info", "connection closed", code=1000, room="lobby")
"""

from __future__ import annotations

import datetime
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from io import RawIOBase
from typing import Any, Final, Literal, TextIO

import msgspec

FIELD_BYTES: Final = 1024
"""Longest message or field, in bytes of UTF-8; what is cut off is counted in the text."""

TRACE_BYTES: Final = 16384
"""Longest traceback; its end is kept, because that is where the exception is."""

FIELDS: Final = 64
"""Most fields in one record."""

# A JWT (RFC 7515 section 7.1) begins with the base64url of '{"'. Cut ones count too: half a token is a secret.
_TOKENS: Final = re.compile(
    r"""
      (?i:\bbearer\.)[^\s,;"'&]+                          # the subprotocol that carries a token
    | (?i:\bbearer\s+)[A-Za-z0-9._~+/=-]{16,}             # Authorization: Bearer ...
    | eyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){1,2}       # a JWT anywhere
    | (?i:\b(?:access_)?token|\bticket)=[^\s&"'\#]+       # in a query string
    """,
    re.VERBOSE,
)

# C0, DEL and C1, what ends a line (U+2028, U+2029), what turns the direction of writing, lone surrogates.
_UNSEEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]")

_QUIET: Final = ("trio-websocket", "httpx2", "httpcore2")
"""Libraries whose debug records hold payloads or headers: never below warning."""

_encode: Final = msgspec.json.Encoder().encode


def redact(text: str) -> str:
    """`text` with everything that looks like a token replaced by [token]."""
    return _TOKENS.sub("[token]", text)


def visible(text: str) -> str:
    r"""`text` with control, direction and surrogate characters written as \xNN or \uNNNN."""
    return _UNSEEN.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _cut(text: str, limit: int = FIELD_BYTES) -> str:
    if len(text) * 4 <= limit:
        return text
    data = text.encode()
    if len(data) <= limit:
        return text
    return f"{data[:limit].decode(errors='ignore')}…(+{len(data) - limit} bytes)"


def _cut_start(text: str, limit: int) -> str:
    data = text.encode()
    if len(data) <= limit:
        return text
    return f"(+{len(data) - limit} bytes)…{data[-limit:].decode(errors='ignore')}"


def clean(text: str) -> str:
    """What may stand in a line: redacted, visible, at most FIELD_BYTES. In this order: a cut token is still a token."""
    return _cut(visible(redact(text)))


def clean_value(value: object) -> Any:
    """A field's value as JSON can hold it: numbers, booleans and None as they are, all else as clean text."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else clean(str(value))
    if isinstance(value, list | tuple | set | frozenset):
        return clean(", ".join(map(str, value)))
    return clean(str(value))


class Redaction(logging.Filter):
    """Takes tokens out of a record before any formatter sees it: out of the message, its fields and its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit the text: a mistake of whoever logs must not reach the caller
            message = f"{record.msg!s} (arguments do not fit: {record.args!r})"
        record.msg = redact(message)
        record.args = ()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        fields = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            record.fields = {name: redact(v) if isinstance(v, str) else v for name, v in fields.items()}
        return True


def _fields(record: logging.LogRecord) -> Iterable[tuple[str, Any]]:
    fields = getattr(record, "fields", None)
    if not isinstance(fields, Mapping):
        return
    for count, (name, value) in enumerate(fields.items()):
        if count == FIELDS:
            yield "fields_left_out", len(fields) - FIELDS
            return
        yield clean(str(name)), clean_value(value)


def _trace(record: logging.LogRecord) -> str:
    """The traceback, lines kept, every line clean; its last TRACE_BYTES."""
    text = record.exc_text or (logging.Formatter().formatException(record.exc_info) if record.exc_info else "")
    if record.stack_info:
        text = f"{text}\n{record.stack_info}" if text else record.stack_info
    return _cut_start("\n".join(map(visible, redact(text).split("\n"))), TRACE_BYTES)


def _time(record: logging.LogRecord) -> str:
    """RFC 3339, UTC, milliseconds."""
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JSONFormatter(logging.Formatter):
    """One JSON object on one line: time, level, logger, message, the fields, and `exception` if there is one.

    A field whose name is taken by one of these gets `field_` in front.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": clean(record.getMessage()),
        }
        reserved = (*line, "exception")
        for name, value in _fields(record):
            line[f"field_{name}" if name in reserved else name] = value
        if trace := _trace(record):
            line["exception"] = trace
        return _encode(line).decode()


_COLOURS: Final = {
    logging.DEBUG: "\x1b[2m",
    logging.INFO: "\x1b[32m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[1;31m",
}
_DIM: Final = "\x1b[2m"
_RESET: Final = "\x1b[0m"


class TextFormatter(logging.Formatter):
    """For people: time, level, message, then the fields as name=value. A traceback follows, each line behind a bar."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self.colour = colour

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname:<8}"
        fields = " ".join(f"{name}={_quoted(value)}" for name, value in _fields(record))
        time = _time(record)[11:23]
        if self.colour:
            level = f"{_COLOURS.get(record.levelno, '')}{level}{_RESET}"
            time = f"{_DIM}{time}{_RESET}"
            fields = f"{_DIM}{fields}{_RESET}" if fields else ""
        line = f"{time} {level} {clean(record.getMessage())}" + (f"  {fields}" if fields else "")
        if trace := _trace(record):
            line += "".join(f"\n    | {part}" for part in trace.split("\n"))
        return line


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else _encode(value).decode()
    return _encode(text).decode() if not text or any(c in ' "=' for c in text) else text


class Handler(logging.StreamHandler[TextIO]):
    """Writes lines; a line that cannot be written (a full disk, a closed pipe) is counted, and the relay goes on.

    Past the stream's own buffers, where there is a file below: what they could not write they would keep, and write
    later, so nobody could say what was lost. Of a line whose beginning was written the rest is written first, later.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.lost = 0
        buffer = getattr(stream, "buffer", None)
        raw = getattr(buffer, "raw", buffer)  # with PYTHONUNBUFFERED there is no buffer
        self._raw: RawIOBase | None = raw if isinstance(raw, RawIOBase) else None
        self._rest = b""

    def emit(self, record: logging.LogRecord) -> None:
        if self._raw is None:
            super().emit(record)
            return
        try:
            line = (self.format(record) + self.terminator).encode(errors="backslashreplace")
        except Exception:
            self.handleError(record)
            return
        self._rest = self._left_of(self._raw, self._rest)
        left = line if self._rest else self._left_of(self._raw, line)
        if left == line:
            self.lost += 1
        else:
            self._rest = left

    def inherit(self, old: Handler) -> None:
        """Goes on where another stops: counters do not go back."""
        self.lost += old.lost
        if old.stream is self.stream:
            self._rest = old._rest

    @staticmethod
    def _left_of(raw: RawIOBase, data: bytes) -> bytes:
        """Writes it; what could not be written."""
        try:
            while data and (written := raw.write(data)):
                data = data[written:]
        except (OSError, ValueError):  # ValueError: it was closed
            pass
        return data

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        self.lost += 1


Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "text"]


def configure(level: Level = "info", format: Format = "auto", stream: TextIO | None = None) -> Handler:
    """Sends all logging of the process to `stream` (standard error), replacing what was set up before.

    `auto` is text on a terminal and JSON elsewhere; text is coloured on a terminal unless NO_COLOR is set. Returns the
    handler; its `lost` counts the lines that could not be written. May be called again, at a reload.
    """
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    handler = Handler(stream)
    handler.addFilter(Redaction())
    if format == "json" or (format == "auto" and not terminal):
        handler.setFormatter(JSONFormatter())
    else:
        handler.setFormatter(TextFormatter(colour=terminal and "NO_COLOR" not in os.environ))
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, Handler):
            root.removeHandler(old)
            handler.inherit(old)
    root.addHandler(handler)
    number = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(number)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    return handler


def log_unraisable(happened: sys.UnraisableHookArgs) -> None:
    """For sys.unraisablehook: one record, where the interpreter would print a traceback between the log's lines.

    Any client can cause one of these: Python's ssl decodes the server name asked for, which may not be ASCII, before
    it calls what chooses the certificate. It ends the handshake with an alert, and that is no error of ours.
    """
    log = logging.getLogger("relay")
    if isinstance(happened.exc_value, UnicodeDecodeError) and isinstance(happened.object, bytes):
        log.debug("a client asked for a server name that is not ASCII")
    else:
        log.error("%s: %r", happened.err_msg or "bug where nothing can be raised", happened.object,
                  exc_info=happened.exc_value)  # fmt: skip


def lines_lost() -> int:
    """Lines of this process that could not be written, so far."""
    return sum(handler.lost for handler in logging.getLogger().handlers if isinstance(handler, Handler))


def log_event(logger: logging.Logger, level: int | Level, event: str, **fields: object) -> None:
    """Logs `event`, a constant sentence, with fields that vary. Costs next to nothing when the level is off."""
    number = level if isinstance(level, int) else logging.getLevelNamesMapping()[level.upper()]
    if logger.isEnabledFor(number):
        logger.log(number, event, extra={"fields": fields}, stacklevel=2)
