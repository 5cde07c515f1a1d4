"""Client certificates for development (mTLS), one authority for each.

Not here: server certificates (devcerts). The one rule: as there, an authority's private key is thrown away as soon as
it has signed, so each client has one of its own, and `client-ca.pem` holds them all; to lock one out, make its
certificate anew, or take its authority out of that file.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from relay.devcerts import HOST_NAME, LIFETIME, certificate_builder, development_name, key_usage, write_file


@dataclass(slots=True, frozen=True)
class ClientFiles:
    authorities: Path  # client-ca.pem, for tls.client_ca
    certificate: Path  # client-NAME.pem: the certificate, then its authority's
    key: Path  # client-NAME-key.pem, mode 0600
    expires: datetime


def make_client(folder: Path, name: str, *, now: datetime | None = None) -> ClientFiles:
    """A certificate for `name`, a host name, a URI or an e-mail address; one made for it before is no longer good.

    The name stands in the subject's alternative names, and as its common name where it fits. Raises ValueError for what
    is none of these, OSError for the files.
    """
    now = now or datetime.now(UTC)
    alternative = _alternative(name)
    folder.mkdir(parents=True, exist_ok=True)
    stem = "client-" + "".join(letter if letter.isalnum() or letter in ".-_@" else "_" for letter in name)
    paths = folder / "client-ca.pem", folder / f"{stem}.pem", folder / f"{stem}-key.pem"
    owner = f"relay development clients: {name}"[:64]
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    # A serial number in its name: two authorities of one name would be taken for each other.
    ca_name = development_name(owner, secrets.token_hex(4))
    ca = (
        certificate_builder(ca_name, ca_name, ca_key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    leaf = (
        certificate_builder(development_name(name[:64]), ca_name, key, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    write_file(paths[2], key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), private=True)
    write_file(paths[1], leaf.public_bytes(Encoding.PEM) + ca.public_bytes(Encoding.PEM))
    write_file(paths[0], b"".join(one.public_bytes(Encoding.PEM) for one in [*_others(paths[0], owner), ca]))
    return ClientFiles(*paths, now + LIFETIME)


def _others(authorities: Path, owner: str) -> list[x509.Certificate]:
    """The authorities of the other clients. What else stands in the file goes."""
    try:
        found = x509.load_pem_x509_certificates(authorities.read_bytes())
    except (OSError, ValueError):
        return []
    return [one for one in found if owner not in _common_names(one)]


def _common_names(certificate: x509.Certificate) -> list[str]:
    return [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


def _alternative(name: str) -> x509.GeneralName:
    try:
        if "://" in name:
            return x509.UniformResourceIdentifier(name)
        if "@" in name:
            return x509.RFC822Name(name)
    except ValueError:
        raise ValueError(f"{name!r} is no URI or address in ASCII") from None
    if not HOST_NAME.fullmatch(name.lower()) or len(name) > 253:
        raise ValueError(f"{name!r} is neither a host name, nor a URI, nor an e-mail address")
    return x509.DNSName(name.lower())
