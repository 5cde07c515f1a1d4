"""Tokens for tests: real keys, made anew in each run, and every part of a token under the test's control."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import OKPAlgorithm

from relay.auth.keys import KeySet, VerificationKey
from relay.config import schema

NOW = 1_790_000_000.0
SECRET = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

_jws = jwt.PyJWS()
_jws.register_algorithm("Ed25519", OKPAlgorithm())

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()
EC_KEYS = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
}
SIGNERS: dict[str, Any] = {
    **dict.fromkeys(["HS256", "HS384", "HS512"], SECRET),
    **dict.fromkeys(["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"], RSA_KEY),
    **EC_KEYS,
    **dict.fromkeys(["EdDSA", "Ed25519"], ED_KEY),
}
ALGORITHMS = sorted(SIGNERS)


def public(algorithm: str) -> Any:
    key = SIGNERS[algorithm]
    return key if isinstance(key, bytes) else key.public_key()


def keys(*algorithms: str, kid: str = "") -> KeySet:
    return KeySet(VerificationKey.make(kid, algorithm, public(algorithm)) for algorithm in algorithms)


def claims(**changes: Any) -> dict[str, Any]:
    """Claims of a good token; a value of `...` takes a claim away."""
    found = {"sub": "ann", "exp": int(NOW) + 600, "relay": {"join": ["chat:*"]}, **changes}
    return {name: value for name, value in found.items() if value is not ...}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(payload: bytes | dict[str, Any], algorithm: str = "HS256", **header: Any) -> str:
    """A token with any payload and any header, rightly signed."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return assemble(json.dumps({"typ": "JWT", "alg": algorithm, **header}).encode(), body, algorithm)


def assemble(header: bytes, payload: bytes, algorithm: str = "HS256", key: Any = None) -> str:
    """A token with these very bytes, signed with `algorithm`, whatever the header says."""
    signing_input = f"{b64(header)}.{b64(payload)}"
    method = _jws.get_algorithm_by_name(algorithm)
    signature = method.sign(signing_input.encode(), SIGNERS[algorithm] if key is None else key)
    return f"{signing_input}.{b64(signature)}"


@dataclass
class Keys:
    """Keys that change, as those of an issuer do."""

    now: KeySet

    def __call__(self) -> KeySet:
        return self.now


def auth(**changes: Any) -> schema.Auth:
    return schema.Auth(**changes)
