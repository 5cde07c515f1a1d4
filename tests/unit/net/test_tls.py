"""TLS contexts: what they speak and refuse, and what can be wrong with their files."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from relay.net.tls import build_context
from tests.unit.net.tls_kit import (
    AUTHORITY,
    client_context,
    issue,
    problems_of,
    shake,
)

# What a context speaks


def test_only_authenticated_ciphers_with_forward_secrecy_are_offered(pair: tuple[Path, Path]) -> None:
    context = build_context(*pair)
    for cipher in context.get_ciphers():
        assert cipher["aead"]
        assert cipher["name"].startswith(("TLS_", "ECDHE-"))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    for option in (ssl.OP_NO_RENEGOTIATION, ssl.OP_NO_COMPRESSION, ssl.OP_CIPHER_SERVER_PREFERENCE):
        assert context.options & option


def test_tickets_are_given_out_where_they_save_more_than_they_cost(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert build_context(*pair).num_tickets == 0, "an elliptic curve signs faster than a ticket is made"
    leaf = AUTHORITY.issue_cert("rsa.example", key_type=trustme.KeyType.RSA)
    certificate, key = tmp_path / "rsa.pem", tmp_path / "rsa-key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(key)
    assert build_context(certificate, key).num_tickets == 1


@pytest.mark.parametrize(
    ("version", "spoken"), [(ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")]
)
def test_both_current_versions_are_spoken(pair: tuple[Path, Path], version: ssl.TLSVersion, spoken: str) -> None:
    client = client_context()
    client.minimum_version = client.maximum_version = version
    connection, _ = shake(build_context(*pair), client, "main.example")
    assert connection.version() == spoken
    cipher = connection.cipher()
    assert cipher is not None
    assert "GCM" in cipher[0] or "CHACHA20" in cipher[0]


def test_a_minimum_of_1_3_refuses_1_2(pair: tuple[Path, Path]) -> None:
    client = client_context()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        shake(build_context(*pair, minimum_version="1.3"), client, "main.example")


def test_tls_1_1_is_refused_with_an_alert(pair: tuple[Path, Path]) -> None:
    client = client_context()
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        client.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
        shake(build_context(*pair), client, "main.example")


@pytest.mark.parametrize(
    "cipher",
    ["ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA", "ECDHE-ECDSA-AES128-CCM", "ECDHE-ECDSA-ARIA128-GCM-SHA256"],
)
def test_cbc_and_exotic_ciphers_are_refused_with_an_alert(pair: tuple[Path, Path], cipher: str) -> None:
    client = client_context()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(cipher)
    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
        shake(build_context(*pair), client, "main.example")


@pytest.mark.parametrize(("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["h2"], None), ([], None)])
def test_http_1_1_is_all_that_alpn_agrees_on(pair: tuple[Path, Path], offered: list[str], chosen: str | None) -> None:
    client = client_context()
    if offered:
        client.set_alpn_protocols(offered)
    connection, _ = shake(build_context(*pair), client, "main.example")
    assert connection.selected_alpn_protocol() == chosen


def test_the_first_group_agreed_on_is_x25519_even_if_the_client_would_take_others(pair: tuple[Path, Path]) -> None:
    # The key share of a ServerHello tells the group: 0x001d is X25519 (RFC 8446 section 4.2.7).
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = build_context(*pair).wrap_bio(to_server, to_client, server_side=True)
    theirs = client_context().wrap_bio(to_client, to_server, server_hostname="main.example")
    with pytest.raises(ssl.SSLWantReadError):
        theirs.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        ours.do_handshake()
    hello = to_client.read()
    assert b"\x00\x33\x00\x24\x00\x1d\x00\x20" in hello


# What can be wrong with the files


def test_missing_files_are_named_with_their_keys(tmp_path: Path) -> None:
    found = problems_of(lambda: build_context(tmp_path / "a.pem", tmp_path / "b.pem"))
    assert found == [
        ("tls.certificate", "cannot be read: No such file or directory"),
        ("tls.key", "cannot be read: No such file or directory"),
    ]


def test_a_key_of_another_certificate_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    _, other = issue(tmp_path, "other", "other.example")
    ((key, what),) = problems_of(lambda: build_context(pair[0], other))
    assert key == "tls.key"
    assert "does not belong to" in what


@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense", b"\x30\x82\x00\x01", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"],
)
def test_what_is_not_pem_is_refused(pair: tuple[Path, Path], content: bytes) -> None:
    for path in pair:
        path.write_bytes(content)
    assert problems_of(lambda: build_context(*pair)) == [
        ("tls.certificate", "no certificate in PEM form in this file"),
        ("tls.key", "no private key in PEM form in this file"),
    ]


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(pair: tuple[Path, Path]) -> None:
    key = load_pem_private_key(pair[1].read_bytes(), None)
    pair[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    assert problems_of(lambda: build_context(*pair)) == [("tls.key", "the private key is encrypted")]


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    old = issue(tmp_path, "old", "old.example", days=-2)
    ((key, what),) = problems_of(lambda: build_context(*old))
    assert key == "tls.certificate"
    assert what.startswith("the certificate expired on ")


def test_a_certificate_of_the_future_is_refused(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    leaf = AUTHORITY.issue_cert(
        "a.example", not_before=now + datetime.timedelta(days=1), not_after=now + datetime.timedelta(days=2)
    )
    certificate, key = tmp_path / "a.pem", tmp_path / "b.pem"
    leaf.cert_chain_pems[0].write_to_path(certificate)
    leaf.private_key_pem.write_to_path(key)
    ((setting, what),) = problems_of(lambda: build_context(certificate, key))
    assert setting == "tls.certificate"
    assert what.startswith("the certificate is not valid before ")


def test_what_only_openssl_objects_to_is_still_a_problem_of_the_configuration(tmp_path: Path) -> None:
    weak = rsa.generate_private_key(65537, 1024)
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "weak.example")])
    leaf = x509.CertificateBuilder(
        name, name, weak.public_key(), 1, now - datetime.timedelta(1), now + datetime.timedelta(1)
    )
    certificate, key = tmp_path / "a.pem", tmp_path / "b.pem"
    certificate.write_bytes(leaf.sign(weak, SHA256()).public_bytes(Encoding.PEM))
    key.write_bytes(weak.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    ((setting, what),) = problems_of(lambda: build_context(certificate, key))
    assert setting == "tls.certificate"
    assert what.startswith("OpenSSL refuses the pair")
