"""Who is behind proxies that end HTTP: `Forwarded` (RFC 7239) and `X-Forwarded-For`, read from the right. No I/O.

Each proxy adds at the right whom it got the request from; what stands further left is hearsay, up to a client that
writes what it likes. Not here: whose word counts (front/doors). The one rule: what stands to the left never changes how
anything to the right of it is read, so a client cannot make its proxy's words disappear.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final

_WORD: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED: Final = r'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t -~])*"'
_PAIR: Final = rf"{_WORD}=(?:{_WORD}|{_QUOTED})"
_ELEMENT: Final = re.compile(rf"(?:{_PAIR})?(?:;(?:{_PAIR})?)*")  # RFC 7239 section 4
_NAMED: Final = re.compile(rf"({_WORD})=({_WORD}|{_QUOTED})")
_ESCAPED: Final = re.compile(r"\\(.)")
_PORT: Final = re.compile(r"[0-9]{1,5}|_[A-Za-z0-9._-]+")  # RFC 7239 section 6


def hops(name: str, lines: list[str]) -> Iterator[str | None]:
    """Addresses in a header, the nearest hop first; None for one that is not told or not understood.

    `name` is "forwarded" or "x-forwarded-for", `lines` the values of its fields as they came.
    """
    read = _forwarded if name == "forwarded" else _x_forwarded_for
    for line in reversed(lines):
        yield from read(line)


def _x_forwarded_for(line: str) -> Iterator[str | None]:
    for item in reversed(line.split(",")):
        if text := item.strip(" \t"):
            yield node(text)


def _forwarded(line: str) -> Iterator[str | None]:
    """An element reaches to the next comma on its left behind which everything is well formed: a comma in a quoted
    string leaves an odd number of quotes. Where there is none, the rest says nothing.
    """
    end = len(line)
    while end >= 0:
        comma = line.rfind(",", 0, end)
        while not _ELEMENT.fullmatch(line[comma + 1 : end].strip(" \t")):
            if comma < 0:
                yield None
                return
            comma = line.rfind(",", 0, comma)
        pairs = _NAMED.findall(line, comma + 1, end)
        if pairs:
            found = [value for key, value in pairs if key.lower() == "for"]
            yield node(_unquoted(found[0])) if len(found) == 1 else None
        end = comma


def _unquoted(value: str) -> str:
    return _ESCAPED.sub(r"\1", value[1:-1]) if value.startswith('"') else value


def node(text: str) -> str | None:
    """The address in a node (RFC 7239 section 6), with or without a port, in its one spelling.

    None for `unknown`, a name of the proxy's own (`_hidden`), and what is none at all. IPv6 may stand without brackets,
    as X-Forwarded-For has it.
    """
    host, colon, port = text, "", ""
    if text.startswith("["):
        host, _, behind = text[1:].partition("]")
        colon, port = behind[:1], behind[1:]
        if ":" not in host or colon not in ("", ":") or "]" not in text:
            return None
    elif text.count(":") == 1:
        host, colon, port = text.partition(":")
    if colon and not _PORT.fullmatch(port):
        return None
    try:
        return str(IPv6Address(host)) if ":" in host and "%" not in host else str(IPv4Address(host))
    except ValueError:
        return None
