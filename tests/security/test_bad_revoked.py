"""Certificates that their authority has taken back: a list of them (CRL) is read at start and again at a reload."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from relay.devcerts import certificate_builder, development_name, key_usage
from relay.devclients import ClientFiles
from tests.security.siege import RelayThread, besieged, folder_with, under_attack
from tests.security.test_bad_certificates import MTLS, ask_as

pytestmark = pytest.mark.e2e

NOW = datetime.now(UTC)


class Authority:
    """Signs certificates and lists of those it has taken back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = development_name("authority of clients")
        self.file, self.list = folder / "ca.pem", folder / "revoked.pem"
        ca = (
            certificate_builder(self.name, self.name, self.key, NOW)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        self.file.write_bytes(ca.public_bytes(Encoding.PEM))
        self.serials: dict[str, int] = {}

    def client(self, name: str) -> ClientFiles:
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = (
            certificate_builder(development_name(name), self.name, key, NOW)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )  # fmt: skip
        self.serials[name] = leaf.serial_number
        files = self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"
        files[0].write_bytes(leaf.public_bytes(Encoding.PEM))
        files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return ClientFiles(self.file, *files, NOW + timedelta(days=1))

    def revoke(self, *names: str) -> None:
        """Publishes a list with just these."""
        builder = x509.CertificateRevocationListBuilder(
            issuer_name=self.name, last_update=NOW - timedelta(hours=1), next_update=NOW + timedelta(days=1)
        )
        for name in names:
            one = x509.RevokedCertificateBuilder(serial_number=self.serials[name], revocation_date=NOW).build()
            builder = builder.add_revoked_certificate(one)
        self.list.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))


async def refused(relay: RelayThread, files: ClientFiles) -> str:
    with pytest.raises(trio.BrokenResourceError) as caught:
        await ask_as(relay, files, version=ssl.TLSVersion.TLSv1_2)
    return str(caught.value.__cause__)


async def test_a_list_of_revoked_certificates_counts_from_the_start_and_after_a_reload(
    certificates: Path, tmp_path: Path
) -> None:
    folder = folder_with(certificates, tmp_path)
    authority = Authority(tmp_path)
    ann, bob = authority.client("ann.example"), authority.client("bob.example")
    authority.revoke("bob.example")
    tls = {
        "certificate": str(folder / "certs" / "server.pem"), "key": str(folder / "certs" / "server-key.pem"),
        "client_certificates": "optional", "client_ca": [str(authority.file)], "client_crl": [str(authority.list)],
    }  # fmt: skip
    with besieged(folder, {"tls": tls, "auth": {"mtls": MTLS}}) as relay:
        async with under_attack(relay, {"tls_failures:certificate": 3}, tells="reload refused"):
            assert (await ask_as(relay, ann)).status == 101
            assert "REVOKED" in await refused(relay, bob)
            authority.revoke("ann.example", "bob.example")
            assert (await ask_as(relay, ann)).status == 101, "nobody has said that there is a new list"
            await trio.to_thread.run_sync(relay.reload)
            assert "REVOKED" in await refused(relay, ann)
            authority.list.write_text("no list at all")
            with pytest.raises(AssertionError, match="refused"):
                await trio.to_thread.run_sync(relay.reload)
            assert "REVOKED" in await refused(relay, ann), "the old list stays in force"
            authority.revoke()
            await trio.to_thread.run_sync(relay.reload)
            assert (await ask_as(relay, ann)).status == 101
            assert (await ask_as(relay, bob)).status == 101
