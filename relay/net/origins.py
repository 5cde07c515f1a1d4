"""Which web pages may connect: the Origin header against `auth.allowed_origins` (RFC 6454, RFC 6455 section 10.2).

Not here: any other credential. The one rule: an origin is compared as (scheme, host, port), never as text with a prefix
or a suffix; what does not parse as an origin matches nothing but `*`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv6Address
from typing import Final, TypeAlias

from relay.errors import ConfigError, ConfigProblem

Parts: TypeAlias = tuple[str, str, int | None]
"""Scheme, host, port; the port is None for a scheme without a default one, such as that of a browser extension."""

KEY: Final = "auth.allowed_origins"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_SECURE: Final = ("https", "wss")
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_HOST: Final = rf"(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>0|[1-9][0-9]{{0,4}}))?"
_ORIGIN: Final = re.compile(rf"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://{_HOST}")
_AUTHORITY: Final = re.compile(_HOST)


class OriginPolicy:
    """The configured list, compiled. Raises ConfigError for entries that could never match."""

    __slots__ = ("_any", "_exact", "_null", "_own", "_subdomains")

    def __init__(self, allowed: Sequence[str], key: str = KEY) -> None:
        self._any = "*" in allowed
        self._null = "null" in allowed
        self._own = "self" in allowed
        self._exact: set[Parts] = set()
        self._subdomains: list[Parts] = []
        problems: list[ConfigProblem] = []
        for index, entry in enumerate(allowed):
            if entry not in ("*", "null", "self") and not self._add(entry):
                what = f"{entry!r} is not an origin"
                hint = "as in 'https://app.example', 'https://*.example.com' or 'self'; names beyond ASCII as xn--…"
                problems.append(ConfigProblem("configuration", f"{key}[{index}]", what, hint))
        if problems:
            raise ConfigError(problems)

    def _add(self, entry: str) -> bool:
        """Take one entry; a name without a scheme means https."""
        scheme, separator, host = entry.partition("://")
        if not separator:
            scheme, host = "https", entry
        wild = host.startswith("*.")
        parts = _parsed(f"{scheme}://{host.removeprefix('*.')}")
        if parts is None or (wild and parts[1].startswith("[")):
            return False
        if wild:
            self._subdomains.append(parts)
        else:
            self._exact.add(parts)
        return True

    def allows(self, origin: str | None, host: str | None, tls: bool) -> bool:
        """Whether a page of `origin` may connect to the relay addressed as `host` (the Host header).

        No Origin at all: not a browser, allowed. `tls` is whether this listener speaks TLS: if it does, `self` means
        its https origin only; if not, a proxy in front may, so http and https are both its own.
        """
        if origin is None:
            return True
        if self._any:  # still something that can be sent back in Access-Control-Allow-Origin
            return origin.isascii() and origin.isprintable()
        if origin == "null":  # sandboxed frames, file:, data: and redirects across sites: it names nobody
            return self._null
        return self.names(origin, host, tls)

    def names(self, origin: str | None, host: str | None, tls: bool) -> bool:
        """Whether there is an origin, and it is one of those listed; `*` and `null` list none."""
        parts = None if origin is None else _parsed(origin)
        if parts is None:
            return False
        if parts in self._exact:
            return True
        scheme, name, port = parts
        for wild_scheme, parent, wild_port in self._subdomains:
            if scheme == wild_scheme and port == wild_port and name.endswith("." + parent):
                return True
        return self._own and host is not None and _is_own(parts, host, tls)


def _is_own(parts: Parts, host: str, tls: bool) -> bool:
    scheme, name, port = parts
    authority = _AUTHORITY.fullmatch(host)
    if authority is None or scheme not in _DEFAULT_PORTS or (tls and scheme not in _SECURE):
        return False
    own_port = int(authority["port"]) if authority["port"] else _DEFAULT_PORTS[scheme]
    return (name, port) == (_folded(authority["host"]), own_port)


def _parsed(origin: str) -> Parts | None:
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return None
    scheme = match["scheme"].lower()
    host = _folded(match["host"])
    port = int(match["port"]) if match["port"] else _DEFAULT_PORTS.get(scheme)
    return None if host is None else (scheme, host, port)


def _folded(host: str) -> str | None:
    """One spelling per host: lower case, IPv6 compressed (RFC 5952). None for what only looks like IPv6."""
    if not host.startswith("["):
        return host.lower()
    try:
        return f"[{IPv6Address(host[1:-1]).compressed}]"
    except ValueError:
        return None
