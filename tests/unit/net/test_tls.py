"""TLS contexts: what they speak and refuse, which certificate answers to which name, and reloading all or nothing."""

from __future__ import annotations

import datetime
import shutil
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
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

from relay.config.schema import TLS, Certificate
from relay.errors import ConfigError
from relay.net.tls import Certificates, build_context

AUTHORITY = trustme.CA()


def issue(folder: Path, stem: str, *names: str, days: float = 30, subject: str | None = None) -> tuple[Path, Path]:
    """A pair of files: `stem`.pem with its chain, `stem`-key.pem."""
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    begin = min(end, datetime.datetime.now(datetime.UTC)) - datetime.timedelta(days=1)
    leaf = AUTHORITY.issue_cert(*names, not_before=begin, not_after=end, common_name=subject)
    certificate, key = folder / f"{stem}.pem", folder / f"{stem}-key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(key)
    return certificate, key


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A whole handshake in memory; (client's end, server's end). Raises what the client's end raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(4):
        try:
            theirs.do_handshake()
        except ssl.SSLWantReadError:
            pass
        try:
            ours.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            theirs.do_handshake()  # raises with the alert that we sent
            raise
    return theirs, ours


def serial(connection: ssl.SSLObject) -> int:
    der = connection.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def serial_in(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def serial_for(certificates: Certificates, name: str) -> int:
    client = client_context()
    client.check_hostname = False
    return serial(shake(certificates.context, client, name)[0])


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return issue(tmp_path, "main", "main.example", "b.main.example")


def settings(*sni: Certificate, certificate: str = "main.pem", key: str = "main-key.pem") -> TLS:
    return TLS(certificate=certificate, key=key, sni=list(sni))


def problems_of(make: Callable[[], object]) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        make()
    return [(problem.key, problem.what) for problem in caught.value.problems]


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


# Which certificate answers


@pytest.fixture
def several(tmp_path: Path, pair: tuple[Path, Path]) -> Certificates:
    issue(tmp_path, "one", "one.example", "*.one.example")
    issue(tmp_path, "two", "ignored.example")
    issue(tmp_path, "three", "*.main.example", "www.main.example", "b.main.example")
    return Certificates(
        settings(
            Certificate(certificate="one.pem", key="one-key.pem"),
            Certificate(
                certificate="two.pem", key="two-key.pem", names=["Two.example", "*.two.example", "deep.one.example"]
            ),
            Certificate(certificate="three.pem", key="three-key.pem"),
        ),
        tmp_path,
    )


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("one.example", "one"),
        ("ONE.Example", "one"),
        ("a.one.example", "one"),
        ("a.b.one.example", "main"),
        ("deep.one.example", "two"),
        ("two.example", "two"),
        ("a.two.example", "two"),
        ("ignored.example", "main"),
        ("main.example", "main"),
        ("a.main.example", "three"),
        ("b.main.example", "three"),
        ("unknown.example", "main"),
        ("xone.example", "main"),
        ("example", "main"),
    ],
)
def test_the_name_asked_for_decides(several: Certificates, tmp_path: Path, name: str, stem: str) -> None:
    assert serial_for(several, name) == serial_in(tmp_path / f"{stem}.pem")


def test_a_client_that_names_nobody_gets_the_main_certificate(several: Certificates, pair: tuple[Path, Path]) -> None:
    client = client_context()
    client.check_hostname = False
    assert serial(shake(several.context, client, None)[0]) == serial_in(pair[0])


def test_a_resumed_session_keeps_its_name(several: Certificates) -> None:
    client = client_context()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    first, _ = shake(several.context, client, "one.example")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = several.context.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname="one.example", session=first.session)
    for _ in range(3):
        for end in (theirs, ours):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    assert theirs.session_reused


def test_a_name_that_is_not_ascii_ends_that_handshake_with_an_alert(
    several: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reports.append(report.exc_type))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello, nothing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        client_context().wrap_bio(nothing, hello, server_hostname="one.example").do_handshake()
    to_server.write(hello.read().replace(b"one.example", b"\xf6ne.example"))
    with pytest.raises(ssl.SSLError):
        several.context.wrap_bio(to_server, to_client, server_side=True).do_handshake()
    assert to_client.read()[0] == 21  # an alert record
    assert reports == [UnicodeDecodeError]
    assert serial_for(several, "one.example")


def test_sni_works_on_a_socket_too(several: Certificates, tmp_path: Path) -> None:
    left, right = socket.socketpair()
    with left, right:
        ours = several.context.wrap_socket(left, server_side=True, do_handshake_on_connect=False)
        theirs = client_context().wrap_socket(right, server_hostname="one.example", do_handshake_on_connect=False)
        with ours, theirs:
            for end in (ours, theirs):
                end.setblocking(False)
            for _ in range(4):
                for end in (theirs, ours):
                    try:
                        end.do_handshake()
                    except ssl.SSLWantReadError:
                        pass
            der = theirs.getpeercert(binary_form=True)
            assert der is not None
            assert x509.load_der_x509_certificate(der).serial_number == serial_in(tmp_path / "one.pem")


async def test_two_certificates_answer_on_one_port(several: Certificates) -> None:
    """Over real loopback TLS, with the client checking the name."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]

    async def serve() -> None:
        for _ in range(2):
            stream = trio.SSLStream(await listener.accept(), several.context, server_side=True, https_compatible=True)
            await stream.send_all(b"hi")
            await stream.aclose()

    with trio.fail_after(10):
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            for name in ("main.example", "a.one.example"):
                raw = await trio.open_tcp_stream("127.0.0.1", port)
                client = trio.SSLStream(raw, client_context(), server_hostname=name, https_compatible=True)
                assert await client.receive_some() == b"hi"
                await client.aclose()


# Reading the files again


def test_all_problems_of_all_files_are_reported_at_once(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    pair[1].unlink()
    issue(tmp_path, "one", "one.example")
    (tmp_path / "one.pem").write_bytes(b"")
    issue(tmp_path, "nameless", "192.0.2.1")
    broken = settings(
        Certificate(certificate="one.pem", key="one-key.pem"),
        Certificate(certificate="nameless.pem", key="nameless-key.pem"),
    )
    found = problems_of(lambda: Certificates(broken, tmp_path))
    assert [key for key, _ in found] == ["tls.key", "tls.sni[0].certificate", "tls.sni[1].names"]


def test_a_name_claimed_twice_is_an_error(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    double = settings(
        *[Certificate(certificate="main.pem", key="main-key.pem", names=[name]) for name in ("a.example", "A.example")]
    )
    ((key, what),) = problems_of(lambda: Certificates(double, tmp_path))
    assert key == "tls.sni[1].names"
    assert "tls.sni[0]" in what


def test_a_reload_takes_new_files_for_new_handshakes_only(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    certificates = Certificates(settings(), tmp_path)
    before = certificates.context
    old = serial_in(pair[0])
    issue(tmp_path, "main", "main.example")
    assert serial_for(certificates, "main.example") == old
    certificates.reload()
    assert certificates.context is not before
    assert serial_for(certificates, "main.example") == serial_in(pair[0]) != old
    client = client_context()
    assert serial(shake(before, client, "main.example")[0]) == old


@pytest.mark.parametrize("broken", ["one.pem", "one-key.pem", "main.pem", "main-key.pem"])
def test_a_reload_with_one_broken_file_changes_nothing_at_all(
    several: Certificates, tmp_path: Path, broken: str
) -> None:
    before = several.context, several.expires_at()
    shown = {name: serial_for(several, name) for name in ("main.example", "one.example", "two.example")}
    issue(tmp_path, "two", "two.example")  # this one would be good
    (tmp_path / broken).write_bytes(b"half a fi")
    with pytest.raises(ConfigError):
        several.reload()
    assert (several.context, several.expires_at()) == before
    assert {name: serial_for(several, name) for name in shown} == shown


def test_a_reload_between_the_writing_of_two_files_changes_nothing(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    certificates = Certificates(settings(), tmp_path)
    old = serial_in(pair[0])
    new = tmp_path / "new"
    new.mkdir()
    issue(new, "main", "main.example")
    shutil.copy(new / "main.pem", pair[0])
    ((key, _),) = problems_of(certificates.reload)
    assert key == "tls.key"
    assert serial_for(certificates, "main.example") == old
    shutil.copy(new / "main-key.pem", pair[1])
    certificates.reload()
    assert serial_for(certificates, "main.example") != old


def test_a_reload_can_bring_other_settings(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    certificates = Certificates(settings(), tmp_path)
    issue(tmp_path, "one", "one.example")
    certificates.reload(settings(Certificate(certificate="one.pem", key="one-key.pem")))
    assert serial_for(certificates, "one.example") == serial_in(tmp_path / "one.pem")
    with pytest.raises(ConfigError):
        certificates.reload(settings(certificate="absent.pem"))
    certificates.reload()  # by the last settings that were good
    assert serial_for(certificates, "one.example") == serial_in(tmp_path / "one.pem")


def test_the_first_expiry_counts(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    soon, _ = issue(tmp_path, "soon", "soon.example", days=3)
    certificates = Certificates(settings(Certificate(certificate="soon.pem", key="soon-key.pem")), tmp_path)
    expected = x509.load_pem_x509_certificate(soon.read_bytes()).not_valid_after_utc.timestamp()
    assert certificates.expires_at() == expected
