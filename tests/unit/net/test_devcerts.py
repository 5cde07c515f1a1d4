"""Development certificates: made once, kept while good, good for this machine and useless for anyone else."""

from __future__ import annotations

import shutil
import socket
import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from relay.devcerts import make_authority, make_dev_certificates, sign_server
from relay.net.tls import build_context

NOW = datetime.now(UTC)
DEFAULTS = {"localhost", "127.0.0.1", "::1"}


@pytest.fixture(autouse=True)
def _known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Workbench")


def connect(server: ssl.SSLContext, authority: Path, name: str) -> None:
    """A TLS handshake in memory by a client that trusts `authority`. Raises ssl.SSLCertVerificationError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = ssl.create_default_context(cafile=str(authority)).wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(3):
        for end in (theirs, ours):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_all_files_are_made_and_nothing_else_stays(tmp_path: Path) -> None:
    made = make_dev_certificates(tmp_path / "a" / "certs")
    assert {path.name for path in (tmp_path / "a" / "certs").iterdir()} == {
        "ca.pem",
        "server.pem",
        "server-key.pem",
        "token-secret",
        "api-key",
    }
    assert made.renewed
    assert set(made.hosts) == DEFAULTS | {"workbench"}
    assert timedelta(days=800) < made.expires - datetime.now(UTC) < timedelta(days=825)


def test_secrets_are_for_the_owner_alone(tmp_path: Path) -> None:
    made = make_dev_certificates(tmp_path)
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.token_secret.stat().st_mode) == 0o600
    assert len(made.token_secret.read_text().strip()) == 64
    assert b"PRIVATE" not in made.authority.read_bytes() + made.certificate.read_bytes()


@pytest.mark.parametrize("name", ["localhost", "workbench", "127.0.0.1", "::1"])
def test_a_client_that_trusts_the_authority_accepts_this_machine(tmp_path: Path, name: str) -> None:
    made = make_dev_certificates(tmp_path)
    connect(build_context(made.certificate, made.key), made.authority, name)


def test_a_client_does_not_accept_it_for_anything_else(tmp_path: Path) -> None:
    made = make_dev_certificates(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect(build_context(made.certificate, made.key), made.authority, "evil.example")


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("dev.test", True),
        ("a.dev.test", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("xdev.test", False),
        ("127.0.0.2", False),
        ("192.0.2.1", False),
        ("::2", False),
    ],
)
def test_the_authority_cannot_sign_for_others_even_with_its_key(tmp_path: Path, host: str, trusted: bool) -> None:
    ca_key, ca = make_authority(["localhost", "127.0.0.1", "::1", "*.dev.test"], NOW)
    leaf_key, leaf = sign_server(ca_key, ca, [host], NOW)
    authority, certificate, key = tmp_path / "ca.pem", tmp_path / "server.pem", tmp_path / "key.pem"
    authority.write_bytes(ca.public_bytes(Encoding.PEM))
    certificate.write_bytes(leaf.public_bytes(Encoding.PEM))
    key.write_bytes(leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    if trusted:
        connect(build_context(certificate, key), authority, host)
        return
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        connect(build_context(certificate, key), authority, host)


def test_the_constraint_is_critical_and_names_single_addresses() -> None:
    _, ca = make_authority(["localhost", "127.0.0.1", "::1"], NOW)
    extension = ca.extensions.get_extension_for_class(x509.NameConstraints)
    assert extension.critical
    assert extension.value.permitted_subtrees == [
        x509.DNSName("localhost"),
        x509.IPAddress(ip_network("127.0.0.1/32")),
        x509.IPAddress(ip_network("::1/128")),
    ]
    assert ca.not_valid_after_utc - ca.not_valid_before_utc <= timedelta(days=825)


def test_openssl_finds_nothing_to_object_to(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("NOT RUN: no openssl here")
    made = make_dev_certificates(tmp_path, ["*.dev.test", "192.0.2.9"])
    verified = subprocess.run(
        [openssl, "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", made.authority, made.certificate],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (verified.returncode, verified.stderr) == (0, "")


def test_a_second_call_changes_nothing(tmp_path: Path) -> None:
    first = make_dev_certificates(tmp_path)
    before = bytes_in(tmp_path)
    second = make_dev_certificates(tmp_path)
    assert not second.renewed
    assert bytes_in(tmp_path) == before
    assert (second.hosts, second.expires) == (first.hosts, first.expires)


@pytest.mark.parametrize(("days", "renewed"), [(0, False), (816, False), (818, True), (2000, True)])
def test_they_are_renewed_a_week_before_they_expire_and_the_secret_stays(
    tmp_path: Path, days: int, renewed: bool
) -> None:
    make_dev_certificates(tmp_path, now=NOW)
    before = bytes_in(tmp_path)
    assert make_dev_certificates(tmp_path, now=NOW + timedelta(days=days)).renewed is renewed
    after = bytes_in(tmp_path)
    assert after["token-secret"] == before["token-secret"]
    assert (after["ca.pem"] != before["ca.pem"]) is renewed


def test_other_hosts_make_other_certificates(tmp_path: Path) -> None:
    make_dev_certificates(tmp_path)
    made = make_dev_certificates(tmp_path, ["App.dev.test", "192.0.2.9", "0:0::2"])
    assert made.renewed
    assert set(made.hosts) == DEFAULTS | {"workbench", "app.dev.test", "192.0.2.9", "::2"}
    assert not make_dev_certificates(tmp_path, ["app.dev.test", "192.0.2.9", "::2"]).renewed
    assert not make_dev_certificates(tmp_path).renewed, "who asks for none in particular keeps what is there"
    assert make_dev_certificates(tmp_path, []).renewed


def test_a_new_name_of_the_machine_makes_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dev_certificates(tmp_path)
    monkeypatch.setattr(socket, "gethostname", lambda: "other")
    assert make_dev_certificates(tmp_path).renewed


def test_a_machine_with_a_strange_name_still_gets_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Ann's Büro")
    assert set(make_dev_certificates(tmp_path).hosts) == DEFAULTS


@pytest.mark.parametrize("name", ["ca.pem", "server.pem", "server-key.pem"])
@pytest.mark.parametrize("damage", ["missing", "garbage", "of another authority"])
def test_damaged_files_are_made_anew(tmp_path: Path, name: str, damage: str) -> None:
    made = make_dev_certificates(tmp_path)
    path = tmp_path / name
    if damage == "missing":
        path.unlink()
    elif damage == "garbage":
        path.write_bytes(b"-----BEGIN")
    else:
        make_dev_certificates(tmp_path / "other")
        shutil.copy(tmp_path / "other" / name, path)
    assert make_dev_certificates(tmp_path).renewed
    connect(build_context(made.certificate, made.key), made.authority, "localhost")


def test_a_secret_that_exists_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "token-secret").write_text("mine")
    make_dev_certificates(tmp_path)
    assert (tmp_path / "token-secret").read_text() == "mine"


@pytest.mark.parametrize(
    "host", ["", "a b", "bücher.example", "a..b", "-a", "*", "https://a", "a/b", "a" * 64, "127.0.0.1/8"]
)
def test_what_is_no_host_is_refused_before_anything_is_written(tmp_path: Path, host: str) -> None:
    with pytest.raises(ValueError, match="neither a host name nor an address"):
        make_dev_certificates(tmp_path / "certs", [host])
    assert not (tmp_path / "certs").exists()
