"""Client certificates for development: each has an authority of its own, and the file holds those of all."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from relay.devclients import make_client


@pytest.mark.parametrize("name", ["sensor-7.example", "spiffe://example/sensor", "ann@example.org"])
def test_a_certificate_names_its_client_and_is_signed_by_an_authority_in_the_file(tmp_path: Path, name: str) -> None:
    made = make_client(tmp_path, name)
    leaf = x509.load_pem_x509_certificates(made.certificate.read_bytes())[0]
    (authority,) = x509.load_pem_x509_certificates(made.authorities.read_bytes())
    leaf.verify_directly_issued_by(authority)
    assert name in [each.value for each in leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value]
    assert made.key.stat().st_mode & 0o777 == 0o600


def test_a_new_certificate_puts_the_old_one_of_that_client_out_and_no_other(tmp_path: Path) -> None:
    old, other = make_client(tmp_path, "a.example").certificate.read_bytes(), make_client(tmp_path, "b.example")
    made = make_client(tmp_path, "a.example")
    authorities = x509.load_pem_x509_certificates(made.authorities.read_bytes())
    assert len(authorities) == 2

    def good(pem: bytes) -> bool:
        leaf = x509.load_pem_x509_certificates(pem)[0]
        for authority in authorities:
            try:
                leaf.verify_directly_issued_by(authority)
            except (InvalidSignature, ValueError):
                continue
            return True
        return False

    assert (good(old), good(other.certificate.read_bytes()), good(made.certificate.read_bytes())) == (False, True, True)


@pytest.mark.parametrize("name", ["", "a b", "a@ä", "http://ä", "../x", "-"])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is n"):
        make_client(tmp_path, name)
    assert not list(tmp_path.iterdir())
