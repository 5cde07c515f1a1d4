"""Which keys exist at all, and which of them a token may be tried with."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from relay.auth.keys import KeySet, VerificationKey, load_public_pem
from relay.config import schema
from relay.errors import ConfigError

SECRET = secrets.token_bytes(64)
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
WEAK_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()


def pem(key: object) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()  # type: ignore[attr-defined]


def no_files(path: str) -> bytes:
    raise AssertionError(f"nothing should read {path}")


@pytest.mark.parametrize(("algorithm", "least"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_secret_is_as_long_as_its_hash(algorithm: str, least: int) -> None:
    assert VerificationKey.make("", algorithm, SECRET[:least]).key == SECRET[:least]
    with pytest.raises(ValueError, match=f"has {least - 1} bytes; {algorithm} needs at least {least}"):
        VerificationKey.make("", algorithm, SECRET[: least - 1])


@pytest.mark.parametrize(
    "secret",
    [
        pem(RSA.public_key()).encode(),
        RSA.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        b'{"kty":"oct","k":"' + b"A" * 43 + b'"}',
    ],
    ids=["pem", "ssh", "der", "jwk"],
)
def test_what_is_public_by_nature_is_no_secret(secret: bytes) -> None:
    with pytest.raises(ValueError, match="needs random bytes"):
        VerificationKey.make("", "HS256", secret)


@pytest.mark.parametrize(
    ("algorithm", "key", "why"),
    [
        ("RS256", WEAK_RSA.public_key(), "1024 bits"),
        ("RS256", P256.public_key(), "an EC key on secp256r1"),
        ("RS256", SECRET, "something else"),
        ("PS512", ED25519.public_key(), "an Ed25519 key"),
        ("ES256", P384.public_key(), "an EC key on secp384r1"),
        ("ES256", RSA.public_key(), "an RSA key"),
        ("ES256", ec.generate_private_key(ec.SECP256K1()).public_key(), "an EC key on secp256k1"),
        ("EdDSA", P256.public_key(), "an EC key"),
        ("EdDSA", ed448.Ed448PrivateKey.generate().public_key(), "something else"),
        ("HS256", RSA.public_key(), "not a public key"),
        ("RS256", RSA, "something else"),
        ("none", b"", "not supported"),
        ("ES256K", P256.public_key(), "not supported"),
    ],
)
def test_a_key_of_another_kind_than_its_algorithm_is_refused(algorithm: str, key: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        VerificationKey.make("", algorithm, key)


@pytest.mark.parametrize("name", ["EdDSA", "Ed25519"])
def test_an_ed25519_key_answers_to_both_names(name: str) -> None:
    keys = KeySet([VerificationKey.make("", name, ED25519.public_key())])
    assert len(keys.lookup(None, "EdDSA")) == len(keys.lookup(None, "Ed25519")) == 1


def test_a_token_with_a_kid_is_tried_with_that_kid_only() -> None:
    a = VerificationKey.make("a", "HS256", SECRET)
    b = VerificationKey.make("b", "HS256", SECRET[::-1])
    nameless = VerificationKey.make("", "HS256", SECRET[:40])
    keys = KeySet([a, b, nameless])
    assert keys.lookup("a", "HS256") == (a,)
    assert keys.lookup("c", "HS256") == ()
    assert keys.lookup("", "HS256") == ()


def test_a_token_without_a_kid_is_tried_with_all_keys_of_its_algorithm_and_no_other() -> None:
    a = VerificationKey.make("a", "HS256", SECRET)
    b = VerificationKey.make("", "HS256", SECRET[::-1])
    c = VerificationKey.make("", "HS512", SECRET)
    assert KeySet([a, b, c]).lookup(None, "HS256") == (a, b)


def test_a_kid_does_not_lend_its_key_to_another_algorithm() -> None:
    keys = KeySet([VerificationKey.make("a", "RS256", RSA.public_key())])
    assert keys.knows("a")
    assert not any(keys.lookup("a", algorithm) for algorithm in ("HS256", "PS256", "RS512", "none"))


def test_key_sets_are_equal_when_their_keys_are() -> None:
    def one() -> KeySet:
        return KeySet([VerificationKey.make("a", "RS256", load_public_pem(pem(RSA.public_key()).encode()))])

    assert one() == one()
    assert hash(one()) == hash(one())
    assert len(one() + one()) == 1
    assert one() != KeySet([VerificationKey.make("b", "RS256", RSA.public_key())])
    assert one() != KeySet([VerificationKey.make("a", "RS512", RSA.public_key())])


def test_no_representation_shows_a_key() -> None:
    shown = repr(KeySet([VerificationKey.make("a", "HS256", b"a secret that nobody may ever see in a log")]))
    assert "secret" not in shown
    assert "'a' HS256" in shown


def test_a_secret_file_may_end_in_a_newline() -> None:
    for ending in (b"", b"\n", b"\r\n"):
        table = schema.Key(algorithm="HS256", secret_file="secret")
        key = VerificationKey.from_config(table, {"secret": b"x" * 32 + ending}.__getitem__)
        assert key.key == b"x" * 32


def test_keys_are_read_from_the_config_and_from_files() -> None:
    text = pem(P256.public_key())
    inline = VerificationKey.from_config(schema.Key(algorithm="ES256", kid="a", public_key=text), no_files)
    table = schema.Key(algorithm="ES256", kid="a", public_key_file="key.pem")
    assert inline == VerificationKey.from_config(table, {"key.pem": text.encode()}.__getitem__)
    secret = VerificationKey.from_config(schema.Key(algorithm="HS256", secret="é" * 16), no_files)
    assert secret.key == ("é" * 16).encode()


PRIVATE = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("table", "key", "what"),
    [
        (schema.Key(algorithm="HS256"), "auth.keys[3]", "found none"),
        (schema.Key(algorithm="HS256", secret="x" * 32, secret_file="f"), "auth.keys[3]", "found secret, secret_file"),
        (schema.Key(algorithm="RS256", secret="x" * 32), "auth.keys[3]", "not with secret"),
        (schema.Key(algorithm="HS256", public_key="x"), "auth.keys[3]", "not with public_key"),
        (schema.Key(algorithm="HS256", secret="hunter2"), "auth.keys[3].secret", "has 7 bytes"),
        (schema.Key(algorithm="RS256", public_key="hunter2"), "auth.keys[3].public_key", "not a public key in PEM"),
        (schema.Key(algorithm="RS256", public_key=PRIVATE), "auth.keys[3].public_key", "openssl pkey"),
        (
            schema.Key(algorithm="RS256", public_key="-----BEGIN CERTIFICATE-----"),
            "auth.keys[3].public_key",
            "openssl x509",
        ),
        (
            schema.Key(algorithm="RS256", public_key=pem(dsa.generate_private_key(1024).public_key())),
            "auth.keys[3].public_key",
            "not an RSA, EC or Ed25519 key",
        ),
    ],
)
def test_what_is_wrong_with_a_key_is_said_with_its_config_key_and_without_the_key(
    table: schema.Key, key: str, what: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        VerificationKey.from_config(table, no_files, "auth.keys[3]")
    (problem,) = caught.value.problems
    assert problem.key == key
    assert what in problem.what
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file or directory"), OSError("broken")])
def test_a_file_that_cannot_be_read_is_named(error: OSError) -> None:
    def read(path: str) -> bytes:
        raise error

    reader: Callable[[str], bytes] = read
    with pytest.raises(ConfigError, match=r"auth\.keys\[0\]\.secret_file: cannot read certs/gone"):
        VerificationKey.from_config(schema.Key(algorithm="HS256", secret_file="certs/gone"), reader)
