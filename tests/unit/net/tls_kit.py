"""Certificates of an authority of ours, and handshakes in memory."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from relay.config.schema import TLS, Certificate
from relay.errors import ConfigError
from relay.net.tls import Certificates

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


def settings(*sni: Certificate, certificate: str = "main.pem", key: str = "main-key.pem") -> TLS:
    return TLS(certificate=certificate, key=key, sni=list(sni))


def problems_of(make: Callable[[], object]) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        make()
    return [(problem.key, problem.what) for problem in caught.value.problems]
