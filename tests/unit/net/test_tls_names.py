"""Which certificate answers to which name, and reading the files again: all or nothing."""

from __future__ import annotations

import shutil
import socket
import ssl
import sys
from pathlib import Path

import pytest
import trio
from cryptography import x509

from relay.config.schema import Certificate
from relay.errors import ConfigError
from relay.net.tls import Certificates
from tests.unit.net.tls_kit import (
    client_context,
    issue,
    problems_of,
    serial,
    serial_for,
    serial_in,
    settings,
    shake,
)

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
