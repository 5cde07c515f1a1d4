"""The keys that tokens are verified with, and which of them a token may be tried with.

Not here: tokens, and where keys come from (files are read by the caller, key sets by `jwks`). The one rule: the
algorithm belongs to the key, never to the token; a key that is too weak for its algorithm does not exist.

Sources: RFC 8725 sections 3.1, 3.2 and 3.5; RFC 7518 sections 3.2 and 3.3; RFC 9864 (the name `Ed25519`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from jwt import InvalidKeyError
from jwt.algorithms import HMACAlgorithm

from relay.config import schema
from relay.errors import ConfigError, ConfigProblem

_hmac: Final = HMACAlgorithm(HMACAlgorithm.SHA256)  # to tell secrets from what only looks like one

PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

MIN_SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
MIN_RSA_BITS: Final = 2048
RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
ED25519_NAMES: Final = frozenset({"EdDSA", "Ed25519"})
SUPPORTED: Final = frozenset({*MIN_SECRET_BYTES, *RSA_ALGORITHMS, *CURVES, *ED25519_NAMES})


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class VerificationKey:
    """One key with its one algorithm. Build it with `make`, which refuses what is unsafe.

    `accepts` are the `alg` values of a token that mean this algorithm: one, or both names of Ed25519. Two keys are
    equal when kid, algorithm and key material are.
    """

    kid: str
    algorithm: str
    key: bytes | PublicKey
    accepts: frozenset[str]
    fingerprint: bytes  # SHA-256 of kid, algorithm and key material; for comparing, not for showing

    @classmethod
    def make(cls, kid: str, algorithm: str, key: object) -> VerificationKey:
        """A checked key: bytes for HS*, else an RSA, EC or Ed25519 public key.

        Raises ValueError with a sentence that says what is wrong and never quotes the key.
        """
        if algorithm in MIN_SECRET_BYTES:
            material = _check_secret(algorithm, key)
        elif algorithm in SUPPORTED:
            material = _check_public(algorithm, key)
        else:
            raise ValueError(f"algorithm {algorithm!r} is not supported")
        accepts = ED25519_NAMES if algorithm in ED25519_NAMES else frozenset({algorithm})
        label = f"{kid!r} {min(accepts)} ".encode(errors="backslashreplace")
        return cls(kid, algorithm, key, accepts, hashlib.sha256(label + material).digest())  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, key: schema.Key, read: Callable[[str], bytes], name: str = "auth.keys[0]") -> VerificationKey:
        """The key of one `[[auth.keys]]` table. `read` gives the bytes of a file, `name` is the table's key for errors.

        Raises ConfigError.
        """
        try:
            field, text = _only_source(key)
        except ValueError as error:
            _fail(name, str(error))
        try:
            raw = read(text) if field.endswith("_file") else text.encode()
        except OSError as error:
            _fail(f"{name}.{field}", f"cannot read {text}: {error.strerror or error}")
        try:
            if key.algorithm in MIN_SECRET_BYTES:
                return cls.make(key.kid, key.algorithm, _without_newline(raw) if field == "secret_file" else raw)
            return cls.make(key.kid, key.algorithm, load_public_pem(raw))
        except ValueError as error:
            _fail(f"{name}.{field}", str(error))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerificationKey) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"<VerificationKey {self.kid!r} {self.algorithm}>"  # never the key: it may end up in a log


class KeySet:
    """Keys, by kid and by algorithm. Immutable: a change is another set, which is how a verifier notices."""

    __slots__ = ("_by_algorithm", "_by_kid", "keys")

    def __init__(self, keys: Iterable[VerificationKey] = ()) -> None:
        self.keys: Final = tuple(dict.fromkeys(keys))
        by_kid: dict[str, list[VerificationKey]] = {}
        by_algorithm: dict[str, list[VerificationKey]] = {}
        for key in self.keys:
            if key.kid:
                by_kid.setdefault(key.kid, []).append(key)
            for name in key.accepts:
                by_algorithm.setdefault(name, []).append(key)
        self._by_kid: Final = {kid: tuple(found) for kid, found in by_kid.items()}
        self._by_algorithm: Final = {name: tuple(found) for name, found in by_algorithm.items()}

    def lookup(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """The keys that a token with this header may be tried with.

        A token that names a kid is tried with the keys of that kid only, one that names none with all of its algorithm.
        """
        if kid is None:
            return self._by_algorithm.get(algorithm, ())
        return tuple(key for key in self._by_kid.get(kid, ()) if algorithm in key.accepts)

    def knows(self, kid: str) -> bool:
        """Whether any key has this kid, whatever its algorithm."""
        return kid in self._by_kid

    def __add__(self, other: KeySet) -> KeySet:
        return KeySet(self.keys + other.keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeySet) and frozenset(self.keys) == frozenset(other.keys)

    def __hash__(self) -> int:
        return hash(frozenset(self.keys))

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"<KeySet {list(self.keys)!r}>"


def load_public_pem(pem: bytes) -> PublicKey:
    """The public key in a PEM file (SubjectPublicKeyInfo). Raises ValueError, naming what the file holds instead."""
    if b"PRIVATE KEY-----" in pem:
        raise ValueError("this is a private key; give its public half (openssl pkey -in KEY -pubout)")
    if b"BEGIN CERTIFICATE-----" in pem:
        raise ValueError("this is a certificate; give its public key (openssl x509 -in CERT -noout -pubkey)")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("this is not a public key in PEM") from None
    if not isinstance(key, RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey):
        raise ValueError("this is not an RSA, EC or Ed25519 key")
    return key


def _check_secret(algorithm: str, key: object) -> bytes:
    least = MIN_SECRET_BYTES[algorithm]
    if not isinstance(key, bytes):
        raise ValueError(f"{algorithm} needs a secret, not a public key")
    if len(key) < least:
        raise ValueError(f"the secret has {len(key)} bytes; {algorithm} needs at least {least} (RFC 7518 section 3.2)")
    try:
        return _hmac.prepare_key(key)
    except InvalidKeyError:
        raise ValueError(f"{algorithm} needs random bytes; this is a public key, a certificate or a JWK") from None


def _check_public(algorithm: str, key: object) -> bytes:
    if algorithm in RSA_ALGORITHMS:
        if not isinstance(key, RSAPublicKey):
            raise ValueError(f"{algorithm} needs an RSA public key, this is {_describe(key)}")
        if key.key_size < MIN_RSA_BITS:
            raise ValueError(
                f"the RSA key has {key.key_size} bits; RFC 7518 section 3.3 asks for {MIN_RSA_BITS} or more"
            )
        return _der(key)
    if algorithm in CURVES:
        if not isinstance(key, EllipticCurvePublicKey) or key.curve.name != CURVES[algorithm]:
            raise ValueError(f"{algorithm} needs an EC public key on {CURVES[algorithm]}, this is {_describe(key)}")
        return _der(key)
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{algorithm} needs an Ed25519 public key, this is {_describe(key)}")
    return _der(key)


def _der(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _describe(key: object) -> str:
    if isinstance(key, EllipticCurvePublicKey):
        return f"an EC key on {key.curve.name}"
    if isinstance(key, RSAPublicKey):
        return "an RSA key"
    return "an Ed25519 key" if isinstance(key, Ed25519PublicKey) else "something else"


def _only_source(key: schema.Key) -> tuple[str, str]:
    """The one of the four fields that is set. Raises ValueError."""
    given = [
        (field, text)
        for field in ("secret", "secret_file", "public_key", "public_key_file")
        if (text := getattr(key, field))
    ]
    if len(given) != 1:
        found = ", ".join(field for field, _ in given) or "none"
        raise ValueError(f"give exactly one of secret, secret_file, public_key, public_key_file; found {found}")
    wanted = "secret" if key.algorithm in MIN_SECRET_BYTES else "public_key"
    if not given[0][0].startswith(wanted):
        raise ValueError(f"{key.algorithm} is verified with {wanted} or {wanted}_file, not with {given[0][0]}")
    return given[0]


def _without_newline(raw: bytes) -> bytes:
    """Editors and `echo` put one newline at the end of a file; it is not part of the secret."""
    return raw.removesuffix(b"\n").removesuffix(b"\r") if raw.endswith(b"\n") else raw


def _fail(key: str, what: str) -> NoReturn:
    raise ConfigError([ConfigProblem("configuration", key, what)]) from None
