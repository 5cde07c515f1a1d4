"""Reading the configuration: file, environment and command line become one `Config`, or a list of all that is wrong.

Not here: what can be set (schema), what fits (validate, rules). The one rule: every value knows where it was set, so
that each problem names a file and line, or a variable.

Precedence: --set, then environment, then file, then default.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from relay.config import rules
from relay.config.overrides import Overlay, gather
from relay.config.positions import Path as KeyPath
from relay.config.positions import join_key, positions
from relay.config.schema import (
    Config,
    Key,
    PluginTable,
    default_channels,
    default_plugins,
    default_quotas,
    issuers_of,
    table_of,
)
from relay.config.validate import Validator, root
from relay.errors import ConfigError, ConfigProblem

DEFAULT: Final = "default"
MAX_SECRET_BYTES: Final = 65536

SYNTAX_HINTS: Final = {
    "Invalid value": 'text needs quotes: key = "value"',
    "Cannot overwrite a value": "this key is there twice",
    "Cannot declare": "this table is there twice",
}


@dataclass(frozen=True, slots=True, repr=False)
class LoadedConfig:
    """A checked configuration, and where it came from.

    `plugin_tables` has for each plugin table, in the order of the file, the keys common to all plugins and the plugin's
    own settings, which only the plugin can check. `base` is the directory that relative paths are relative to.

    `problems` is empty, but in what `survey` gives; there `doubtful` are the keys that have a default or a stand-in
    because of them.
    """

    config: Config
    path: Path | None
    base: Path
    plugin_tables: dict[str, tuple[PluginTable, dict[str, Any]]]
    origins: Mapping[str, str]
    problems: tuple[ConfigProblem, ...] = ()
    doubtful: frozenset[KeyPath] = frozenset()

    def where(self, key: str) -> str:
        """Where `auth.keys[0].kid` (say) was set: "config.toml:12", "environment RELAY__X", "--set" or "default"."""
        return self.origins.get(key, DEFAULT)

    def tables_of(self, tenant: str) -> tuple[str, dict[str, tuple[PluginTable, dict[str, Any]]]]:
        """The plugin tables of a tenant, as `plugin_tables`, and what stands before their names in the file."""
        own = self.config.tenants[tenant].plugins if tenant else {}
        if not own:
            return "", self.plugin_tables
        return f"tenants.{tenant}.", {name: split_table(table) for name, table in own.items()}

    def placed(self, problem: ConfigProblem) -> ConfigProblem:
        """A problem of what was made from this configuration, with the place of its key; a file it is about is said."""
        where = self.where(problem.key)
        if problem.where == where:
            return problem
        what = problem.what if problem.where == "configuration" else f"{problem.where}: {problem.what}"
        return replace(problem, where=where, what=what)

    def resolve(self, path: str) -> Path:
        """A path of the configuration as one that can be opened: relative ones start at the file's directory."""
        return self.base / path

    def __repr__(self) -> str:
        return f"<LoadedConfig {self.path or DEFAULT}>"  # never the settings: some are secrets


def load(path: Path | None, *, environ: Mapping[str, str], overrides: Sequence[tuple[str, str]] = ()) -> LoadedConfig:
    """The configuration of a file, or of the defaults alone (`path` None), with environment and `overrides` over it.

    `overrides` are (dotted key, value as text). Raises ConfigError with all problems found; no file but `path` is read.
    """
    loaded = survey(path, environ=environ, overrides=overrides)
    if loaded.problems:
        raise ConfigError(list(loaded.problems))
    return loaded


def survey(path: Path | None, *, environ: Mapping[str, str], overrides: Sequence[tuple[str, str]] = ()) -> LoadedConfig:
    """As `load`, but what fits comes beside the problems, so that it can be looked at further: not to run with.

    Raises ConfigError only for a file that cannot be read as TOML at all.
    """
    document, origins = read_file(path) if path else ({}, {})
    if document.get("plugins", {}) == {}:
        document["plugins"] = default_plugins()
    overlay = Overlay(document, origins)
    validator = Validator(lambda key: origin_of(key, origins, path))
    for override in gather(environ, overrides):
        problem = override if isinstance(override, ConfigProblem) else overlay.apply(override)
        if problem:
            validator.problems.append(problem)
    fill(document, "channels", default_channels())
    fill(document, "quotas", default_quotas())
    drop_default_key(document)
    config = msgspec.convert(validator.fit(document, root()), Config)
    return LoadedConfig(
        config=config,
        path=path,
        base=path.absolute().parent if path else Path.cwd(),
        plugin_tables={name: split_table(table) for name, table in config.plugins.items()},
        origins={join_key(key): where for key, where in origins.items()},
        problems=tuple(sorted(validator.problems, key=line_of)),
        doubtful=frozenset(validator.faulty | validator.doubtful),
    )


def read_file(path: Path) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """The document in a TOML file, and where each key stands. Raises ConfigError."""
    line = 0
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
        document = tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        what, hint = str(error), ""
        match error:
            case OSError():
                what = f"cannot be read: {error.strerror or error}"
            case UnicodeDecodeError():
                line = data.count(b"\n", 0, error.start) + 1
                what = "is not UTF-8"
            case RecursionError():
                what = "is nested too deeply"
            case tomllib.TOMLDecodeError():
                found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", what)
                if found:
                    line = int(found[1] or text.count("\n") + 1)
                    what = what[: found.start()]
                hint = next((hint for start, hint in SYNTAX_HINTS.items() if what.startswith(start)), "")
            case ValueError() if "digits" in what:  # Python's own bound on int()
                what = "a number has too many digits"
        raise ConfigError([ConfigProblem(f"{path}:{line}" if line else str(path), "TOML", what, hint)]) from None
    return document, {key: f"{path}:{line}" for key, line in positions(text).items()}


def origin_of(key: KeyPath, origins: Mapping[KeyPath, str], path: Path | None) -> str:
    """Where a key was set, or the nearest table around it."""
    while key and key not in origins:
        key = key[:-1]
    return origins.get(key, str(path) if path else DEFAULT)


def line_of(problem: ConfigProblem) -> int:
    """To sort by: the line in the file; what is set elsewhere comes last."""
    found = re.search(r":(\d+)$", problem.where)
    return int(found[1]) if found else sys.maxsize


def fill(document: dict[str, Any], key: str, defaults: Mapping[str, msgspec.Struct]) -> None:
    """Merge the tables that always exist (channels, quotas) under those of the document."""
    tables = document.setdefault(key, {})
    if not isinstance(tables, dict):
        return
    merged: dict[str, Any] = msgspec.to_builtins(defaults)
    for name, table in tables.items():
        merged[name] = {**merged.get(name, {}), **table} if isinstance(table, dict) else table
    document[key] = merged


def drop_default_key(document: dict[str, Any]) -> None:
    """Who names issuers and gives [auth] no key means that it has none: the development key is not one beside them."""
    auth = document.get("auth")
    if isinstance(auth, dict) and auth.get("issuers"):
        auth.setdefault("keys", [])


def split_table(table: dict[str, Any]) -> tuple[PluginTable, dict[str, Any]]:
    """The common keys of a plugin table, and the plugin's own."""
    common = {key: value for key, value in table.items() if key in PluginTable.__struct_fields__}
    return msgspec.convert(common, PluginTable), {key: value for key, value in table.items() if key not in common}


def check_files(loaded: LoadedConfig) -> list[ConfigProblem]:
    """What is wrong with the files that the configuration names: missing, unreadable or empty ones."""
    config, problems = loaded.config, list[ConfigProblem]()
    development = "`relay certs` makes a pair for development"
    files: list[tuple[str, str, str]] = []
    if not config.server.insecure_plaintext:
        files += [("tls.certificate", config.tls.certificate, development), ("tls.key", config.tls.key, development)]
        for index, pair in enumerate(config.tls.sni):
            files += [(f"tls.sni[{index}].certificate", pair.certificate, ""), (f"tls.sni[{index}].key", pair.key, "")]
    for issuer, trusted in issuers_of(config.auth).items():
        table = table_of(issuer)
        files += [
            (f"{table}.jwks.{key}", text, "") for key in ("file", "ca_file") if (text := getattr(trusted.jwks, key))
        ]
        for index, key in enumerate(trusted.keys):
            if key.public_key_file:
                files.append((f"{table}.keys[{index}].public_key_file", key.public_key_file, ""))
            elif key.secret_file:
                try:
                    read_secret(loaded, key)
                except ConfigError as error:
                    problems += error.problems
    try:
        read_api_keys(loaded)
    except ConfigError as error:
        problems += error.problems
    for name, text, hint in files:
        try:
            if not read_start(loaded.resolve(text)):
                problems.append(ConfigProblem(loaded.where(name), name, f"{loaded.resolve(text)} is empty"))
        except (OSError, ValueError) as error:
            problems.append(unreadable(loaded, name, text, error, hint))
    return problems


def read_secret(loaded: LoadedConfig, key: Key) -> bytes:
    """The secret of an HMAC key, from the setting or from its file, without one newline at the end of that.

    Raises ConfigError where the file cannot be read, or holds nothing or too little (RFC 7518 section 3.2).
    """
    if key.secret:
        return key.secret.encode()
    keys = (
        (f"{table_of(issuer)}.keys[{index}].secret_file", each)
        for issuer, trusted in issuers_of(loaded.config.auth).items()
        for index, each in enumerate(trusted.keys)
    )
    name = next((name for name, each in keys if each is key), "auth.keys")
    try:
        secret = read_start(loaded.resolve(key.secret_file))
    except (OSError, ValueError) as error:
        hint = "`relay certs` makes one for development"
        raise ConfigError([unreadable(loaded, name, key.secret_file, error, hint)]) from None
    if secret.endswith(b"\n"):  # editors and `echo` put it there
        secret = secret[:-1].removesuffix(b"\r")
    if not secret:
        what = f"{loaded.resolve(key.secret_file)} is empty"
    elif rules.short(key.algorithm, secret):
        what = rules.too_short(key.algorithm)
    elif len(secret) >= MAX_SECRET_BYTES:
        what = f"{loaded.resolve(key.secret_file)} is too long for a secret"
    else:
        return secret
    raise ConfigError([ConfigProblem(loaded.where(name), name, what)])


def read_api_keys(loaded: LoadedConfig) -> list[str]:
    """All keys of the API: those of the setting, and the lines of their file but for empty ones and those with a #.

    Raises ConfigError where the file cannot be read, or a line is no key.
    """
    keys = list(loaded.config.internal.api_keys)
    text = loaded.config.internal.api_keys_file
    if not text:
        return keys
    name, path = "internal.api_keys_file", loaded.resolve(text)
    try:
        data = read_start(path)
        lines = data.decode().splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError([unreadable(loaded, name, text, error, "`relay certs dev` makes one")]) from None
    problems = [] if len(data) < MAX_SECRET_BYTES else [ConfigProblem(loaded.where(name), name, f"{path} is too long")]
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        keys.append(line)
        if problem := rules.bad_api_key(line):
            problems.append(ConfigProblem(f"{path}:{number}", name, f"the key {problem}"))
    if not keys and not problems:
        problems.append(ConfigProblem(loaded.where(name), name, f"{path} holds no key"))
    if problems:
        raise ConfigError(problems)
    return keys


def read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_SECRET_BYTES)


def unreadable(loaded: LoadedConfig, name: str, text: str, error: Exception, hint: str = "") -> ConfigProblem:
    if not text:
        return ConfigProblem(loaded.where(name), name, "names no file", hint)
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    hint = hint if isinstance(error, FileNotFoundError) else ""
    return ConfigProblem(loaded.where(name), name, f"{loaded.resolve(text)} cannot be read: {why}", hint)
