"""Which settings cannot be together, although each is right alone, and which texts mean something.

Not here: types and bounds (validate), and whether files exist (loader). The one rule: a rule sees one table and yields
(path below it, what is wrong, hint); it repeats no text of the configuration that could be a secret.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from relay.config.address import EVERY, UNIX, parse_listen, parse_network, unix_path
from relay.config.aliases import alias_problem
from relay.config.positions import Path
from relay.config.quotas import Quota, faults
from relay.config.schema import (
    JWKS,
    TLS,
    Auth,
    Config,
    Internal,
    Issuer,
    Key,
    Limits,
    PluginTable,
    Proxy,
    Server,
    Trusted,
    issuers_of,
    subject_prefix,
    table_of,
    tenants_of,
)
from relay.config.suggest import did_you_mean

Fault: TypeAlias = tuple[Path, str, str]

SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Least length of an HMAC secret: that of the hash (RFC 7518 section 3.2)."""

API_KEY_BYTES: Final = 16
"""Least length of a key of the API."""

# What an origin may look like at all (RFC 6454 section 6.2); the usual slip is a slash at its end.
HOST: Final = re.compile(r"(\*\.)?[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*|\[[0-9a-fA-F:.]+\]")
NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
MODE: Final = re.compile(r"0?[0-7]{3}")
PREFIX: Final = re.compile(r"(?:[^\s*{}:]+:)+")
ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*://)?[^/?#\s@]+", re.IGNORECASE)
COOKIE: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A cookie's name is a token (RFC 6265 section 4.1.1)."""
SECRET_SOURCES: Final = ("secret", "secret_file")
PUBLIC_SOURCES: Final = ("public_key", "public_key_file")


def server(table: Server) -> Iterator[Fault]:
    if not table.listen:
        yield ("listen",), "needs at least one address", "':8443' is every address"
    yield from addresses(table.listen)
    yield from mode(table.unix_mode)


def internal(table: Internal) -> Iterator[Fault]:
    yield from addresses(table.listen)
    yield from mode(table.unix_mode)
    for index, key in enumerate(table.api_keys):
        if problem := bad_api_key(key):
            yield ("api_keys", index), problem, f"like that of `openssl rand -hex {API_KEY_BYTES}`"


def bad_api_key(key: str) -> str | None:
    """Why a key of the API is none, as the end of a sentence; None when it is one. Never quotes it."""
    if len(key) < API_KEY_BYTES:
        return f"is too short: a key has at least {API_KEY_BYTES} bytes"
    if not key.isascii() or not key.isprintable() or " " in key:
        return "is not of printable ASCII without spaces, so no header could carry it"
    return None


def addresses(texts: list[str]) -> Iterator[Fault]:
    for index, text in enumerate(texts):
        try:
            if unix_path(text) is None:
                parse_listen(text)
        except ValueError as error:
            yield ("listen", index), str(error), ""
    yield from twice("listen", texts)


def mode(text: str) -> Iterator[Fault]:
    if not MODE.fullmatch(text):
        yield ("unix_mode",), "is no mode of a file", "three octal digits, as in '0660': its owner and its group"


def limits(table: Limits) -> Iterator[Fault]:
    for key in ("allow_addresses", "deny_addresses"):
        texts = getattr(table, key)
        for index, text in enumerate(texts):
            try:
                parse_network(text)
            except ValueError as error:
                yield (key, index), str(error), ""
        yield from twice(key, texts)


def proxy(table: Proxy) -> Iterator[Fault]:
    for index, text in enumerate(table.trusted):
        try:
            if text != "unix":
                parse_network(text)
        except ValueError as error:
            yield ("trusted", index), str(error), "'unix' is whoever comes through a Unix socket"
    yield from twice("trusted", table.trusted)
    if not table.trusted and (table.protocol, table.forwarded) != ("none", "none"):
        yield ("trusted",), "is empty: nobody's word about a client's address would be believed", ""


def tls(table: TLS) -> Iterator[Fault]:
    if table.client_certificates != "off" and not table.client_ca:
        yield ("client_ca",), "needs at least one authority: else no client's certificate could be good", ""
    if table.client_certificates == "off" and table.client_ca:
        yield ("client_certificates",), "is off, so client_ca is good for nothing", "'optional' or 'required'"


def quota(table: Quota) -> Iterator[Fault]:
    for key, what, hint in faults(table):
        yield (key,), what, hint


def twice(key: str, texts: list[str]) -> Iterator[Fault]:
    if any(count > 1 for count in Counter(texts).values()):
        yield (key,), "names the same one twice", ""


def key(table: Key) -> Iterator[Fault]:
    hmac = table.algorithm in SECRET_BYTES
    given = [name for name in (*SECRET_SOURCES, *PUBLIC_SOURCES) if getattr(table, name)]
    right, wrong = (SECRET_SOURCES, PUBLIC_SOURCES) if hmac else (PUBLIC_SOURCES, SECRET_SOURCES)
    if len(given) != 1:
        what = f"has {' and '.join(given)}" if given else "has no key"
        yield (), what, f"exactly one of {' and '.join(right)}"
    elif given[0] in wrong:
        # The classic confusion: a public key, which everybody has, taken for an HMAC secret (RFC 8725 section 2.1).
        what = f"{table.algorithm} is {'an HMAC' if hmac else 'a public-key'} algorithm and cannot go with {given[0]}"
        yield (given[0],), what, f"set {' or '.join(right)}"
    elif table.secret and short(table.algorithm, table.secret.encode()):
        yield ("secret",), too_short(table.algorithm), ""
    elif "PRIVATE KEY" in table.public_key:
        yield ("public_key",), "is a private key", "the relay only checks tokens: give it the public one"
    elif table.public_key and "-----BEGIN" not in table.public_key:
        yield ("public_key",), "is not PEM text", "for the path of a file use public_key_file"


def short(algorithm: str, secret: bytes) -> bool:
    return len(secret) < SECRET_BYTES.get(algorithm, 0)


def too_short(algorithm: str) -> str:
    return f"the secret is too short: {algorithm} needs at least {SECRET_BYTES[algorithm]} bytes (RFC 7518 section 3.2)"


def jwks(table: JWKS) -> Iterator[Fault]:
    if not table.url:
        return
    try:
        url = urlsplit(table.url)
        good = url.scheme == "https" and bool(url.hostname) and url.port != 0 and not re.search(r"\s", table.url)
    except ValueError:
        good = False
    if not good:
        yield ("url",), "must be an https URL", "who can change the keys on their way can sign any token"


def issuer(table: Issuer) -> Iterator[Fault]:
    if not table.issuer:
        yield ("issuer",), "is empty: no token could name it", ""
    if not (table.keys or table.jwks.file or table.jwks.url):
        yield ("keys",), "no key to check its tokens with", "add a keys table or set jwks"
    for name, prefix in (("room_prefix", table.room_prefix), ("subject_prefix", table.subject_prefix)):
        if prefix and not PREFIX.fullmatch(prefix):
            yield (name,), "must end in ':' and hold no '*', '{' or white space", "as in 'acme:'"


def auth(table: Auth) -> Iterator[Fault]:
    names = {table.issuer: ""} if table.issuer else {}
    for name, each in table.issuers.items():
        if not NAME.fullmatch(name):
            yield ("issuers", name), "is no name", "letters, digits, - and _"
        other = names.setdefault(each.issuer, name)
        if other != name:
            what = f"is that of {table_of(other)} too: a token's `iss` must tell whose it is"
            yield ("issuers", name, "issuer"), what, ""
    if not issuers_of(table):
        yield (
            ("keys",),
            "no key to check tokens with: nobody could connect",
            "add an [[auth.keys]] table or set auth.jwks",
        )
    if table.cookie and not COOKIE.fullmatch(table.cookie):
        yield ("cookie",), "is no name of a cookie", "letters, digits, - and _, as in '__Host-relay'"
    for index, origin in enumerate(table.allowed_origins):
        yield from origin_fault(("allowed_origins", index), origin)


def origin_fault(path: Path, origin: str) -> Iterator[Fault]:
    if origin not in ("self", "*", "null") and not ORIGIN.fullmatch(origin):
        yield path, "not an origin", "like https://app.example, without a path or a slash at the end"


def plugin(table: PluginTable) -> Iterator[Fault]:
    given = {key: as_list(getattr(table, key)) for key in ("rooms", "filters", "publish")}
    for key, patterns in given.items():
        if not all(patterns):
            yield (key,), "needs at least one pattern, and none may be empty", ""
    if not given["rooms"] and not given["filters"]:
        yield ("rooms",), "is missing", "or `filters`, for a plugin in front of other plugins' rooms"
    for key in ("last_value", "durable"):
        if getattr(table, key) and not table.history:
            yield (key,), "needs a history", "set `history` to the number of messages to remember"


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def config(whole: Config) -> Iterator[Fault]:
    yield from shared(whole.server.listen, whole.internal.listen)
    if "control" in whole.channels and whole.channels["control"].priority != "strict":
        yield ("channels", "control", "priority"), "must be strict: answers, pings and `bye` travel in it", ""
    yield from plugins(whole, ("plugins",), whole.plugins)
    for name, tenant in whole.tenants.items():
        yield from plugins(whole, ("tenants", name, "plugins"), tenant.plugins)
    yield from tenants(whole)
    yield from mtls(whole)
    for alias, room in whole.aliases.items():
        if problem := alias_problem(alias, room, whole.aliases):
            yield ("aliases", alias), problem, ""
    yield from subjects(whole)
    yield from quotas(whole)
    tables: dict[str, Trusted] = {"": whole.auth, **whole.auth.issuers}
    for name, trusted in tables.items():
        place: Path = ("auth", "issuers", name) if name else ("auth",)
        for index, channel in enumerate(trusted.default_grants.channels):
            if "*" not in channel:
                yield from known((*place, "default_grants", "channels", index), channel, whole.channels)


def mtls(whole: Config) -> Iterator[Fault]:
    if whole.auth.mtls.bind_token and whole.tls.client_certificates == "off":
        yield ("auth", "mtls", "bind_token"), "needs tls.client_certificates: no client could show one", ""


def plugins(whole: Config, place: Path, tables: Mapping[str, Mapping[str, Any]]) -> Iterator[Fault]:
    for name, table in tables.items():
        channel = table.get("channel", "default")
        if channel == "control":
            yield (*place, name, "channel"), "control is the relay's own channel", "`urgent` goes before the others"
        else:
            yield from known((*place, name, "channel"), channel, whole.channels)
        if table.get("durable") is True and table.get("enabled", True) and not whole.history.file:
            yield (*place, name, "durable"), "needs a file to write to", "set history.file"


def tenants(whole: Config) -> Iterator[Fault]:
    owners: dict[str, str] = {}
    for name, table in whole.tenants.items():
        place: Path = ("tenants", name)
        if not NAME.fullmatch(name):
            yield place, "is no name", "letters, digits, - and _"
        for index, issuer_name in enumerate(table.issuers):
            if issuer_name not in whole.auth.issuers:
                known_names = ", ".join(whole.auth.issuers) or "none"
                hint = did_you_mean(issuer_name, whole.auth.issuers) or f"there are: {known_names}"
                yield (*place, "issuers", index), "no such table [auth.issuers.NAME]", hint
        if not table.issuers and "" not in issuers_of(whole.auth):
            yield (*place, "issuers"), "is missing: [auth] has no key, so no token could be this tenant's", ""
        for index, host in enumerate(table.hosts):
            if not HOST.fullmatch(host):
                yield (*place, "hosts", index), "is no host name", "like acme.example.com or *.example.com, no port"
            elif (owner := owners.setdefault(host.lower(), name)) != name:
                yield (*place, "hosts", index), f"is a host of tenants.{owner} too", ""
        for index, origin in enumerate(table.allowed_origins):
            yield from origin_fault((*place, "allowed_origins", index), origin)


def subjects(whole: Config) -> Iterator[Fault]:
    """Two issuers of a tenant who both know an `ann` must say whether she is one and the same."""
    seen: dict[tuple[str, str], str] = {}
    trusted = issuers_of(whole.auth)
    for name, found in tenants_of(whole.auth, whole.tenants).items():
        for tenant in found:
            other = seen.setdefault((tenant, subject_prefix(trusted[name])), name)
            each = trusted[name]
            if other != name and not (isinstance(each, Issuer) and each.shares_subjects):
                what = f"its subjects would be those of {table_of(other)}"
                yield ("auth", "issuers", name, "subject_prefix"), what, "set it, or shares_subjects = true"


def quotas(whole: Config) -> Iterator[Fault]:
    """What quotas say about other tables."""
    for name, rule in whole.quotas.items():
        for index, plugin in enumerate(rule.plugins):
            if plugin not in whole.plugins:
                hint = did_you_mean(plugin, whole.plugins) or f"there are {', '.join(whole.plugins)}"
                yield ("quotas", name, "plugins", index), "no such plugin", hint
        for index, tenant in enumerate(rule.tenants):
            if tenant and tenant not in whole.tenants:
                hint = did_you_mean(tenant, whole.tenants) or f"there are: {', '.join(whole.tenants) or 'none'}"
                yield ("quotas", name, "tenants", index), "no such table [tenants.NAME]", hint
        most = whole.limits.message_bytes
        burst = rule.burst or max(1.0, rule.rate)
        if rule.rate and rule.counts in ("bytes_in", "bytes_out") and rule.at_limit != "slow" and burst < most:
            what = f"a message of {most} bytes (limits.message_bytes) would never get through"
            yield ("quotas", name, "burst"), what, f"at least {most}"


def shared(public: list[str], internal: list[str]) -> Iterator[Fault]:
    """Internal addresses that are public ones too; what is no address was reported as such."""
    taken = set(pairs(public))
    for index, text in enumerate(internal):
        if text in public and text.startswith(UNIX):
            yield ("internal", "listen", index), "is an address of server.listen too", "give it a path of its own"
        for host, port in pairs([text]):
            if port and any(port == other and (host == at or {host, at}.intersection(EVERY)) for at, other in taken):
                yield ("internal", "listen", index), "is an address of server.listen too", "give it a port of its own"
                break


def pairs(texts: list[str]) -> Iterator[tuple[str, int]]:
    for text in texts:
        with suppress(ValueError):
            yield from parse_listen(text)


def known(path: Path, channel: str, channels: Iterable[str]) -> Iterator[Fault]:
    if channel not in channels:
        yield path, "no such channel", did_you_mean(channel, channels) or f"there are {', '.join(channels)}"


RULES: Final[dict[type, Callable[[Any], Iterator[Fault]]]] = {
    Server: server,
    Internal: internal,
    Limits: limits,
    TLS: tls,
    Proxy: proxy,
    Quota: quota,
    Key: key,
    JWKS: jwks,
    Issuer: issuer,
    Auth: auth,
    PluginTable: plugin,
    Config: config,
}

WHOLE: Final = frozenset({Key, Quota})
"""Tables whose rules make sense only where every required key is there: what goes with an algorithm, say."""
