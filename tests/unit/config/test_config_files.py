"""The files that a configuration names: secrets, keys and certificates."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relay.config import LoadedConfig, check_files, read_secret
from relay.config.schema import Key
from relay.errors import ConfigError
from tests.unit.config.conftest import Loads

SECRET = b"0123456789abcdef0123456789abcdef"

HMAC = """
    [[auth.keys]]
    algorithm = "HS256"
    secret_file = "token"
"""


def secret_of(loaded: LoadedConfig) -> bytes:
    return read_secret(loaded, loaded.config.auth.keys[0])


@pytest.mark.parametrize(
    ("written", "secret"),
    [
        (SECRET, SECRET),
        (SECRET + b"\n", SECRET),
        (SECRET + b"\r\n", SECRET),
        (SECRET + b"\n\n", SECRET + b"\n"),
        (SECRET + b"\r", SECRET + b"\r"),
        (SECRET + b"\0\xff ", SECRET + b"\0\xff "),
    ],
)
def test_one_newline_at_the_end_of_a_secret_is_ignored(loads: Loads, written: bytes, secret: bytes) -> None:
    loaded = loads(HMAC)
    Path("token").write_bytes(written)
    assert secret_of(loaded) == secret


def test_a_secret_in_the_configuration_needs_no_file(loads: Loads) -> None:
    loaded = loads(f"[[auth.keys]]\nalgorithm = 'HS256'\nsecret = '{SECRET.decode()}ü'")
    assert secret_of(loaded) == SECRET + "ü".encode()


def test_a_secret_file_is_found_beside_the_configuration(
    loads: Loads, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded = loads(HMAC)
    (tmp_path / "token").write_bytes(SECRET)
    monkeypatch.chdir("/")
    assert secret_of(loaded) == SECRET


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        (
            None,
            "{path} cannot be read: No such file or directory (`relay certs` makes one for development)",
        ),
        (b"", "{path} is empty"),
        (b"\n", "{path} is empty"),
        (b"s3cr3t", "the secret is too short: HS256 needs at least 32 bytes (RFC 7518 section 3.2)"),
        (b"s3cr3t" * 20_000, "{path} is too long for a secret"),
    ],
)
def test_a_secret_that_cannot_be_used_is_refused_with_its_line_and_without_it(
    loads: Loads, tmp_path: Path, written: bytes | None, problem: str
) -> None:
    loaded = loads(HMAC)
    if written is not None:
        Path("token").write_bytes(written)
    with pytest.raises(ConfigError) as caught:
        secret_of(loaded)
    expected = f"config.toml:3: auth.keys[0].secret_file: {problem.format(path=tmp_path / 'token')}"
    assert str(caught.value) == expected
    assert check_files(loaded)[0] == caught.value.problems[0]
    assert "s3cr3t" not in f"{caught.value!r}"


def test_a_key_from_elsewhere_can_be_read_too(loads: Loads) -> None:
    loaded = loads("")
    with pytest.raises(ConfigError, match=r"default: auth\.keys: .*none cannot be read"):
        read_secret(loaded, Key(algorithm="HS256", secret_file="none"))


def test_every_missing_file_is_a_problem(loads: Loads, tmp_path: Path) -> None:
    loaded = loads("""
        [tls]
        certificate = "server.pem"
        [[tls.sni]]
        certificate = "a.pem"
        key = "dir"
        [auth.jwks]
        url = "https://id.example"
        ca_file = "ca.pem"
        file = "a\\u0000b"
        [[auth.keys]]
        algorithm = "RS256"
        public_key_file = "key.pem"
        [[auth.keys]]
        algorithm = "HS256"
        secret_file = "token"
    """)
    Path("dir").mkdir()
    Path("a.pem").touch()
    missing = "cannot be read: No such file or directory"
    secret = "`relay certs` makes one for development"
    development = "`relay certs` makes a pair for development"
    assert sorted(map(str, check_files(loaded))) == [
        f"config.toml:12: auth.keys[0].public_key_file: {tmp_path}/key.pem {missing}",
        f"config.toml:15: auth.keys[1].secret_file: {tmp_path}/token {missing} ({secret})",
        f"config.toml:2: tls.certificate: {tmp_path}/server.pem {missing} ({development})",
        f"config.toml:4: tls.sni[0].certificate: {tmp_path}/a.pem is empty",
        f"config.toml:5: tls.sni[0].key: {tmp_path}/dir cannot be read: Is a directory",
        f"config.toml:8: auth.jwks.ca_file: {tmp_path}/ca.pem {missing}",
        f"config.toml:9: auth.jwks.file: {tmp_path}/a\0b cannot be read: embedded null byte",
        f"default: tls.key: {tmp_path}/certs/server-key.pem {missing} ({development})",
    ]


def test_a_certificate_that_is_not_named_is_a_problem(loads: Loads) -> None:
    loaded = loads(HMAC + '    [tls]\n    certificate = ""\n    key = "token"')
    Path("token").write_bytes(SECRET)
    [problem] = check_files(loaded)
    assert str(problem).startswith("config.toml:5: tls.certificate: names no file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_a_problem(loads: Loads) -> None:
    loaded = loads(HMAC + "    [server]\n    insecure_plaintext = true")
    Path("token").write_bytes(SECRET)
    Path("token").chmod(0)
    [problem] = check_files(loaded)
    assert problem.what.endswith("cannot be read: Permission denied")


def test_without_tls_no_certificate_is_needed(loads: Loads) -> None:
    loaded = loads(HMAC + "    [server]\n    insecure_plaintext = true")
    Path("token").write_bytes(SECRET)
    assert check_files(loaded) == []


def test_loading_reads_no_other_file(loads: Loads) -> None:
    assert loads(HMAC).config.auth.keys[0].secret_file == "token"  # it does not exist
