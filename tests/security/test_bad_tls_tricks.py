"""What TLS itself could be used for: renegotiation, early data, old versions, compression. OpenSSL's own client tries.

Not here: handshakes that are broken (test_bad_tls).
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from typing import Final

import pytest
import trio
import trustme

from tests.security.siege import RelayThread, besieged, under_attack

pytestmark = pytest.mark.e2e

OPENSSL: Final = shutil.which("openssl")
PAGE: Final = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def with_rsa(certificates: Path) -> None:
    """In the place of the development certificates, for the same hosts: others would be made anew."""
    authority = trustme.CA()
    hosts = dict.fromkeys(("localhost", socket.gethostname().lower(), "127.0.0.1", "::1"))
    leaf = authority.issue_cert(*hosts, key_type=trustme.KeyType.RSA)
    authority.cert_pem.write_to_path(certificates / "ca.pem")
    (certificates / "server.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(certificates / "server-key.pem")


async def openssl(relay: RelayThread, *options: str, say: bytes = b"") -> str:
    """What `openssl s_client` tells of a connection."""
    if OPENSSL is None:
        pytest.skip("NOT RUN: no openssl; type: sudo apt-get install openssl")
    ca = str(relay.certificates.authority)
    command = [OPENSSL, "s_client", "-connect", f"127.0.0.1:{relay.port}", "-servername", "localhost", "-CAfile", ca]
    with trio.fail_after(15):
        done = await trio.run_process(
            [*command, *options], stdin=say, capture_stdout=True, stderr=subprocess.STDOUT, check=False
        )
    return done.stdout.decode(errors="replace")


async def test_a_client_may_not_renegotiate(relay: RelayThread) -> None:
    """Asking costs a client nothing and the server a signature, so it is refused (RFC 5246 section 7.4.1.1)."""
    async with under_attack(relay):
        told = await openssl(relay, "-tls1_2", say=b"R\n")
    assert "Secure Renegotiation IS supported" in told  # for the sake of others' attacks (RFC 5746)
    assert "RENEGOTIATING" in told
    assert "no renegotiation" in told.lower() or "alert" in told.lower(), told[-500:]


async def test_no_ticket_is_given_out_where_a_signature_is_cheap(relay: RelayThread, tmp_path: Path) -> None:
    """The relay's own certificates have elliptic curves."""
    session = tmp_path / "session"
    async with under_attack(relay):
        said = await openssl(relay, "-tls1_3", "-sess_out", str(session), "-ign_eof", say=PAGE)
    assert "200" in said
    assert not session.exists()


async def test_early_data_is_never_taken(folder: Path, tmp_path: Path) -> None:
    """It could be replayed by anybody who saw it (RFC 8446 section 8); so no ticket allows any."""
    with_rsa(folder / "certs")
    session, early = tmp_path / "session", tmp_path / "early"
    early.write_bytes(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with besieged(folder) as relay:
        async with under_attack(relay):
            first = await openssl(relay, "-tls1_3", "-sess_out", str(session), "-ign_eof", say=PAGE)
            assert "200" in first
            assert "Max Early Data: 0" in first or "Max Early Data" not in first
            assert session.exists()
            second = await openssl(
                relay, "-tls1_3", "-sess_in", str(session), "-early_data", str(early), "-ign_eof", say=PAGE
            )
    assert "Early data was accepted" not in second
    assert second.count("HTTP/1.1 200") == 1, second[-800:]


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
async def test_old_versions_are_refused(relay: RelayThread, version: str) -> None:
    async with under_attack(relay, {"tls_failures:protocol": range(2), "tls_failures:eof": range(2)}):
        told = await openssl(relay, version, "-cipher", "DEFAULT@SECLEVEL=0")
    assert "Cipher is (NONE)" in told or "Cipher    : 0000" in told, told[-500:]


async def test_nothing_is_compressed_before_it_is_encrypted(relay: RelayThread) -> None:
    async with under_attack(relay):
        told = await openssl(relay, "-tls1_2", "-comp")
    assert "Compression: NONE" in told
