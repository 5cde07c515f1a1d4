"""All that can be known about a configuration without serving it: its problems, what is risky, and a summary.

Not here: printing (check). The one rule: every part is looked at, whatever is wrong with the others.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path as File
from typing import Final, TypeVar

import msgspec
from cryptography import x509

from relay.auth.jwks import keys_from_config
from relay.auth.keys import KeySet
from relay.auth.revocation import Revocations
from relay.auth.tokens import Verifier
from relay.config import LoadedConfig, check_files, parse_listen, unix_path
from relay.config.loader import line_of
from relay.config.positions import Path, join_key
from relay.config.quotas import Quota
from relay.config.schema import TLS, Issuer, issuers_of, table_of
from relay.delivery.channels import Channels
from relay.errors import ConfigError, ConfigProblem
from relay.front.doors import unspoken_for
from relay.front.revoking import read_at_start
from relay.front.terms import Terms
from relay.net.listener import check_congestion
from relay.net.origins import OriginPolicy
from relay.net.tls import Certificates
from relay.net.unix import place_problem
from relay.plugin.loader import LoadedPlugin, load_plugins, load_tenant_plugins
from relay.session.spending import compile_quotas

SOON: Final = timedelta(days=14)
Part = TypeVar("Part")


@dataclass(slots=True)
class Findings:
    """`summary` holds titles, each with its lines."""

    problems: list[ConfigProblem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    summary: list[tuple[str, list[str]]] = field(default_factory=list)


def examine(loaded: LoadedConfig) -> Findings:
    """Builds, one after the other, all that the server builds from a configuration, and throws it away.

    `loaded` may come from `config.survey`: its problems are told too, and what only follows from one of them is not.
    """
    config = loaded.config
    findings = Findings()
    files = check_files(loaded)
    problems: list[ConfigProblem] = []

    def attempt(build: Callable[[], Part], sound: Callable[[str], bool] = lambda key: True) -> Part | None:
        """What it builds, or None and its problems; those of keys that are not `sound` follow from others."""
        try:
            return build()
        except ConfigError as error:
            problems.extend(problem for problem in error.problems if sound(problem.key))
            return None

    doubts = Doubts(loaded.doubtful)
    keys: dict[str, KeySet] = {}
    for name, trusted in issuers_of(config.auth).items():
        read = partial(keys_from_config, trusted, lambda path: loaded.resolve(path).read_bytes(), table_of(name))
        keys[name] = attempt(read, doubts.key) or KeySet()
        attempt(partial(Verifier, KeySet(), trusted, name))
    attempt(lambda: compile_quotas(config.quotas))
    attempt(lambda: OriginPolicy(config.auth.allowed_origins))
    attempt(lambda: read_at_start(loaded, Revocations(config.auth.max_revocations), time.time()))
    if not config.server.insecure_plaintext:
        attempt(lambda: Certificates(doubts.pairs(config.tls), loaded.base))
    directory = loaded.resolve(config.supervision.directory)
    channels = Channels(config.channels)
    plugins = attempt(
        lambda: load_plugins(loaded.plugin_tables, directory, channels, loaded.where), doubts.plugin_setting
    )
    own: dict[str, list[LoadedPlugin]] = {}
    for name, tenant in config.tenants.items():
        attempt(partial(Terms, config, name))
        if tenant.plugins:
            own[name] = attempt(partial(load_tenant_plugins, loaded, name, channels), doubts.plugin_setting) or []
    problems.extend(_sockets(loaded))
    if why := check_congestion(config.outbox.congestion):
        problems.append(ConfigProblem(loaded.where("outbox.congestion"), "outbox.congestion", why))
    told = {problem.key for problem in loaded.problems} | {problem.key for problem in files}
    followers = [problem for problem in problems if problem.key not in told]  # a file is told of once
    found = [loaded.placed(problem) for problem in files + followers if not doubts.explain(problem.key)]
    findings.problems = sorted(dict.fromkeys((*loaded.problems, *found)), key=line_of)
    if not findings.problems:
        findings.summary = [
            ("listens", _listeners(loaded)),
            ("tls", _certificates(loaded)),
            ("keys", _keys(loaded, keys)),
            ("plugins", _plugins(plugins or [])),
            ("quotas", _quotas(config.quotas)),
            *([("tenants", _tenants(loaded, own))] if config.tenants else []),
        ]
        findings.warnings = _warnings(loaded)
    return findings


class Doubts:
    """Which problems are no news: they come from a default or a stand-in where a setting was misfit, and told of."""

    def __init__(self, doubtful: Collection[Path]) -> None:
        self._keys: Final = {join_key(path) for path in doubtful}
        lists = (path[:place] for path in doubtful for place, part in enumerate(path) if isinstance(part, int))
        self._lists: Final = {join_key(path) for path in lists}

    def explain(self, key: str) -> bool:
        """Whether the setting, a table around it, or an item of the list it is, was told of."""
        return key in self._lists or any(key == doubt or _is_below(key, doubt) for doubt in self._keys)

    def key(self, key: str) -> bool:
        """Whether the rest of this key's table is right: what a key must be depends on its algorithm, for one."""
        table = re.match(r"auth\.(?:issuers\.[\w-]+\.)?keys\[\d+\]", key)
        return table is None or not any(_is_below(doubt, table[0]) for doubt in self._keys)

    def pairs(self, settings: TLS) -> TLS:
        """Without the defaults of what was misfit: no key belongs to a certificate that nobody named."""
        halves = {name: "" for name in ("certificate", "key") if self.explain(f"tls.{name}")}
        return msgspec.structs.replace(settings, **halves)

    def plugin_setting(self, key: str) -> bool:
        """Whether it can be judged: a plugin's own settings cannot where it is not known which plugin it is."""
        if key.endswith((".rooms", ".channel")):
            return True
        known = not self.explain("supervision.directory")
        return known and not any(doubt.endswith(".use") and _is_below(key + ".", doubt[:-4]) for doubt in self._keys)


def _is_below(key: str, table: str) -> bool:
    return key.startswith((f"{table}.", f"{table}["))


def _listeners(loaded: LoadedConfig) -> list[str]:
    config = loaded.config
    scheme = "http and ws" if config.server.insecure_plaintext else "https and wss"
    public = [f"{address}  {scheme}" for address in config.server.listen]
    return public + [f"{address}  internal: metrics, health" for address in config.internal.listen]


def _sockets(loaded: LoadedConfig) -> Iterator[ConfigProblem]:
    """Unix sockets that could not be where the configuration wants them."""
    for table in ("server", "internal"):
        for index, text in enumerate(getattr(loaded.config, table).listen):
            path = unix_path(text)
            if path is not None and (problem := place_problem(loaded.resolve(path))):
                key = f"{table}.listen[{index}]"
                yield ConfigProblem(loaded.where(key), key, problem)


def read_leaf(path: File) -> x509.Certificate:
    """The first certificate of a PEM file that was checked before."""
    return x509.load_pem_x509_certificates(path.read_bytes())[0]


def names_of(leaf: x509.Certificate) -> list[str]:
    """Host names and addresses a certificate is for."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def _pairs(loaded: LoadedConfig) -> list[str]:
    config = loaded.config
    if config.server.insecure_plaintext:
        return []
    return [config.tls.certificate, *(pair.certificate for pair in config.tls.sni)]


def _certificates(loaded: LoadedConfig) -> list[str]:
    lines = []
    for path in _pairs(loaded):
        leaf = read_leaf(loaded.resolve(path))
        days = (leaf.not_valid_after_utc - datetime.now(UTC)).days
        names = ", ".join(names_of(leaf)) or "no name"
        lines.append(f"{path}  for {names}; until {leaf.not_valid_after_utc:%Y-%m-%d}, {days} days")
    return lines or ["none: everything can be read on the way"]


def _keys(loaded: LoadedConfig, keys: dict[str, KeySet]) -> list[str]:
    lines = []
    for name, trusted in issuers_of(loaded.config.auth).items():
        if isinstance(trusted, Issuer):
            bounds = f", rooms {trusted.room_prefix}*" if trusted.room_prefix else ""
            lines.append(f"of {name} (iss {trusted.issuer}{bounds}):")
        lines += [f"{key.algorithm}" + (f"  kid {key.kid}" if key.kid else "") for key in keys[name].keys]
        if trusted.jwks.url:
            lines.append(f"those of {trusted.jwks.url}")
    return lines


def _plugins(plugins: list[LoadedPlugin]) -> list[str]:
    if not plugins:
        return ["none: there are no rooms"]
    width = max(len(plugin.name) for plugin in plugins)
    return [f"{plugin.name:<{width}}  {' '.join(pattern.text for pattern in plugin.patterns)}" for plugin in plugins]


def _quotas(quotas: Mapping[str, Quota]) -> list[str]:
    on = {name: quota for name, quota in quotas.items() if quota.rate}
    if not on:
        return ["none"]
    width = max(map(len, on))
    return [
        f"{name:<{width}}  {quota.rate:g} {quota.counts} a second per {quota.per}, {quota.burst or quota.rate:g} at "
        f"once; then {quota.at_limit}"
        for name, quota in on.items()
    ]


def _tenants(loaded: LoadedConfig, own: dict[str, list[LoadedPlugin]]) -> list[str]:
    lines = []
    for name, tenant in loaded.config.tenants.items():
        tokens = f"tokens of {', '.join(tenant.issuers)}" if tenant.issuers else f"tokens of [auth] that name {name}"
        lines.append(f"{name}  {tokens}" + (f"; hosts {', '.join(tenant.hosts)}" if tenant.hosts else ""))
        if name in own:
            lines += [f"  {line}" for line in _plugins(own[name])]
    return lines


def _warnings(loaded: LoadedConfig) -> list[str]:
    """What works, and yet nobody should run by mistake."""
    config = loaded.config
    warnings = []
    if config.server.insecure_plaintext:
        warnings.append("server.insecure_plaintext: tokens and messages travel unencrypted")
    if config.server.playground:
        warnings.append("server.playground: the playground page is served to everybody")
    if config.auth.token_in_query:
        warnings.append("auth.token_in_query: tokens will stand in the access logs of proxies")
    if unspoken_for(config):
        warnings.append("proxy.trusted: limits by address do not hold for whoever comes through a Unix socket")
    if "*" in config.auth.allowed_origins:
        warnings.append("auth.allowed_origins: pages of every origin may connect with their visitors' tokens")
    warnings += [
        f"internal.listen: {address} can be reached from elsewhere, and asks for no password"
        for address in config.internal.listen
        if not _only_local(address)
    ]
    for path in _pairs(loaded):
        leaf = read_leaf(loaded.resolve(path))
        if leaf.not_valid_after_utc - datetime.now(UTC) < SOON:
            warnings.append(f"{path} expires on {leaf.not_valid_after_utc:%Y-%m-%d}")
    return warnings


def _only_local(address: str) -> bool:
    if unix_path(address) is not None:
        return True
    for host, _ in parse_listen(address):
        try:
            if not ipaddress.ip_address(host).is_loopback:
                return False
        except ValueError:
            if host != "localhost":
                return False
    return True
