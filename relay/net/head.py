"""The head of an HTTP request: where it ends, what is wrong with it, and what it says. No I/O.

Not here: the grammar of single fields and the framing of bodies (h11 does those), sockets, routes. The one rule: the
verdict depends on the bytes alone, never on how they were cut into reads, so whatever stands first in the head decides,
and limits are exact.

RFC 9112 leaves room to be lenient (bare LF, empty lines in front, folded fields). A lenient server behind a strict
proxy, or the other way round, is how requests are smuggled; so every such form is refused with 400.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from relay.auth.certificates import ClientCertificate
from relay.errors import Rejected

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_TOKEN_BYTES: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_REQUEST_LINE: Final = re.compile(_TOKEN + rb" [!-~]+ HTTP/([0-9]\.[0-9])")
# RFC 9110 section 7.2, RFC 3986 section 3.2.2; without userinfo and percent-encoding, which no client sends.
_AUTHORITY: Final = re.compile(r"(?:[A-Za-z0-9\-._~]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_BAD_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


_PLAIN_REQUEST: Final = re.compile(r"GET ([!-~]+) HTTP/1\.1")
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FRAMING: Final = frozenset({"content-length", "transfer-encoding", "expect"})


def malformed(reason: str) -> Rejected:
    """What every request that breaks HTTP's grammar gets: 400, code `bad_request`."""
    return Rejected(400, "bad_request", reason)


class HeadScanner:
    """Finds the end of one request head in a growing buffer, and refuses early what can only become worse."""

    __slots__ = ("_lines", "_max_bytes", "_max_fields", "_scanned")

    def __init__(self, max_bytes: int, max_fields: int) -> None:
        self._max_bytes = max_bytes
        self._max_fields = max_fields
        self._lines: list[bytes] = []
        self._scanned = 0  # where the line that is not complete yet begins

    def advance(self, buffer: bytes | bytearray) -> int | None:
        """Look at the whole buffer, which begins with the head; return the head's length in bytes, None before its end.

        Raises Rejected: 400 (grammar, framing), 431 (bytes, fields), 501 (transfer coding), 505 (version).
        """
        if buffer and buffer[0] not in _TOKEN_BYTES:
            raise malformed("the request does not begin with a method")
        while True:
            newline = buffer.find(b"\n", self._scanned)
            if newline >= self._max_bytes or (newline < 0 and len(buffer) > self._max_bytes):
                raise Rejected(
                    431,
                    "head_too_large",
                    f"the request head exceeds {self._max_bytes} bytes",
                    setting="limits.head_bytes",
                )
            if newline < 0:
                return None
            line = bytes(buffer[self._scanned : newline])
            self._scanned = newline + 1
            if not line.endswith(b"\r") or line.find(b"\r") != len(line) - 1:
                raise malformed("a line does not end with CR LF (RFC 9112 section 2.2)")
            if line == b"\r":
                _check_framing(self._lines)
                return newline + 1
            self._add(line[:-1])

    def _add(self, line: bytes) -> None:
        if not self._lines:
            match = _REQUEST_LINE.fullmatch(line)
            if match is None:
                raise malformed("not a request line (RFC 9112 section 3)")
            if match[1] not in (b"1.0", b"1.1"):
                raise Rejected(505, "http_version", "this server speaks HTTP/1.1")
        elif line[:1] in b" \t":
            raise malformed("folded header fields are not accepted (RFC 9112 section 5.2)")
        elif len(self._lines) > self._max_fields:
            raise Rejected(
                431, "too_many_fields", f"more than {self._max_fields} header fields", setting="limits.head_fields"
            )
        self._lines.append(line)


def _check_framing(lines: list[bytes]) -> None:
    """Refuse what two parsers could read differently: several Hosts or lengths, a length beside a transfer coding."""
    version = lines[0][-3:]
    hosts = lengths = 0
    codings: list[bytes] = []
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            lengths += 1 + value.count(b",")
        elif name == b"transfer-encoding":
            codings.append(value.strip(b" \t").lower())
    if hosts > 1 or (hosts == 0 and version == b"1.1"):
        raise malformed("exactly one Host is required (RFC 9112 section 3.2)")
    if lengths > 1:
        raise malformed("more than one Content-Length (RFC 9112 section 6.3)")
    if codings:
        if lengths:
            raise malformed("Content-Length together with Transfer-Encoding (RFC 9112 section 6.1)")
        if version == b"1.0":
            raise malformed("Transfer-Encoding in HTTP/1.0 (RFC 9112 section 6.1)")
        if codings != [b"chunked"]:
            raise Rejected(501, "transfer_encoding", "the only transfer coding accepted is chunked")


class Headers:
    """The header fields of one request, by lower-case name. Values are text, one character a byte (Latin-1).

    Bytes beyond ASCII are let through here, because proxies do add such fields (a city's name); whoever uses a field
    checks it.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields: dict[str, list[str]] = {}
        for name, value in fields:
            self._fields.setdefault(name.lower(), []).append(value)

    @classmethod
    def of(cls, fields: dict[str, list[str]]) -> Headers:
        """Of names in lower case, which are not copied."""
        headers = cls.__new__(cls)
        headers._fields = fields
        return headers

    def get(self, name: str) -> str | None:
        """The field's value; several lines are joined with a comma (RFC 9110 section 5.3). None when absent."""
        values = self._fields.get(name)
        return None if values is None else ", ".join(values)

    def single(self, name: str) -> str | None:
        """The value of a field that stands there once; None: it is not there, or stands there more often."""
        values = self._fields.get(name)
        return values[0] if values is not None and len(values) == 1 else None

    def getlist(self, name: str) -> list[str]:
        """One value per line of that name, as sent."""
        return list(self._fields.get(name, ()))

    def elements(self, name: str) -> list[str]:
        """The members of a comma-separated list, over all lines, empty ones left out (RFC 9110 section 5.6.1)."""
        values = self._fields.get(name)
        if values is None:
            return []
        return [item for value in values for part in value.split(",") if (item := part.strip(" \t"))]

    def items(self) -> list[tuple[str, str]]:
        """Each name, in lower case, with its value as `get` gives it."""
        return [(name, ", ".join(values)) for name, values in self._fields.items()]

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)


@lru_cache(256)
def _field_name(name: str) -> str | None:
    """In lower case; None: it is no name. The same few come with every request."""
    return name.lower() if _FIELD_NAME.fullmatch(name) else None


class Plain(NamedTuple):
    """The head of a request that needs no more: GET in HTTP/1.1, no body, visible ASCII and blanks; a strict part of
    what RFC 9110 section 5.5 and h11 allow. `size`: in bytes.
    """

    size: int
    target: str
    headers: Headers


def read_plain(data: bytes | bytearray, max_bytes: int, max_fields: int) -> Plain | None:
    """The plain head that `data` begins with. None: it begins with no such, or no whole one; a scanner tells, and where
    that has no objection a real parser has to look.
    """
    end = data.find(b"\r\n\r\n", 0, max_bytes)
    if end < 0:
        return None
    text = data[:end].decode("latin-1")
    if not text.isascii():
        return None
    first, *lines = text.split("\r\n")
    request = _PLAIN_REQUEST.fullmatch(first)
    if request is None or len(lines) > max_fields:
        return None
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        known = _field_name(name)
        if known is None or not colon or not value.isprintable():  # of ASCII: the blank, and what is visible
            return None
        if known in fields:
            fields[known].append(value.strip(" "))
        else:
            fields[known] = [value.strip(" ")]
    if len(fields.get("host", ())) != 1 or not _FRAMING.isdisjoint(fields):
        return None
    return Plain(end + 4, request[1], Headers.of(fields))


async def _no_body(max_bytes: int, setting: str | None) -> bytes:
    del max_bytes, setting
    return b""


class Request:
    """One request, its head parsed; the body is read by whoever wants it.

    `target` is as sent, and may hold a token: `path` (decoded, without the query) is what a log may show; `raw_path` is
    not decoded, for those who take it apart at slashes. `host` is the authority asked for, "" if the client named none.
    `query` maps names to all their values. Raises Rejected(400) for a target that is not text.
    """

    __slots__ = (
        "_read_body",
        "certificate",
        "headers",
        "host",
        "http_version",
        "method",
        "path",
        "query",
        "raw_path",
        "remote",
        "target",
    )  # fmt: skip

    def __init__(
        self,
        method: str,
        target: str,
        headers: Headers,
        *,
        http_version: str = "1.1",
        remote: str = "",
        certificate: ClientCertificate | None = None,
        read_body: Callable[[int, str | None], Awaitable[bytes]] = _no_body,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.http_version = http_version
        self.remote = remote
        self.certificate = certificate
        self._read_body = read_body
        self.host, origin_form = _authority(method, target, headers.get("host") or "")
        self.raw_path, _, query = origin_form.partition("?")
        self.path = decoded(self.raw_path)
        self.query = _parameters(query)

    async def read_body(self, max_bytes: int, setting: str | None = None) -> bytes:
        """The whole body, b"" if there is none; it can be read once.

        Raises Rejected: 413, naming `setting`, beyond `max_bytes`; 400 for a body that is cut off or badly framed.
        """
        return await self._read_body(max_bytes, setting)

    def parameter(self, name: str) -> str | None:
        """One query parameter, None when absent. Raises Rejected(400) when it was given more than once."""
        values = self.query.get(name)
        if values is None:
            return None
        if len(values) > 1:
            raise malformed(f"the query parameter {name!r} was given more than once")
        return values[0]

    def __repr__(self) -> str:
        return (
            f"<Request {self.method} {self.path!r} from {self.remote or '?'}>"  # never the query: a token may be in it
        )


def _authority(method: str, target: str, host: str) -> tuple[str, str]:
    """Check the target's form (RFC 9112 section 3.2); return the authority asked for, and the target in origin form."""
    if host and not _AUTHORITY.fullmatch(host):
        raise malformed("Host is not a host name or address with an optional port")
    if "#" in target:
        raise malformed("a request target has no fragment")
    if target.startswith("/") or (target == "*" and method == "OPTIONS"):
        return host, target
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise malformed("the request target is not a path")
    cut = min((at for at in map(rest.find, "/?") if at >= 0), default=len(rest))
    authority, origin_form = rest[:cut], rest[cut:]
    # A server would have to trust the target over Host; a proxy in front may have looked at the other one.
    if authority.lower() != host.lower() or not authority:
        raise malformed("the request target names another host than Host")
    return host, origin_form if origin_form.startswith("/") else "/" + origin_form


def decoded(text: str) -> str:
    """Undo percent-encoding, strictly. Control characters are refused: nothing of ours has any."""
    if "%" not in text and text.isascii() and text.isprintable():
        return text
    if _BAD_PERCENT.search(text):
        raise malformed("a percent sign in the request target is not followed by two hex digits")
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise malformed("the request target is not UTF-8") from None
    if _CONTROL.search(decoded):
        raise malformed("the request target holds a control character")
    return decoded


def _parameters(query: str) -> dict[str, list[str]]:
    parameters: dict[str, list[str]] = {}
    for part in query.split("&"):
        if part:
            name, _, value = part.replace("+", " ").partition("=")
            parameters.setdefault(decoded(name), []).append(decoded(value))
    return parameters
