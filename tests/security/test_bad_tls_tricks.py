"""What TLS itself could be used for: renegotiation, early data, old versions, compression. OpenSSL's own client tries.

Not here: handshakes that are broken (test_bad_tls).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.security.siege import RelayThread, under_attack

pytestmark = pytest.mark.e2e

OPENSSL: Final = shutil.which("openssl")


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


async def test_early_data_is_never_taken(relay: RelayThread, tmp_path: Path) -> None:
    """It could be replayed by anybody who saw it (RFC 8446 section 8); so no ticket allows any."""
    session, early = tmp_path / "session", tmp_path / "early"
    early.write_bytes(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    async with under_attack(relay):
        first = await openssl(relay, "-tls1_3", "-sess_out", str(session), "-ign_eof", say=ask)
        assert "200" in first
        assert "Max Early Data: 0" in first or "Max Early Data" not in first
        assert session.exists()
        second = await openssl(
            relay, "-tls1_3", "-sess_in", str(session), "-early_data", str(early), "-ign_eof", say=ask
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
