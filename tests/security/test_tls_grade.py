"""A second scanner, and the grade it gives: testssl.sh, with the settings the relay is shipped with.

    testssl.sh --add-ca certs/ca.pem https://relay.test:8443

Overall Grade A+, by the rules of SSL Labs' "SSL Server Rating Guide" (2009r). testssl.sh before 3.1, which Debian 12
has, gives no grade: then the rules are applied here to what it found.

Not here: suites, groups and attacks one by one (test_tls_scan). The one rule: every finding is either on a list here
with its reason, or the test fails.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from relay.devcerts import make_dev_certificates
from tests.components import require_testssl
from tests.conftest import Figures
from tests.e2e.harness import RelayProcess

pytestmark = pytest.mark.e2e

HOST: Final = "relay.test"
"""Not localhost, for which nobody is told to use https only."""
CHECKS: Final = ("-p", "-s", "-f", "-P", "-S", "-h", "-U")
"""Protocols, suites, forward secrecy, preferences, the certificate, headers, every known attack; what testssl.sh leaves
out of these (each cipher alone, the handshakes of 35 clients) changes no verdict.
"""
EXPECTED: Final = {
    "cert_extlifeSpan": "the development certificate lives for 824 days",
    "cert_revocation": "and cannot be revoked: its authority's key is thrown away",
    "FS_KEMs": "OpenSSL before 3.5 has no X25519MLKEM768",
    "engine_problem": "of the scanner's own OpenSSL",
    "QUIC": "of the scanner's own OpenSSL",
    "HSTS_preload": "a preload list is the operator's decision: docs/operations.md",
    "security_headers": "the front page of a relay is no page",
}
"""What testssl.sh may find, and why that is well."""
A_SCAN_IS_A_FLOOD: Final = {"handshakes_per_address": 0.0, "slow_handshakes_per_address": 0.0}
FINE: Final = {"OK", "INFO"}


class Scan:
    """What testssl.sh says, by the name of each finding."""

    def __init__(self, relay: RelayProcess, folder: Path) -> None:
        program, grades = require_testssl()
        report = folder / "testssl.json"
        command = [
            program, *(("--rating-only",) if grades else CHECKS),
            "--warnings", "batch", "--color", "0", "--nodns", "min", "--openssl-timeout", "10",
            "--add-ca", str(relay.certificates.authority), "--jsonfile", str(report), "--ip", "127.0.0.1",
            f"https://{HOST}:{relay.port}",
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False
        )
        assert report.exists(), done.stdout + done.stderr
        found: list[dict[str, Any]] = json.loads(report.read_text())
        self.grades = grades
        self.severity = {one["id"]: one["severity"] for one in found}
        self.said = {one["id"]: one["finding"] for one in found}


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scan]:
    require_testssl()
    folder = tmp_path_factory.mktemp("grade")
    make_dev_certificates(folder / "certs", [HOST])
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("OPENSSL_CONF", raising=False)
        relay = RelayProcess(folder, {"limits": A_SCAN_IS_A_FLOOD})
        relay.start()
    try:
        yield Scan(relay, folder)
    finally:
        relay.stop()


def score(scan: Scan) -> int:
    """By the rating guide: protocols count 30 %, key exchange 30 %, ciphers 40 %; each the mean of best and worst."""
    offered = [name for name in ("SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2", "TLS1_3")
               if not scan.said[name].startswith("not offered")]  # fmt: skip
    protocols = [{"SSLv2": 0, "SSLv3": 80, "TLS1": 90, "TLS1_1": 95}.get(name, 100) for name in offered]
    key = re.match(r"EC (\d+) bits", scan.said["cert_keySize"])
    exchange = 100 if key is not None and int(key[1]) >= 225 else 90
    suites = (scan.said.get("FS_ciphers") or scan.said["PFS_ciphers"]).split()  # without forward secrecy there are none
    bits = [256 if "256-GCM" in suite or "256_GCM" in suite or "CHACHA20" in suite else 128 for suite in suites]
    ciphers = [100 if size >= 256 else 80 for size in bits]
    parts = (protocols, 30), ([exchange], 30), (ciphers, 40)
    return sum((min(each) + max(each)) // 2 * share // 100 for each, share in parts)


def test_the_grade_is_a_or_better(scan: Scan, figures: Figures) -> None:
    """What would cap it (an old protocol, an attack, a chain nobody trusts, no HSTS) fails one of the other tests."""
    if scan.grades:
        grade, points = scan.said["overall_grade"], int(scan.said["final_score"])
        assert grade in ("A", "A+"), scan.said
    else:
        points = score(scan)
        grade = "A" if points >= 80 else "B or worse"
    figures(f"testssl.sh: grade {grade}, score {points}{'' if scan.grades else ' by the rating guide'}")
    assert points >= 80
    assert grade[:1] == "A"


def test_the_rules_applied_here_are_those_of_the_scanner(scan: Scan) -> None:
    assert score(scan) == (int(scan.said["final_score"]) if scan.grades else 96)


def test_nothing_is_found_that_has_no_good_reason(scan: Scan) -> None:
    assert {"TLS1_2", "TLS1_3", "heartbleed", "HSTS_time"} <= scan.severity.keys(), "the report was not understood"
    found = {name for name, severity in scan.severity.items() if severity not in FINE}
    assert found <= EXPECTED.keys(), {name: scan.said[name] for name in found}


def test_the_chain_is_trusted_and_the_protocols_are_the_current_ones(scan: Scan) -> None:
    assert scan.severity["cert_chain_of_trust"] == "OK", scan.said["cert_chain_of_trust"]
    assert scan.said["TLS1"] == scan.said["TLS1_1"] == "not offered"
    assert scan.severity["TLS1_3"] == "OK"


def test_browsers_are_told_to_use_https_only(scan: Scan) -> None:
    assert scan.severity.get("HSTS_time") == "OK", scan.said.get("HSTS")
