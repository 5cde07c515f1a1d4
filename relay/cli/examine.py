"""All that can be known about a configuration without serving it: its problems, what is risky, and a summary.

Not here: printing (check). The one rule: every part is looked at, whatever is wrong with the others.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

from cryptography import x509

from relay.auth.jwks import keys_from_config
from relay.auth.keys import KeySet
from relay.auth.tokens import Verifier
from relay.config import LoadedConfig, check_files, parse_listen
from relay.delivery.channels import Channels
from relay.errors import ConfigError, ConfigProblem
from relay.net.origins import OriginPolicy
from relay.net.tls import Certificates
from relay.plugin.loader import LoadedPlugin, load_plugins

SOON: Final = timedelta(days=14)
Part = TypeVar("Part")


@dataclass(slots=True)
class Findings:
    """`summary` holds titles, each with its lines."""

    problems: list[ConfigProblem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    summary: list[tuple[str, list[str]]] = field(default_factory=list)


def examine(loaded: LoadedConfig) -> Findings:
    """Builds, one after the other, all that the server builds from a configuration, and throws it away."""
    config = loaded.config
    findings = Findings()
    files = check_files(loaded)

    def attempt(build: Callable[[], Part]) -> Part | None:
        try:
            return build()
        except ConfigError as error:
            findings.problems += error.problems
            return None

    keys = attempt(lambda: keys_from_config(config.auth, lambda path: loaded.resolve(path).read_bytes()))
    attempt(lambda: OriginPolicy(config.auth.allowed_origins))
    attempt(lambda: Verifier(KeySet(), config.auth))
    if not config.server.insecure_plaintext:
        attempt(lambda: Certificates(config.tls, loaded.base))
    directory = loaded.resolve(config.supervision.directory)
    channels = Channels(config.channels)
    plugins = attempt(lambda: load_plugins(loaded.plugin_tables, directory, channels, loaded.where))
    findings.problems = _told_once(loaded, files, findings.problems)
    if not findings.problems:
        findings.summary = [
            ("listens", _listeners(loaded)),
            ("tls", _certificates(loaded)),
            ("keys", _keys(loaded, keys or KeySet())),
            ("plugins", _plugins(plugins or [])),
        ]
        findings.warnings = _warnings(loaded)
    return findings


def _told_once(loaded: LoadedConfig, files: list[ConfigProblem], problems: list[ConfigProblem]) -> list[ConfigProblem]:
    """All problems; a file that cannot be read once, though more than one part wanted it. Each with its place."""
    of_files = {problem.key for problem in files}
    found = files + [problem for problem in problems if problem.key not in of_files]
    placed = [
        replace(problem, where=loaded.where(problem.key)) if problem.where == "configuration" else problem
        for problem in found
    ]
    return list(dict.fromkeys(placed))


def _listeners(loaded: LoadedConfig) -> list[str]:
    config = loaded.config
    scheme = "http and ws" if config.server.insecure_plaintext else "https and wss"
    public = [f"{address}  {scheme}" for address in config.server.listen]
    return public + [f"{address}  internal: metrics, health" for address in config.internal.listen]


def read_leaf(path: Path) -> x509.Certificate:
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


def _keys(loaded: LoadedConfig, keys: KeySet) -> list[str]:
    lines = [f"{key.algorithm}" + (f"  kid {key.kid}" if key.kid else "") for key in keys.keys]
    if url := loaded.config.auth.jwks.url:
        lines.append(f"those of {url}")
    return lines


def _plugins(plugins: list[LoadedPlugin]) -> list[str]:
    if not plugins:
        return ["none: there are no rooms"]
    width = max(len(plugin.name) for plugin in plugins)
    return [f"{plugin.name:<{width}}  {' '.join(pattern.text for pattern in plugin.patterns)}" for plugin in plugins]


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
    for host, _ in parse_listen(address):
        try:
            if not ipaddress.ip_address(host).is_loopback:
                return False
        except ValueError:
            if host != "localhost":
                return False
    return True
