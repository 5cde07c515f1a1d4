"""Certificates for development: an authority for this machine alone, a server certificate, a secret for tokens and a
key for the API.

Not here: anything for production. The one rule: trusting `ca.pem` costs nothing. The authority may sign for this
machine's names and addresses only (RFC 5280 section 4.2.1.10), and its private key is thrown away as soon as it has
signed the server certificate, so nobody can sign anything else with it, ever.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Apple's systems refuse a server certificate that lives longer than 825 days. The hour before now forgives slow clocks.
LIFETIME: Final = timedelta(days=824)
BACKDATED: Final = timedelta(hours=1)
RENEW_BEFORE: Final = timedelta(days=7)
SECRET_BYTES: Final = 48
_ALWAYS: Final = ("localhost", "127.0.0.1", "::1")
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
HOST_NAME: Final = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")

Address = IPv4Address | IPv6Address


@dataclass(slots=True, frozen=True)
class DevCertificates:
    """The files, and whether this call made new certificates (then `ca.pem` has to be trusted anew)."""

    authority: Path  # ca.pem
    certificate: Path  # server.pem: the server certificate, then the authority's
    key: Path  # server-key.pem, mode 0600
    token_secret: Path  # token-secret, mode 0600
    api_key: Path  # api-key, mode 0600: a key of the relay's API
    hosts: tuple[str, ...]  # what the server certificate is for
    expires: datetime
    renewed: bool


def make_dev_certificates(
    folder: Path, hosts: Sequence[str] | None = None, *, now: datetime | None = None
) -> DevCertificates:
    """Make what is missing in `folder`; keep what is good, so that it can run at every start.

    The certificate is for localhost, this machine's name, 127.0.0.1, ::1 and `hosts` (names, `*.` names, addresses). It
    is made anew when it expires within 7 days, or is damaged, or when `hosts` are given and are others than before. The
    token secret and the API's key are made once. Raises ValueError for a host that is neither name nor address, OSError
    for the files.
    """
    now = now or datetime.now(UTC)
    wanted = _wanted(hosts or ())
    folder.mkdir(parents=True, exist_ok=True)
    paths = (folder / "ca.pem", folder / "server.pem", folder / "server-key.pem")
    secret, api_key = folder / "token-secret", folder / "api-key"
    for file in (secret, api_key):
        if not file.exists():
            text = base64.urlsafe_b64encode(secrets.token_bytes(SECRET_BYTES)) + b"\n"
            write_file(file, text, private=True)
    leaf = _good(*paths, now)
    renewed = leaf is None or not _covers(_hosts_of(leaf), wanted, exactly=hosts is not None)
    if leaf is None or renewed:
        leaf = _make(*paths, wanted, now)
    return DevCertificates(*paths, secret, api_key, tuple(_hosts_of(leaf)), leaf.not_valid_after_utc, renewed)


def _wanted(hosts: Iterable[str]) -> list[str]:
    """All hosts the certificate shall be for, normalised, without repetitions."""
    own = socket.gethostname().lower()
    names = [*_ALWAYS, *([own] if HOST_NAME.fullmatch(own) else []), *map(_normal, hosts)]
    return list(dict.fromkeys(names))


def _normal(host: str) -> str:
    address = _address(host)
    if address is not None:
        return str(address)
    name = host.lower()
    if not HOST_NAME.fullmatch(name) or len(name) > 253:
        raise ValueError(f"{host!r} is neither a host name nor an address (names beyond ASCII as xn--…)")
    return name


def _address(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _covers(present: list[str], wanted: list[str], *, exactly: bool) -> bool:
    return set(present) == set(wanted) if exactly else set(present) >= set(wanted)


def _good(authority: Path, certificate: Path, key: Path, now: datetime) -> x509.Certificate | None:
    """The server certificate that stands in the files, if the three belong together and will last for a while."""
    try:
        ca = x509.load_pem_x509_certificate(authority.read_bytes())
        leaf = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
        private = load_pem_private_key(key.read_bytes(), password=None)
        leaf.verify_directly_issued_by(ca)
        _hosts_of(leaf)
    except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return None
    lasts = (
        now >= leaf.not_valid_before_utc and min(leaf.not_valid_after_utc, ca.not_valid_after_utc) > now + RENEW_BEFORE
    )
    return leaf if lasts and private.public_key() == leaf.public_key() else None


def _make(authority: Path, certificate: Path, key: Path, hosts: list[str], now: datetime) -> x509.Certificate:
    ca_key, ca = make_authority(hosts, now)
    leaf_key, leaf = sign_server(ca_key, ca, hosts, now)
    # In this order a crash in between leaves a pair that does not match; the next call sees that and begins again.
    pem = leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_file(key, pem, private=True)
    write_file(authority, ca.public_bytes(Encoding.PEM))
    write_file(certificate, leaf.public_bytes(Encoding.PEM) + ca.public_bytes(Encoding.PEM))
    return leaf


def make_authority(hosts: Sequence[str], now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """An authority that may sign for `hosts` and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    # A name of its own each time: trust stores tell authorities apart by name.
    name = development_name(f"relay development CA {secrets.token_hex(4)}, {socket.gethostname()[:20]}")
    constraints = x509.NameConstraints(permitted_subtrees=_permitted(hosts), excluded_subtrees=None)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        certificate_builder(name, name, key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(constraints, critical=True)
        .add_extension(identifier, critical=False)
    )
    return key, builder.sign(key, hashes.SHA256())


def sign_server(
    ca_key: ec.EllipticCurvePrivateKey, ca: x509.Certificate, hosts: Sequence[str], now: datetime
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """A server certificate for `hosts`, signed by the authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    builder = (
        certificate_builder(development_name("relay development server"), ca.subject, key, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authority, critical=False)
    )
    return key, builder.sign(ca_key, hashes.SHA256())


def certificate_builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - BACKDATED,
        not_valid_after=now + LIFETIME,
    )


def development_name(common_name: str, serial: str = "") -> x509.Name:
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "relay development, not for production")
    number = [x509.NameAttribute(NameOID.SERIAL_NUMBER, serial)] if serial else []
    return x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, common_name), *number])


def key_usage(**allowed: bool) -> x509.KeyUsage:
    bits = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(**(bits | allowed))


def _general_name(host: str) -> x509.GeneralName:
    address = _address(host)
    return x509.DNSName(host) if address is None else x509.IPAddress(address)


def _permitted(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """One subtree per host: a name with what is below it, or a single address."""
    permitted: list[x509.GeneralName] = []
    for host in hosts:
        address = _address(host)
        permitted.append(
            x509.DNSName(host.removeprefix("*.")) if address is None else x509.IPAddress(ip_network(address))
        )
    return permitted


def _hosts_of(leaf: x509.Certificate) -> list[str]:
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def write_file(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write the whole file or nothing; a private one is never readable for others, not even for a moment."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
