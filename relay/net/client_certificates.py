"""What TLS asks of clients: a certificate by one of our authorities, if they have one, or in any case.

Not here: whom a certificate names (auth/certificates). The one rule: OpenSSL decides whether a certificate is good; we
only say by which authorities and lists of revoked ones, and read these ourselves first, because its own errors do not
name the file.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from cryptography import x509

from relay.config.schema import TLS
from relay.errors import ConfigProblem

REFUSED: Final = ("TLS: CERTIFICATE_VERIFY_FAILED", "TLS: PEER_DID_NOT_RETURN_A_CERTIFICATE")
"""What a failed handshake says where the client's certificate was the reason."""

_MODES: Final = {"optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def problems_of(settings: TLS, base: Path) -> list[ConfigProblem]:
    """What is wrong with the files of `client_ca` and `client_crl`."""
    problems: list[ConfigProblem] = []
    if settings.client_certificates == "off":
        return problems
    for key, names in (("client_ca", settings.client_ca), ("client_crl", settings.client_crl)):
        for index, name in enumerate(names):
            path, at = base / name, f"tls.{key}[{index}]"
            try:
                data = path.read_bytes()
                if key == "client_ca":
                    x509.load_pem_x509_certificates(data)
                else:
                    x509.load_pem_x509_crl(data)
            except OSError as error:
                problems.append(ConfigProblem(str(path), at, f"cannot be read: {error.strerror}"))
            except ValueError:
                what = "certificate" if key == "client_ca" else "list of revoked certificates (CRL)"
                problems.append(ConfigProblem(str(path), at, f"no {what} in PEM form in this file"))
    return problems


def demand(context: ssl.SSLContext, settings: TLS, base: Path) -> None:
    """Has a context ask for certificates. Raises OSError, ssl.SSLError: the files have changed just now."""
    if settings.client_certificates == "off":
        return
    context.verify_mode = _MODES[settings.client_certificates]
    for name in (*settings.client_ca, *settings.client_crl):
        context.load_verify_locations(base / name)
    if settings.client_crl:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
