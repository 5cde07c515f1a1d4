"""From a client certificate to an identity, and whether a token is bound to one.

Not here: whether the certificate is good, which TLS has seen to (net/client_certificates). The one rule: a certificate
names one subject or none: where it could be read in two ways, it is refused.

Sources: RFC 5280 section 4.2.1.6 (subject alternative name), RFC 8705 section 3.1 (certificate-bound tokens).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from relay.auth.grants import compile_grants, grants_of_settings
from relay.auth.refusals import refuse
from relay.auth.tokens import Identity, is_clean
from relay.config import schema
from relay.errors import ConfigError, ConfigProblem, Rejected

_SETTING: Final = "auth.mtls.subject"


class ClientCertificate:
    """One that TLS has verified, as it came: DER."""

    def __init__(self, der: bytes) -> None:
        self.der = der

    @cached_property
    def thumbprint(self) -> str:
        """`x5t#S256`: the SHA-256 of the DER, base64url without padding (RFC 8705 section 3.1)."""
        return base64.urlsafe_b64encode(hashlib.sha256(self.der).digest()).rstrip(b"=").decode()

    @cached_property
    def parsed(self) -> x509.Certificate:
        """Raises ValueError."""
        return x509.load_der_x509_certificate(self.der)


class CertificateRules:
    """The table auth.mtls, compiled. Raises ConfigError for grants that cannot be understood."""

    def __init__(self, settings: schema.Mtls) -> None:
        self._settings = settings
        tables = {"default_grants": settings.default_grants}
        tables |= {f"subjects.{name}": grants for name, grants in settings.subjects.items()}
        problems = []
        for name, grants in tables.items():
            setting = f"auth.mtls.{name}"
            try:
                compile_grants(grants_of_settings(grants), "subject", setting=setting)
            except Rejected as problem:
                problems.append(ConfigProblem("configuration", setting, problem.reason))
        if problems:
            raise ConfigError(problems)

    @property
    def identify(self) -> bool:
        """Whether a certificate may stand for a token."""
        return self._settings.subject != "none"

    def identity(self, certificate: ClientCertificate) -> Identity:
        """Whom it names. Its serial number is the `jti`, its end the expiry. Raises Rejected 401."""
        settings = self._settings
        try:
            parsed = certificate.parsed
            found = _READ[settings.subject](parsed)
        except (ValueError, x509.ExtensionNotFound):
            found = []
        if len(found) != 1 or not found[0] or not is_clean(settings.subject_prefix + found[0]):
            raise refuse("certificate_bad_subject")
        name, setting, grants = found[0], "auth.mtls.default_grants", settings.default_grants
        if name in settings.subjects:
            setting, grants = f"auth.mtls.subjects.{name}", settings.subjects[name]
        subject = settings.subject_prefix + name
        return Identity(
            subject=subject,
            expires=parsed.not_valid_after_utc.timestamp(),
            jti=f"{parsed.serial_number:x}",
            issuer=None,
            grants=compile_grants(grants_of_settings(grants), subject, setting=setting),
            digest=hashlib.sha256(certificate.der).digest(),
            issued=parsed.not_valid_before_utc.timestamp(),
            bound_to=certificate.thumbprint,
        )


def check_binding(identity: Identity, certificate: ClientCertificate | None, settings: schema.Mtls) -> None:
    """A token that is bound to a certificate comes with it, or not at all. Raises Rejected 401."""
    if identity.bound_to:
        if certificate is None or certificate.thumbprint != identity.bound_to:
            raise refuse("token_wrong_certificate")
    elif settings.bind_token:
        raise refuse("token_not_bound")


def _alternative(kind: Any) -> Callable[[x509.Certificate], list[str]]:
    def read(certificate: x509.Certificate) -> list[str]:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [str(name) for name in names.get_values_for_type(kind)]

    return read


def _common_name(certificate: x509.Certificate) -> list[str]:
    return [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


_READ: Final[dict[str, Callable[[x509.Certificate], list[str]]]] = {
    "san_dns": _alternative(x509.DNSName),
    "san_uri": _alternative(x509.UniformResourceIdentifier),
    "san_email": _alternative(x509.RFC822Name),
    "cn": _common_name,
    "none": lambda certificate: [],
}
