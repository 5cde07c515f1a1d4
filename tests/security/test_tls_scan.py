"""A scanner's verdict on TLS, with the settings the relay is shipped with: no finding, and Mozilla's "intermediate".

    sslyze --mozilla_config intermediate localhost:8443

The development certificate is left out of the verdict: no public authority has signed it, and it lives for two years.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.components import ROOT, require_sslyze
from tests.e2e.harness import RelayProcess

pytestmark = pytest.mark.e2e

OF_THE_CERTIFICATE: Final = {"certificate_path_validation", "maximum_certificate_lifespan"}
"""What is found wrong with any development certificate."""
GROUPS: Final = {"tls_curves"} if sys.version_info < (3, 15) else set[str]()
"""Until Python can set the list, OpenSSL offers X448 and P-521 too, unless deploy/openssl.cnf is used."""


class Scan:
    """What sslyze says. `deviations`: from Mozilla's configuration, by what is wrong."""

    def __init__(self, relay: RelayProcess, folder: Path) -> None:
        report = folder / "scan.json"
        target = f"localhost:{relay.port}"
        done = subprocess.run(
            [require_sslyze(), "--mozilla_config", "intermediate", "--json_out", str(report), target],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert "SCANS COMPLETED" in done.stdout, done.stdout + done.stderr
        (result,) = json.loads(report.read_text())["server_scan_results"]
        assert result["scan_status"] == "COMPLETED", done.stdout
        self.results: dict[str, Any] = {
            name: found["result"] for name, found in result["scan_result"].items() if found["status"] == "COMPLETED"
        }
        self.deviations = {
            line.strip().removeprefix("* ").partition(":")[0]
            for line in done.stdout.partition("COMPLIANCE AGAINST")[2].splitlines()
            if line.strip().startswith("* ")
        }
        self.verdict = done.stdout.partition("COMPLIANCE AGAINST")[2]

    def suites(self, version: str) -> list[str]:
        """The cipher suites the relay accepts with that version."""
        accepted = self.results[f"{version}_cipher_suites"]["accepted_cipher_suites"]
        return [one["cipher_suite"]["name"] for one in accepted]


@pytest.fixture(scope="module", params=["as shipped", "with deploy/openssl.cnf"])
def scan(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Scan, set[str]]]:
    require_sslyze()
    folder = tmp_path_factory.mktemp("scan")
    with pytest.MonkeyPatch.context() as environment:
        if request.param == "as shipped":
            environment.delenv("OPENSSL_CONF", raising=False)
            allowed = OF_THE_CERTIFICATE | GROUPS
        else:
            environment.setenv("OPENSSL_CONF", str(ROOT / "deploy" / "openssl.cnf"))
            allowed = OF_THE_CERTIFICATE
        relay = RelayProcess(folder)
        relay.start()
    try:
        yield Scan(relay, folder), allowed
    finally:
        relay.stop()


def test_it_complies_with_mozillas_intermediate_configuration(scan: tuple[Scan, set[str]]) -> None:
    found, allowed = scan
    assert "certificate_path_validation" in found.deviations, "the verdict was not understood"
    assert found.deviations <= allowed, found.verdict


def test_only_groups_of_full_strength_are_offered(scan: tuple[Scan, set[str]]) -> None:
    found, _ = scan
    groups = {one["name"] for one in found.results["elliptic_curves"]["supported_curves"]}
    assert "X25519" in groups
    assert groups <= {"X25519", "X448", "prime256v1", "secp256r1", "secp384r1", "secp521r1"}


def test_nothing_older_than_tls_1_2_is_spoken(scan: tuple[Scan, set[str]]) -> None:
    found, _ = scan
    for version in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"):
        assert found.suites(version) == []
    assert found.suites("tls_1_2")
    assert found.suites("tls_1_3")


def test_every_suite_has_forward_secrecy_and_authenticates_what_it_encrypts(scan: tuple[Scan, set[str]]) -> None:
    found, _ = scan
    for suite in found.suites("tls_1_2"):
        assert suite.startswith("TLS_ECDHE_ECDSA_")
        assert "_GCM_" in suite or "_CHACHA20_POLY1305_" in suite


def test_no_known_attack_finds_anything(scan: tuple[Scan, set[str]]) -> None:
    results = scan[0].results
    assert results["heartbleed"]["is_vulnerable_to_heartbleed"] is False
    assert results["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"] is False
    assert results["robot"]["robot_result"].startswith("NOT_VULNERABLE")
    assert results["tls_compression"]["supports_compression"] is False
    assert results["tls_fallback_scsv"]["supports_fallback_scsv"] is True
    assert results["tls_extended_master_secret"]["supports_ems_extension"] is True
    renegotiation = results["session_renegotiation"]
    assert renegotiation["supports_secure_renegotiation"] is True
    assert renegotiation["is_vulnerable_to_client_renegotiation_dos"] is False
