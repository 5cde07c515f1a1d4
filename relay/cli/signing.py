"""Making tokens: claims as this configuration names them, signed with its first HMAC key or with a private key.

Not here: checking them (auth/tokens). The one rule: a token is made to be accepted by the configuration it is made for:
its issuer, its audience, its names of claims and its longest lifetime.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import OKPAlgorithm

from relay.config import LoadedConfig, read_secret
from relay.config.schema import Trusted, table_of
from relay.errors import ConfigError, ConfigProblem

EVERYTHING: Final = {"join": ["*"], "publish": ["*"]}
"""Grants without bounds: what is not named follows from these two, and channels are all."""

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

_signer: Final = jwt.PyJWS()
if "Ed25519" not in _signer.get_algorithms():  # the name that RFC 9864 gave it
    _signer.register_algorithm("Ed25519", OKPAlgorithm())


@dataclass(slots=True, frozen=True, repr=False)
class SigningKey:
    """What a token is signed with; never shown."""

    key: Any
    algorithm: str
    kid: str = ""

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A token in compact form (RFC 7515 section 7.1). Raises TypeError for claims that are not JSON."""
        import json

        payload = json.dumps(claims, separators=(",", ":")).encode()
        headers = {"typ": "JWT"} | ({"kid": self.kid} if self.kid else {})
        return _signer.encode(payload, self.key, algorithm=self.algorithm, headers=headers)


def seconds_of(text: str) -> float:
    """A duration as people write it: 90, 90s, 15m, 12h, 7d. Raises ValueError."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([smhd]?)", text.strip().lower())
    if found is None or float(found[1]) <= 0:
        raise ValueError(f"{text!r} is not a duration: 90s, 15m, 12h or 7d")
    return float(found[1]) * _UNITS[found[2] or "s"]


def make_claims(
    auth: Trusted, subject: str, lifetime: float, *, grants: object = None, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The claims of a token that `auth` will accept, for `lifetime` seconds or the longest allowed. `more` wins."""
    now = int(time.time())
    if auth.max_lifetime:
        lifetime = min(lifetime, auth.max_lifetime)
    claims: dict[str, Any] = {auth.claims.subject: subject, "iat": now, "exp": int(now + lifetime)}
    if auth.issuer:
        claims["iss"] = auth.issuer
    if auth.audience:
        claims["aud"] = auth.audience
    if grants is not None:
        claims[auth.claims.grants] = grants
    return claims | dict(more or {})


def config_key(loaded: LoadedConfig, issuer: str = "") -> SigningKey:
    """The first HMAC key of an issuer. Raises ConfigError."""
    auth = loaded.config.auth
    for key in (auth.issuers[issuer] if issuer else auth).keys:
        if key.algorithm.startswith("HS"):
            return SigningKey(read_secret(loaded, key), key.algorithm, key.kid)
    what = "there is no HMAC key to sign with; the relay verifies tokens of others only"
    hint = "sign with the issuer's key: --private-key PEM"
    if auth.issuers and not issuer:
        hint = f"name one of the others with --issuer: {', '.join(auth.issuers)}"
    table = f"{table_of(issuer)}.keys"
    raise ConfigError([ConfigProblem(loaded.where(table), table, what, hint)])


def private_key(path: Path, algorithm: str | None, kid: str) -> SigningKey:
    """A private key in PEM. Its kind tells the algorithm, unless one is named. Raises ValueError, OSError."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except TypeError:
        raise ValueError("the key is encrypted (`openssl pkey` decrypts it)") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("this is not a private key in PEM") from None
    if isinstance(key, rsa.RSAPrivateKey):
        fitting = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
    elif isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        fitting = [_CURVES[key.curve.name]]
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        fitting = ["EdDSA", "Ed25519"]
    else:
        raise ValueError("tokens are signed with RSA, EC (P-256, P-384, P-521) or Ed25519 keys")
    if algorithm is not None and algorithm not in fitting:
        raise ValueError(f"{algorithm} does not fit this key; {' or '.join(fitting)} does")
    return SigningKey(key, algorithm or fitting[0], kid)
