"""Whom a client certificate names, what it grants, and which tokens go with it."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from relay.auth.certificates import CertificateRules, ClientCertificate, check_binding
from relay.auth.tokens import Verifier
from relay.config.schema import Auth, Grants, Mtls
from relay.errors import ConfigError, Rejected
from tests.unit.auth.kit import NOW, claims, keys, sign

UTC_NOW = datetime(2026, 11, 1, tzinfo=UTC)


def certificate(*names: x509.GeneralName, cn: str | None = "ann") -> ClientCertificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)] if cn else [])
    builder = x509.CertificateBuilder(
        issuer_name=subject, subject_name=subject, public_key=key.public_key(), serial_number=0xBEEF,
        not_valid_before=UTC_NOW, not_valid_after=UTC_NOW + timedelta(days=1),
    )  # fmt: skip
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return ClientCertificate(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))


DNS, MAIL = x509.DNSName("a.example"), x509.RFC822Name("a@b.example")
URI = x509.UniformResourceIdentifier("spiffe://x/a")


@pytest.mark.parametrize(
    ("kind", "subject"),
    [("san_dns", "a.example"), ("san_uri", "spiffe://x/a"), ("san_email", "a@b.example"), ("cn", "ann")],
)
def test_the_subject_stands_where_the_configuration_says(kind: Any, subject: str) -> None:
    given = certificate(DNS, URI, MAIL)
    identity = CertificateRules(Mtls(subject=kind, subject_prefix="dev:")).identity(given)
    assert (identity.subject, identity.jti) == ("dev:" + subject, "beef")
    assert identity.expires == (UTC_NOW + timedelta(days=1)).timestamp()
    assert identity.bound_to == given.thumbprint


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("san_dns", certificate()), ("san_dns", certificate(URI)), ("cn", certificate(DNS, cn=None)),
        ("san_dns", certificate(DNS, x509.DNSName("b.example"))), ("cn", certificate(DNS, cn="a\x07b")),
        ("san_uri", ClientCertificate(b"no DER")),
    ],
)  # fmt: skip
def test_a_certificate_that_names_nobody_or_two_is_refused(kind: Any, given: ClientCertificate) -> None:
    with pytest.raises(Rejected) as caught:
        CertificateRules(Mtls(subject=kind)).identity(given)
    assert (caught.value.code, caught.value.setting) == ("certificate_bad_subject", "auth.mtls.subject")


def test_a_subject_of_its_own_table_has_its_grants_and_nobody_elses() -> None:
    rules = CertificateRules(
        Mtls(subject="cn", default_grants=Grants(join=["all"]), subjects={"ann": Grants(join=["own:{sub}"])})
    )
    ann, bob = rules.identity(certificate(cn="ann")).grants, rules.identity(certificate(cn="bob")).grants
    assert (ann.may_join("own:ann"), ann.may_join("all")) == (True, False)
    assert (bob.may_join("own:bob"), bob.may_join("all")) == (False, True)


def test_grants_that_cannot_be_understood_are_told_with_their_table() -> None:
    with pytest.raises(ConfigError) as caught:
        CertificateRules(Mtls(default_grants=Grants(join=["a**"]), subjects={"ann": Grants(publish=[""])}))
    assert [problem.key for problem in caught.value.problems] == ["auth.mtls.default_grants", "auth.mtls.subjects.ann"]


def test_the_thumbprint_is_that_of_rfc_8705() -> None:
    given = certificate(DNS)
    digest = base64.urlsafe_b64encode(hashlib.sha256(given.der).digest()).rstrip(b"=").decode()
    assert given.thumbprint == digest


def verified(**cnf: Any) -> Any:
    return Verifier(keys("HS256"), Auth()).verify(sign(claims(**cnf)), NOW)


def test_a_bound_token_comes_with_its_certificate_or_not_at_all() -> None:
    own, other = certificate(DNS), certificate(DNS)
    bound = verified(cnf={"x5t#S256": own.thumbprint})
    check_binding(bound, own, Mtls())
    for wrong in (None, other):
        with pytest.raises(Rejected, match="token_wrong_certificate"):
            check_binding(bound, wrong, Mtls())


def test_where_tokens_must_be_bound_a_plain_one_is_refused() -> None:
    check_binding(verified(), None, Mtls())
    check_binding(verified(cnf={"jkt": "x"}), None, Mtls())
    with pytest.raises(Rejected, match="token_not_bound") as caught:
        check_binding(verified(), certificate(DNS), Mtls(bind_token=True))
    assert caught.value.setting == "auth.mtls.bind_token"


@pytest.mark.parametrize("cnf", ["x", 5, [], None, {"x5t#S256": 5}, {"x5t#S256": ""}, {"x5t#S256": None}])
def test_a_confirmation_that_makes_no_sense_is_refused(cnf: Any) -> None:
    with pytest.raises(Rejected, match="token_bad_claim"):
        verified(cnf=cnf)
